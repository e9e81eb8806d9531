use crate::decide::{Choice, Decision, Opening, choose, decide, decide_usual, is_piece};
use crate::echo;
use crate::express::{Express, KnownFlows, Tally};
use crate::guard::{Grade, Purses};
use crate::hash::hasher;
use crate::key::MuxKey;
use crate::policy::Policy;
use arc_swap::ArcSwap;
use penstock_engine::{
    Class, Counter, EncapTemplate, Expressed, FragmentCounts, Fragments, Prior, Resolution, Resolver, Step, TcpIdle,
};
use penstock_flow::{FlowHasher, FlowTable, Transposition, prefetch};
use penstock_model::{BackendId, DropReason, Nanos, Packet, Protocol, ServiceId, TenantId, Verdict};
use penstock_wire::{Fragment, Headers};
use std::sync::Arc;

/// A TCP flow may be silent for this long: RFC 5382 REQ-5 (2 hours 4 minutes).
pub(crate) const TCP_IDLE_SECONDS: u16 = 7440;
/// RFC 4787 REQ-5 recommends five minutes.
const UDP_IDLE_SECONDS: u16 = 300;

/// Marks a token that is a backend and not a place in the slot tables.
const LEASED: u64 = 1 << 63;

/// What becomes of packets that are for no virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// The kernel sees a copy anyway (AF_PACKET): not ours to count as lost.
    Pass,
    /// They came to us alone (AF_XDP), so this ends them: `NotOurs`.
    Drop,
}

/// The mux's decisions for one worker.
#[derive(Debug)]
pub struct MuxResolver {
    published: Arc<ArcSwap<Policy>>,
    policy: Arc<Policy>,
    flows: FlowHasher,
    foreign: Foreign,
    /// By service id.
    services: Vec<Counter>,
    /// Of packets that were cut, by what their later fragments belong to.
    fragments: Fragments,
    now: Nanos,
    /// The second of the present batch.
    second: u32,
    /// `None`: all packets go the long way.
    express: Option<Express>,
    /// Packets that went the short way.
    expressed: u64,
    /// Of virtual IPs with a limit.
    purses: Purses,
    /// Whether limits hold: not for who only looks.
    is_limiting: bool,
}

impl MuxResolver {
    /// `secret` is this node's own, drawn at start: it keys the flow table. Slots are chosen by the goal's seed.
    #[must_use]
    pub fn new(published: Arc<ArcSwap<Policy>>, secret: [u64; 2], foreign: Foreign) -> Self {
        let policy = published.load_full();
        let services = vec![Counter::default(); policy.service_counters()];
        let flows = hasher(secret);
        let purses = Purses::of(&policy.tables.guards);
        Self {
            published,
            policy,
            flows,
            foreign,
            services,
            fragments: Fragments::new(flows),
            now: Nanos(0),
            second: 0,
            express: Some(Express::new()),
            expressed: 0,
            purses,
            is_limiting: true,
        }
    }

    /// The same without the short way that most packets go: to compare the two.
    #[must_use]
    pub fn without_express(self) -> Self {
        Self { express: None, ..self }
    }

    /// The same without limits: what it is shown takes nothing of what virtual IPs may have.
    pub(crate) fn without_limits(self) -> Self {
        Self { is_limiting: false, ..self }
    }

    /// Adds what limits have done here to [`Policy::limit_counts`]. To be called now and then.
    pub fn tell_limits(&mut self) {
        self.purses.tell(&self.policy.tables.guards);
    }

    /// The policy of the present batch.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// What each service was offered, by service id.
    #[must_use]
    pub fn services(&self) -> &[Counter] {
        &self.services
    }

    /// How many packets have gone the short way.
    #[must_use]
    pub fn expressed(&self) -> u64 {
        self.expressed
    }

    /// What became of packets that come in pieces.
    #[must_use]
    pub fn fragments(&self) -> FragmentCounts {
        self.fragments.counts()
    }

