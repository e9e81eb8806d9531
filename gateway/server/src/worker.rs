use crate::bgp::FromRouters;
use crate::capped::Capped;
use crate::control::TunnelPlan;
use crate::outlet::Outlet;
use crate::ports::UNDERLAY;
use crate::stats::{Shared, TunnelDrops};
use crate::wireguard::{Frames, TunnelTable};
use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use penstock_clock::MonotonicClock;
use penstock_engine::{Port, Resolver};
use penstock_gateway_proto::{Direction, GatewayResolver, Policy, TunnelStatus};
use penstock_model::{BATCH, HEADROOM, Ledger, Nanos, Offload, Packet, TunnelId, Verdict};
use penstock_packet_io::{IoStats, PacketIo, Poller};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often counts are copied for others to read; tunnels, of which there may be thousands, less often.
const PUBLISH: Duration = Duration::from_millis(100);
const PUBLISH_TUNNELS: Duration = Duration::from_millis(250);
/// Bytes of the longest packet of a router's: a tunnel takes no longer one.
const OWN_PACKET: usize = 1500;

/// Engine, tunnels and the buffers between them: all of the gateway's data path but the interface.
pub(crate) struct Path {
    pub(crate) engine: Port<GatewayResolver<TunnelTable>>,
    /// Exchanged with the tunnels' `inward`, so that one is filled while the other is read.
    decrypted: Frames,
    drops: TunnelDrops,
    /// The policy that counters and meters follow.
    metered: Option<Arc<Policy>>,
    capped: Capped,
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
    /// Packets of tenants' routers that are to go into tunnels.
    pub(crate) from_routers: FromRouters,
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
        self.path.engine.resolver_mut().refresh(now);
        self.path.follow_policy(now);
        let plan = self.plan.load();
        if self.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &plan)) {
            return;
        }
        let plan = Arc::clone(&plan);
        let tunnels = self.path.engine.resolver_mut().tunnels_mut();
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
        for (tunnel, packet) in self.from_routers.try_iter().take(BATCH) {
            self.path.put(tunnel, &packet, now);
            // There may be more.
            received += 1;
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
        let tunnels = with_tunnels.then(|| self.path.tunnels());
        let mut io = IoStats::default();
        self.queues.iter().for_each(|q| io.add(&q.stats()));
        self.shared.update(|snapshot| {
            snapshot.ledger = self.path.ledger();
            snapshot.flows = engine.flows() as u64;
            snapshot.resolved = engine.resolved();
            snapshot.mappings = engine.resolver().mappings() as u64;
            snapshot.counters.clear();
            snapshot.counters.extend_from_slice(engine.counters());
            snapshot.capped.clear();
            snapshot.capped.extend(self.path.capped());
            snapshot.io = io;
            if let Some(tunnels) = tunnels {
                snapshot.tunnels = tunnels;
            }
        });
    }
}

impl Path {
    pub(crate) fn new(engine: Port<GatewayResolver<TunnelTable>>) -> Self {
        Self {
            engine,
            decrypted: Frames::inward(),
            drops: TunnelDrops::default(),
            metered: None,
            capped: Capped::default(),
        }
    }

    /// Makes counters and meters those of the resolver's policy.
    pub(crate) fn follow_policy(&mut self, now: Nanos) {
        let engine = &mut self.engine;
        if self.metered.as_ref().is_some_and(|m| Arc::ptr_eq(m, engine.resolver().policy())) {
            return;
        }
        let policy = Arc::clone(engine.resolver().policy());
        engine.ensure_counters(policy.counters());
        self.capped.close(engine.meters());
        engine.set_rates(policy.rates(), now);
        self.capped.open(policy.meters(), engine.meters());
        self.metered = Some(policy);
    }

    /// How each tunnel is.
    pub(crate) fn tunnels(&self) -> Vec<TunnelStatus> {
        let resolver = self.engine.resolver();
        let mut all = resolver.tunnels().status();
        all.extend(resolver.policy().gre_status().map(|mut status| {
            let (from, to) = Policy::counters_of(status.id);
            status.received_bytes = self.ip_bytes(from);
            status.transmitted_bytes = self.ip_bytes(to);
            status
        }));
        all
    }

    /// Packets that each cap has refused, by the name of its connection.
    pub(crate) fn capped(&self) -> impl Iterator<Item = (Arc<str>, Direction, u64)> {
        self.capped.counts(self.engine.meters())
    }

    /// Counters count Ethernet frames.
    fn ip_bytes(&self, counter: u32) -> u64 {
        self.engine.counters().get(counter as usize).map_or(0, |c| c.bytes.saturating_sub(14 * c.packets))
    }

    /// What became of all packets, what tunnels did not take included.
    pub(crate) fn ledger(&self) -> Ledger {
        self.drops.applied_to(self.engine.ledger())
    }

    /// Decides a batch from the underlay. Tunnel datagrams are decrypted on the way, packets for tunnels encrypted or encapsulated.
    pub(crate) fn handle_batch(&mut self, batch: &mut [Packet<'_>], now: Nanos) {
        self.engine.process(batch, now);
        for packet in batch {
            if let Verdict::Tunnel(tunnel) = packet.verdict {
                Outlet { engine: &mut self.engine, drops: &mut self.drops, now }.take(packet, tunnel);
            }
        }
    }

    /// Puts a packet of the gateway's own into a tunnel. What becomes of it is in no ledger: it did not come in.
    fn put(&mut self, tunnel: TunnelId, packet: &[u8], now: Nanos) {
        let mut room = [0; HEADROOM + OWN_PACKET];
        let Some(bytes) = room.get_mut(HEADROOM..HEADROOM + packet.len()) else { return };
        bytes.copy_from_slice(packet);
        let Some(mut packet) = Packet::new(&mut room, HEADROOM, packet.len(), UNDERLAY) else { return };
        let mut not_counted = TunnelDrops::default();
        Outlet { engine: &mut self.engine, drops: &mut not_counted, now }.take(&mut packet, tunnel);
        if packet.verdict == Verdict::Transmit(UNDERLAY) {
            // Without a buffer it is lost, and sent again.
            let _lost = self.engine.resolver_mut().tunnels_mut().outward.push(packet.frame());
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
                if let Verdict::Tunnel(tunnel) = packet.verdict {
                    Outlet { engine: &mut self.engine, drops: &mut self.drops, now }.take(packet, tunnel);
                }
                if packet.verdict == Verdict::Transmit(UNDERLAY) {
                    send(packet.frame());
                }
            }
        }
    }
}
