//! Two tenants with the same addresses on one host: frames, goal, and the engine to drive.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_model::*;
use penstock_policy::*;
use penstock_slb_host::*;
use penstock_wire::{checksum, parse};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub const UNDERLAY: PortId = PortId(0);
pub const HOST: &str = "10.9.0.1";
pub const OTHER_HOST: &str = "10.9.0.2";
pub const MUX: &str = "10.9.0.10";
pub const GATEWAY: &str = "10.9.0.20";
pub const CLIENT: &str = "203.0.113.7:40000";
pub const CLIENT6: &str = "[2001:db8:c::7]:40000";
pub const VIP: &str = "198.51.100.1:80";
pub const VIP6: &str = "[2001:db8:f::1]:80";
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);
pub const NEXT_HOP_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 1]);
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0xee, 2]);

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn sock(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

/// Container `n` of a tenant: `10.0.0.n` on this host for n < 10, else on the other; `10.0.1.n` for the second subnet.
pub fn mac(tenant: u32, n: u8) -> Mac {
    Mac([2, 1, tenant as u8, 0, 0, n])
}

#[derive(Debug)]
pub struct Fib {
    pub blind: bool,
}

impl UnderlayFib for Fib {
    fn hop(&self, _: IpAddr) -> Option<Hop> {
        (!self.blind).then_some(Hop { eth_src: HOST_MAC, eth_dst: NEXT_HOP_MAC })
    }
}

pub fn rule(name: &str, priority: u16, action: AclAction, direction: AclDirection, dst_port: Option<u16>) -> AclRule {
    AclRule {
        name: name.to_owned(),
        priority,
        action,
        direction,
        protocol: Some(Protocol::TCP),
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: dst_port.map_or(PortRange::ANY, |p| PortRange { first: p, last: p }),
        log: false,
    }
}

pub fn vni(tenant: u32) -> Vni {
    Vni::new(5000 + tenant).unwrap()
}

fn name(tenant: u32, n: u8) -> String {
    format!("t{tenant}-c{n}")
}

fn addresses(n: u8) -> Vec<ipnetwork::IpNetwork> {
    let third = n / 100;
    vec![format!("10.0.{third}.{n}/24").parse().unwrap(), format!("fd00:0:0:{third}::{n:x}/64").parse().unwrap()]
}

fn network(tenant: u32) -> VirtualNetwork {
    let endpoints = [2u8, 3, 12, 102]
        .into_iter()
        .flat_map(|n| {
            let host = if n == 12 { OTHER_HOST } else { HOST };
            addresses(n).into_iter().map(move |a| Endpoint {
                addr: Overlay(a.ip()),
                mac: mac(tenant, n),
                host: Underlay(ip(host)),
                acl: None,
                network_interface: name(tenant, n),
            })
        })
        .collect();
    VirtualNetwork {
        name: format!("vnet{tenant}"),
        tenant: TenantId(tenant),
        vni: vni(tenant),
        epoch: Epoch(1),
        prefixes: vec!["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()],
        subnets: ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "fd00:0:0:1::/64"].map(|s| s.parse().unwrap()).to_vec(),
        endpoints,
        routes: vec![
            Route {
                prefix: "172.16.0.0/16".parse().unwrap(),
                next_hop: NextHop::Vtep { addr: Underlay(ip(GATEWAY)), mac: GATEWAY_MAC },
            },
            Route { prefix: "172.16.66.0/24".parse().unwrap(), next_hop: NextHop::Discard },
        ],
        tables: Vec::new(),
    }
}

/// Ports of this host, in the order of their ids: tenant and container.
pub const PORTS: [(u32, u8); 6] = [(1, 2), (1, 3), (1, 102), (2, 2), (2, 3), (2, 102)];

pub fn port(tenant: u32, n: u8) -> PortId {
    PortId(1 + PORTS.iter().position(|p| *p == (tenant, n)).unwrap() as u16)
}

pub fn goal() -> HostGoal {
    let mut nat_rules = Vec::new();
    for (vip, dip) in [(sock(VIP), "10.0.0.2"), (sock(VIP6), "fd00::2")] {
        nat_rules.push(NatRule {
            service: ServiceId(7),
            network_interface: name(1, 2),
            vip: vip.ip(),
            protocol: Protocol::TCP,
            vip_port: 80,
            dip: Overlay(ip(dip)),
            dip_port: 8080,
            floating: false,
            idle_seconds: None,
        });
    }
    HostGoal {
        revision: Revision(1),
        vteps: [MUX, GATEWAY, OTHER_HOST].map(|a| Underlay(ip(a))).to_vec(),
        networks: vec![network(1), network(2)],
        acls: vec![],
        ports: PORTS
            .iter()
            .map(|(t, n)| penstock_slb_host::Port {
                network_interface: name(*t, *n),
                tenant: TenantId(*t),
                vni: vni(*t),
                mac: mac(*t, *n),
                addresses: addresses(*n),
                acl: None,
                forwards: false,
            })
            .collect(),
        nat_rules,
        ..HostGoal::default()
    }
}

pub struct Host {
    pub engine: Port<HostResolver>,
    pub policies: Arc<ArcSwap<Policy>>,
    pub now: Nanos,
    generation: u64,
}

pub fn local_ports() -> Vec<(PortId, String)> {
    PORTS.iter().map(|(t, n)| (port(*t, *n), name(*t, *n))).collect()
}

pub fn build(goal: &HostGoal, previous: &Policy, blind: bool, generation: u64) -> Result<Policy, GoalError> {
    let ports = local_ports();
    let here = Surroundings {
        local_ports: &ports,
        own: ip(HOST),
        underlay_port: UNDERLAY,
        fib: Arc::new(Fib { blind }),
        fib_generation: generation,
    };
    Policy::build(goal, &here, previous)
}

pub fn empty() -> Policy {
    Policy::empty(ip(HOST), UNDERLAY, Arc::new(Fib { blind: false }))
}

impl Host {
    pub fn new(goal: &HostGoal) -> Self {
        Self::blind(goal, false)
    }

    pub fn blind(goal: &HostGoal, blind: bool) -> Self {
        let policies = Arc::new(ArcSwap::from_pointee(build(goal, &empty(), blind, 1).unwrap()));
        let resolver = HostResolver::new(policies.clone(), FlowHasher::new([7; 16]));
        Self {
            engine: Port::new(resolver, flow_table(4096, PORTS.len())),
            policies,
            now: Nanos::from_secs(1),
            generation: 1,
        }
    }

    pub fn publish(&mut self, goal: &HostGoal) {
        let next = build(goal, &self.policies.load(), false, self.generation).unwrap();
        self.policies.store(Arc::new(next));
    }

    pub fn neighbours_change(&mut self, goal: &HostGoal) {
        self.generation += 1;
        self.publish(goal);
    }

    /// One frame in; what became of it.
    pub fn put(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0u8; HEADROOM + frame.len().max(256)];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut packets = [Packet::new(&mut buffer, HEADROOM, frame.len(), port).unwrap()];
        self.engine.process(&mut packets, self.now);
        assert!(self.engine.ledger().balances());
        (packets[0].verdict, packets[0].frame().to_vec())
    }

    pub fn dropped(&mut self, port: PortId, frame: &[u8]) -> DropReason {
        let before = self.engine.ledger().clone();
        match self.put(port, frame).0 {
            Verdict::Drop(reason) => {
                assert_eq!(self.engine.ledger().dropped_for(reason), before.dropped_for(reason) + 1);
                reason
            }
            other => panic!("not dropped but {other:?}"),
        }
    }

    /// The frame that a port got, with right checksums.
    pub fn sent(&mut self, port: PortId, frame: &[u8], to: PortId) -> Vec<u8> {
        let (verdict, out) = self.put(port, frame);
        assert_eq!(verdict, Verdict::Transmit(to));
        out
    }
}

