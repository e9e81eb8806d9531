//! Programs of frames through the engine with the resolver of a mux, host or gateway.
use crate::check::{Seen, leaves_well, see};
use crate::gateway::GatewayNode;
use crate::host::HostNode;
use crate::mux::MuxNode;
use crate::program::{Record, records};
use penstock_engine::{Ending, Port, Resolver};
use penstock_model::{DropReason, Gso, HEADROOM, Nanos, Offload, Packet, PortId, Verdict};
use penstock_wire::parse;

/// One kind of node with its goal.
pub(crate) trait Node {
    type Resolver: Resolver;

    fn engine(&mut self) -> &mut Port<Self::Resolver>;

    /// Ports that exist and one that does not.
    fn port(&self, record: &Record<'_>) -> PortId;

    /// Publishes the next of a few policies.
    fn publish(&mut self);

    /// What this kind of node promises about a packet that goes on.
    fn check(&self, came: PortId, input: Option<&Seen>, verdict: Verdict, output: &[u8]);
}

/// The first byte chooses the node, the rest is its program.
pub fn run(data: &[u8]) {
    let Some((kind, program)) = data.split_first() else { return };
    match kind % 3 {
        0 => play(&mut MuxNode::new(), program),
        1 => play(&mut HostNode::new(), program),
        _ => play(&mut GatewayNode::new(), program),
    }
}

/// Bytes behind a frame in its buffer, as drivers have.
const TAILROOM: usize = 64;

fn play<N: Node>(node: &mut N, program: &[u8]) {
    let mut now = Nanos::from_secs(1);
    let mut received = 0;
    for record in records(program) {
        now = Nanos(now.0 + record.seconds() * 1_000_000_000);
        if record.publishes() {
            node.publish();
        }
        step(node, &record, now);
        received += 1;
        let engine = node.engine();
        engine.maintain(now);
        assert!(engine.ledger().balances());
        assert_eq!(engine.ledger().received, received);
    }
}

fn step<N: Node>(node: &mut N, record: &Record<'_>, now: Nanos) {
    let came = node.port(record);
    let offload = offload(record);
    let input = see(record.frame);
    let plain = offload == Offload::default();
    let expected = plain.then(|| node.engine().explain(record.frame, came, now).ending);
    let mut buffer = vec![0; HEADROOM + record.frame.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + record.frame.len()].copy_from_slice(record.frame);
    let mut batch = [Packet::new(&mut buffer, HEADROOM, record.frame.len(), came).unwrap()];
    batch[0].offload = offload;
    node.engine().process(&mut batch, now);
    let packet = &batch[0];
    assert_ne!(packet.verdict, Verdict::Pending);
    if let Some(expected) = expected {
        agrees(&expected, packet.verdict);
    }
    if matches!(packet.verdict, Verdict::Transmit(_)) {
        leaves_well(input.as_ref(), packet.frame(), offload, packet.offload);
    }
    node.check(came, input.as_ref(), packet.verdict, packet.frame());
}

/// What `trace` says is what happens. Local packets (answered or kept) are explained as such, whatever the answer.
fn agrees(expected: &Ending, verdict: Verdict) {
    let same = match (expected, verdict) {
        (Ending::Consumed, _) => true,
        (Ending::Transmit(a), Verdict::Transmit(b)) => *a == b,
        (Ending::Tunnel(a), Verdict::Tunnel(b)) => *a == b,
        (Ending::Pass, Verdict::Pass) => true,
        (Ending::Drop(a), Verdict::Drop(b)) => *a == b,
        // Only the attempt shows that there is no room.
        (_, Verdict::Drop(DropReason::FlowTableFull | DropReason::MeterExceeded)) => true,
        _ => false,
    };
    assert!(same, "explained as {expected:?}, decided as {verdict:?}");
}

/// What a driver would say of the frame: it has looked at the headers.
fn offload(record: &Record<'_>) -> Offload {
    let Ok(h) = parse(record.frame) else { return Offload::default() };
    let mut offload = Offload::default();
    if record.partial_checksum()
        && let Some(at) = h.checksum_at()
    {
        offload.partial_checksum = true;
        offload.checksum_start = h.l4;
        offload.checksum_offset = at as u16 - h.l4;
    }
    if record.gso() {
        offload.gso = match (h.protocol.0, h.is_v4()) {
            (6, true) => Gso::Tcp4,
            (6, false) => Gso::Tcp6,
            (17, _) => Gso::Udp,
            _ => Gso::None,
        };
        offload.gso_size = if offload.gso == Gso::None { 0 } else { 536 };
        offload.header_len = if offload.gso == Gso::None { 0 } else { h.payload };
    }
    offload
}
