//! Two tenants, red and blue, with the same addresses everywhere; a gateway between their hosts and their sites.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use arc_swap::ArcSwap;
use penstock_engine::{EncapTemplate, Port};
use penstock_flow::FlowHasher;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::*;
use penstock_wire::checksum;
use std::net::IpAddr;
use std::sync::Arc;

pub const UNDERLAY: PortId = PortId(1);
pub const HOST: &str = "192.0.2.10";
pub const GATEWAY: &str = "192.0.2.1";
pub const CONTAINER: &str = "10.1.0.4";
pub const SITE: &str = "10.200.0.7";
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 10]);
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn vni(tenant: u32) -> Vni {
    Vni::new(5000 + tenant).unwrap()
}

pub fn container_mac(tenant: u32) -> Mac {
    Mac([2, 0, 0, 1, 0, tenant as u8])
}

pub fn network(tenant: u32, epoch: u32) -> VirtualNetwork {
    VirtualNetwork {
        name: format!("vnet{tenant}"),
        tenant: TenantId(tenant),
        vni: vni(tenant),
        epoch: Epoch(epoch),
        prefixes: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/64".parse().unwrap()],
        subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()],
        endpoints: vec![Endpoint {
            addr: Overlay(ip(CONTAINER)),
            mac: container_mac(tenant),
            host: Underlay(ip(HOST)),
            acl: Some(AclId(tenant - 1)),
            network_interface: format!("nic{tenant}"),
        }],
        routes: vec![Route { prefix: "10.200.0.0/16".parse().unwrap(), next_hop: NextHop::Tunnel(TunnelId(tenant)) }],
        tables: Vec::new(),
    }
}

pub fn rule(action: AclAction, direction: AclDirection, dst_port: u16) -> AclRule {
    AclRule {
        name: format!("{direction:?} {dst_port}"),
        priority: 100,
        action,
        direction,
        protocol: Some(Protocol::TCP),
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: PortRange { first: dst_port, last: dst_port },
        log: false,
    }
}

/// Inbound TCP to port 80 only; outbound everything but TCP to port 25.
pub fn acl() -> Acl {
    Acl {
        name: "web".into(),
        rules: vec![
            rule(AclAction::Allow, AclDirection::Inbound, 80),
            rule(AclAction::Deny, AclDirection::Outbound, 25),
        ],
    }
}

pub fn tunnel(tenant: u32) -> Tunnel {
    Tunnel {
        id: TunnelId(tenant),
        name: format!("gw/site{tenant}"),
        tenant: TenantId(tenant),
        prefixes: vec!["10.200.0.0/16".parse().unwrap()],
        kind: TunnelKind::WireGuard {
            private_key: Secret32([7; 32]),
            peer_public_key: [tenant as u8; 32],
            preshared_key: None,
            listen_port: 51820,
            endpoint: None,
            persistent_keepalive_seconds: None,
        },
        caps: Caps::default(),
        nat: TunnelNat::default(),
    }
}

pub fn goal() -> GatewayGoal {
    GatewayGoal {
        revision: Revision(1),
        vteps: vec![Underlay(ip(HOST))],
        networks: vec![network(1, 1), network(2, 1)],
        acls: vec![acl(), acl()],
        tunnels: vec![tunnel(1), tunnel(2)],
        routers: vec![],
    }
}

pub fn hop(_: IpAddr) -> Option<UnderlayHop> {
    Some(UnderlayHop { eth_src: GATEWAY_MAC, eth_dst: HOST_MAC })
}

pub fn build(goal: &GatewayGoal, previous: Option<&Policy>) -> Result<Policy, GoalError> {
    Policy::build(goal, Underlay(ip(GATEWAY)), UNDERLAY, hop, previous)
}

/// A gateway in memory: frames in, outcome and frames out.
pub struct Gateway {
    pub published: Arc<ArcSwap<Policy>>,
    pub port: Port<GatewayResolver<()>>,
    pub now: Nanos,
}

impl Gateway {
    pub fn new(goal: &GatewayGoal) -> Self {
        Self::with_flows(goal, 1024, 1024)
    }

    pub fn with_flows(goal: &GatewayGoal, capacity: usize, of_tenant: usize) -> Self {
        let published = Arc::new(ArcSwap::from_pointee(build(goal, None).unwrap()));
        let resolver = GatewayResolver::new(Arc::clone(&published), FlowHasher::new([3; 16]), ());
        let mut port = Port::new(resolver, flow_table(capacity, of_tenant));
        port.ensure_counters(published.load().counters());
        Self { published, port, now: Nanos::from_secs(100) }
    }

