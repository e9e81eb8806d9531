use crate::lpm::canonical;
use crate::user_routes::UserRoutes;
use crate::{Acl, AclJournal, CompiledAcl, Endpoint, Lpm, PolicyError, Problem, Route, VirtualNetwork};
use ipnetwork::IpNetwork;
use penstock_model::Mac;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a packet of a virtual network goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// An endpoint of the network; `index` counts in [`VirtualNetwork::endpoints`].
    Endpoint { index: u32, endpoint: &'a Endpoint },
    /// The gateway address of this subnet: the fabric itself is asked (ARP, ND, ping).
    Gateway { subnet: IpNetwork },
    /// `index` counts in [`VirtualNetwork::routes`].
    Route { index: u32, route: &'a Route },
    /// Nothing is there: an address of the network that nobody has, or one that no route covers.
    NoRoute,
}

/// A [`VirtualNetwork`] that has been checked, with one table for all that an address may mean.
///
/// An address is looked up as an endpoint, then as the gateway of a subnet, then by the longest prefix among routes and
/// the network's own prefixes. A network's own prefix leads nowhere (only its endpoints exist), so a default route does
/// not swallow addresses that nobody has; a route with the same or a longer prefix takes precedence over it.
#[derive(Debug, Clone)]
pub struct CompiledNetwork {
    network: VirtualNetwork,
    table: Lpm<Place>,
    /// The lists that endpoints name, by their index.
    acls: BTreeMap<u32, CompiledAcl>,
    no_acl: CompiledAcl,
    user_routes: UserRoutes,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Endpoint(u32),
    Gateway(u32),
    Route(u32),
    Nowhere,
}

impl CompiledNetwork {
    /// `acls`: the lists of the goal state, which [`Endpoint::acl`] counts in. Those that the network uses are compiled
    /// with its prefixes.
    ///
    /// # Errors
    /// Names the field that is wrong, as `red.endpoints[3].addr`.
    pub fn compile(network: &VirtualNetwork, acls: &[Acl]) -> Result<Self, PolicyError> {
        let checked = check(network).and_then(|()| table(network)).map_err(|e| e.within(&network.name));
        Ok(Self {
            table: checked?,
            acls: used_acls(network, acls)?,
            no_acl: CompiledAcl::none(),
            user_routes: UserRoutes::compile(&network.tables).map_err(|e| e.within(&network.name))?,
            network: network.clone(),
        })
    }

    /// The access lists go on counting where those of `previous` stopped, and write to `journal`.
    #[must_use]
    pub fn continuing(mut self, journal: Option<&AclJournal>, previous: Option<&CompiledNetwork>) -> Self {
        let before: HashMap<&str, &CompiledAcl> =
            previous.iter().flat_map(|p| p.acls.values()).map(|acl| (acl.name(), acl)).collect();
        let name = &self.network.name;
        for acl in self.acls.values_mut() {
            let previous = before.get(acl.name()).copied();
            *acl = std::mem::replace(acl, CompiledAcl::none()).continuing(name, journal, previous);
        }
        self
    }

    /// The access lists that its endpoints have.
    pub fn acls(&self) -> impl Iterator<Item = &CompiledAcl> {
        self.acls.values()
    }

    /// What `dst` means in this network. No allocation, no lock.
    #[must_use]
    #[inline]
    pub fn lookup(&self, dst: IpAddr) -> Target<'_> {
        let network = &self.network;
        let target = match self.table.lookup(dst) {
            Some(Place::Endpoint(index)) => {
                network.endpoints.get(*index as usize).map(|endpoint| Target::Endpoint { index: *index, endpoint })
            }
            Some(Place::Gateway(index)) => {
                network.subnets.get(*index as usize).map(|subnet| Target::Gateway { subnet: *subnet })
            }
            Some(Place::Route(index)) => {
                network.routes.get(*index as usize).map(|route| Target::Route { index: *index, route })
            }
            Some(Place::Nowhere) | None => None,
        };
        target.unwrap_or(Target::NoRoute)
    }

    /// The endpoint that has `addr`, and its index.
    #[must_use]
    pub fn endpoint(&self, addr: IpAddr) -> Option<(u32, &Endpoint)> {
        match self.lookup(addr) {
            Target::Endpoint { index, endpoint } => Some((index, endpoint)),
            _ => None,
        }
    }

    /// The list that guards `endpoint`: the one it names, or one that allows everything.
    #[must_use]
    pub fn acl_of(&self, endpoint: &Endpoint) -> &CompiledAcl {
        endpoint.acl.and_then(|id| self.acls.get(&id.0)).unwrap_or(&self.no_acl)
    }

    /// The subnet that `addr` lies in.
    #[must_use]
    pub fn subnet_of(&self, addr: IpAddr) -> Option<IpNetwork> {
        self.network.subnets.iter().find(|subnet| subnet.contains(addr)).copied()
    }

    /// Whether `addr` belongs to the address space of the network.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.own_prefix(addr).is_some()
    }

    pub(crate) fn own_prefix(&self, addr: IpAddr) -> Option<&IpNetwork> {
        self.network.prefixes.iter().find(|prefix| prefix.contains(addr))
    }

    pub(crate) fn user_routes(&self) -> &UserRoutes {
        &self.user_routes
    }

    /// The intent that was compiled.
    #[must_use]
    pub fn network(&self) -> &VirtualNetwork {
        &self.network
    }

    /// Bytes of the lookup table, without endpoints, routes and lists.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }
}

