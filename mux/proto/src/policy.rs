use crate::chance::{self, Chances, Known, Second};
use crate::error::GoalError;
use crate::express::Ready;
use crate::goal::{ALL_PORTS, Backend, Distribution, MuxGoal, Service, SnatBlock};
use crate::guard::{self, Guards, LimitCounts};
use crate::hash::hasher;
use crate::places::{Places, replay_service};
use crate::slots::{NOBODY, PoolInfo, Slots};
use crate::validate::validate;
use crate::vips::{Kind, VipEntry, VipTable};
use penstock_engine::EncapTemplate;
use penstock_flow::{Flags, FlowHasher, Transposition};
use penstock_model::{
    Addr16, BackendId, DropReason, EncapId, Mac, PoolId, PortId, Protocol, Revision, ServiceId, Underlay, Vni,
};
use penstock_wire::geneve::NextOwners;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Largest [`BackendId`]: ids index a table of transpositions, 64 bytes each, and one of what goes before packets (`express::Ready`), 64
/// bytes each or 128 over IPv6, so at most 192 MiB. The controller gives the lowest free id.
pub const MAX_BACKEND: u32 = (1 << 20) - 1;
/// Largest [`ServiceId`]: ids index every worker's counters, 16 bytes each, so at most 16 MiB a worker.
pub const MAX_SERVICE: u32 = (1 << 20) - 1;
/// Source of the inner frames: the mux as seen by containers' hosts. Locally administered, "PST" in its middle.
pub const MUX_MAC: Mac = Mac([0x02, 0x50, 0x53, 0x54, 0x00, 0x02]);

/// How to reach an underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHopInfo {
    pub eth_src: Mac,
    pub eth_dst: Mac,
    pub out: PortId,
}

/// Why a virtual IP has nothing to offer. What is nearer to working comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idle {
    NextHopUnresolved,
    NoBackend,
}

impl Idle {
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NextHopUnresolved => "the way to its backends' hosts is not known",
            Self::NoBackend => "no backend is healthy",
        }
    }
}

/// Everything that a worker decides by, immutable: a goal joined with the state of the underlay.
///
/// [`Policy::build`] once per goal; [`Policy::succeed`] to tell it what it replaces; [`Policy::with_next_hops`] when only
/// the underlay changed. Memory: see [`MAX_BACKEND`] and the docs of the tables; names are kept once.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) tables: Arc<Tables>,
    /// By backend id: what becomes of a packet for it.
    transpositions: Box<[Line]>,
    /// By [`EncapId`]: one per host and VNI; `None` until its next hop is known.
    encaps: Box<[Option<EncapTemplate>]>,
    /// In the order of [`Chances::lists`].
    chances: Box<[Chance]>,
    /// The same as `transpositions` and `encaps`, for most packets.
    pub(crate) ready: Ready,
    /// The way to each host; `None` until it is known.
    next_hops: HashMap<Underlay<IpAddr>, Option<NextHopInfo>>,
}

/// What becomes of a packet for the first of some candidates, and the encapsulation that names the others.
#[derive(Debug, Clone)]
struct Chance {
    transposition: Transposition,
    encap: Option<EncapTemplate>,
    used: Arc<Second>,
}

/// A transposition in a cache line of its own.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Line(Transposition);

/// What follows from the goal alone.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) revision: Revision,
    pub(crate) own: Underlay<IpAddr>,
    pub(crate) vips: VipTable,
    /// The services once more, for most packets.
    pub(crate) places: Places,
    pub(crate) slots: Slots,
    pub(crate) chances: Chances,
    pub(crate) hasher: FlowHasher,
    services: HashMap<ServiceId, Service>,
    backends: HashMap<BackendId, Backend>,
    addresses: BTreeSet<IpAddr>,
    snat: Vec<SnatBlock>,
    pub(crate) has_snat: bool,
    pub(crate) has_all_ports: bool,
    /// Of virtual IPs with a limit.
    pub(crate) guards: Guards,
}

