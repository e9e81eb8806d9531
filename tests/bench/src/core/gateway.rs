//! The gateway without its crypto: 16 tenants with an access list each, established flows from a site to a container and back.
use super::measure::{measure, report};
use super::pool::Pool;
use super::{FLOWS, OPENING_ROUNDS, Random};
use crate::report::Report;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::{FlowHasher, FlowTable};
use penstock_gateway_proto::{
    Caps, GatewayGoal, GatewayResolver, Policy, ROUTER_MAC, Secret32, Tunnel, TunnelKind, TunnelNat, UnderlayHop,
};
use penstock_model::{
    Epoch, Mac, Nanos, Overlay, Packet, PortId, Protocol, Revision, TenantId, TunnelId, Underlay, Verdict, Vni,
};
use penstock_policy::{
    Acl, AclAction, AclDirection, AclId, AclRule, Endpoint, NextHop, PortRange, Route, VirtualNetwork,
};
use penstock_wire::build::{FrameBuilder, is_intact};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const UNDERLAY: PortId = PortId(1);
pub(crate) const TENANT: u32 = 7;
const TENANTS: u32 = 16;
const RULES: u16 = 32;
const NOW: Nanos = Nanos::from_secs(100);

/// A packet that came out of a tunnel, to the VXLAN frame for its container.
pub(crate) fn run(out: &mut Report) {
    let name = "core/gateway-acl";
    for (flows, len) in [(FLOWS[0], 60), (FLOWS[1], 60), (FLOWS[1], 1400)] {
        if !out.wants(name) {
            continue;
        }
        let mut gateway = Gateway::new(2 * flows as usize);
        gateway.open_all(flows);
        let mut random = Random::new();
        let mut pool = Pool::new(Policy::port_of(TunnelId(TENANT)));
        let Gateway { port, template } = &mut gateway;
        let before = (port.resolved(), port.ledger().received);
        let cost = measure(|| {
            pool.fill(|buffer| write(template, buffer, random.below(flows), len));
            pool.run(|batch| port.process(batch, NOW))
        });
        let (resolved, received) = (port.resolved() - before.0, port.ledger().received - before.1);
        assert!(resolved * 1000 < received, "{resolved} of {received} packets were not decided by the flow table");
        pool.fill(|buffer| write(template, buffer, random.below(flows), len));
        pool.run(|batch| {
            port.process(batch, NOW);
            batch.iter().for_each(assert_finished);
        });
        // Both directions of a flow have an entry.
        let bytes = port.flow_table().bytes() as f64 / flows as f64;
        report(out, name, Some(flows), if len == 60 { 64 } else { len as u64 }, cost, Some(bytes));
    }
}

fn assert_finished(packet: &Packet<'_>) {
    assert_eq!(packet.verdict, Verdict::Transmit(UNDERLAY));
    assert!(is_intact(packet.frame()) && is_intact(&packet.frame()[50..]));
}

struct Gateway {
    port: Port<GatewayResolver<()>>,
    template: Vec<u8>,
}

impl Gateway {
    fn new(entries: usize) -> Self {
        let hop = |_| Some(UnderlayHop { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 0, 2]) });
        let policy = Policy::build(&goal(), Underlay(ip([192, 0, 2, 1])), UNDERLAY, hop, None).unwrap();
        let counters = policy.counters();
        let published = Arc::new(ArcSwap::from_pointee(policy));
        let resolver = GatewayResolver::new(published, FlowHasher::new([3; 16]), ());
        let mut port = Port::new(resolver, FlowTable::with_probation(entries, 1 << 16));
        port.ensure_counters(counters);
        let (site, container) = (SocketAddr::new(site(0).into(), 1), SocketAddr::new(ip([10, 1, 0, 4]), 80));
        let template =
            FrameBuilder::between(site, container, Protocol::TCP).eth(Mac::ZERO, Mac::ZERO).payload(&[0; 1346]).build();
        Self { port, template }
    }

    fn open_all(&mut self, flows: u64) {
        let mut pool = Pool::new(Policy::port_of(TunnelId(TENANT)));
        let mut next = 0;
        while next < flows {
            for _ in 0..OPENING_ROUNDS {
                let mut flow = next;
                pool.fill(|buffer| {
                    flow += 1;
                    write(&self.template, buffer, (flow - 1).min(flows - 1), 60)
                });
                pool.run(|batch| self.port.process(batch, NOW));
            }
            next += Pool::PACKETS as u64;
        }
    }
}

fn write(template: &[u8], buffer: &mut [u8], flow: u64, len: usize) -> usize {
    use penstock_wire::checksum::{finish, sum};
    buffer[..54].copy_from_slice(&template[..54]);
    buffer[54..len].fill(0);
    let end = if len <= 60 { 54 } else { len };
    buffer[16..18].copy_from_slice(&((end - 14) as u16).to_be_bytes());
    buffer[26..30].copy_from_slice(&site(flow).octets());
    buffer[34..36].copy_from_slice(&(1024 + (flow / 60_000) as u16).to_be_bytes());
    buffer[24..26].fill(0);
    let header = finish(sum(&buffer[14..34], 0));
    buffer[24..26].copy_from_slice(&header.to_be_bytes());
    buffer[50..52].fill(0);
    let checksum = finish(sum(&buffer[34..end], sum(&buffer[26..34], 6 + (end - 34) as u64)));
    buffer[50..52].copy_from_slice(&checksum.to_be_bytes());
    len
}

pub(crate) fn site(flow: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x0ac8_0000 + (flow % 60_000) as u32)
}

pub(crate) fn ip(octets: [u8; 4]) -> IpAddr {
    IpAddr::from(octets)
}

pub(crate) fn goal() -> GatewayGoal {
    GatewayGoal {
        routers: vec![],
        revision: Revision(1),
        vteps: vec![Underlay(ip([192, 0, 2, 10]))],
        networks: (1..=TENANTS).map(network).collect(),
        acls: (1..=TENANTS).map(|_| acl()).collect(),
        tunnels: (1..=TENANTS).map(tunnel).collect(),
    }
}

fn network(tenant: u32) -> VirtualNetwork {
    VirtualNetwork {
        name: format!("vnet{tenant}"),
        tenant: TenantId(tenant),
        vni: Vni::new(5000 + tenant).unwrap(),
        epoch: Epoch(1),
        prefixes: vec!["10.1.0.0/16".parse().unwrap()],
        subnets: vec!["10.1.0.0/24".parse().unwrap()],
        endpoints: vec![Endpoint {
            addr: Overlay(ip([10, 1, 0, 4])),
            mac: ROUTER_MAC,
            host: Underlay(ip([192, 0, 2, 10])),
            acl: Some(AclId(tenant - 1)),
            network_interface: format!("nic{tenant}"),
        }],
        routes: vec![Route { prefix: "10.200.0.0/16".parse().unwrap(), next_hop: NextHop::Tunnel(TunnelId(tenant)) }],
        tables: Vec::new(),
    }
}

/// The port that the flows use is allowed by the last of the rules.
fn acl() -> Acl {
    let rule = |n: u16| AclRule {
        name: format!("rule {n}"),
        priority: n + 1,
        action: AclAction::Allow,
        direction: AclDirection::Inbound,
        protocol: Some(Protocol::TCP),
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: PortRange { first: 80 + RULES - n, last: 80 + RULES - n },
        log: false,
    };
    Acl { name: "web".into(), rules: (1..=RULES).map(rule).collect() }
}

fn tunnel(tenant: u32) -> Tunnel {
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
