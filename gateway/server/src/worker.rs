use crate::control::TunnelPlan;
use crate::ports::UNDERLAY;
use crate::stats::{Shared, TunnelDrops};
use crate::wireguard::{Frames, TunnelTable};
use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use penstock_clock::MonotonicClock;
use penstock_engine::{Port, Resolver};
use penstock_gateway_proto::{GatewayResolver, TUNNEL_MTU, TooBig, clamp_mss, too_big};
use penstock_model::{BATCH, DropReason, Ledger, Nanos, Offload, Packet, TunnelId, Verdict};
use penstock_packet_io::{IoStats, PacketIo, Poller};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often counts are copied for others to read; tunnels, of which there may be thousands, less often.
const PUBLISH: Duration = Duration::from_millis(100);
const PUBLISH_TUNNELS: Duration = Duration::from_millis(250);

/// Engine, tunnels and the buffers between them: all of the gateway's data path but the interface.
pub(crate) struct Path {
    pub(crate) engine: Port<GatewayResolver<TunnelTable>>,
    /// Exchanged with the tunnels' `inward`, so that one is filled while the other is read.
    decrypted: Frames,
    drops: TunnelDrops,
}

/// The thread that owns the data path: runs to completion, what comes in is decided and sent before anything else is taken.
pub(crate) struct Worker {
    pub(crate) path: Path,
    /// A socket for each receive queue of the underlay interface; frames are sent by the first.
    pub(crate) queues: Vec<Box<dyn PacketIo>>,
    pub(crate) poller: Poller,
    pub(crate) plan: Arc<ArcSwap<TunnelPlan>>,
    /// The plan that the tunnels follow.
    pub(crate) current: Option<Arc<TunnelPlan>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Worker {
    /// Until `stop`.
    ///
    /// # Errors
    /// The interface is gone or the kernel refuses to go on.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let (mut published, mut tunnels_published) = (Nanos(0), Nanos(0));
        while !self.stop.load(Ordering::Relaxed) {
            let now = MonotonicClock::now();
            self.renew(now);
            let received = self.round(now)?;
            if now.since(published) >= PUBLISH {
                let with_tunnels = now.since(tunnels_published) >= PUBLISH_TUNNELS;
                self.publish(with_tunnels);
                published = now;
                if with_tunnels {
                    tunnels_published = now;
                }
            }
            self.poller.round(received, now)?;
        }
        self.publish(true);
        Ok(())
    }

    /// Follows the newest policy and tunnel plan, before a packet is decided by them.
    fn renew(&mut self, now: Nanos) {
        let engine = &mut self.path.engine;
        engine.resolver_mut().refresh(now);
        engine.ensure_counters(engine.resolver().policy().counters());
        let plan = self.plan.load();
        if self.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &plan)) {
            return;
        }
        let plan = Arc::clone(&plan);
        let tunnels = engine.resolver_mut().tunnels_mut();
        tunnels.set_hops(plan.hops());
        if self.current.as_ref().is_none_or(|c| !Arc::ptr_eq(&c.goal, &plan.goal)) {
            tunnels.apply(plan.tunnels(), now);
        }
        self.current = Some(plan);
    }

    fn round(&mut self, now: Nanos) -> io::Result<usize> {
        let mut received = 0;
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(index) else { continue };
            let path = &mut self.path;
            received += queue.poll(&mut |batch| path.handle_batch(batch, now))?;
            self.leave(now);
        }
        self.path.engine.resolver_mut().tunnels_mut().handle_timeout(now);
        self.leave(now);
        for queue in &mut self.queues {
            queue.flush()?;
        }
        self.path.engine.maintain(now);
        Ok(received)
    }

    /// Sends what the path has made.
    fn leave(&mut self, now: Nanos) {
        let Some(out) = self.queues.first_mut() else { return };
        self.path.emit(now, &mut |frame| {
            // What the interface does not take is in its own count of failures.
            let _counted = out.send(frame, Offload::default());
        });
    }

    fn publish(&self, with_tunnels: bool) {
        let engine = &self.path.engine;
        let tunnels = with_tunnels.then(|| engine.resolver().tunnels().status());
        let mut io = IoStats::default();
        self.queues.iter().for_each(|q| io.add(&q.stats()));
        self.shared.update(|snapshot| {
            snapshot.ledger = self.path.ledger();
            snapshot.flows = engine.flows() as u64;
            snapshot.resolved = engine.resolved();
            snapshot.counters.clear();
            snapshot.counters.extend_from_slice(engine.counters());
            snapshot.io = io;
            if let Some(tunnels) = tunnels {
                snapshot.tunnels = tunnels;
            }
        });
    }
}

