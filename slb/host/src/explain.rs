use crate::answer::answer;
use crate::classify::{Origin, flow_of, origin};
use crate::decide::Decided;
use crate::policy::Policy;
use crate::resolver::{bring_error, decide};
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
    known: impl FnOnce(&FlowKey, u64) -> Option<Transposition>,
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
    known: impl FnOnce(&FlowKey, u64) -> Option<Transposition>,
    why: &mut Vec<Step>,
) -> Result<Verdict, DropReason> {
    let mut h = penstock_wire::parse(packet.frame())?;
    let origin = origin(policy, packet.frame(), packet.port, &mut h, why)?;
    let Some(key) = flow_of(origin, &h) else { return Ok(for_this_node(policy, origin, packet, &h, why)) };
    let hash = hasher.hash(&key);
    let value = match known(&key, hash) {
        Some(value) => {
            why.because("flow", || "the flow is known: its decision is replayed".to_owned());
            value
        }
        None => decided(policy, matches!(origin, Origin::Container(_)), &key, &h, why)?,
    };
    let encap = if value.flags.has(Flags::ENCAP) { Some(policy.encap(EncapId(value.encap))?) } else { None };
    apply(&value, packet, &h, hash, encap)
}

fn decided(
    policy: &Policy,
    from_container: bool,
    key: &FlowKey,
    h: &Headers,
    why: &mut Vec<Step>,
) -> Result<Transposition, DropReason> {
    why.because("flow", || "a new flow".to_owned());
    match decide(policy, from_container, key, h, None, &mut None, why) {
        Decided::Install { value, .. } | Decided::Once(value) => Ok(value.0),
        Decided::Drop(reason) => Err(reason),
    }
}

fn for_this_node(
    policy: &Policy,
    origin: Origin,
    packet: &mut Packet<'_>,
    h: &Headers,
    why: &mut Vec<Step>,
) -> Verdict {
    match origin {
        Origin::Local(id) => match policy.port(id).and_then(|p| Some((p, policy.network_of(p)?))) {
            Some((port, network)) => answer(network, port, packet, h),
            None => Verdict::Drop(DropReason::UnknownPort),
        },
        Origin::Related(id) => bring_error(policy, id, packet, h, why),
        _ => Verdict::Pass,
    }
}
