//! A mux with goals, frames and an engine, so that a test is a few lines of story.

use crate::{Backend, Distribution, Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy, Pool, Service};
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowTable;
use penstock_model::{
    BackendId, Dip, DropReason, HEADROOM, Mac, Nanos, Overlay, Packet, PoolId, PortId, Protocol, Revision, ServiceId,
    Underlay, Verdict, Vni,
};
use penstock_spread::SlotTable;
use penstock_wire::geneve::{GENEVE_PORT, NextOwners, next_owners, parse_geneve};
use penstock_wire::{Headers, checksum, parse, parse_vxlan};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(super) const VIP: &str = "203.0.113.10";
pub(super) const VIP6: &str = "2001:db8:100::10";
pub(super) const OWN: &str = "192.0.2.1";

pub(super) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(super) fn next_hop(host: Underlay<IpAddr>) -> Option<NextHopInfo> {
    let last = match host.0 {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    };
    Some(NextHopInfo { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 1, last]), out: PortId(0) })
}

pub(super) fn backend(id: u32) -> Backend {
    Backend {
        id: BackendId(id),
        name: format!("web-{id}"),
        dip: Dip { vni: Vni::new(5000 + id % 2).unwrap(), addr: Overlay(ip(&format!("10.0.0.{id}"))) },
        mac: Mac([2, 0x50, 0, 0, 0, id as u8]),
        host: Underlay(ip(&format!("198.51.100.{}", id % 2 + 1))),
    }
}

pub(super) fn table(members: &[u32]) -> SlotTable {
    table_after(None, members)
}

pub(super) fn table_after(previous: Option<&SlotTable>, members: &[u32]) -> SlotTable {
    let weights: Vec<_> = members.iter().map(|m| (BackendId(*m), 1)).collect();
    SlotTable::build(previous, &weights)
}

pub(super) fn service(id: u32, vip: &str, protocol: Protocol, port: u16) -> Service {
    Service {
        id: ServiceId(id),
        name: format!("loadBalancers/lb/loadBalancingRules/r{id}"),
        vip: ip(vip),
        protocol,
        port,
        pool: PoolId(1),
        distribution: Distribution::Default,
    }
}

/// TCP 80 and UDP 53 of an IPv4 and an IPv6 VIP, on one pool.
pub(super) fn goal(members: &[u32]) -> MuxGoal {
    MuxGoal {
        revision: Revision(1),
        hash_seed: [11, 22],
        services: vec![
            service(1, VIP, Protocol::TCP, 80),
            service(2, VIP, Protocol::UDP, 53),
            service(3, VIP6, Protocol::TCP, 80),
            service(4, VIP6, Protocol::UDP, 53),
        ],
        pools: vec![Pool {
            id: PoolId(1),
            name: "pool".to_owned(),
            version: 1,
            table: table(members),
            previous: Vec::new(),
        }],
        backends: (1..=8).map(backend).collect(),
        snat: Vec::new(),
        router: None,
        draining: false,
        limits: Vec::new(),
    }
}

/// The goal after its pool changed from `before` to `members`, with `survivors` of the old members as previous owners.
pub(super) fn changed(before: &MuxGoal, members: &[u32], survivors: &[u32]) -> MuxGoal {
    let mut goal = before.clone();
    let pool = &mut goal.pools[0];
    let old = pool.table.clone();
    pool.table = table_after(Some(&old), members);
    pool.previous = vec![table_after(Some(&old), survivors)];
    pool.version += 1;
    goal.revision.0 += 1;
    goal
}

/// The goal after one more change, with the owners before the one before behind those of now.
pub(super) fn changed_again(before: &MuxGoal, members: &[u32], survivors: &[u32]) -> MuxGoal {
    let mut goal = changed(before, members, survivors);
    goal.pools[0].previous.extend(before.pools[0].previous.clone());
    goal
}

pub(super) fn settled(before: &MuxGoal) -> MuxGoal {
    let mut goal = before.clone();
    goal.pools[0].previous = Vec::new();
    goal.revision.0 += 1;
    goal
}

pub(super) fn build(goal: &MuxGoal) -> Policy {
    Policy::build(goal, next_hop, Underlay(ip(OWN))).unwrap()
}

/// What came out of the mux for one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) outer: Headers,
    pub(super) vni: Vni,
    pub(super) inner: Headers,
    /// Whom the encapsulation names beside the one that it goes to.
    pub(super) next: Vec<BackendId>,
    pub(super) frame: Vec<u8>,
}

impl Sent {
    /// By the inner destination address, as the host does.
    pub(super) fn backend(&self) -> BackendId {
        BackendId(u32::from(self.frame[usize::from(self.inner.l2) + 5]))
    }
}

pub(super) struct Mux {
    pub(super) port: Port<MuxResolver>,
    published: Arc<ArcSwap<Policy>>,
    pub(super) now: Nanos,
}

impl Mux {
    pub(super) fn new(goal: &MuxGoal) -> Self {
        Self::with_secret(goal, [1, 2])
    }

    pub(super) fn with_secret(goal: &MuxGoal, secret: [u64; 2]) -> Self {
        Self::with(build(goal), secret, |resolver| resolver)
    }

    pub(super) fn with(policy: Policy, secret: [u64; 2], way: fn(MuxResolver) -> MuxResolver) -> Self {
        Self::new_on(&Arc::new(ArcSwap::from_pointee(policy)), secret, way)
    }