    /// Whether a packet exceeds what its virtual IP may have.
    fn refusal(&mut self, decision: &Decision, h: &Headers) -> Option<DropReason> {
        let guards = &self.policy.tables.guards;
        if guards.is_empty() || !self.is_limiting {
            return None;
        }
        let at = match decision {
            Decision::Stable(place) | Decision::Tracked { place, .. } => guards.of_service(place.service)?,
            Decision::Leased { .. } | Decision::Echo => guards.of_vip(&h.dst)?,
            Decision::Foreign | Decision::Drop(_) => return None,
        };
        let (guard, purse) = (guards.get(at)?, self.purses.get(at)?);
        let opens = h.protocol == Protocol::TCP && h.fragment != Fragment::Later && h.tcp_flags.opens();
        if let Err(reason) = guard.admit(purse, opens, self.now) {
            return Some(reason);
        }
        // Whether a flow of a slot that has moved is new, the flow table knows.
        let is_new = opens && matches!(decision, Decision::Stable(_));
        (is_new && guard.open(purse, true, self.now) == Grade::Drop).then_some(DropReason::VipFlowLimit)
    }

    /// What becomes of a packet that the flow table does not know, if its virtual IP has had enough new flows.
    fn limited(&mut self, choice: Choice, service: ServiceId, opening: Opening) -> Choice {
        let guards = &self.policy.tables.guards;
        let Some(at) = guards.of_service(service).filter(|_| self.is_limiting) else { return choice };
        let (Some(guard), Some(purse)) = (guards.get(at), self.purses.get(at)) else { return choice };
        let opens = opening == Opening::First;
        match choice {
            Choice::Once(_) if !opens => choice,
            Choice::Drop(_) => choice,
            Choice::Remember(value) | Choice::Once(value) => match guard.open(purse, opens, self.now) {
                Grade::State => choice,
                Grade::NoState => Choice::Once(value),
                Grade::Drop => Choice::Drop(DropReason::VipFlowLimit),
            },
        }
    }

    #[inline]
    fn count(&mut self, service: ServiceId, bytes: usize) {
        if let Some(c) = self.services.get_mut(service.0 as usize) {
            c.packets += 1;
            c.bytes += bytes as u64;
        }
    }
}

impl Resolver for MuxResolver {
    type Key = MuxKey;
    type Value = BackendId;
    /// Entries are small and cheap to make again; a connection's flags are not worth a look at each packet.
    const TCP: Option<TcpIdle> = None;

    const HAS_EXPRESS: bool = true;

