use crate::decide::{Choice, Decision, choose, decide};
use crate::policy::Policy;
use crate::resolver::{Foreign, MuxResolver};
use arc_swap::ArcSwap;
use penstock_engine::{Ending, Explanation, Port, Step, Why};
use penstock_flow::FlowTable;
use penstock_model::{BackendId, HEADROOM, Nanos, Packet, PortId, Verdict};
use std::sync::Arc;

/// What a mux with this policy does to a frame that comes in by `port`, and why.
///
/// The decision is taken without flow entries: a flow that some worker remembers may differ in a slot that changed hands, and
/// the steps say when that can be. Nor does a limit hold here: the steps say what it is. The frame is what the engine itself makes of it.
#[must_use]
pub fn explain(policy: &Arc<Policy>, frame: &[u8], port: PortId) -> Explanation {
    let mut steps = Vec::new();
    let backend = match penstock_wire::parse(frame) {
        Ok(headers) => why(policy, frame, &headers, &mut steps),
        Err(reason) => {
            steps.because("parse", || reason.to_string());
            None
        }
    };
    if let Some(backend) = backend {
        explain_encapsulation(policy, backend, &mut steps);
    }
    let (ending, frame) = run(policy, frame, port);
    Explanation { steps, ending, frame }
}

fn why(policy: &Policy, frame: &[u8], headers: &penstock_wire::Headers, steps: &mut Vec<Step>) -> Option<BackendId> {
    match decide(policy, frame, headers, steps) {
        Decision::Stable(place) => Some(policy.tables.slots.owner(place.slot)),
        Decision::Leased { backend, .. } => Some(backend),
        Decision::Tracked { place, pool, opening, .. } => match choose(policy, &place, pool, opening, None, steps) {
            Choice::Remember(backend) | Choice::Once(backend) => Some(backend),
            Choice::Drop(_) => None,
        },
        Decision::Echo | Decision::Foreign | Decision::Drop(_) => None,
    }
}

fn explain_encapsulation(policy: &Policy, value: BackendId, steps: &mut Vec<Step>) {
    let list = policy.tables.chances.candidates(value);
    let mut candidates = list.iter().filter_map(|id| policy.backend(id));
    let Some(backend) = candidates.next() else {
        steps.because("backend", || "the pool has no healthy backend".to_owned());
        return;
    };
    steps.because("backend", || format!("{}: {} at {}", backend.name, backend.dip.addr.0, backend.mac));
    steps.because("encapsulation", || {
        let (vni, own, host) = (backend.dip.vni, policy.tables.own.0, backend.host.0);
        let known =
            if policy.encap(policy.transposition(value).encap).is_ok() { "" } else { "; its next hop is not resolved" };
        let kind = if value == backend.id { "VXLAN" } else { "Geneve" };
        format!("{kind} {vni} from {own} to {host}{known}")
    });
    for next in candidates {
        steps.because("second chance", || {
            format!("a host that has no flow for the packet passes it to {} ({})", next.name, next.dip.addr.0)
        });
    }
}

fn run(policy: &Arc<Policy>, frame: &[u8], port: PortId) -> (Ending, Vec<u8>) {
    const FLOWS: usize = 64;
    let published = Arc::new(ArcSwap::from(Arc::clone(policy)));
    let resolver = MuxResolver::new(published, [0; 2], Foreign::Pass).without_limits();
    let mut engine = Port::new(resolver, FlowTable::new(FLOWS));
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(frame);
    let Some(mut packet) = Packet::new(&mut buffer, HEADROOM, frame.len(), port) else {
        return (Ending::Pass, frame.to_vec());
    };
    engine.process(std::slice::from_mut(&mut packet), Nanos(0));
    let ending = match packet.verdict {
        Verdict::Transmit(port) => Ending::Transmit(port),
        Verdict::Tunnel(tunnel) => Ending::Tunnel(tunnel),
        Verdict::Pass | Verdict::Pending => Ending::Pass,
        Verdict::Consumed => Ending::Consumed,
        Verdict::Drop(reason) => Ending::Drop(reason),
    };
    (ending, packet.frame().to_vec())
}
