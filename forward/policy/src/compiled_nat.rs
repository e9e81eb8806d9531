use crate::lpm::canonical;
use crate::rule_box::is_mapped;
use crate::{Lpm, NatKind, PolicyError, PortRange, Problem, TranslationRule};
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Rules that can be compiled together.
pub const MAX_NAT_RULES: usize = 1000;

/// Addresses of one pool.
const MAX_POOL_ADDRESSES: usize = 4096;

/// What becomes of the source of a packet on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outward {
    /// No rule is about it.
    Same,
    Static(Addr16),
    /// One of the pool's, whichever is given to it: [`CompiledNat::pool`].
    Pool(usize),
}

/// What becomes of the destination of a packet on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inward {
    /// No rule is about it.
    Same,
    Static(Addr16),
    Forward(Addr16, u16),
    /// Whoever has got it from the pool.
    Pool(usize),
    /// It is an address outside that has nobody for this port, or one inside that is reached by its address outside alone.
    Nobody,
}

/// The rules of one translation.
///
/// Who has an address outside by a static rule or a pool is reached by no other: what is inside such a rule is nobody for who
/// is outside. The longest prefix decides among the rules; a port forward comes before the pool whose address it shares.
///
/// Memory: an [`Lpm`] entry for each prefix, about 100 bytes a rule.
#[derive(Debug, Clone, Default)]
pub struct CompiledNat {
    inside: Lpm<Kind>,
    outside: Lpm<Kind>,
    statics: Vec<Pair>,
    pools: Vec<NatPool>,
    forwards: BTreeMap<(Addr16, Protocol, u16), (Addr16, u16)>,
    forwarded: BTreeSet<Addr16>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Static(usize),
    Pool(usize),
}

/// Two prefixes of one length.
#[derive(Debug, Clone, Copy)]
struct Pair {
    inside: u128,
    outside: u128,
    host_bits: u128,
}

/// Addresses and ports that are given out.
#[derive(Debug, Clone)]
pub struct NatPool {
    prefixes: Vec<IpNetwork>,
    ports: PortRange,
    is_open: bool,
}

impl CompiledNat {
    /// # Errors
    /// The first rule that cannot be kept, by its index and the part of it, as `[3].outside[1]`.
    pub fn compile(rules: &[TranslationRule]) -> Result<Self, PolicyError> {
        if rules.len() > MAX_NAT_RULES {
            return Err(PolicyError::new("", Problem::TooMany { found: rules.len(), max: MAX_NAT_RULES }));
        }
        let mut building = Building::default();
        for (i, rule) in rules.iter().enumerate() {
            building.add(i, &rule.kind)?;
        }
        building.finish()
    }

    /// Where a packet from `addr` inside seems to come from outside.
    #[must_use]
    pub fn outward(&self, addr: Addr16) -> Outward {
        match self.inside.lookup(addr.to_ip()) {
            None => Outward::Same,
            Some(Kind::Static(i)) => self.statics.get(*i).map_or(Outward::Same, |p| Outward::Static(p.outward(addr))),
            Some(Kind::Pool(i)) => Outward::Pool(*i),
        }
    }

    /// Who inside gets a packet for `addr` and `port` from outside.
    #[must_use]
    pub fn inward(&self, protocol: Protocol, addr: Addr16, port: u16) -> Inward {
        if let Some((addr, port)) = self.forward(protocol, addr, port) {
            return Inward::Forward(addr, port);
        }
        match self.outside.lookup(addr.to_ip()) {
            Some(Kind::Static(i)) => self.statics.get(*i).map_or(Inward::Nobody, |p| Inward::Static(p.inward(addr))),
            Some(Kind::Pool(i)) => Inward::Pool(*i),
            None if self.forwarded.contains(&addr) || self.inside.lookup(addr.to_ip()).is_some() => Inward::Nobody,
            None => Inward::Same,
        }
    }

    /// Where a port of an address outside is forwarded to.
    #[must_use]
    pub fn forward(&self, protocol: Protocol, addr: Addr16, port: u16) -> Option<(Addr16, u16)> {
        self.forwards.get(&(addr, protocol, port)).copied()
    }

    #[must_use]
    pub fn pool(&self, index: usize) -> Option<&NatPool> {
        self.pools.get(index)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.forwards.is_empty()
    }
}

impl NatPool {
    /// Whether anybody may send to what was given out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    #[must_use]
    pub fn addresses(&self) -> u64 {
        self.prefixes.iter().map(size).sum()
    }

    /// Ports of each address.
    #[must_use]
    pub fn ports(&self) -> u64 {
        u64::from(self.ports.last - self.ports.first) + 1
    }

