use crate::answer::answer;
use crate::chance::Chance;
use crate::classify::{Origin, about, flow_of, origin};
use crate::decide::Decided;
use crate::keys::port_of;
use crate::policy::Policy;
use crate::resolver::{bring_error, decide};
use crate::snat::{MAX_TRIES, Walk};
use penstock_engine::{Ending, Explanation, Step, Why, apply};
use penstock_flow::{Flags, FlowHasher, Transposition};
use penstock_model::{DropReason, EncapId, FlowKey, HEADROOM, Packet, PortId, Verdict};
use penstock_wire::Headers;

/// What this host would do with `frame` as it comes in by `port`, and why: the packet loop's own decision code, with the
/// reasons written down. `known` looks into a worker's flow table; a flow that is not there is decided anew. Changes nothing.
#[must_use]
pub fn explain(
    policy: &Policy,
    hasher: &FlowHasher,
    frame: &[u8],
    port: PortId,
    known: impl Fn(&FlowKey, u64) -> Option<Transposition>,
) -> Explanation {
    let mut buffer = vec![0; HEADROOM + frame.len().max(128)];
    if let Some(place) = buffer.get_mut(HEADROOM..HEADROOM + frame.len()) {
        place.copy_from_slice(frame);
    }
    let mut steps = Vec::new();
    let Some(mut packet) = Packet::new(&mut buffer, HEADROOM, frame.len(), port) else {
        return Explanation { steps, ending: Ending::Drop(DropReason::TooLarge), frame: frame.to_vec() };
    };
    let verdict = walk(policy, hasher, &mut packet, known, &mut steps).unwrap_or_else(Verdict::Drop);
    let ending = match verdict {
        Verdict::Transmit(port) => Ending::Transmit(port),
        Verdict::Tunnel(tunnel) => Ending::Tunnel(tunnel),
        Verdict::Pass => Ending::Pass,
        Verdict::Consumed => Ending::Consumed,
        Verdict::Drop(reason) => Ending::Drop(reason),
        Verdict::Pending => Ending::Drop(DropReason::Unsupported),
    };
    Explanation { steps, ending, frame: packet.frame().to_vec() }
}

fn walk(
    policy: &Policy,
    hasher: &FlowHasher,
    packet: &mut Packet<'_>,
    known: impl Fn(&FlowKey, u64) -> Option<Transposition>,
    why: &mut Vec<Step>,
) -> Result<Verdict, DropReason> {
    let mut h = penstock_wire::parse(packet.frame())?;
    let origin = origin(policy, packet.frame(), packet.port, &mut h, why)?;
    let Some(key) = flow_of(origin, &h) else {
        let known = about(origin, packet.frame(), &h).and_then(|key| known(&key, hasher.hash(&key)));
        return Ok(for_this_node(policy, origin, packet, &h, known.as_ref(), why));
    };
    let from_container = packet.port != policy.underlay_port;
    let mut chance = if from_container { Chance::default() } else { Chance::of(packet.frame()) };
    let value = decided(policy, from_container, hasher, &key, &h, known, &mut chance, why)?;
    let encap = match chance.onward.as_ref() {
        Some(template) => Some(template),
        None if value.flags.has(Flags::ENCAP) => Some(policy.encap(EncapId(value.encap))?),
        None => None,
    };
    apply(&value, packet, &h, hasher.hash(&key), encap)
}

/// By the flow table or anew, where the packet comes to lie.
#[allow(clippy::too_many_arguments, reason = "what is known of a packet by then")]
fn decided(
    policy: &Policy,
    from_container: bool,
    hasher: &FlowHasher,
    key: &FlowKey,
    h: &Headers,
    known: impl Fn(&FlowKey, u64) -> Option<Transposition>,
    chance: &mut Chance,
    why: &mut Vec<Step>,
) -> Result<Transposition, DropReason> {
    let mut key = *key;
    loop {
        if let Some(value) = known(&key, hasher.hash(&key)) {
            why.because("flow", || "the flow is known: its decision is replayed".to_owned());
            return Ok(value);
        }
        why.because("flow", || "a new flow".to_owned());
        match decide(policy, from_container, &key, h, None, &mut None, chance, why) {
            Decided::Install { value, .. } | Decided::Once(value) => return Ok(value.0),
            Decided::Drop(reason) => return Err(reason),
            // The first port that it would try; which of them are taken only the worker knows.
            Decided::Claim { none, .. } => {
                let port = policy.port(port_of(&key)).ok_or(none)?;
                let ports = port.snat_ports(key.src, key.protocol());
                let walk = chance.claim.map(|claim| Walk::new(claim, ports, hasher.hash(&key), MAX_TRIES));
                let choice = walk.and_then(|mut w| w.next(port, &key));
                return choice.map(|(value, _)| value.0).ok_or(none);
            }
            Decided::Instead(other) => key = other,
        }
    }
}

fn for_this_node(
    policy: &Policy,
    origin: Origin,
    packet: &mut Packet<'_>,
    h: &Headers,
    known: Option<&Transposition>,
    why: &mut Vec<Step>,
) -> Verdict {
    match origin {
        Origin::Local(id) => match policy.port(id).and_then(|p| Some((p, policy.network_of(p)?))) {
            Some((port, network)) => answer(network, port, packet, h),
            None => Verdict::Drop(DropReason::UnknownPort),
        },
        Origin::Related(_) | Origin::Complaint(_) => bring_error(policy, origin, packet, h, known, why),
        _ => Verdict::Pass,
    }
}
