use crate::answer::answer;
use crate::chance::{Chance, Onward};
use crate::classify::{Origin, about, flow_of, is_complaint, origin};
use crate::decide::{Decided, Decision, HostFlow};
use crate::door::Door;
use crate::fabric::is_probe_source;
use crate::keys::{key_at, peer_key, port_of, zone};
use crate::policy::Policy;
use crate::replay::{self, Notice};
use crate::snat::{EASY_TRIES, MAX_TRIES, TIRED, Walk};
use crate::status::SnatUse;
use arc_swap::{ArcSwap, Cache};
use penstock_engine::{Class, EncapTemplate, FragmentCounts, Fragments, Prior, Resolver, Step, Why, apply};
use penstock_flow::{Flags, FlowHasher, FlowTable, Quota, Transposition};
use penstock_maps::FLOW_IDLE_SECONDS;
use penstock_model::{DropReason, EncapId, FlowKey, Nanos, Overlay, Packet, PortId, Verdict};
use penstock_wire::quote::is_error;
use penstock_wire::{Fragment, Headers};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// Destinations that wait to be solicited; the next packet asks again.
const MAX_UNRESOLVED: usize = 64;

/// Four for each packet of a batch: a connection has two directions, and may take a turn with a packet that is decided anew.
const MAX_NOTICES: usize = 4 * penstock_model::BATCH;

/// A table for `capacity` flows of `ports` containers' ports, both directions counted.
///
/// **Shares**: no port has more established flows than an eighth of the table, or its equal part where there are fewer than
/// eight; so eight ports at least have to be flooded, with connections that were accepted, to fill it. Flows of which one packet
/// was seen have a region for each port: a flood of them is the port's own affair.
///
/// **Memory**: 256 bytes a bucket of two flows; 0.9 buckets for each flow of the capacity, an eighth of a bucket for new flows,
/// and at least 16 KiB of these for each port.
#[must_use]
pub fn flow_table(capacity: usize, ports: usize) -> FlowTable<FlowKey, HostFlow> {
    let limit = capacity / ports.clamp(1, 8);
    let quota = Quota::new(|key: &FlowKey| flow_group(port_of(key)).unwrap_or_default(), ports, limit as u32);
    // A forgotten flow may be a broken one here, so the flows that may be new at a time get a quarter of the room.
    FlowTable::with_probation(capacity, capacity / 4).with_quota(quota)
}

/// The group of a container port's flows in the table's quota.
#[must_use]
pub fn flow_group(port: PortId) -> Option<usize> {
    port.0.checked_sub(1).map(usize::from)
}

/// The host's decisions for one worker. See [`Resolver`] for the order of calls.
///
/// After each batch the worker takes [`HostResolver::poll_probe_frame`] and [`HostResolver::poll_unresolved`] until they give
/// nothing.
#[derive(Debug)]
pub struct HostResolver {
    newest: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    policy: Arc<Policy>,
    hasher: FlowHasher,
    mailbox: VecDeque<(PortId, Vec<u8>)>,
    /// Of the ports that were probed.
    doors: HashMap<PortId, Door>,
    unresolved: VecDeque<IpAddr>,
    onward: Onward,
    /// Of packets that were cut, by what their later fragments belong to.
    fragments: Fragments,
    /// Of the present batch.
    now: Nanos,
    passed_on: u64,
    walk: Option<Asked>,
    /// As in [`Policy::leased`].
    snat: Vec<SnatCount>,
    /// For whoever replays flows, if there is such.
    notices: Option<VecDeque<Notice>>,
}

/// A claim that is being answered.
#[derive(Debug, Clone, Copy)]
struct Asked {
    walk: Walk,
    /// Where its address is among those that have leased ports.
    place: usize,
    now: Nanos,
}

#[derive(Debug, Clone, Copy, Default)]
struct SnatCount {
    claims: u64,
    strained: u64,
    exhausted: u64,
    /// A claim found none lately: until then others do not look far.
    tired_until: Nanos,
}

impl HostResolver {
    /// A resolver that follows what is published in `policies`.
    #[must_use]
    pub fn new(policies: Arc<ArcSwap<Policy>>, hasher: FlowHasher) -> Self {
        let policy = policies.load_full();
        let snat = vec![SnatCount::default(); policy.leased.len()];
        Self {
            newest: Cache::new(policies),
            policy,
            hasher,
            mailbox: VecDeque::new(),
            doors: HashMap::new(),
            unresolved: VecDeque::with_capacity(MAX_UNRESOLVED),
            onward: Onward::new(),
            fragments: Fragments::new(hasher),
            now: Nanos(0),
            passed_on: 0,
            walk: None,
            snat,
            notices: None,
        }
    }

