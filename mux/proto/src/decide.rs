//! What becomes of a packet: one function for the packet loop (`why` is `()`) and for `trace`.

use crate::echo::is_echo_request;
use crate::goal::{ALL_PORTS, Distribution, VipLimit};
use crate::hash::halves;
use crate::key::MuxKey;
use crate::policy::Policy;
use crate::quote::{Quote, is_icmp_error, read_quote};
use crate::slots::{NOBODY, Slots};
use crate::vips::{Kind, VipEntry};
use penstock_engine::Why;
use penstock_model::{Addr16, BackendId, DropReason, Epoch, Protocol, ServiceId};
use penstock_spread::{SLOTS, SlotTable};
use penstock_wire::{Fragment, Headers};

/// What a packet needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Its slot's owner, whatever the flow table says.
    Stable(Place),
    /// The flow table first: its slot is changing hands or has.
    Tracked {
        place: Place,
        key: MuxKey,
        epoch: Epoch,
        pool: u32,
        opening: Opening,
    },
    /// To the container that has leased the port, whatever the tables say.
    Leased {
        backend: BackendId,
        entropy: u64,
    },
    /// An answer from the mux itself.
    Echo,
    /// It is not for a virtual IP.
    Foreign,
    Drop(DropReason),
}

/// Where a packet hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) service: ServiceId,
    /// Of [`Slots`].
    pub(crate) slot: u64,
    /// Of the 5-tuple, for the source port of the encapsulation.
    pub(crate) entropy: u64,
}

/// What a packet says about the beginning of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It opens a connection.
    First,
    /// It may be of a flow that is older than the table.
    Perhaps,
    /// It is about a flow but not of it (ICMP error): nothing is learnt from it.
    About,
}

/// The fields that choose a service and a slot; for an ICMP error those of the packet that it quotes, turned round.
struct Tuple {
    client: Addr16,
    vip: Addr16,
    protocol: Protocol,
    client_port: u16,
    vip_port: u16,
    opening: Opening,
}

/// Decides by destination, protocol and port of the packet.
#[inline]
pub(crate) fn decide(policy: &Policy, frame: &[u8], h: &Headers, why: &mut impl Why) -> Decision {
    if !h.is_ip() {
        return Decision::Foreign;
    }
    if h.fragment == Fragment::Later && !has_ports(h) {
        return without_ports(policy, h, why);
    }
    match rule_of(policy, h) {
        Some(entry) => place(policy, entry, &tuple_of(h), why),
        None => match leased(policy, &tuple_of(h), h, why) {
            Some(decision) => decision,
            None => without_service(policy, frame, h, why),
        },
    }
}

/// What [`decide`] says of most packets, whole ones of a rule without a limit, in registers: the slot, the hash of the 5-tuple, and whether the
/// flow table is asked first.
#[inline]
pub(crate) fn decide_usual<'a>(policy: &'a Policy, h: &Headers) -> Option<(&'a VipEntry, Place, bool)> {
    if !h.is_ip() || h.fragment != Fragment::No {
        return None;
    }
    let entry = rule_of(policy, h).filter(|entry| !entry.is_limited())?;
    let (place, is_tracked) = locate(policy, entry, &tuple_of(h));
    Some((entry, place, is_tracked))
}

/// Where a packet of the rule hashes to, and whether that slot has or had another owner.
#[inline]
fn locate(policy: &Policy, entry: &VipEntry, t: &Tuple) -> (Place, bool) {
    let (slot, entropy) = slot_of(policy, entry.distribution(), t);
    let place = Place { service: entry.service, slot: Slots::reference(entry.pool(), slot), entropy };
    let is_tracked = entry.moved() && policy.tables.slots.pool(entry.pool()).is_some_and(|p| p.has_moved(slot));
    (place, is_tracked)
}

#[inline]
fn rule_of<'a>(policy: &'a Policy, h: &Headers) -> Option<&'a VipEntry> {
    rule_for(policy, &h.dst, h.protocol, h.dst_port)
}

/// The rule for the very port goes before one that is for all.
#[inline]
fn rule_for<'a>(policy: &'a Policy, vip: &Addr16, protocol: Protocol, port: u16) -> Option<&'a VipEntry> {
    let tables = &policy.tables;
    match tables.vips.find(vip, protocol, port, Kind::Service) {
        None if tables.has_all_ports => tables.vips.find(vip, protocol, ALL_PORTS, Kind::Service),
        found => found,
    }
}