    /// One of the workers that go by what is published.
    pub(super) fn on(published: &Arc<ArcSwap<Policy>>) -> Self {
        Self::new_on(published, [1, 2], |resolver| resolver)
    }

    fn new_on(published: &Arc<ArcSwap<Policy>>, secret: [u64; 2], way: fn(MuxResolver) -> MuxResolver) -> Self {
        let published = Arc::clone(published);
        let resolver = way(MuxResolver::new(Arc::clone(&published), secret, Foreign::Drop));
        let mut port = Port::new(resolver, FlowTable::with_probation(8192, 8192));
        port.ensure_counters(64);
        Self { port, published, now: Nanos::from_secs(1) }
    }

    pub(super) fn publish(&mut self, goal: &MuxGoal) {
        self.publish_policy(build(goal));
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        self.published.load_full()
    }

    pub(super) fn publish_policy(&mut self, policy: Policy) {
        let next = policy.succeed(&self.published.load());
        self.published.store(Arc::new(next));
    }

    /// All in one batch.
    pub(super) fn run_all(&mut self, frames: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|f| [&[0; HEADROOM], f.as_slice()].concat()).collect();
        let mut batch: Vec<Packet<'_>> = buffers
            .iter_mut()
            .zip(frames)
            .map(|(buffer, f)| Packet::new(buffer, HEADROOM, f.len(), PortId(0)).unwrap())
            .collect();
        self.port.process(&mut batch, self.now);
        assert!(self.port.ledger().balances());
        batch.iter().map(|packet| (packet.verdict, packet.frame().to_vec())).collect()
    }

    pub(super) fn run(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(frame);
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(0)).unwrap();
        self.port.process(std::slice::from_mut(&mut packet), self.now);
        assert!(self.port.ledger().balances());
        (packet.verdict, packet.frame().to_vec())
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> Result<Sent, DropReason> {
        match self.run(frame) {
            (Verdict::Transmit(PortId(0)), frame) => {
                let outer = parse(&frame).unwrap();
                let is_geneve = outer.dst_port == GENEVE_PORT;
                let (vni, inner) =
                    if is_geneve { parse_geneve(&frame, &outer) } else { parse_vxlan(&frame, &outer) }.unwrap();
                let next = if is_geneve { next_owners(&frame, &outer) } else { NextOwners::default() };
                let next = next.as_slice().iter().map(|a| BackendId(u32::from(a.0[15]))).collect();
                Ok(Sent { outer, vni, inner, next, frame })
            }
            (Verdict::Drop(reason), _) => Err(reason),
            other => panic!("neither sent nor dropped: {other:?}"),
        }
    }

    pub(super) fn backend(&mut self, frame: &[u8]) -> BackendId {
        self.send(frame).unwrap().backend()
    }
}

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

pub(super) fn client(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::from([100, (n >> 16) as u8, (n >> 8) as u8, n as u8]), 1024 + (n % 50_000) as u16)
}

pub(super) fn client6(n: u32) -> SocketAddr {
    SocketAddr::new(ip(&format!("2001:db8:9::{:x}:{:x}", n >> 16, n & 0xffff)), 1024 + (n % 50_000) as u16)
}

pub(super) fn tcp(src: SocketAddr, dst: &str, port: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0u8; 20];
    segment[..2].copy_from_slice(&src.port().to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    segment.extend_from_slice(b"hello");
    packet(src.ip(), ip(dst), Protocol::TCP, segment, Some(16))
}

pub(super) fn udp(src: SocketAddr, dst: &str, port: u16) -> Vec<u8> {
    let mut datagram = vec![0u8; 8];
    datagram[..2].copy_from_slice(&src.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[5] = 12;
    datagram.extend_from_slice(b"ping");
    packet(src.ip(), ip(dst), Protocol::UDP, datagram, Some(6))
}

/// Ethernet and IP around a transport segment; its checksum is written at `sum_at`.
pub(super) fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    mut segment: Vec<u8>,
    sum_at: Option<usize>,
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
    let mut pseudo = Vec::new();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 60, protocol.0, 0, 0];
            header[2..4].copy_from_slice(&(20 + segment.len() as u16).to_be_bytes());
            header.extend_from_slice(&s.octets());
            header.extend_from_slice(&d.octets());
            let sum = checksum::finish(checksum::sum(&header, 0));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            if protocol != Protocol::ICMP {
                pseudo.extend_from_slice(&header[12..20]);
            }
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&header);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol.0, 60];
            header[4..6].copy_from_slice(&(segment.len() as u16).to_be_bytes());
            header.extend_from_slice(&s.octets());
            header.extend_from_slice(&d.octets());
            pseudo.extend_from_slice(&header[8..40]);
            frame.extend_from_slice(&[0x86, 0xdd]);
            frame.extend_from_slice(&header);
        }
        _ => panic!("two families"),
    }
    if !pseudo.is_empty() {
        pseudo.extend_from_slice(&[0, protocol.0]);
        pseudo.extend_from_slice(&(segment.len() as u16).to_be_bytes());
    }
    if let Some(at) = sum_at {
        let sum = checksum::finish(checksum::sum(&segment, checksum::sum(&pseudo, 0)));
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend_from_slice(&segment);
    frame
}