impl Policy {
    /// A mux that has no goal yet: it owns nothing.
    #[must_use]
    pub fn empty() -> Self {
        let tables = tables(&MuxGoal::default(), Underlay(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        Self {
            tables: Arc::new(tables),
            transpositions: Box::default(),
            encaps: Box::default(),
            chances: Box::default(),
            ready: Ready::default(),
            next_hops: HashMap::new(),
        }
    }

    /// Validates the goal and builds all of it.
    ///
    /// # Errors
    /// The first field that is wrong; nothing is built.
    pub fn build(
        goal: &MuxGoal,
        next_hop: impl Fn(Underlay<IpAddr>) -> Option<NextHopInfo>,
        own: Underlay<IpAddr>,
    ) -> Result<Self, GoalError> {
        validate(goal, own)?;
        Ok(Self::of(Arc::new(tables(goal, own)), next_hop))
    }

    /// Takes over what `earlier` knows of slots that changed hands: packets of those slots consult the flow table, so that
    /// flows of this node stay where they are, also after the controller calls a change settled. And how much limits are used.
    #[must_use]
    pub fn succeed(mut self, earlier: &Policy) -> Self {
        if let Some(tables) = Arc::get_mut(&mut self.tables) {
            let pairs = tables.pools_since(&earlier.tables);
            tables.slots.remember_moves_since(&earlier.tables.slots, &pairs);
            tables.mark_moved_services();
            tables.chances = earlier.tables.chances.clone();
            tables.add_chances();
            tables.guards.succeed(&earlier.tables.guards);
        }
        self.chances = self.all_chances();
        self
    }

    /// The same goal over a changed underlay.
    #[must_use]
    pub fn with_next_hops(&self, next_hop: impl Fn(Underlay<IpAddr>) -> Option<NextHopInfo>) -> Self {
        Self::of(Arc::clone(&self.tables), next_hop)
    }

    /// Whether packets find the same ways over an underlay as by this policy: it need not be made anew then.
    #[must_use]
    pub fn has_next_hops(&self, next_hop: impl Fn(Underlay<IpAddr>) -> Option<NextHopInfo>) -> bool {
        self.next_hops.iter().all(|(host, known)| next_hop(*host) == *known)
    }

    fn of(tables: Arc<Tables>, next_hop: impl Fn(Underlay<IpAddr>) -> Option<NextHopInfo>) -> Self {
        let ids = tables.backends.keys().map(|b| b.0 as usize + 1).max().unwrap_or(0);
        let mut transpositions = vec![Line(Transposition::drop(DropReason::NoHealthyBackend)); ids].into_boxed_slice();
        let mut encaps = Vec::new();
        let mut known: HashMap<(Underlay<IpAddr>, Vni), EncapId> = HashMap::new();
        let mut next_hops = HashMap::new();
        for b in tables.backends.values() {
            let encap = *known.entry((b.host, b.dip.vni)).or_insert_with(|| {
                let hop = *next_hops.entry(b.host).or_insert_with(|| next_hop(b.host));
                encaps.push(
                    hop.and_then(|n| EncapTemplate::vxlan(tables.own, b.host, b.dip.vni, n.eth_src, n.eth_dst, n.out)),
                );
                EncapId(encaps.len() as u32 - 1)
            });
            let out = encaps.get(encap.0 as usize).and_then(|e| e.as_ref()).map_or(PortId(0), |e| e.out);
            if let Some(t) = transpositions.get_mut(b.id.0 as usize) {
                *t = Line(to_backend(b, encap, out));
            }
        }
        let encaps = encaps.into_boxed_slice();
        let ready = Ready::default();
        let mut policy = Self { tables, transpositions, encaps, chances: Box::default(), ready, next_hops };
        policy.chances = policy.all_chances();
        policy.ready = Ready::of(&policy);
        policy
    }

    fn all_chances(&self) -> Box<[Chance]> {
        self.tables.chances.lists().iter().enumerate().map(|(i, known)| self.chance(i, known)).collect()
    }

    /// Only those of one network can pass a packet to each other.
    fn chance(&self, index: usize, known: &Known) -> Chance {
        let chance = |transposition, encap| Chance { transposition, encap, used: Arc::clone(&known.used) };
        let mut living = known.list.iter().filter_map(|id| self.backend(id));
        let Some(first) = living.next() else {
            return chance(Transposition::drop(DropReason::NoHealthyBackend), None);
        };
        let plain = *self.transposition(first.id);
        let next = NextOwners::new(living.filter(|b| b.dip.vni == first.dip.vni).map(|b| Addr16::from(b.dip.addr.0)));
        if next.is_empty() {
            return chance(plain, None);
        }
        let encap = self.encap(plain.encap).ok().map(|template| template.naming(&next));
        chance(plain.encapsulated(EncapId(chance::number(index))), encap)
    }

    /// What the flow entry said whose transposition this is.
    pub(crate) fn value_of(transposition: &Transposition) -> BackendId {
        match chance::index(transposition.encap) {
            Some(_) if transposition.encap != EncapId::NONE.0 => BackendId(transposition.encap),
            _ => BackendId(transposition.counter),
        }
    }

    /// The same without the memory of slots that changed hands, in pools that have settled; `None` if there are none. To be put
    /// in force when no worker has had a flow entry for a while under the present one: then it decides alike, and the slots
    /// need no flow table any more.
    #[must_use]
    pub fn without_settled_moves(&self) -> Option<Self> {
        if !self.tables.slots.has_settled_moves() {
            return None;
        }
        let mut policy = self.clone();
        let tables = Arc::make_mut(&mut policy.tables);
        tables.slots.forget_settled_moves();
        tables.mark_moved_services();
        Some(policy)
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.tables.revision
    }

    /// The virtual IPs of the goal.
    #[must_use]
    pub fn vips(&self) -> &BTreeSet<IpAddr> {
        &self.tables.addresses
    }

    /// Each virtual IP with why it has nothing to offer, or `None` if a connection to one of its services, a new one or one that
    /// is older than the last change, gets to a backend.
    #[must_use]
    pub fn idle(&self) -> BTreeMap<IpAddr, Option<Idle>> {
        let slots = &self.tables.slots;
        let pools: Vec<Option<Idle>> = slots.pools().iter().map(|pool| self.idle_pool(pool)).collect();
        let mut out: BTreeMap<IpAddr, Option<Idle>> = BTreeMap::new();
        for service in self.services() {
            let pool = slots.pool_index(service.pool).and_then(|i| pools.get(i as usize));
            let idle = pool.copied().unwrap_or(Some(Idle::NoBackend));
            // The service that is nearest to working speaks for the address.
            out.entry(service.vip).and_modify(|said| *said = (*said).min(idle)).or_insert(idle);
        }
        // Answers to what containers send by leased ports come here, whatever the services do.
        out.extend(self.tables.snat.iter().map(|block| (block.vip, None)));
        out
    }

    /// While a pool drains whole, who served it before still has its connections: without the virtual IP they would all end.
    fn idle_pool(&self, pool: &PoolInfo) -> Option<Idle> {
        let mut members = pool.members().chain(pool.previous_members()).peekable();
        if members.peek().is_none() {
            return Some(Idle::NoBackend);
        }
        let reached = |id: BackendId| self.encap(self.transposition(id).encap).is_ok();
        (!members.any(reached)).then_some(Idle::NextHopUnresolved)
    }

    /// Underlay addresses that packets are sent to.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<Underlay<IpAddr>> {
        self.next_hops.keys().copied().collect()
    }

    /// Hosts' encapsulations whose next hop is not known yet.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.encaps.iter().filter(|e| e.is_none()).count()
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.tables.services.values()
    }

    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.tables.backends.values()
    }

    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.tables.services.get(&id)
    }

    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.tables.backends.get(&id)
    }

    /// Lists of owners that found no place: flows that may be theirs go to the first and have no second chance.
    #[must_use]
    pub fn chances_missing(&self) -> usize {
        self.tables.chances.unplaced()
    }

    /// What each limit has done since the start, as far as workers have told.
    #[must_use]
    pub fn limit_counts(&self) -> BTreeMap<IpAddr, LimitCounts> {
        guard::counts(&self.tables.guards)
    }

    /// Name and slot table version of every pool.
    pub fn pools(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tables.slots.pools().iter().map(|p| (p.name.as_str(), p.version))
    }

    /// How many counters [`Transposition::counter`] can name.
    #[must_use]
    pub fn backend_counters(&self) -> usize {
        self.transpositions.len()
    }

    /// How many counters of services a worker needs.
    #[must_use]
    pub fn service_counters(&self) -> usize {
        self.tables.services.keys().map(|s| s.0 as usize + 1).max().unwrap_or(0)
    }

    pub(crate) fn backend_name(&self, value: BackendId) -> String {
        match self.tables.chances.candidates(value).first().and_then(|id| self.backend(id)) {
            Some(b) => format!("{} ({})", b.name, b.dip.addr.0),
            None => "nobody".to_owned(),
        }
    }

    /// What becomes of a packet for a backend or the candidates that a flow entry names.
    #[inline]
    pub(crate) fn transposition(&self, value: BackendId) -> &Transposition {
        const GONE: &Transposition = &Transposition::drop(DropReason::NoHealthyBackend);
        match self.transpositions.get(value.0 as usize) {
            Some(line) => &line.0,
            None => self.chance_of(value.0).map_or(GONE, |c| &c.transposition),
        }
    }

    /// The same for a packet of that second.
    #[inline]
    pub(crate) fn use_transposition(&self, value: BackendId, second: u32) -> &Transposition {
        if let Some(chance) = self.chance_of(value.0) {
            chance.used.note(second);
        }
        self.transposition(value)
    }

    #[inline]
    pub(crate) fn encap(&self, id: u32) -> Result<&EncapTemplate, DropReason> {
        let template = match self.encaps.get(id as usize) {
            Some(template) => template.as_ref(),
            None => self.chance_of(id).and_then(|c| c.encap.as_ref()),
        };
        template.ok_or(DropReason::NextHopUnresolved)
    }

    /// What a flow entry that names more than one backend says in that second, and the encapsulation that names the others, if it
    /// does.
    #[inline]
    pub(crate) fn use_chance(&self, value: BackendId, second: u32) -> Option<(&Transposition, Option<&EncapTemplate>)> {
        let chance = self.chance_of(value.0)?;
        chance.used.note(second);
        Some((&chance.transposition, chance.encap.as_ref()))
    }

    fn chance_of(&self, number: u32) -> Option<&Chance> {
        self.chances.get(chance::index(number)?)
    }
}

