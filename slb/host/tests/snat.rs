//! Outbound NAT: containers reach the outside by leased ports of a virtual IP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;
use kit::*;
use penstock_engine::Ending;
use penstock_engine::{Class, Resolution, Resolver};
use penstock_model::{DropReason, Nanos, Overlay, PortId, Protocol};
use penstock_policy::{AclAction, AclDirection};
use penstock_slb_host::{AddressRange, HostGoal, SnatLease, explain};
use std::collections::BTreeSet;

const OUT: &str = "198.51.100.9";
const OUT6: &str = "2001:db8:f::9";
const ROUTER: penstock_model::Mac = penstock_slb_host::ROUTER_MAC;
const MUX_MAC: penstock_model::Mac = penstock_model::Mac([2, 0x50, 0x53, 0x54, 0, 2]);

fn lease(n: u8, dip: &str, vip: &str, first: u16, count: u16) -> SnatLease {
    SnatLease {
        network_interface: format!("t1-c{n}"),
        dip: Overlay(ip(dip)),
        vip: ip(vip),
        first,
        count,
        protocol: None,
    }
}

fn leased(leases: Vec<SnatLease>) -> HostGoal {
    HostGoal { snat: leases, ..goal() }
}

fn usual() -> HostGoal {
    leased(vec![
        lease(2, "10.0.0.2", OUT, 1024, 64),
        lease(3, "10.0.0.3", OUT, 1088, 64),
        lease(2, "fd00::2", OUT6, 1024, 8),
    ])
}

fn from(n: u8, src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, n), ROUTER, src, dst, flags)
}

/// The answer to a packet as it left, as a mux brings it.
fn answer(n: u8, left: &Seen) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, n), &left.dst.to_string(), &left.src.to_string(), ACK))
}

#[test]
fn a_flow_leaves_by_a_leased_port_and_its_answer_comes_back() {
    let mut host = Host::new(&usual());
    for (src, dst, vip, first, count) in [
        ("10.0.0.2:40000", "192.0.2.80:80", OUT, 1024u16, 64),
        ("[fd00::2]:40000", "[2001:db8:c::80]:80", OUT6, 1024, 8),
    ] {
        let left = see(&host.sent(port(1, 2), &from(2, src, dst, SYN), UNDERLAY));
        assert_eq!((left.src.ip(), left.dst, left.ttl), (ip(vip), sock(dst), 63));
        assert!((first..first + count).contains(&left.src.port()), "{left:?}");
        assert_eq!((left.eth_dst, left.eth_src), (NEXT_HOP_MAC, HOST_MAC));
        let back = see(&host.sent(UNDERLAY, &answer(2, &left), port(1, 2)));
        assert_eq!((back.src, back.dst, back.eth_dst), (sock(dst), sock(src), mac(1, 2)));
        let again = see(&host.sent(port(1, 2), &from(2, src, dst, ACK), UNDERLAY));
        assert_eq!(again.src, left.src);
    }
    let counts: Vec<_> = host.engine.resolver().snat().map(|u| (u.claims, u.strained, u.exhausted)).collect();
    assert_eq!(counts, [(1, 0, 0), (1, 0, 0), (0, 0, 0)], "the neighbour asked for none");
}

#[test]
fn one_port_serves_many_destinations_and_each_only_once() {
    let mut host = Host::new(&leased(vec![lease(2, "10.0.0.2", OUT, 2000, 1)]));
    for n in 1..=50 {
        let dst = format!("192.0.2.{n}:80");
        let left = see(&host.sent(port(1, 2), &from(2, "10.0.0.2:40000", &dst, SYN), UNDERLAY));
        assert_eq!(left.src, sock("198.51.100.9:2000"));
        assert_eq!(see(&host.sent(UNDERLAY, &answer(2, &left), port(1, 2))).src, sock(&dst));
    }
    let second = from(2, "10.0.0.2:40001", "192.0.2.7:80", SYN);
    assert_eq!(host.dropped(port(1, 2), &second), DropReason::SnatPortsExhausted);
    let counts = host.engine.resolver().snat().next().unwrap();
    assert_eq!((counts.claims, counts.exhausted, counts.ports), (51, 1, 1));
    // UDP has ports of its own.
    let datagram = udp(2, "10.0.0.2:40001", "192.0.2.7:80");
    assert_eq!(see(&host.sent(port(1, 2), &datagram, UNDERLAY)).src, sock("198.51.100.9:2000"));
}