    /// Tells by [`HostResolver::poll_notice`] which flows may be replayed elsewhere.
    #[must_use]
    pub fn with_notices(mut self) -> Self {
        self.notices = Some(VecDeque::with_capacity(MAX_NOTICES));
        self
    }

    /// What was found out about flows, in order. To be taken after each batch, until it gives nothing.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.as_mut()?.pop_front()
    }

    /// Counts go on for the addresses that have leased ports in both policies.
    fn succeed(&mut self, next: Arc<Policy>) {
        let before = &self.policy;
        let count = |(port, dip)| before.leased_place(port, dip).and_then(|i| self.snat.get(i)).copied();
        self.snat = next.leased.iter().map(|of| count(*of).unwrap_or_default()).collect();
        self.policy = next;
    }

    /// How the addresses that have leased ports get on with them.
    pub fn snat(&self) -> impl Iterator<Item = SnatUse> {
        self.policy.leased.iter().zip(&self.snat).filter_map(|((id, dip), count)| {
            let port = self.policy.port(*id)?;
            Some(SnatUse {
                network_interface: port.name.clone(),
                dip: Overlay(dip.to_ip()),
                ports: port.most_snat_ports(*dip),
                claims: count.claims,
                strained: count.strained,
                exhausted: count.exhausted,
            })
        })
    }

    /// Packets of flows that were not known here and got their second chance elsewhere.
    #[must_use]
    pub fn passed_on(&self) -> u64 {
        self.passed_on
    }

    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whose the error is was found out when it was classified; to carry that from there would cost every packet.
    fn origin_of(&self, packet: &Packet<'_>) -> Result<(Origin, Headers), DropReason> {
        let mut h = penstock_wire::parse(packet.frame())?;
        let origin = origin(&self.policy, packet.frame(), packet.port, &mut h, &mut ())?;
        Ok((origin, h))
    }

    /// What became of packets that come in pieces.
    #[must_use]
    pub fn fragments(&self) -> FragmentCounts {
        self.fragments.counts()
    }

    /// To be told of each frame that a probe sends to the container of `port`: its answers are let in.
    pub fn expect_answer(&mut self, port: PortId, frame: &[u8]) {
        self.doors.entry(port).or_default().open_for(frame);
    }

    /// The next frame that a container sent to the source of probes.
    pub fn poll_probe_frame(&mut self) -> Option<(PortId, Vec<u8>)> {
        self.mailbox.pop_front()
    }

    /// The next underlay destination for which a packet found no next hop.
    pub fn poll_unresolved(&mut self) -> Option<IpAddr> {
        self.unresolved.pop_front()
    }
}

/// Brings an ICMP error about a virtual address to the container that has it, or the container's to whom it is about.
pub(crate) fn bring_error(
    policy: &Policy,
    origin: Origin,
    packet: &mut Packet<'_>,
    h: &Headers,
    known: Option<&Transposition>,
    why: &mut impl Why,
) -> Verdict {
    let (Origin::Related(id) | Origin::Complaint(id)) = origin else { return Verdict::Drop(DropReason::Unsupported) };
    let Some((port, network)) = policy.port(id).and_then(|p| Some((p, policy.network_of(p)?))) else {
        return Verdict::Drop(DropReason::UnknownPort);
    };
    let mut decision = Decision { policy, port, network, unresolved: &mut None, chance: &mut Chance::default(), why };
    let is_related = matches!(origin, Origin::Related(_));
    let is_translated = known.is_some_and(|t| t.flags.has(if is_related { Flags::DST } else { Flags::SRC }));
    if !is_translated && (!is_related || port.passes_on(h)) {
        let way = match decision.like_any_packet(&key_at(id, h), h, is_related) {
            Ok(way) => way,
            Err(reason) => return Verdict::Drop(reason),
        };
        let encap = if way.flags.has(Flags::ENCAP) { policy.encap(EncapId(way.encap)).map(Some) } else { Ok(None) };
        return encap.and_then(|encap| apply(&way, packet, h, 0, encap)).unwrap_or_else(Verdict::Drop);
    }
    let sent = if is_related {
        let related = decision.related(packet.frame(), h, known);
        related.and_then(|(nat, quote)| crate::related::deliver(port, &nat, packet, h, &quote))
    } else {
        let complaint = decision.complaint(packet.frame(), h, known);
        complaint.and_then(|(by, quote)| crate::related::send(packet, h, &quote, &by))
    };
    sent.map_or_else(Verdict::Drop, Verdict::Transmit)
}