/// An answer to what a container has sent by a leased port: TCP, UDP, or an echo reply with that identifier.
#[inline]
fn leased(policy: &Policy, t: &Tuple, h: &Headers, why: &mut impl Why) -> Option<Decision> {
    let is_echo_reply = match h.protocol {
        // A later fragment has no type; of requests to the mux itself nothing is noted.
        Protocol::ICMP => h.icmp_type == 0,
        Protocol::ICMPV6 => h.icmp_type == 129 || h.fragment == Fragment::Later,
        _ => false,
    };
    let has_port = [Protocol::TCP, Protocol::UDP].contains(&t.protocol) || is_echo_reply;
    if !policy.tables.has_snat || !has_port || (h.fragment == Fragment::Later && !has_ports(h)) {
        return None;
    }
    let (backend, first) = lessee(policy, &t.vip, t.protocol, t.vip_port)?;
    let shift = policy.tables.vips.find(&t.vip, Protocol(0), 0, Kind::Vip)?.blocks()?;
    why.because("vip", || format!("{} is a virtual IP of this mux", t.vip.to_ip()));
    why.because("snat", || {
        let last = first | !(u16::MAX << shift);
        format!("ports {first} to {last} are leased to {}", policy.backend_name(backend))
    });
    let (_, entropy) = slot_of(policy, Distribution::Default, t);
    Some(Decision::Leased { backend, entropy })
}

/// Who has leased a port of a virtual IP, and the first of its block.
#[inline]
fn lessee(policy: &Policy, vip: &Addr16, protocol: Protocol, port: u16) -> Option<(BackendId, u16)> {
    let has_ports = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
    if !policy.tables.has_snat || !has_ports {
        return None;
    }
    let vips = &policy.tables.vips;
    let shift = vips.find(vip, Protocol(0), 0, Kind::Vip)?.blocks()?;
    let first = port >> shift << shift;
    Some((vips.find(vip, Protocol(0), first, Kind::Snat)?.backend(), first))
}

/// Chooses for a flow that the table has no valid entry for. `prior` is what an older entry says.
pub(crate) fn choose(
    policy: &Policy,
    place: &Place,
    pool: u32,
    opening: Opening,
    prior: Option<BackendId>,
    why: &mut impl Why,
) -> Choice {
    let Some(info) = policy.tables.slots.pool(pool) else { return Choice::Drop(DropReason::NoHealthyBackend) };
    let chances = &policy.tables.chances;
    if let Some(value) = prior.and_then(|p| chances.reduced(p, |b| info.serves(b))) {
        why.because("affinity", || format!("the flow stays with {}", policy.backend_name(value)));
        return Choice::Remember(value);
    }
    let owner = policy.tables.slots.owner(place.slot);
    let candidates = info.candidates(place.slot as usize % SLOTS, owner);
    let Some(first) = candidates.first() else { return Choice::Drop(DropReason::NoHealthyBackend) };
    // In a slot that has settled, what the table does not know belongs to the owner: no entry would change that.
    if first == owner {
        return Choice::Once(owner);
    }
    match opening {
        // Who drains gets no new connection, also if nobody else does.
        Opening::First if owner == NOBODY => {
            why.because("affinity", || "the packet opens a connection, which nobody takes now".to_owned());
            Choice::Drop(DropReason::NoHealthyBackend)
        }
        Opening::First => {
            why.because("affinity", || {
                format!("the packet opens a connection: not to the previous owner {}", policy.backend_name(first))
            });
            Choice::Remember(owner)
        }
        Opening::Perhaps => {
            why.because("affinity", || {
                format!("the packet may belong to an older flow: to the previous owner {}", policy.backend_name(first))
            });
            Choice::Remember(chances.value(&candidates).unwrap_or(first))
        }
        Opening::About => {
            why.because("affinity", || {
                format!("its flow may be an older one: to the previous owner {}", policy.backend_name(first))
            });
            Choice::Once(first)
        }
    }
}

/// An answer of [`choose`]: what a flow entry would say, a backend or a list of them (see [`crate::chance::Chances`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Remember(BackendId),
    Once(BackendId),
    Drop(DropReason),
}

#[inline]
fn tuple_of(h: &Headers) -> Tuple {
    let first = h.protocol == Protocol::TCP && h.tcp_flags.opens();
    Tuple {
        client: h.src,
        vip: h.dst,
        protocol: h.protocol,
        client_port: h.src_port,
        vip_port: h.dst_port,
        opening: if first { Opening::First } else { Opening::Perhaps },
    }
}