    /// The address with this number, and the port with that one.
    #[must_use]
    pub fn nth(&self, address: u64, port: u64) -> Option<(Addr16, u16)> {
        let port = u16::try_from(u64::from(self.ports.first) + port).ok().filter(|p| *p <= self.ports.last)?;
        let mut left = address;
        for prefix in &self.prefixes {
            if left < size(prefix) {
                let first = u128::from_be_bytes(Addr16::from(prefix.network()).0);
                return Some((Addr16((first + u128::from(left)).to_be_bytes()), port));
            }
            left -= size(prefix);
        }
        None
    }

    #[must_use]
    pub fn has(&self, addr: Addr16, port: u16) -> bool {
        self.ports.contains(port) && self.prefixes.iter().any(|p| p.contains(addr.to_ip()))
    }
}

impl Pair {
    fn outward(&self, addr: Addr16) -> Addr16 {
        self.other(self.outside, addr)
    }

    fn inward(&self, addr: Addr16) -> Addr16 {
        self.other(self.inside, addr)
    }

    fn other(&self, prefix: u128, addr: Addr16) -> Addr16 {
        Addr16((prefix | u128::from_be_bytes(addr.0) & self.host_bits).to_be_bytes())
    }
}

/// Rules as they are taken in.
#[derive(Default)]
struct Building {
    nat: CompiledNat,
    inside: Vec<(String, IpNetwork, Kind)>,
    outside: Vec<(String, IpNetwork, Kind)>,
    /// Where the forwards of an address stand.
    forwards: Vec<(String, IpAddr)>,
}

impl Building {
    fn add(&mut self, i: usize, kind: &NatKind) -> Result<(), PolicyError> {
        match kind {
            NatKind::Static { inside, outside } => self.add_static(i, *inside, *outside),
            NatKind::Pool { inside, outside, ports, is_open } => {
                let pool = NatPool {
                    prefixes: outside.iter().map(|p| canonical(*p)).collect(),
                    ports: *ports,
                    is_open: *is_open,
                };
                self.add_pool(i, inside, pool)
            }
            NatKind::Forward { protocol, outside, outside_port, inside, inside_port } => {
                self.add_forward(i, *protocol, (*outside, *outside_port), (*inside, *inside_port))
            }
        }
    }

    fn add_static(&mut self, i: usize, inside: IpNetwork, outside: IpNetwork) -> Result<(), PolicyError> {
        let (inside, outside) = (canonical(inside), canonical(outside));
        if inside.is_ipv4() != outside.is_ipv4() || inside.prefix() != outside.prefix() {
            return Err(unequal(format!("[{i}].outside"), outside, inside));
        }
        let bits = u32::from(if inside.is_ipv4() { 32 - inside.prefix() } else { 128 - inside.prefix() });
        let base = |p: IpNetwork| u128::from_be_bytes(Addr16::from(p.network()).0);
        let host_bits = 1u128.checked_shl(bits).map_or(u128::MAX, |n| n - 1);
        let kind = Kind::Static(self.nat.statics.len());
        self.nat.statics.push(Pair { inside: base(inside), outside: base(outside), host_bits });
        self.inside.push((format!("[{i}].inside"), inside, kind));
        self.outside.push((format!("[{i}].outside"), outside, kind));
        Ok(())
    }

    fn add_pool(&mut self, i: usize, inside: &[IpNetwork], pool: NatPool) -> Result<(), PolicyError> {
        let ports = pool.ports;
        if ports.first == 0 {
            return Err(PolicyError::new(format_args!("[{i}].ports"), Problem::NoPort));
        }
        if ports.first > ports.last {
            let problem = Problem::EmptyRange { first: ports.first, last: ports.last };
            return Err(PolicyError::new(format_args!("[{i}].ports"), problem));
        }
        let Some(first) = pool.prefixes.first().copied() else {
            return Err(PolicyError::new(format_args!("[{i}].outside"), Problem::Empty));
        };
        if inside.is_empty() {
            return Err(PolicyError::new(format_args!("[{i}].inside"), Problem::Empty));
        }
        let found = pool.prefixes.iter().map(size).fold(0, u64::saturating_add);
        if found > MAX_POOL_ADDRESSES as u64 {
            let found = usize::try_from(found).unwrap_or(usize::MAX);
            let problem = Problem::TooMany { found, max: MAX_POOL_ADDRESSES };
            return Err(PolicyError::new(format_args!("[{i}].outside"), problem));
        }
        let kind = Kind::Pool(self.nat.pools.len());
        for (list, prefixes) in [("inside", inside), ("outside", &pool.prefixes)] {
            for (j, prefix) in prefixes.iter().map(|p| canonical(*p)).enumerate() {
                let at = format!("[{i}].{list}[{j}]");
                if prefix.is_ipv4() != first.is_ipv4() {
                    return Err(unequal(at, prefix, first));
                }
                let side = if list == "inside" { &mut self.inside } else { &mut self.outside };
                side.push((at, prefix, kind));
            }
        }
        self.nat.pools.push(pool);
        Ok(())
    }