fn udp(n: u8, src: &str, dst: &str) -> Vec<u8> {
    let (s, d) = (sock(src), sock(dst));
    let mut u = [s.port(), d.port(), 12, 0].map(u16::to_be_bytes).concat();
    u.extend(b"ping");
    transport(mac(1, n), ROUTER, s.ip(), d.ip(), Protocol::UDP, 6, u)
}

#[test]
fn flows_to_one_destination_get_different_ports_until_there_are_no_more() {
    let mut host = Host::new(&usual());
    let mut ports = BTreeSet::new();
    for n in 0..64 {
        let frame = |flags| from(2, &format!("10.0.0.2:{}", 30_000 + n), "192.0.2.80:80", flags);
        let left = see(&host.sent(port(1, 2), &frame(SYN), UNDERLAY));
        assert!(ports.insert(left.src.port()));
        host.sent(UNDERLAY, &answer(2, &left), port(1, 2));
        host.sent(port(1, 2), &frame(ACK), UNDERLAY);
    }
    assert_eq!(ports, (1024..1088).collect());
    let one_more = from(2, "10.0.0.2:31000", "192.0.2.80:80", SYN);
    assert_eq!(host.dropped(port(1, 2), &one_more), DropReason::SnatPortsExhausted);
    let counts = host.engine.resolver().snat().next().unwrap();
    assert!((10..60).contains(&counts.strained), "{counts:?}");
    // Those of the neighbour are its own.
    let neighbour = see(&host.sent(port(1, 3), &from(3, "10.0.0.3:31000", "192.0.2.80:80", SYN), UNDERLAY));
    assert!((1088..1152).contains(&neighbour.src.port()));
}

#[test]
fn a_closed_connection_gives_its_port_back() {
    let mut host = Host::new(&leased(vec![lease(2, "10.0.0.2", OUT, 2000, 1)]));
    let left = see(&host.sent(port(1, 2), &from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN), UNDERLAY));
    host.sent(UNDERLAY, &answer(2, &left), port(1, 2));
    host.sent(port(1, 2), &from(2, "10.0.0.2:40000", "192.0.2.80:80", 4), UNDERLAY);
    host.now = Nanos::from_secs(60);
    host.sent(port(1, 2), &from(2, "10.0.0.2:40001", "192.0.2.80:80", SYN), UNDERLAY);
}

#[test]
fn a_flow_keeps_its_port_over_changes_and_loses_it_with_the_lease() {
    let mut host = Host::new(&usual());
    let frame = |flags| from(2, "10.0.0.2:40000", "192.0.2.80:80", flags);
    let left = see(&host.sent(port(1, 2), &frame(SYN), UNDERLAY));
    let mut more = usual();
    more.snat.insert(0, lease(2, "10.0.0.2", OUT, 4096, 64));
    host.publish(&more);
    assert_eq!(see(&host.sent(UNDERLAY, &answer(2, &left), port(1, 2))).dst, sock("10.0.0.2:40000"));
    assert_eq!(see(&host.sent(port(1, 2), &frame(ACK), UNDERLAY)).src, left.src);
    more.snat.retain(|l| l.first == 4096);
    host.publish(&more);
    assert_eq!(host.dropped(UNDERLAY, &answer(2, &left)), DropReason::NoReverseMapping);
    let moved = see(&host.sent(port(1, 2), &frame(ACK), UNDERLAY));
    assert!((4096..4160).contains(&moved.src.port()));
}

#[test]
fn a_flow_that_was_denied_for_a_while_goes_on_by_its_port() {
    let mut host = Host::new(&usual());
    let frame = |flags| from(2, "10.0.0.2:40000", "192.0.2.80:80", flags);
    let left = see(&host.sent(port(1, 2), &frame(SYN), UNDERLAY));
    host.sent(UNDERLAY, &answer(2, &left), port(1, 2));
    host.sent(port(1, 2), &frame(ACK), UNDERLAY);
    let mut guarded = usual();
    guarded.acls = vec![penstock_policy::Acl {
        name: "guard".to_owned(),
        rules: vec![rule("no-web", 100, AclAction::Deny, AclDirection::Outbound, Some(80))],
    }];
    guarded.ports[0].acl = Some(penstock_policy::AclId(0));
    guarded.networks[0].epoch = penstock_model::Epoch(2);
    host.publish(&guarded);
    assert_eq!(host.dropped(port(1, 2), &frame(ACK)), DropReason::AclDenied);
    assert_eq!(host.dropped(UNDERLAY, &answer(2, &left)), DropReason::AclDenied);
    let mut open = usual();
    open.networks[0].epoch = penstock_model::Epoch(3);
    host.publish(&open);
    assert_eq!(see(&host.sent(port(1, 2), &frame(ACK), UNDERLAY)).src, left.src);
    assert_eq!(see(&host.sent(UNDERLAY, &answer(2, &left), port(1, 2))).dst, sock("10.0.0.2:40000"));
}