/// Finds the slot, and whether its packets consult the flow table.
#[inline]
fn place(policy: &Policy, entry: &VipEntry, t: &Tuple, why: &mut impl Why) -> Decision {
    explain_rule(policy, entry, t, why);
    let (place, is_tracked) = locate(policy, entry, t);
    explain_slot(policy, entry, place.slot as usize % SLOTS, why);
    if is_tracked {
        why.because("slot", || "it has or had another owner: the flow table is consulted".to_owned());
        let key = MuxKey::new(t.client, t.client_port, t.vip_port, entry.service, t.protocol);
        return Decision::Tracked { place, key, epoch: entry.epoch, pool: entry.pool(), opening: t.opening };
    }
    Decision::Stable(place)
}

/// The slot by the fields that the distribution names, and a hash of all of them.
#[inline]
fn slot_of(policy: &Policy, distribution: Distribution, t: &Tuple) -> (usize, u64) {
    let hasher = &policy.tables.hasher;
    let ([a, b], [c, d]) = (halves(&t.client), halves(&t.vip));
    let protocol = u64::from(t.protocol.0) << 32;
    let all = hasher.hash5(&[a, b, c, d, protocol | u64::from(t.client_port) << 16 | u64::from(t.vip_port)]);
    let chosen = match distribution {
        Distribution::Default => all,
        Distribution::SourceIp => hasher.hash5(&[a, b, c, d, 0]),
        Distribution::SourceIpProtocol => hasher.hash5(&[a, b, c, d, protocol]),
    };
    (SlotTable::slot(chosen), all)
}

/// Whether the packet has ports, of its own or as a later fragment whose first is known.
#[inline]
fn has_ports(h: &Headers) -> bool {
    (h.src_port, h.dst_port) != (0, 0)
}

/// Whether the packet is one of several that one was cut into, to one of our addresses: by what its ports are found, or noted.
pub(crate) fn is_piece(policy: &Policy, h: &Headers) -> bool {
    let is_noted = match h.protocol {
        Protocol::TCP | Protocol::UDP => true,
        Protocol::ICMP => h.fragment == Fragment::Later || h.icmp_type == 0,
        Protocol::ICMPV6 => h.fragment == Fragment::Later || h.icmp_type == 129,
        _ => false,
    };
    is_noted && h.is_ip() && policy.tables.vips.find(&h.dst, Protocol(0), 0, Kind::Vip).is_some()
}

/// A later fragment whose first is not known: if all services of its VIP and protocol agree, ports do not matter. It follows the
/// slot's previous owner while a change settles and never enters the flow table, because its siblings could not find the entry.
#[cold]
fn without_ports(policy: &Policy, h: &Headers, why: &mut impl Why) -> Decision {
    if policy.tables.vips.find(&h.dst, Protocol(0), 0, Kind::Vip).is_none() {
        why.because("vip", || format!("{} is no virtual IP of this mux", h.dst.to_ip()));
        return Decision::Foreign;
    }
    let Some(entry) = policy.tables.vips.find(&h.dst, h.protocol, 0, Kind::Portless) else {
        why.because("vip", || {
            "a later fragment, whose first one is not known here, and the rules of this virtual IP do not all choose one pool by \
             addresses"
                .to_owned()
        });
        return Decision::Drop(DropReason::FragmentUnsupported);
    };
    let whole = Tuple { client_port: 0, vip_port: 0, opening: Opening::About, ..tuple_of(h) };
    place(policy, entry, &whole, why)
}

/// No rule names the destination: an ICMP packet about a virtual IP, a fragment, a closed port, or none of ours.
#[cold]
fn without_service(policy: &Policy, frame: &[u8], h: &Headers, why: &mut impl Why) -> Decision {
    if policy.tables.vips.find(&h.dst, Protocol(0), 0, Kind::Vip).is_none() {
        why.because("vip", || format!("{} is no virtual IP of this mux", h.dst.to_ip()));
        return Decision::Foreign;
    }
    if is_echo_request(h) {
        // Every mux of the segment would answer, from a group address that is nobody's source (RFC 1122 section 3.2.2.6).
        if is_to_group(frame, h) {
            why.because("vip", || {
                "an echo request to an Ethernet broadcast or multicast address is not answered".to_owned()
            });
            return Decision::Drop(DropReason::NotOurs);
        }
        why.because("vip", || format!("the mux answers echo requests to {}", h.dst.to_ip()));
        return Decision::Echo;
    }
    if is_icmp_error(h) && h.fragment == Fragment::No {
        return about(policy, frame, h, why);
    }
    why.because("rule", || format!("{} has no rule for {} port {}", h.dst.to_ip(), h.protocol, h.dst_port));
    Decision::Drop(DropReason::NoServiceOnPort)
}