/// The gateway address of a subnet: its first address that a host may have. A prefix of a single address has only that.
#[must_use]
pub fn gateway_of(subnet: &IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(net) => {
            let step = u32::from(net.prefix() < 32);
            IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).saturating_add(step)))
        }
        IpNetwork::V6(net) => {
            let step = u128::from(net.prefix() < 128);
            IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).saturating_add(step)))
        }
    }
}

fn table(network: &VirtualNetwork) -> Result<Lpm<Place>, PolicyError> {
    let mut places: BTreeMap<IpNetwork, Place> = BTreeMap::new();
    for prefix in &network.prefixes {
        places.insert(canonical(*prefix), Place::Nowhere);
    }
    for (index, route) in (0u32..).zip(&network.routes) {
        places.insert(canonical(route.prefix), Place::Route(index));
    }
    for (index, subnet) in (0u32..).zip(&network.subnets) {
        places.insert(IpNetwork::from(gateway_of(subnet)), Place::Gateway(index));
    }
    for (index, endpoint) in (0u32..).zip(&network.endpoints) {
        places.insert(IpNetwork::from(endpoint.addr.0), Place::Endpoint(index));
    }
    Lpm::build(places)
}

fn used_acls(network: &VirtualNetwork, acls: &[Acl]) -> Result<BTreeMap<u32, CompiledAcl>, PolicyError> {
    let mut used = BTreeMap::new();
    for (index, endpoint) in network.endpoints.iter().enumerate() {
        let Some(id) = endpoint.acl else { continue };
        if used.contains_key(&id.0) {
            continue;
        }
        let Some(acl) = acls.get(id.0 as usize) else {
            let problem = Problem::Dangling { index: id.0, len: acls.len() };
            return Err(PolicyError::new(format_args!("{}.endpoints[{index}].acl", network.name), problem));
        };
        used.insert(id.0, CompiledAcl::compile(acl, &network.prefixes).map_err(|e| e.within("acls"))?);
    }
    Ok(used)
}

fn check(network: &VirtualNetwork) -> Result<(), PolicyError> {
    disjoint("prefixes", &network.prefixes)?;
    disjoint("subnets", &network.subnets)?;
    for (index, subnet) in network.subnets.iter().enumerate() {
        if !network.prefixes.iter().any(|prefix| covers(prefix, subnet)) {
            let problem = Problem::Outside { value: subnet.to_string(), of: "the network's prefixes" };
            return Err(PolicyError::new(format_args!("subnets[{index}]"), problem));
        }
    }
    check_routes(network)?;
    check_endpoints(network)
}