/// Decides the flow `key`, saying why.
#[allow(clippy::too_many_arguments, reason = "what is known of a packet by then")]
pub(crate) fn decide(
    policy: &Policy,
    from_container: bool,
    key: &FlowKey,
    h: &Headers,
    prior: Option<&Transposition>,
    unresolved: &mut Option<IpAddr>,
    chance: &mut Chance,
    why: &mut impl Why,
) -> Decided {
    let port = policy.port(port_of(key));
    let Some((port, network)) = port.and_then(|p| Some((p, policy.network_of(p)?))) else {
        return Decided::Drop(DropReason::UnknownPort);
    };
    let mut decision = Decision { policy, port, network, unresolved, chance, why };
    if from_container { decision.outbound(key, h, prior) } else { decision.inbound(key, h, prior) }
}

impl Resolver for HostResolver {
    type Key = FlowKey;
    type Value = HostFlow;

    fn refresh(&mut self, now: Nanos) {
        self.now = now;
        let newest = self.newest.load();
        if !Arc::ptr_eq(newest, &self.policy) {
            let newest = newest.clone();
            self.succeed(newest);
        }
    }

    fn classify(&mut self, packet: &Packet<'_>, headers: &mut Headers) -> Class<FlowKey> {
        let origin = match origin(&self.policy, packet.frame(), packet.port, headers, &mut ()) {
            Ok(origin) => origin,
            Err(reason) => return Class::Drop(reason),
        };
        match origin {
            Origin::Underlay => Class::Pass,
            Origin::Local(_) | Origin::Related(_) | Origin::Complaint(_) => Class::Local,
            Origin::Overlay(id) | Origin::Container(id) | Origin::Appliance(id) => {
                if headers.fragment != Fragment::No {
                    self.fragments.name(packet.frame(), headers, zone(id), self.now);
                }
                let network = self.policy.port(id).and_then(|p| self.policy.network_of(p));
                let (Some(network), Some(key)) = (network, flow_of(origin, headers)) else {
                    return Class::Drop(DropReason::NoPolicy);
                };
                Class::Flow { key, hash: self.hasher.hash(&key), epoch: network.epoch }
            }
        }
    }

    fn explain_classify(&mut self, packet: &Packet<'_>, headers: &mut Headers, _: &mut Vec<Step>) -> Class<FlowKey> {
        self.fragments.look_only(true);
        let class = self.classify(packet, headers);
        self.fragments.look_only(false);
        class
    }

    fn resolve(
        &mut self,
        key: &FlowKey,
        _hash: u64,
        packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        now: Nanos,
    ) -> Decided {
        let from_container = packet.port != self.policy.underlay_port;
        let mut unresolved = None;
        let mut chance = if from_container { Chance::default() } else { Chance::of(packet.frame()) };
        let prior = prior.map(|p| p.transposition);
        let mut decided =
            decide(&self.policy, from_container, key, headers, prior, &mut unresolved, &mut chance, &mut ());
        self.passed_on += u64::from(chance.is_passed);
        if let Some(claim) = chance.claim {
            let ports = self.policy.port(claim.port).map_or(0, |p| p.snat_ports(key.src, key.protocol()));
            let place = self.policy.leased_place(claim.port, key.src);
            self.walk = place.and_then(|place| {
                let count = self.snat.get_mut(place)?;
                count.claims += 1;
                let most = if now < count.tired_until { EASY_TRIES } else { MAX_TRIES };
                Some(Asked { walk: Walk::new(claim, ports, self.hasher.hash(key), most), place, now })
            });
        }
        if let (Some(template), Decided::Once(value)) = (chance.onward, &mut decided) {
            value.0.encap = self.onward.keep(template);
        }
        if let Some(addr) = unresolved.filter(|_| self.unresolved.len() < MAX_UNRESOLVED) {
            self.unresolved.push_back(addr);
        }
        decided
    }