/// Whether the Ethernet destination is broadcast or multicast.
fn is_to_group(frame: &[u8], h: &Headers) -> bool {
    h.l2 != h.l3 && frame.get(usize::from(h.l2)).is_some_and(|first| first & 1 != 0)
}

/// An ICMP error goes where the packets go that it is about (path MTU discovery depends on it, RFC 1191, RFC 8201).
fn about(policy: &Policy, frame: &[u8], h: &Headers, why: &mut impl Why) -> Decision {
    let entry = |q: &Quote| rule_for(policy, &q.vip, q.protocol, q.vip_port);
    let quote = read_quote(frame, h);
    if let Some(q) = quote.filter(|q| entry(q).is_none())
        && let Some((backend, block)) = lessee(policy, &q.vip, q.protocol, q.vip_port)
    {
        why.because("icmp", || {
            let (vip, client) = (q.vip.to_ip(), q.client.to_ip());
            format!(
                "an error about {} {vip} port {} to {client}, leased to {}",
                q.protocol,
                block,
                policy.backend_name(backend)
            )
        });
        let (_, entropy) = slot_of(policy, Distribution::Default, &about_tuple(&q));
        return Decision::Leased { backend, entropy };
    }
    match quote.and_then(|q| Some((q, entry(&q)?))) {
        Some((q, entry)) => {
            why.because("icmp", || {
                let (vip, client) = (q.vip.to_ip(), q.client.to_ip());
                format!("an error about {} {vip} port {} to {client} port {}", q.protocol, q.vip_port, q.client_port)
            });
            place(policy, entry, &about_tuple(&q), why)
        }
        None => {
            why.because("icmp", || "an error that quotes no packet of a rule".to_owned());
            Decision::Drop(DropReason::NoReverseMapping)
        }
    }
}

/// The quoted packet as the client's answer to it would be.
fn about_tuple(q: &Quote) -> Tuple {
    Tuple {
        client: q.client,
        vip: q.vip,
        protocol: q.protocol,
        client_port: q.client_port,
        vip_port: q.vip_port,
        opening: Opening::About,
    }
}

fn explain_rule(policy: &Policy, entry: &VipEntry, t: &Tuple, why: &mut impl Why) {
    why.because("vip", || format!("{} is a virtual IP of this mux", t.vip.to_ip()));
    why.because("rule", || {
        let name = policy.service(entry.service).map_or("?", |s| s.name.as_str());
        format!("{name}: {} port {}", t.protocol, t.vip_port)
    });
    let guards = &policy.tables.guards;
    if let Some(guard) = guards.of_service(entry.service).and_then(|at| guards.get(at)) {
        why.because("limit", || explain_limit(guard.limit()));
    }
}

fn explain_limit(limit: &VipLimit) -> String {
    let packets = limit
        .packets_per_second
        .map(|rate| format!("at most {} packets a second, SYNs only while half of the room is left", rate.get()));
    let flows = limit.new_flows_per_second.map(|rate| {
        format!(
            "beyond {0} new flows a second these leave no state, beyond twice {0} some SYNs are dropped",
            rate.get()
        )
    });
    let said: Vec<String> = packets.into_iter().chain(flows).collect();
    format!("{} may take of this mux: {}; flows that are under way go on", limit.vip, said.join("; "))
}

fn explain_slot(policy: &Policy, entry: &VipEntry, slot: usize, why: &mut impl Why) {
    why.because("slot", || {
        let by = match entry.distribution() {
            Distribution::Default => "addresses, protocol and ports",
            Distribution::SourceIp => "addresses",
            Distribution::SourceIpProtocol => "addresses and protocol",
        };
        format!("hash of {by}: slot {slot} of {SLOTS}")
    });
    why.because("table", || {
        let owner = policy.tables.slots.owner(Slots::reference(entry.pool(), slot));
        let (name, version) = policy.tables.slots.pool(entry.pool()).map_or(("?", 0), |p| (p.name.as_str(), p.version));
        format!("{name}, version {version}: the slot belongs to {}", policy.backend_name(owner))
    });
}