fn check_routes(network: &VirtualNetwork) -> Result<(), PolicyError> {
    let mut seen = HashMap::new();
    for (index, route) in network.routes.iter().enumerate() {
        let prefix = canonical(route.prefix);
        if let Some(first) = seen.insert(prefix, index) {
            let problem = Problem::Duplicate { value: prefix.to_string(), first: format!("routes[{first}]") };
            return Err(PolicyError::new(format_args!("routes[{index}].prefix"), problem));
        }
    }
    Ok(())
}

fn check_endpoints(network: &VirtualNetwork) -> Result<(), PolicyError> {
    let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
    let mut macs: HashMap<Mac, usize> = HashMap::new();
    // Subnets are disjoint, so the one that covers an address is found by longest prefix.
    let subnets = Lpm::build(network.subnets.iter().map(|subnet| (*subnet, *subnet)))
        .map_err(|e| PolicyError { field: format!("subnets{}", e.field), problem: e.problem })?;
    for (index, endpoint) in network.endpoints.iter().enumerate() {
        let field = |name: &str| format!("endpoints[{index}].{name}");
        let addr = endpoint.addr.0;
        let Some(subnet) = subnets.lookup(addr) else {
            let problem = Problem::Outside { value: addr.to_string(), of: "the network's subnets" };
            return Err(PolicyError::new(field("addr"), problem));
        };
        check_address(addr, subnet).map_err(|problem| PolicyError::new(field("addr"), problem))?;
        if let Some(first) = addresses.insert(addr, index) {
            let problem = Problem::Duplicate { value: addr.to_string(), first: format!("endpoints[{first}].addr") };
            return Err(PolicyError::new(field("addr"), problem));
        }
        let mac = endpoint.mac;
        if mac.is_group() || mac == Mac::ZERO {
            return Err(PolicyError::new(field("mac"), Problem::NotUnicast { value: mac.to_string() }));
        }
        // One interface may have several addresses; two interfaces cannot share an Ethernet address.
        let first = *macs.entry(mac).or_insert(index);
        let same = network.endpoints.get(first).is_some_and(|e| e.network_interface == endpoint.network_interface);
        if !same {
            let problem = Problem::Duplicate { value: mac.to_string(), first: format!("endpoints[{first}].mac") };
            return Err(PolicyError::new(field("mac"), problem));
        }
    }
    Ok(())
}

/// The gateway's address is taken; network and broadcast addresses of an IPv4 subnet are no host's (RFC 1122 section
/// 3.2.1.3; /31 and /32 have neither, RFC 3021).
fn check_address(addr: IpAddr, subnet: &IpNetwork) -> Result<(), Problem> {
    let single = subnet.prefix() == if subnet.is_ipv4() { 32 } else { 128 };
    if addr == gateway_of(subnet) && !single {
        return Err(Problem::GatewayAddress { value: addr.to_string(), subnet: subnet.to_string() });
    }
    let reserved = subnet.is_ipv4() && subnet.prefix() < 31 && (addr == subnet.network() || addr == subnet.broadcast());
    if reserved || addr.is_multicast() || addr.is_unspecified() {
        return Err(Problem::NotUnicast { value: addr.to_string() });
    }
    Ok(())
}

/// Refuses prefixes that overlap. Sorted by first address, an overlap shows between neighbours.
fn disjoint(field: &str, prefixes: &[IpNetwork]) -> Result<(), PolicyError> {
    let mut sorted: Vec<(IpNetwork, usize)> = prefixes.iter().map(|p| canonical(*p)).zip(0..).collect();
    sorted.sort_unstable();
    for pair in sorted.windows(2) {
        if let [(a, first), (b, second)] = pair
            && covers(a, b)
        {
            let problem = Problem::Overlap { value: b.to_string(), other: format!("{a} in {field}[{first}]") };
            return Err(PolicyError::new(format_args!("{field}[{second}]"), problem));
        }
    }
    Ok(())
}

fn covers(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}