    fn claim(&mut self, key: &FlowKey) -> Option<(HostFlow, (FlowKey, HostFlow))> {
        let Asked { mut walk, place, now } = self.walk?;
        let was_strained = walk.was_strained();
        let choice = self.policy.port(port_of(key)).and_then(|port| walk.next(port, key));
        let is_strained = walk.was_strained() && !was_strained;
        self.walk = choice.map(|_| Asked { walk, place, now });
        if let Some(count) = self.snat.get_mut(place).filter(|_| is_strained || choice.is_none()) {
            count.strained += u64::from(is_strained);
            count.exhausted += u64::from(choice.is_none());
            if choice.is_none() && now >= count.tired_until {
                count.tired_until = now.plus(TIRED);
            }
        }
        choice
    }

    fn transposition<'a>(&'a self, value: &'a HostFlow) -> &'a Transposition {
        &value.0
    }

    fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash(key)
    }

    fn peer_of(&self, key: &FlowKey, value: &HostFlow) -> Option<FlowKey> {
        Some(peer_key(&self.policy, key, &value.0))
    }

    fn established_idle(&self, key: &FlowKey, value: &HostFlow) -> Option<u16> {
        let port = self.policy.port(port_of(key))?;
        let t = &value.0;
        let (vip, vip_port) = match t.flags.has(Flags::REPLY) {
            true => t.flags.has(Flags::SRC).then_some((t.src, t.src_port))?,
            false => (key.dst, key.dst_port),
        };
        port.nat_in(vip, key.protocol(), vip_port).map(|nat| nat.idle_seconds).filter(|s| *s != 0)
    }

    #[inline]
    fn settles(&self) -> bool {
        self.notices.is_some()
    }

    fn settled(&mut self, key: &FlowKey, packet: &Packet<'_>, headers: &Headers, value: &HostFlow) {
        // The kernel would remember it for longer.
        if self.established_idle(key, value).is_some_and(|seconds| u32::from(seconds) <= FLOW_IDLE_SECONDS) {
            return;
        }
        let Some(notices) = self.notices.as_mut().filter(|n| n.len() < MAX_NOTICES) else { return };
        let hash = self.hasher.hash(key);
        notices.extend(replay::replayed(&self.policy, key, packet, headers, &value.0, hash).map(Notice::Settled));
    }

    fn unsettled(&mut self, key: &FlowKey) {
        let Some(notices) = &mut self.notices else { return };
        notices.extend(replay::place(&self.policy, key).map(Notice::Unsettled));
    }

    fn encap(&self, id: u32) -> Result<&EncapTemplate, DropReason> {
        match self.onward.get(id) {
            Some(template) => Ok(template),
            None => self.policy.encap(EncapId(id)),
        }
    }

    fn about(&self, packet: &Packet<'_>, headers: &Headers) -> Option<FlowKey> {
        if packet.port != self.policy.underlay_port && !is_error(headers) {
            return None;
        }
        let (origin, h) = self.origin_of(packet).ok()?;
        about(origin, packet.frame(), &h)
    }

    fn local_about(
        &mut self,
        packet: &mut Packet<'_>,
        _: &Headers,
        known: Option<&Transposition>,
        _: Nanos,
    ) -> Verdict {
        match self.origin_of(packet) {
            Ok((origin, h)) => bring_error(&self.policy, origin, packet, &h, known, &mut ()),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn local(&mut self, packet: &mut Packet<'_>, headers: &Headers, now: Nanos) -> Verdict {
        if packet.port == self.policy.underlay_port {
            // An error that quotes nothing.
            return self.local_about(packet, headers, None, now);
        }
        let port = self.policy.port(packet.port);
        let Some((port, network)) = port.and_then(|p| Some((p, self.policy.network_of(p)?))) else {
            return Verdict::Drop(DropReason::UnknownPort);
        };
        if is_complaint(network, headers) {
            return self.local_about(packet, headers, None, now);
        }
        let is_probe = headers.is_ip()
            && headers.protocol == penstock_model::Protocol::TCP
            && is_probe_source(headers.dst.to_ip());
        if !is_probe {
            return answer(network, port, packet, headers);
        }
        let Some(door) = self.doors.get_mut(&port.id) else { return Verdict::Drop(DropReason::NoServiceOnPort) };
        if let Err(reason) = door.admit(headers, now) {
            return Verdict::Drop(reason);
        }
        self.mailbox.push_back((packet.port, packet.frame().to_vec()));
        Verdict::Consumed
    }
}