/// Source and destination as `address:port`, hop limit and Ethernet addresses, after checking every checksum.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub ttl: u8,
    pub eth_dst: Mac,
    pub eth_src: Mac,
}

pub fn see(frame: &[u8]) -> Seen {
    let h = parse(frame).unwrap();
    assert_eq!(h.end as usize, frame.len(), "nothing behind the packet");
    let segment = &frame[h.l4 as usize..h.end as usize];
    let addresses = if h.is_v4() {
        &frame[h.l3 as usize + 12..h.l3 as usize + 20]
    } else {
        &frame[h.l3 as usize + 8..h.l3 as usize + 48 - 8]
    };
    let pseudo = checksum::sum(addresses, u64::from(h.protocol.0) + segment.len() as u64);
    assert_eq!(checksum::fold(checksum::sum(segment, pseudo)), 0xffff, "transport checksum");
    let at = |i: usize| Mac(frame[i..i + 6].try_into().unwrap());
    Seen {
        src: SocketAddr::new(h.src.to_ip(), h.src_port),
        dst: SocketAddr::new(h.dst.to_ip(), h.dst_port),
        ttl: h.ttl,
        eth_dst: at(0),
        eth_src: at(6),
    }
}

/// Outer addresses, VNI and the inner frame.
pub fn unwrap_vxlan(frame: &[u8]) -> (IpAddr, IpAddr, Vni, Vec<u8>) {
    let outer = parse(frame).unwrap();
    assert_eq!((outer.protocol, outer.dst_port), (Protocol::UDP, 4789));
    assert_eq!(frame[..6], NEXT_HOP_MAC.0);
    let (vni, inner) = penstock_wire::parse_vxlan(frame, &outer).unwrap();
    (outer.src.to_ip(), outer.dst.to_ip(), vni, frame[inner.l2 as usize..].to_vec())
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub fn tcp(eth_src: Mac, eth_dst: Mac, src: &str, dst: &str, flags: u8) -> Vec<u8> {
    let (s, d) = (sock(src), sock(dst));
    let mut t = vec![0u8; 20];
    t[..2].copy_from_slice(&s.port().to_be_bytes());
    t[2..4].copy_from_slice(&d.port().to_be_bytes());
    t[12] = 0x50;
    t[13] = flags;
    t.extend_from_slice(b"hello");
    transport(eth_src, eth_dst, s.ip(), d.ip(), Protocol::TCP, 16, t)
}

/// An IP packet in its frame, with both checksums written.
pub fn transport(
    eth_src: Mac,
    eth_dst: Mac,
    s: IpAddr,
    d: IpAddr,
    protocol: Protocol,
    checksum_at: usize,
    mut l4: Vec<u8>,
) -> Vec<u8> {
    let mut f = [eth_dst.0, eth_src.0].concat();
    let mut addresses = Vec::new();
    match (s, d) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            addresses.extend(s.octets());
            addresses.extend(d.octets());
            let mut h = vec![0x45, 0];
            h.extend(((20 + l4.len()) as u16).to_be_bytes());
            h.extend([0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
            h.extend(&addresses);
            let c = checksum::finish(checksum::sum(&h, 0));
            h[10..12].copy_from_slice(&c.to_be_bytes());
            f.extend([8, 0]);
            f.extend(h);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            addresses.extend(s.octets());
            addresses.extend(d.octets());
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend((l4.len() as u16).to_be_bytes());
            f.extend([protocol.0, 64]);
            f.extend(&addresses);
        }
        _ => panic!("mixed families"),
    }
    let pseudo =
        if protocol == Protocol::ICMP { 0 } else { checksum::sum(&addresses, u64::from(protocol.0) + l4.len() as u64) };
    let c = checksum::finish(checksum::sum(&l4, pseudo));
    l4[checksum_at..checksum_at + 2].copy_from_slice(&c.to_be_bytes());
    f.extend(l4);
    f
}

pub fn vxlan(from: &str, vni: Vni, inner: &[u8]) -> Vec<u8> {
    let mut u = vec![0xc0, 0x01, 0x12, 0xb5];
    u.extend(((16 + inner.len()) as u16).to_be_bytes());
    u.extend([0, 0, 8, 0, 0, 0]);
    u.extend(vni.to_be_bytes());
    u.push(0);
    u.extend(inner);
    transport(NEXT_HOP_MAC, HOST_MAC, ip(from), ip(HOST), Protocol::UDP, 6, u)
}