fn to_backend(b: &Backend, encap: EncapId, out: PortId) -> Transposition {
    Transposition::to_port(out)
        .with_ttl_decrement()
        .with_eth(b.mac, MUX_MAC)
        .with_flag(Flags::COMPLETE_CHECKSUM)
        .encapsulated(encap)
        .with_counter(b.id.0)
}

/// Builds from a validated goal.
fn tables(goal: &MuxGoal, own: Underlay<IpAddr>) -> Tables {
    let backends: HashMap<_, _> = goal.backends.iter().map(|b| (b.id, b.clone())).collect();
    let hasher = hasher(goal.hash_seed);
    let slots = Slots::new(&goal.pools, |b| b != NOBODY && backends.contains_key(&b));
    let guards = Guards::new(&goal.limits, goal.services.iter().map(|s| (s.id, s.vip)));
    let service = |s: &Service| Some(replay_service(s, slots.pool_index(s.pool)?, &hasher));
    // Those with a limit go the long way, which alone knows it.
    let unlimited = goal.services.iter().filter(|s| guards.of_service(s.id).is_none());
    let places = Places::new(&hasher.keys(), unlimited.filter_map(service));
    let mut tables = Tables {
        revision: goal.revision,
        own,
        // A service may bring its VIP and its protocol with it.
        vips: VipTable::new(goal.services.len() * 3 + goal.snat.len() * 2, goal.hash_seed),
        places,
        slots,
        chances: Chances::default(),
        hasher,
        services: goal.services.iter().map(|s| (s.id, s.clone())).collect(),
        addresses: goal.services.iter().map(|s| s.vip).chain(goal.snat.iter().map(|b| b.vip)).collect(),
        backends,
        snat: goal.snat.clone(),
        has_snat: !goal.snat.is_empty(),
        has_all_ports: goal.services.iter().any(|s| s.port == ALL_PORTS),
        guards,
    };
    tables.mark_moved_services();
    tables.add_chances();
    tables
}

