use penstock_engine::{Port, Resolver};
use penstock_model::{Gso, HEADROOM, Nanos, Packet, PortId, Verdict};
use penstock_wire::gso;

/// Longest segment with its encapsulation: a jumbo frame. Longer ones are dropped by name (`NoBuffer`).
const SEGMENT: usize = 10 * 1024;

/// Cuts frames that their sender left for an interface to cut (AF_PACKET hands them over whole): the encapsulation needs each
/// segment with headers of its own.
///
/// Memory: one segment, and what the frames of one batch come to, kept for the next.
#[derive(Debug)]
pub(crate) struct Segments {
    scratch: Box<[u8]>,
    frames: Vec<u8>,
    waiting: Vec<(PortId, usize)>,
}

impl Segments {
    pub(crate) fn new() -> Self {
        Self { scratch: vec![0; SEGMENT].into_boxed_slice(), frames: Vec::new(), waiting: Vec::new() }
    }

    /// Has the engine decide the batch. Segments that are to leave wait for [`Segments::drain`].
    pub(crate) fn process<R: Resolver>(&mut self, engine: &mut Port<R>, batch: &mut [Packet<'_>], now: Nanos) {
        if batch.iter().all(|p| p.offload.gso == Gso::None) {
            engine.process(batch, now);
            return;
        }
        for packet in batch {
            if packet.offload.gso == Gso::None {
                engine.process(std::slice::from_mut(packet), now);
            } else {
                self.cut(engine, packet, now);
            }
        }
    }

    /// A frame that cannot be cut goes to the engine whole, which drops it by name.
    fn cut<R: Resolver>(&mut self, engine: &mut Port<R>, packet: &mut Packet<'_>, now: Nanos) {
        let (frames, waiting) = (&mut self.frames, &mut self.waiting);
        let port = packet.port;
        let each = |buffer: &mut [u8], len: usize| {
            let Some(mut segment) = Packet::new(buffer, HEADROOM, len, port) else { return };
            engine.process(std::slice::from_mut(&mut segment), now);
            if let Verdict::Transmit(out) = segment.verdict {
                frames.extend_from_slice(segment.frame());
                waiting.push((out, segment.len()));
            }
        };
        let size = usize::from(packet.offload.gso_size);
        let cut = penstock_wire::parse(packet.frame())
            .and_then(|headers| gso::segment(packet.frame(), &headers, size, &mut self.scratch, HEADROOM, each));
        match cut {
            Ok(_) => packet.verdict = Verdict::Consumed,
            Err(_) => engine.process(std::slice::from_mut(packet), now),
        }
    }

    /// Gives away what waits, in order.
    pub(crate) fn drain(&mut self, mut send: impl FnMut(PortId, &[u8])) {
        let mut at = 0;
        for (out, len) in self.waiting.drain(..) {
            if let Some(frame) = self.frames.get(at..at + len) {
                send(out, frame);
            }
            at += len;
        }
        self.frames.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_swap::ArcSwap;
    use penstock_flow::FlowTable;
    use penstock_model::{BackendId, Dip, Mac, Offload, Overlay, PoolId, Protocol, ServiceId, Underlay, Vni};
    use penstock_mux_proto::{
        Backend, Distribution, Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy, Pool, Service,
    };
    use penstock_spread::SlotTable;
    use penstock_wire::build::{FrameBuilder, is_intact};
    use std::net::IpAddr;
    use std::sync::Arc;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn engine() -> Port<MuxResolver> {
        let id = BackendId(0);
        let dip = Dip { vni: Vni::new(9).unwrap(), addr: Overlay(ip("10.0.0.1")) };
        let goal = MuxGoal {
            services: vec![Service {
                id: ServiceId(0),
                name: "rule".to_owned(),
                vip: ip("203.0.113.1"),
                protocol: Protocol::TCP,
                port: 80,
                pool: PoolId(0),
                distribution: Distribution::Default,
            }],
            pools: vec![Pool {
                id: PoolId(0),
                name: "pool".to_owned(),
                version: 1,
                table: SlotTable::build(None, &[(id, 1)]),
                previous: Vec::new(),
            }],
            backends: vec![Backend {
                id,
                name: "web".to_owned(),
                dip,
                mac: Mac([2, 0, 0, 0, 0, 7]),
                host: Underlay(ip("198.51.100.1")),
            }],
            ..MuxGoal::default()
        };
        let hop = NextHopInfo { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]), out: PortId(3) };
        let policy = Policy::build(&goal, |_| Some(hop), Underlay(ip("192.0.2.1"))).unwrap();
        let published = Arc::new(ArcSwap::from_pointee(policy));
        Port::new(MuxResolver::new(published, [1, 2], Foreign::Pass), FlowTable::new(64))
    }

    #[test]
    fn a_super_frame_leaves_as_whole_segments_each_encapsulated() {
        let (mut engine, mut segments) = (engine(), Segments::new());
        let data: Vec<u8> = (0..5_000u32).map(|i| i as u8).collect();
        let frame = FrameBuilder::tcp("198.18.0.1:4000", "203.0.113.1:80")
            .flags(0x18)
            .payload(&data)
            .partial_checksum()
            .build();
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(&frame);
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(3)).unwrap();
        packet.offload = Offload { partial_checksum: true, gso: Gso::Tcp4, gso_size: 1448, ..Offload::default() };
        segments.process(&mut engine, std::slice::from_mut(&mut packet), Nanos::from_secs(1));
        assert_eq!(packet.verdict, Verdict::Consumed);

        let mut arrived = Vec::new();
        segments.drain(|out, frame| {
            assert_eq!(out, PortId(3));
            let inner = &frame[50..];
            assert!(inner.len() <= 1514 && is_intact(inner), "an inner frame with right lengths and checksums");
            arrived.extend_from_slice(&inner[54..]);
        });
        assert_eq!(arrived, data);
        assert_eq!((engine.ledger().received, engine.ledger().transmitted), (4, 4));
        segments.drain(|_, _| panic!("nothing waits twice"));
    }

    #[test]
    fn a_super_frame_that_cannot_be_cut_is_dropped_by_name() {
        let (mut engine, mut segments) = (engine(), Segments::new());
        let frame = FrameBuilder::tcp("198.18.0.1:4000", "203.0.113.1:80").payload(&[0; 3000]).build();
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(&frame);
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(3)).unwrap();
        packet.offload = Offload { gso: Gso::Tcp4, gso_size: 0, ..Offload::default() };
        segments.process(&mut engine, std::slice::from_mut(&mut packet), Nanos::from_secs(1));
        assert_eq!(packet.verdict, Verdict::Drop(penstock_model::DropReason::BadOffload));
        assert!(engine.ledger().balances());
    }
}