    pub fn publish(&mut self, goal: &GatewayGoal) {
        let next = build(goal, Some(&self.published.load())).unwrap();
        self.published.store(Arc::new(next));
    }

    pub fn send(&mut self, frame: &[u8], port: PortId) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0; HEADROOM + frame.len() + 64];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut batch = [Packet::new(&mut buffer, HEADROOM, frame.len(), port).unwrap()];
        self.port.process(&mut batch, self.now);
        let ledger = self.port.ledger();
        assert!(ledger.balances(), "{ledger:?}");
        (batch[0].verdict, batch[0].frame().to_vec())
    }

    pub fn site_sends(&mut self, tenant: u32, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.send(&ethernet(packet), Policy::port_of(TunnelId(tenant)))
    }

    pub fn host_sends(&mut self, tenant: u32, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.send(&vxlan(HOST, tenant, packet), UNDERLAY)
    }
}

pub fn v4(src: &str, dst: &str, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(s), IpAddr::V4(d)) = (ip(src), ip(dst)) else { panic!() };
    let total = (20 + payload.len()) as u16;
    let [hi, lo] = total.to_be_bytes();
    let mut p = vec![0x45, 0, hi, lo, 0, 1, 0x40, 0, 64, protocol.0, 0, 0];
    p.extend(s.octets());
    p.extend(d.octets());
    let sum = checksum::finish(checksum::sum(&p, 0)).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
    p.extend(payload);
    p
}

pub fn tcp(src: &str, sport: u16, dst: &str, dport: u16, flags: u8) -> Vec<u8> {
    let mut t = Vec::new();
    t.extend(sport.to_be_bytes());
    t.extend(dport.to_be_bytes());
    t.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    t.extend(b"payload");
    finish_tcp(src, dst, t)
}

pub fn finish_tcp(src: &str, dst: &str, mut t: Vec<u8>) -> Vec<u8> {
    let mut p = v4(src, dst, Protocol::TCP, &t);
    let sum = checksum::finish(checksum::sum(&p[12..], 6 + t.len() as u64)).to_be_bytes();
    t[16..18].copy_from_slice(&sum);
    p[20..].copy_from_slice(&t);
    p
}

pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let mut f = vec![0; 12];
    f.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
    f.extend(packet);
    f
}

pub fn vxlan(from: &str, tenant: u32, packet: &[u8]) -> Vec<u8> {
    let template =
        EncapTemplate::vxlan(Underlay(ip(from)), Underlay(ip(GATEWAY)), vni(tenant), HOST_MAC, GATEWAY_MAC, UNDERLAY)
            .unwrap();
    let mut inner = ethernet(packet);
    inner[..6].copy_from_slice(&ROUTER_MAC.0);
    inner[6..12].copy_from_slice(&container_mac(tenant).0);
    let mut frame = template.bytes().to_vec();
    let total = (36 + inner.len()) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..34], 0)).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame.extend(inner);
    frame
}

/// The parts of a VXLAN frame that matter: outer destination, VNI, inner Ethernet destination, inner IP packet.
pub fn open(frame: &[u8]) -> (IpAddr, Vni, Mac, Vec<u8>) {
    let outer = penstock_wire::parse(frame).unwrap();
    let (vni, inner) = penstock_wire::parse_vxlan(frame, &outer).unwrap();
    let l2 = usize::from(inner.l2);
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[l2..l2 + 6]);
    (outer.dst.to_ip(), vni, Mac(mac), frame[usize::from(inner.l3)..inner.end as usize].to_vec())
}

pub fn ttl(packet: &[u8]) -> u8 {
    packet[8]
}

pub fn tcp6(src: &str, sport: u16, dst: &str, dport: u16, flags: u8) -> Vec<u8> {
    let (IpAddr::V6(s), IpAddr::V6(d)) = (ip(src), ip(dst)) else { panic!() };
    let mut p = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    p.extend(s.octets());
    p.extend(d.octets());
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let sum = checksum::finish(checksum::sum(&p[8..], 6 + 20)).to_be_bytes();
    p[56..58].copy_from_slice(&sum);
    p
}