    fn add_forward(
        &mut self,
        i: usize,
        protocol: Protocol,
        outside: (IpAddr, u16),
        inside: (IpAddr, u16),
    ) -> Result<(), PolicyError> {
        if ![Protocol::TCP, Protocol::UDP].contains(&protocol) {
            return Err(PolicyError::new(format_args!("[{i}].protocol"), Problem::Portless { protocol }));
        }
        for (field, (addr, port)) in [("outside", outside), ("inside", inside)] {
            if port == 0 {
                return Err(PolicyError::new(format_args!("[{i}].{field}_port"), Problem::NoPort));
            }
            if is_mapped(&IpNetwork::from(addr)) {
                return Err(PolicyError::new(format_args!("[{i}].{field}"), Problem::MappedAddress));
            }
        }
        if outside.0.is_ipv4() != inside.0.is_ipv4() {
            return Err(unequal(format!("[{i}].outside"), outside.0.into(), inside.0.into()));
        }
        let key = (Addr16::from(outside.0), protocol, outside.1);
        if self.nat.forwards.insert(key, (Addr16::from(inside.0), inside.1)).is_some() {
            let value = format!("{protocol} port {} of {}", outside.1, outside.0);
            let problem = Problem::Duplicate { value, first: "a rule before".to_owned() };
            return Err(PolicyError::new(format_args!("[{i}].outside"), problem));
        }
        self.nat.forwarded.insert(Addr16::from(outside.0));
        self.forwards.push((format!("[{i}].outside"), outside.0));
        Ok(())
    }

    fn finish(mut self) -> Result<CompiledNat, PolicyError> {
        self.check_outside()?;
        self.nat.inside = lookup(&self.inside)?;
        self.nat.outside = lookup(&self.outside)?;
        Ok(self.nat)
    }

    /// An address outside is of one rule, or a pool's with ports that are forwarded.
    fn check_outside(&self) -> Result<(), PolicyError> {
        let mut sorted: Vec<_> = self.outside.iter().collect();
        sorted.sort_by_key(|(_, prefix, _)| (prefix.network(), prefix.prefix()));
        for (a, b) in sorted.iter().zip(sorted.iter().skip(1)) {
            if a.1.contains(b.1.network()) {
                let problem = Problem::Overlap { value: b.1.to_string(), other: a.1.to_string() };
                return Err(PolicyError::new(&b.0, problem));
            }
        }
        for (at, addr) in &self.forwards {
            let of_static = |(_, prefix, kind): &&(String, IpNetwork, Kind)| {
                matches!(kind, Kind::Static(_)) && prefix.contains(*addr)
            };
            if let Some((_, prefix, _)) = self.outside.iter().find(of_static) {
                let problem = Problem::Overlap { value: addr.to_string(), other: prefix.to_string() };
                return Err(PolicyError::new(at, problem));
            }
        }
        Ok(())
    }
}

fn lookup(prefixes: &[(String, IpNetwork, Kind)]) -> Result<Lpm<Kind>, PolicyError> {
    let mut first: BTreeMap<IpNetwork, &str> = BTreeMap::new();
    for (at, prefix, _) in prefixes {
        if is_mapped(prefix) {
            return Err(PolicyError::new(at, Problem::MappedAddress));
        }
        if let Some(first) = first.insert(*prefix, at) {
            let problem = Problem::Duplicate { value: prefix.to_string(), first: first.to_owned() };
            return Err(PolicyError::new(at, problem));
        }
    }
    Lpm::build(prefixes.iter().map(|(_, prefix, kind)| (*prefix, *kind)))
}

fn size(prefix: &IpNetwork) -> u64 {
    let bits = u32::from(if prefix.is_ipv4() { 32 - prefix.prefix() } else { 128 - prefix.prefix() });
    1u64.checked_shl(bits).unwrap_or(u64::MAX)
}

fn unequal(at: String, value: IpNetwork, other: IpNetwork) -> PolicyError {
    PolicyError::new(at, Problem::Unequal { value: value.to_string(), other: other.to_string() })
}