#[test]
fn nothing_leaves_by_a_leased_port_for_an_address_of_the_tenant_that_nobody_has() {
    let mut host = Host::new(&usual());
    assert_eq!(host.dropped(port(1, 2), &from(2, "10.0.0.2:40000", "10.0.7.7:80", SYN)), DropReason::NoRoute);
}

#[test]
fn an_echo_goes_out_and_comes_back_by_its_identifier() {
    let mut host = Host::new(&usual());
    let echo = |kind: u8, id: u16| [vec![kind, 0, 0, 0], id.to_be_bytes().to_vec(), vec![0, 1, 7, 7]].concat();
    let (dip, far) = (ip("10.0.0.2"), ip("192.0.2.80"));
    let out = transport(mac(1, 2), ROUTER, dip, far, Protocol::ICMP, 2, echo(8, 77));
    let left = host.sent(port(1, 2), &out, UNDERLAY);
    let h = penstock_wire::parse(&left).unwrap();
    assert!(h.src.to_ip() == ip(OUT) && (1024..1088).contains(&h.src_port), "{h:?}");
    let reply = transport(MUX_MAC, mac(1, 2), far, ip(OUT), Protocol::ICMP, 2, echo(0, h.src_port));
    let back = host.sent(UNDERLAY, &vxlan(MUX, vni(1), &reply), port(1, 2));
    let h = penstock_wire::parse(&back).unwrap();
    assert_eq!((h.dst.to_ip(), h.dst_port, h.icmp_type), (dip, 77, 0));
}

#[test]
fn nobody_reaches_the_fabric_or_leaves_against_a_rule_or_without_a_lease() {
    let mut host = Host::new(&usual());
    for node in [MUX, OTHER_HOST, HOST] {
        let frame = from(2, "10.0.0.2:40000", &format!("{node}:22"), SYN);
        assert_eq!(host.dropped(port(1, 2), &frame), DropReason::NoRoute);
    }
    let other = tcp(mac(1, 102), ROUTER, "10.0.1.102:40000", "192.0.2.80:80", SYN);
    assert_eq!(host.dropped(port(1, 102), &other), DropReason::NoRoute);
    let mut guarded = usual();
    guarded.acls = vec![penstock_policy::Acl {
        name: "guard".to_owned(),
        rules: vec![rule("no-web", 100, AclAction::Deny, AclDirection::Outbound, Some(80))],
    }];
    guarded.ports[0].acl = Some(penstock_policy::AclId(0));
    host.publish(&guarded);
    let web = from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN);
    assert_eq!(host.dropped(port(1, 2), &web), DropReason::AclDenied);
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_delivered() {
    let mut host = Host::new(&usual());
    let unasked = tcp(MUX_MAC, mac(1, 2), "192.0.2.80:80", "198.51.100.9:1030", ACK);
    assert_eq!(host.dropped(UNDERLAY, &vxlan(MUX, vni(1), &unasked)), DropReason::NoReverseMapping);
    let left = see(&host.sent(port(1, 2), &from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN), UNDERLAY));
    let other = Seen { dst: sock("192.0.2.81:80"), ..left };
    assert_eq!(host.dropped(UNDERLAY, &answer(2, &other)), DropReason::NoReverseMapping);
}

#[test]
fn the_explanation_names_the_leased_ports_and_leaves_no_trace() {
    let mut host = Host::new(&usual());
    let frame = from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN);
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    let told = explain(&host.policies.load_full(), &hasher, &frame, port(1, 2), |_, _| None);
    assert!(told.steps.iter().any(|s| s.layer == "snat" && s.text.contains("64 ports")), "{:?}", told.steps);
    assert_eq!(told.ending, Ending::Transmit(PortId(0)));
    let traced = host.engine.explain(&frame, port(1, 2), host.now);
    assert_eq!((traced.ending, host.engine.flows()), (Ending::Transmit(PortId(0)), 0));
    assert_eq!(host.sent(port(1, 2), &frame, UNDERLAY), told.frame);
}