impl Tables {
    /// Gives a number to every list of candidates that flow entries may come to name.
    fn add_chances(&mut self) {
        let Self { slots, chances, .. } = self;
        let reduced = slots.reduced(chances.lists().iter().map(|known| known.list));
        chances.name(slots.all_candidates().chain(reduced));
    }

    /// The pools that flows go by, each with those that they went by before: its own, and another one if a service has come from
    /// there.
    fn pools_since(&self, earlier: &Tables) -> BTreeSet<(PoolId, PoolId)> {
        let came = |s: &Service| Some((s.pool, earlier.services.get(&s.id)?.pool));
        let stayed = self.services.values().map(|s| (s.pool, s.pool));
        stayed.chain(self.services.values().filter_map(came)).collect()
    }

    /// Writes the entries of all services, with the pools' present epochs and marks.
    fn mark_moved_services(&mut self) {
        let entry = |s: &Service| {
            let index = self.slots.pool_index(s.pool).unwrap_or_default();
            let (moved, epoch) = self.slots.pool(index).map_or_else(Default::default, |p| (p.any_moved(), p.epoch));
            let is_limited = self.guards.of_service(s.id).is_some();
            let entry = VipEntry::NONE.of_service(s.id).to_pool(index, s.distribution, moved, epoch);
            entry.limited(is_limited)
        };
        for s in self.services.values() {
            let vip = Addr16::from(s.vip);
            self.vips.insert(&vip, s.protocol, s.port, Kind::Service, entry(s));
            self.vips.insert(&vip, Protocol(0), 0, Kind::Vip, entry(s));
        }
        for s in portless(self.services.values()) {
            self.vips.insert(&Addr16::from(s.vip), s.protocol, 0, Kind::Portless, entry(s));
        }
        for block in &self.snat {
            let vip = Addr16::from(block.vip);
            self.vips.insert(&vip, Protocol(0), 0, Kind::Vip, VipEntry::NONE.with_blocks(block.shift));
            self.vips.insert(&vip, Protocol(0), block.first, Kind::Snat, VipEntry::NONE.of_block(block.backend));
        }
    }
}

/// For each VIP and protocol whose services all use one pool by the source address alone: one of them, the lowest id.
fn portless<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<&'a Service> {
    let mut groups: HashMap<(IpAddr, Protocol), Vec<&Service>> = HashMap::new();
    for s in services {
        groups.entry((s.vip, s.protocol)).or_default().push(s);
    }
    let agree = |g: &[&Service]| {
        g.iter().all(|s| s.distribution != Distribution::Default)
            && g.windows(2).all(|w| w[0].pool == w[1].pool && w[0].distribution == w[1].distribution)
    };
    groups.into_values().filter(|g| agree(g)).filter_map(|g| g.into_iter().min_by_key(|s| s.id)).collect()
}