    fn express(
        &mut self,
        batch: &mut [Packet<'_>],
        flows: &mut FlowTable<MuxKey, BackendId>,
        counters: &mut [Counter],
        now: Nanos,
    ) -> Expressed {
        let Some(express) = &mut self.express else { return Expressed::default() };
        let mut tally = Tally::new(&mut self.services, counters);
        let mut known = KnownFlows { flows, hasher: &self.flows, now: now.coarse(), second: self.second };
        express.run(&self.policy, batch, &mut known, &mut tally);
        self.expressed += tally.done.packets;
        tally.done
    }

    /// The counters grow here, once for a policy that has more services.
    fn refresh(&mut self, now: Nanos) {
        let newest = self.published.load();
        if !Arc::ptr_eq(&newest, &self.policy) {
            self.purses.tell(&self.policy.tables.guards);
            self.policy = Arc::clone(&newest);
            self.purses = Purses::of(&self.policy.tables.guards);
            let needed = self.policy.service_counters().max(self.services.len());
            self.services.resize(needed, Counter::default());
        }
        self.now = now;
        self.second = (now.0 / Nanos::from_secs(1).0) as u32;
        self.policy.tables.chances.clock.note(self.second);
    }

    #[inline]
    fn classify_into(&mut self, packet: &Packet<'_>, headers: &mut Headers, class: &mut Class<MuxKey>) {
        let Some((entry, place, is_tracked)) = decide_usual(&self.policy, headers) else {
            *class = self.classify(packet, headers);
            return;
        };
        let epoch = entry.epoch;
        self.count(place.service, packet.len());
        if is_tracked {
            let h = headers;
            let key = MuxKey::new(h.src, h.src_port, h.dst_port, place.service, h.protocol);
            *class = Class::Flow { key, hash: key.hash(&self.flows), epoch };
        } else {
            *class = Class::Direct { token: place.slot, hash: place.entropy };
        }
    }

    #[inline(never)]
    fn classify(&mut self, packet: &Packet<'_>, headers: &mut Headers) -> Class<MuxKey> {
        if headers.fragment != Fragment::No && is_piece(&self.policy, headers) {
            self.fragments.name(packet.frame(), headers, TenantId(0), self.now);
        }
        let decision = decide(&self.policy, packet.frame(), headers, &mut ());
        if let Decision::Stable(place) | Decision::Tracked { place, .. } = &decision {
            self.count(place.service, packet.len());
        }
        if let Some(reason) = self.refusal(&decision, headers) {
            return Class::Drop(reason);
        }
        match decision {
            Decision::Stable(place) => Class::Direct { token: place.slot, hash: place.entropy },
            Decision::Tracked { key, epoch, .. } => Class::Flow { key, hash: key.hash(&self.flows), epoch },
            Decision::Leased { backend, entropy } => {
                Class::Direct { token: LEASED | u64::from(backend.0), hash: entropy }
            }
            Decision::Echo => Class::Local,
            Decision::Foreign if self.foreign == Foreign::Pass => Class::Pass,
            Decision::Foreign => Class::Drop(DropReason::NotOurs),
            Decision::Drop(reason) => Class::Drop(reason),
        }
    }

    #[inline]
    fn foresee(&self, _packet: &Packet<'_>, headers: &Headers) {
        let vips = &self.policy.tables.vips;
        if vips.is_large()
            && let Some(home) = vips.home(&headers.dst, headers.protocol, headers.dst_port)
        {
            prefetch::prefetch(home);
        }
    }

    #[inline]
    fn prefetch(&self, token: u64) {
        if let Some(owner) = self.policy.tables.slots.place(token) {
            prefetch::prefetch(owner);
        }
    }

    #[inline]
    fn direct(&self, token: u64, _hash: u64, _headers: &Headers) -> Result<&Transposition, DropReason> {
        let slots = &self.policy.tables.slots;
        let backend = if token & LEASED == 0 { slots.owner(token) } else { BackendId(token as u32) };
        Ok(self.policy.transposition(backend))
    }

    fn explain_classify(&mut self, packet: &Packet<'_>, headers: &mut Headers, _: &mut Vec<Step>) -> Class<MuxKey> {
        self.fragments.look_only(true);
        let class = self.classify(packet, headers);
        self.fragments.look_only(false);
        class
    }

    /// Slow path: the packet is decided again for its place, which the key does not hold.
    fn resolve(
        &mut self,
        _key: &MuxKey,
        _hash: u64,
        packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        _now: Nanos,
    ) -> Resolution<MuxKey, BackendId> {
        let prior = prior.map(|p| Policy::value_of(p.transposition));
        match decide(&self.policy, packet.frame(), headers, &mut ()) {
            Decision::Tracked { place, pool, opening, .. } => {
                let choice = choose(&self.policy, &place, pool, opening, prior, &mut ());
                let is_known = prior.is_some();
                let choice = if is_known { choice } else { self.limited(choice, place.service, opening) };
                resolution(choice, headers.protocol)
            }
            Decision::Stable(place) => Resolution::Once(self.policy.tables.slots.owner(place.slot)),
            Decision::Leased { backend, .. } => Resolution::Once(backend),
            Decision::Drop(reason) => Resolution::Drop(reason),
            Decision::Echo | Decision::Foreign => Resolution::Drop(DropReason::NotOurs),
        }
    }

    /// Called for each packet that has a flow entry: a list that packets go by stays in use.
    #[inline]
    fn transposition<'a>(&'a self, value: &'a BackendId) -> &'a Transposition {
        self.policy.use_transposition(*value, self.second)
    }

    #[inline]
    fn hash(&self, key: &MuxKey) -> u64 {
        key.hash(&self.flows)
    }

    #[inline]
    fn encap(&self, id: u32) -> Result<&EncapTemplate, DropReason> {
        self.policy.encap(id)
    }

    fn local(&mut self, packet: &mut Packet<'_>, headers: &Headers, _now: Nanos) -> Verdict {
        echo::answer(packet, headers)
    }
}

fn resolution(choice: Choice, protocol: Protocol) -> Resolution<MuxKey, BackendId> {
    match choice {
        Choice::Remember(value) => {
            let idle_seconds = if protocol == Protocol::TCP { TCP_IDLE_SECONDS } else { UDP_IDLE_SECONDS };
            Resolution::Install { value, peer: None, idle_seconds }
        }
        Choice::Once(value) => Resolution::Once(value),
        Choice::Drop(reason) => Resolution::Drop(reason),
    }
}