#[test]
fn a_lease_that_is_not_the_containers_is_refused() {
    let refused = |l: SnatLease| build(&leased(vec![l]), &empty(), false, 1).unwrap_err().field;
    assert_eq!(refused(lease(9, "10.0.0.2", OUT, 1024, 8)), "snat[0].network_interface");
    assert_eq!(refused(lease(2, "10.0.0.3", OUT, 1024, 8)), "snat[0].dip");
    assert_eq!(refused(lease(2, "10.0.0.2", OUT6, 1024, 8)), "snat[0].vip");
    assert_eq!(refused(lease(2, "10.0.0.2", OUT, 65_530, 8)), "snat[0].count");
    assert_eq!(refused(lease(2, "10.0.0.2", OUT, 1024, 0)), "snat[0].count");
}

#[test]
fn a_port_that_two_containers_would_have_is_refused_and_one_of_two_protocols_is_not() {
    let of =
        |n: u8, first, count, protocol| SnatLease { protocol, ..lease(n, &format!("10.0.0.{n}"), OUT, first, count) };
    let built = |leases| build(&leased(leases), &empty(), false, 1).map_err(|e| e.field);
    let (tcp, udp) = (Some(Protocol::TCP), Some(Protocol::UDP));
    let twice = vec![of(2, 1024, 128, None), of(2, 1040, 8, None), of(3, 1151, 64, udp)];
    assert_eq!(built(twice).unwrap_err(), "snat[2].first");
    let other_vip = SnatLease { vip: ip("198.51.100.10"), ..of(3, 1024, 64, None) };
    assert!(built(vec![of(2, 1024, 64, None), of(3, 1088, 64, None), other_vip]).is_ok());
    assert!(built(vec![of(2, 1024, 64, tcp), of(3, 1024, 64, udp), of(3, 1024, 64, udp)]).is_ok());
}

/// The goal with what is the site's own: a provider network with its routers, a controller, a node with two families.
fn of_a_site() -> HostGoal {
    let network = |p: &str| AddressRange::from(p.parse::<ipnetwork::IpNetwork>().unwrap());
    let site = ["10.1.0.0/16", "fd00:1::/64", "10.31.0.2", "10.77.0.5", "2001:db8:77::5"].map(network).to_vec();
    HostGoal { site, nat_exemptions: vec![network("172.20.0.0/16")], ..usual() }
}

#[test]
fn outbound_nat_goes_to_nothing_that_is_the_sites_own_or_exempt() {
    let mut host = Host::new(&of_a_site());
    let mut udp_too = |src: &str, dst: &str| {
        let syn = host.dropped(port(1, 2), &from(2, src, dst, SYN));
        assert_eq!(host.dropped(port(1, 2), &udp(2, src, dst)), syn);
        syn
    };
    for (what, dst) in [
        ("a router's own address", "10.1.0.1:179"),
        ("the last address of the network", "10.1.255.255:80"),
        ("a controller", "10.31.0.2:8444"),
        ("a node's other address", "10.77.0.5:22"),
        ("an exemption", "172.20.3.4:80"),
    ] {
        assert_eq!(udp_too("10.0.0.2:40000", dst), DropReason::NoRoute, "{what}");
    }
    for dst in ["[fd00:1::1]:179", "[2001:db8:77::5]:22"] {
        assert_eq!(udp_too("[fd00::2]:40000", dst), DropReason::NoRoute, "{dst}");
    }
    // Next to them is the outside.
    for dst in ["10.2.0.0:80", "10.31.0.3:80", "172.21.0.0:80"] {
        host.sent(port(1, 2), &from(2, "10.0.0.2:40000", dst, SYN), UNDERLAY);
    }
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    for (dst, why) in [("10.31.0.2:8444", "the site's own"), ("172.20.3.4:80", "exempt from outbound NAT")] {
        let frame = from(2, "10.0.0.2:40000", dst, SYN);
        let told = explain(&host.policies.load_full(), &hasher, &frame, port(1, 2), |_, _| None);
        assert!(told.steps.iter().any(|s| s.layer == "snat" && s.text.contains(why)), "{:?}", told.steps);
    }
}