impl Path {
    pub(crate) fn new(engine: Port<GatewayResolver<TunnelTable>>) -> Self {
        Self { engine, decrypted: Frames::inward(), drops: TunnelDrops::default() }
    }

    /// What became of all packets, what tunnels did not take included.
    pub(crate) fn ledger(&self) -> Ledger {
        self.drops.applied_to(self.engine.ledger())
    }

    /// Decides a batch from the underlay. Tunnel datagrams are decrypted on the way, packets for tunnels encrypted.
    pub(crate) fn handle_batch(&mut self, batch: &mut [Packet<'_>], now: Nanos) {
        self.engine.process(batch, now);
        for packet in batch {
            if let Verdict::Tunnel(tunnel) = packet.verdict {
                into_tunnel(&mut self.engine, &mut self.drops, packet, tunnel, now);
            }
        }
    }

    /// Decides what was decrypted, and hands over every frame that is to leave.
    pub(crate) fn emit(&mut self, now: Nanos, send: &mut impl FnMut(&[u8])) {
        // A decrypted packet may bring about an error message of the gateway's own, which goes through once more; that is all.
        for _ in 0..2 {
            std::mem::swap(&mut self.engine.resolver_mut().tunnels_mut().inward, &mut self.decrypted);
            if self.decrypted.is_empty() {
                break;
            }
            self.decide_decrypted(now, send);
            self.decrypted.clear();
        }
        let outward = &mut self.engine.resolver_mut().tunnels_mut().outward;
        outward.frames().for_each(send);
        outward.clear();
    }

    fn decide_decrypted(&mut self, now: Nanos, send: &mut impl FnMut(&[u8])) {
        let mut packets = self.decrypted.packets();
        loop {
            let mut batch: ArrayVec<Packet<'_>, BATCH> = packets.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return;
            }
            self.engine.process(&mut batch, now);
            for packet in &mut batch {
                match packet.verdict {
                    Verdict::Transmit(UNDERLAY) => send(packet.frame()),
                    Verdict::Tunnel(t) => into_tunnel(&mut self.engine, &mut self.drops, packet, t, now),
                    _ => {}
                }
            }
        }
    }
}

/// Encrypts a packet whose verdict is a tunnel, or says why not.
fn into_tunnel(
    engine: &mut Port<GatewayResolver<TunnelTable>>,
    drops: &mut TunnelDrops,
    packet: &mut Packet<'_>,
    tunnel: TunnelId,
    now: Nanos,
) {
    if let Err(reason) = fit(engine, packet, tunnel).and_then(|()| {
        pad(packet);
        engine.resolver_mut().tunnels_mut().encrypt(tunnel, packet.frame(), now)
    }) {
        packet.verdict = Verdict::Drop(reason);
        drops.count(reason);
    }
}

/// Sees to it that the packet and those that follow fit the tunnel.
fn fit(
    engine: &mut Port<GatewayResolver<TunnelTable>>,
    packet: &mut Packet<'_>,
    tunnel: TunnelId,
) -> Result<(), DropReason> {
    clamp_mss(packet.frame_mut(), TUNNEL_MTU);
    if packet.len() <= TUNNEL_MTU {
        return Ok(());
    }
    match answer(engine, packet, tunnel) {
        Some(TooBig::MayFragment) => Ok(()),
        _ => Err(DropReason::TooLarge),
    }
}

/// Tells the source of a packet what size fits: the message enters the engine like a decrypted packet, by a port that the
/// policy keeps for it.
fn answer(engine: &mut Port<GatewayResolver<TunnelTable>>, packet: &Packet<'_>, tunnel: TunnelId) -> Option<TooBig> {
    let source = penstock_wire::parse_ip(packet.frame()).ok()?.src.to_ip();
    let (port, router) = engine.resolver().policy().answer_port(tunnel, source)?;
    let inward = &mut engine.resolver_mut().tunnels_mut().inward;
    let start = penstock_model::HEADROOM;
    let buffer = inward.buffer().ok()?.get_mut(start..)?;
    let outcome = too_big(packet.frame(), TUNNEL_MTU, router, buffer);
    if let TooBig::Answer(len) = outcome {
        inward.commit(start, len, port);
    }
    Some(outcome)
}

/// Pads to 16 bytes as far as the tunnel carries (WireGuard whitepaper section 5.4.6): lengths tell less. The receiver cuts by the
/// IP header.
fn pad(packet: &mut Packet<'_>) {
    let len = packet.len();
    let padded = len.next_multiple_of(16).min(TUNNEL_MTU);
    if padded > len && packet.set_len(padded) {
        packet.frame_mut().iter_mut().skip(len).for_each(|b| *b = 0);
    }
}