#[test]
fn a_flow_ends_when_its_destination_becomes_the_sites_own_and_others_are_not_asked_again() {
    let mut host = Host::new(&usual());
    let frame = from(2, "10.0.0.2:40000", "10.31.0.2:80", SYN);
    host.sent(port(1, 2), &frame, UNDERLAY);
    let other = tcp(mac(2, 2), ROUTER, "10.0.0.2:1", "10.0.0.12:2", ACK);
    host.sent(port(2, 2), &other, UNDERLAY);
    host.publish(&of_a_site());
    assert_eq!(host.dropped(port(1, 2), &frame), DropReason::NoRoute);
    let resolved = host.engine.resolved();
    host.sent(port(2, 2), &other, UNDERLAY);
    assert_eq!(host.engine.resolved(), resolved, "a tenant without leased ports has nothing to do with it");
}

#[test]
fn a_connection_that_is_under_way_and_forgotten_takes_no_port() {
    let mut host = Host::new(&usual());
    let frame = |flags| from(2, "10.0.0.2:40000", "192.0.2.80:80", flags);
    assert_eq!(host.dropped(port(1, 2), &frame(ACK)), DropReason::NoReverseMapping);
    assert_eq!(host.engine.resolver().snat().map(|u| u.claims).sum::<u64>(), 0);
    host.sent(port(1, 2), &frame(SYN), UNDERLAY);
    host.sent(port(1, 2), &frame(ACK), UNDERLAY);
}

#[test]
fn what_is_leased_is_counted_from_the_start_and_counts_go_on_over_changes() {
    let mut host = Host::new(&usual());
    let seen = |host: &Host| -> Vec<_> {
        let uses = host.engine.resolver().snat();
        uses.map(|u| (u.network_interface, u.dip.0, u.ports, u.claims)).collect()
    };
    let rows = |claims: u64, more: u32| {
        let row = |n: u8, dip: &str, ports, claims| (format!("t1-c{n}"), ip(dip), ports, claims);
        let mut rows =
            vec![row(2, "10.0.0.2", 64u32 + more, claims), row(2, "fd00::2", 8, 0), row(3, "10.0.0.3", 64, 0)];
        rows.sort();
        rows
    };
    let sorted = |mut rows: Vec<_>| {
        rows.sort();
        rows
    };
    assert_eq!(sorted(seen(&host)), rows(0, 0));
    host.sent(port(1, 2), &from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN), UNDERLAY);
    let mut more = usual();
    more.snat.insert(0, lease(2, "10.0.0.2", OUT, 4096, 64));
    host.publish(&more);
    host.sent(port(1, 3), &tcp(mac(1, 3), ROUTER, "10.0.0.3:1", "10.0.0.12:2", ACK), UNDERLAY);
    assert_eq!(sorted(seen(&host)), rows(1, 64));
}

#[test]
fn an_address_without_a_free_port_looks_far_only_now_and_then() {
    let mut host = Host::new(&leased(vec![lease(2, "10.0.0.2", OUT, 1024, 1024)]));
    let frame = from(2, "10.0.0.2:40000", "192.0.2.80:80", SYN);
    // How many ports a claim looks at when all are taken.
    let mut walk = |now: Nanos| {
        let mut buffer = vec![0; penstock_model::HEADROOM + frame.len()];
        buffer[penstock_model::HEADROOM..].copy_from_slice(&frame);
        let packet =
            penstock_model::Packet::new(&mut buffer, penstock_model::HEADROOM, frame.len(), port(1, 2)).unwrap();
        let mut h = penstock_wire::parse(&frame).unwrap();
        let resolver = host.engine.resolver_mut();
        resolver.refresh(now);
        let Class::Flow { key, hash, .. } = resolver.classify(&packet, &mut h) else { panic!("no flow") };
        let decided = resolver.resolve(&key, hash, &packet, &h, None, now);
        assert!(matches!(decided, Resolution::Claim { .. }));
        std::iter::from_fn(|| resolver.claim(&key)).count()
    };
    let at = |ms: u64| Nanos(1_000_000_000 + ms * 1_000_000);
    assert_eq!([0, 1, 9, 10, 11, 20].map(|ms| walk(at(ms))), [128, 4, 4, 128, 4, 128]);
    let flood: usize = (0..10_000).map(|n| walk(Nanos(2_000_000_000 + n * 100_000))).sum();
    assert!(flood <= 10_000 * 4 + 100 * 128, "10,000 claims in a second looked at {flood} ports");
}
