//! Connections whose addresses are translated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::*;
use penstock_wire::build::{FrameBuilder, has_right_checksums};
use std::net::SocketAddr;
use std::sync::Arc;

const ACK: u8 = 0x10;
const SYN: u8 = 2;

fn nat(kind: NatKind) -> TranslationRule {
    TranslationRule { name: "rule".into(), kind }
}

fn fixed(inside: &str, outside: &str) -> TranslationRule {
    nat(NatKind::Static { inside: inside.parse().unwrap(), outside: outside.parse().unwrap() })
}

fn pool(inside: &str, outside: &str, first: u16, last: u16, is_open: bool) -> TranslationRule {
    nat(NatKind::Pool {
        inside: vec![inside.parse().unwrap()],
        outside: vec![outside.parse().unwrap()],
        ports: PortRange { first, last },
        is_open,
    })
}

fn forward(protocol: Protocol, outside: &str, outside_port: u16, inside: &str, inside_port: u16) -> TranslationRule {
    nat(NatKind::Forward { protocol, outside: ip(outside), outside_port, inside: ip(inside), inside_port })
}

/// Two sites of tenant 1, both 10.200.0.0/16 at home; the tenant knows them as 10.201.0.0/16 and 10.202.0.0/16.
fn two_sites(rules: [TunnelNat; 2]) -> GatewayGoal {
    let mut goal = goal();
    goal.tunnels.truncate(1);
    goal.networks.truncate(1);
    goal.acls[0].rules.push(AclRule {
        protocol: Some(Protocol::ICMP),
        dst_ports: PortRange::ANY,
        ..rule(AclAction::Allow, AclDirection::Inbound, 0)
    });
    goal.acls[0]
        .rules
        .push(AclRule { protocol: Some(Protocol::UDP), ..rule(AclAction::Allow, AclDirection::Inbound, 53) });
    let mut second = goal.tunnels[0].clone();
    second.id = TunnelId(3);
    second.name = "gw/second".into();
    if let TunnelKind::WireGuard { peer_public_key, .. } = &mut second.kind {
        *peer_public_key = [9; 32];
    }
    goal.tunnels.push(second);
    goal.networks[0].routes.clear();
    for (tunnel, (rules, prefix)) in
        goal.tunnels.iter_mut().zip(rules.into_iter().zip(["10.201.0.0/16", "10.202.0.0/16"]))
    {
        tunnel.nat = rules;
        tunnel.prefixes = vec![prefix.parse().unwrap()];
        goal.networks[0].routes.push(Route { prefix: tunnel.prefixes[0], next_hop: NextHop::Tunnel(tunnel.id) });
    }
    goal
}

fn of_site(rules: Vec<TranslationRule>) -> TunnelNat {
    TunnelNat { site: rules, tenant: vec![] }
}

fn static_sites() -> GatewayGoal {
    two_sites([
        of_site(vec![fixed("10.200.0.0/16", "10.201.0.0/16")]),
        of_site(vec![fixed("10.200.0.0/16", "10.202.0.0/16")]),
    ])
}

/// What of a packet its receiver sees: source and destination, with ports.
#[derive(Debug, PartialEq, Eq)]
struct Seen(SocketAddr, SocketAddr);

fn seen(packet: &[u8]) -> Seen {
    let frame = ethernet(packet);
    let h = penstock_wire::parse(&frame).unwrap();
    assert!(has_right_checksums(&frame, &h), "{h:?}");
    Seen(SocketAddr::new(h.src.to_ip(), h.src_port), SocketAddr::new(h.dst.to_ip(), h.dst_port))
}

fn ends(src: &str, dst: &str) -> Seen {
    Seen(src.parse().unwrap(), dst.parse().unwrap())
}

/// A site's packet, as the container gets it.
fn in_overlay((verdict, frame): (Verdict, Vec<u8>)) -> Vec<u8> {
    assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
    open(&frame).3
}

fn in_tunnel(tunnel: u32, (verdict, frame): (Verdict, Vec<u8>)) -> Vec<u8> {
    assert_eq!(verdict, Verdict::Tunnel(TunnelId(tunnel)));
    frame
}

fn udp(src: &str, sport: u16, dst: &str, dport: u16) -> Vec<u8> {
    let frame = FrameBuilder::udp(&format!("{src}:{sport}"), &format!("{dst}:{dport}")).payload(b"question").build();
    frame[14..].to_vec()
}

fn echo(src: &str, dst: &str, id: u16) -> Vec<u8> {
    FrameBuilder::echo(src, dst, id).payload(b"hello").build()[14..].to_vec()
}

/// ICMP "port unreachable" from `src` to `dst` about `packet`.
fn unreachable(src: &str, dst: &str, packet: &[u8]) -> Vec<u8> {
    let mut m = vec![3, 3, 0, 0, 0, 0, 0, 0];
    m.extend(packet);
    let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&m, 0)).to_be_bytes();
    m[2..4].copy_from_slice(&sum);
    v4(src, dst, Protocol::ICMP, &m)
}

/// The packet that an error quotes, with right checksums as far as it is whole.
fn quoted(error: &[u8]) -> Vec<u8> {
    let frame = ethernet(error);
    let h = penstock_wire::parse(&frame).unwrap();
    assert!(has_right_checksums(&frame, &h));
    error[28..].to_vec()
}

#[test]
fn two_sites_with_the_same_addresses_are_told_apart_by_static_rules_both_ways() {
    let mut gw = Gateway::new(&static_sites());
    for (tunnel, known_as) in [(1, "10.201.0.7"), (3, "10.202.0.7")] {
        let to = in_overlay(gw.site_sends(tunnel, &tcp(SITE, 4000, CONTAINER, 80, SYN)));
        assert_eq!(seen(&to), ends(&format!("{known_as}:4000"), "10.1.0.4:80"));
        let back = in_tunnel(tunnel, gw.host_sends(1, &tcp(CONTAINER, 80, known_as, 4000, ACK | SYN)));
        assert_eq!(seen(&back), ends("10.1.0.4:80", "10.200.0.7:4000"));
    }
    let resolved = gw.port.resolved();
    for _ in 0..3 {
        in_overlay(gw.site_sends(3, &tcp(SITE, 4000, CONTAINER, 80, ACK)));
        in_tunnel(3, gw.host_sends(1, &tcp(CONTAINER, 80, "10.202.0.7", 4000, ACK)));
    }
    assert_eq!(gw.port.resolved(), resolved, "an established flow is replayed with its addresses");
    let first = in_tunnel(3, gw.host_sends(1, &tcp(CONTAINER, 999, "10.202.0.9", 22, SYN)));
    assert_eq!(seen(&first), ends("10.1.0.4:999", "10.200.0.9:22"), "and opened from this side");
    let (verdict, _) = gw.site_sends(1, &tcp("10.9.0.1", 1, CONTAINER, 80, SYN));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotInAllowedPrefixes), "what no rule is about is not of the site");
}

#[test]
fn a_site_with_the_addresses_of_the_tenant_itself_is_reached_by_others_on_both_sides() {
    let rules = TunnelNat {
        site: vec![fixed("10.1.0.0/16", "10.201.0.0/16")],
        tenant: vec![fixed("10.1.0.0/16", "172.16.0.0/16")],
    };
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let to = in_overlay(gw.site_sends(1, &tcp(CONTAINER, 4000, "172.16.0.4", 80, SYN)));
    assert_eq!(seen(&to), ends("10.201.0.4:4000", "10.1.0.4:80"));
    let back = in_tunnel(1, gw.host_sends(1, &tcp(CONTAINER, 80, "10.201.0.4", 4000, ACK)));
    assert_eq!(seen(&back), ends("172.16.0.4:80", "10.1.0.4:4000"));
    let (verdict, _) = gw.site_sends(1, &tcp("10.1.0.9", 4000, CONTAINER, 80, SYN));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoReverseMapping), "by its own address nobody is reached");
}

#[test]
fn sites_reach_each_other_through_both_their_translations_and_a_host_its_neighbour() {
    let mut gw = Gateway::new(&static_sites());
    let to = in_tunnel(3, gw.site_sends(1, &tcp(SITE, 4000, "10.202.0.7", 80, SYN)));
    assert_eq!(seen(&to), ends("10.201.0.7:4000", "10.200.0.7:80"));
    let back = in_tunnel(1, gw.site_sends(3, &tcp(SITE, 80, "10.201.0.7", 4000, ACK)));
    assert_eq!(seen(&back), ends("10.202.0.7:80", "10.200.0.7:4000"));
    // RFC 4787 REQ-9: by the address that others know.
    let hairpin = in_tunnel(1, gw.site_sends(1, &tcp(SITE, 5000, "10.201.0.8", 80, SYN)));
    assert_eq!(seen(&hairpin), ends("10.201.0.7:5000", "10.200.0.8:80"));
    let back = in_tunnel(1, gw.site_sends(1, &tcp("10.200.0.8", 80, "10.201.0.7", 5000, ACK)));
    assert_eq!(seen(&back), ends("10.201.0.8:80", "10.200.0.7:5000"));
}

#[test]
fn behind_a_pool_a_host_has_one_port_towards_everybody_and_answers_alone_come_in() {
    let mut goal =
        two_sites([of_site(vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2999, false)]), TunnelNat::default()]);
    let other = Endpoint { addr: Overlay(ip("10.1.0.5")), ..goal.networks[0].endpoints[0].clone() };
    goal.networks[0].endpoints.push(other);
    let mut gw = Gateway::new(&goal);
    let first = seen(&in_overlay(gw.site_sends(1, &udp(SITE, 4000, CONTAINER, 53)))).0;
    assert_eq!(first.ip(), ip("10.201.0.1"));
    assert!((2000..3000).contains(&first.port()));
    let second = seen(&in_overlay(gw.site_sends(1, &udp(SITE, 4000, "10.1.0.5", 53)))).0;
    assert_eq!(first, second, "RFC 4787 REQ-1");
    let neighbour = seen(&in_overlay(gw.site_sends(1, &udp("10.200.0.8", 4000, CONTAINER, 53)))).0;
    assert_ne!(first, neighbour);
    assert_eq!(gw.port.resolver().mappings(), 2);
    let back = in_tunnel(1, gw.host_sends(1, &udp(CONTAINER, 53, "10.201.0.1", first.port())));
    assert_eq!(seen(&back), ends("10.1.0.4:53", "10.200.0.7:4000"));
    let (verdict, _) = gw.host_sends(1, &udp(CONTAINER, 54, "10.201.0.1", first.port()));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoReverseMapping), "nobody asked this port");
    let (verdict, _) = gw.host_sends(1, &udp(CONTAINER, 54, "10.201.0.1", 1500));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoReverseMapping));
    let ping = in_overlay(gw.site_sends(1, &echo(SITE, CONTAINER, 77)));
    let id = seen(&ping).0.port();
    assert!((2000..3000).contains(&id), "RFC 5508 REQ-1");
    let back = in_tunnel(1, gw.host_sends(1, &echo(CONTAINER, "10.201.0.1", id)));
    assert_eq!(seen(&back).1, "10.200.0.7:77".parse().unwrap());
}

#[test]
fn an_open_pool_lets_anybody_in_to_who_has_a_port() {
    let rules = of_site(vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2999, true)]);
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let given = seen(&in_overlay(gw.site_sends(1, &udp(SITE, 4000, CONTAINER, 53)))).0;
    let unasked = in_tunnel(1, gw.host_sends(1, &udp(CONTAINER, 999, "10.201.0.1", given.port())));
    assert_eq!(seen(&unasked), ends("10.1.0.4:999", "10.200.0.7:4000"));
    let back = in_overlay(gw.site_sends(1, &udp(SITE, 4000, CONTAINER, 999)));
    assert_eq!(seen(&back), Seen(given, "10.1.0.4:999".parse().unwrap()), "its answer");
}

#[test]
fn a_pool_is_used_up_by_name_and_its_ports_come_back_when_their_flows_are_over() {
    let rules = of_site(vec![pool("10.200.0.0/16", "10.201.0.0/31", 2000, 2004, false)]);
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let mut given = std::collections::BTreeSet::new();
    for port in 0..10 {
        given.insert(seen(&in_overlay(gw.site_sends(1, &udp(SITE, 4000 + port, CONTAINER, 53)))).0);
    }
    assert_eq!(given.len(), 10, "every port of both addresses is somebody's");
    let (verdict, _) = gw.site_sends(1, &udp(SITE, 5000, CONTAINER, 53));
    assert_eq!(verdict, Verdict::Drop(DropReason::NatExhausted));
    let keep_one = udp(SITE, 4000, CONTAINER, 53);
    let one = seen(&in_overlay(gw.site_sends(1, &keep_one))).0;
    for _ in 0..40 {
        gw.now = gw.now.plus(std::time::Duration::from_secs(20));
        (0..100).for_each(|_| gw.port.maintain(gw.now));
        assert_eq!(seen(&in_overlay(gw.site_sends(1, &keep_one))).0, one, "who goes on keeps its port");
    }
    assert_eq!(gw.port.resolver().mappings(), 1);
    in_overlay(gw.site_sends(1, &udp(SITE, 5000, CONTAINER, 53)));
}

#[test]
fn a_tenant_has_its_share_of_mappings_and_no_more() {
    let goal =
        two_sites([of_site(vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2999, false)]), TunnelNat::default()]);
    let published = Arc::new(arc_swap::ArcSwap::from_pointee(build(&goal, None).unwrap()));
    let hasher = penstock_flow::FlowHasher::new([3; 16]);
    let resolver = GatewayResolver::new(Arc::clone(&published), hasher, ()).with_mappings(64, 3);
    let mut gw = Gateway::new(&goal);
    gw.port = penstock_engine::Port::new(resolver, flow_table(1024, 1024));
    for port in 0..3 {
        in_overlay(gw.site_sends(1, &udp(SITE, 4000 + port, CONTAINER, 53)));
    }
    assert_eq!(gw.site_sends(1, &udp(SITE, 4003, CONTAINER, 53)).0, Verdict::Drop(DropReason::NatExhausted));
    in_overlay(gw.site_sends(1, &udp(SITE, 4001, CONTAINER, 53)));
}

#[test]
fn a_port_is_forwarded_into_a_site_and_the_answers_come_from_it() {
    let rules = of_site(vec![
        pool("10.200.0.0/16", "10.201.0.1/32", 8080, 8083, false),
        forward(Protocol::TCP, "10.201.0.1", 8080, SITE, 80),
    ]);
    let goal = two_sites([rules, TunnelNat::default()]);
    let mut gw = Gateway::new(&goal);
    let to = in_tunnel(1, gw.host_sends(1, &tcp(CONTAINER, 4000, "10.201.0.1", 8080, SYN)));
    assert_eq!(seen(&to), ends("10.1.0.4:4000", "10.200.0.7:80"));
    let answer = tcp(SITE, 80, CONTAINER, 4000, ACK | SYN);
    let answered = ends("10.201.0.1:8080", "10.1.0.4:4000");
    assert_eq!(seen(&in_overlay(gw.site_sends(1, &answer))), answered);
    assert_eq!(gw.port.resolver().mappings(), 0);
    // Decided anew, the answer first.
    let mut changed = goal.clone();
    changed.networks[0].routes.push(Route { prefix: "10.77.0.0/16".parse().unwrap(), next_hop: NextHop::Discard });
    gw.publish(&changed);
    let resolved = gw.port.resolved();
    assert_eq!(seen(&in_overlay(gw.site_sends(1, &tcp(SITE, 80, CONTAINER, 4000, ACK)))), answered);
    assert_eq!(gw.port.resolved(), resolved + 1);
    assert_eq!(
        gw.host_sends(1, &tcp(CONTAINER, 4000, "10.201.0.1", 80, SYN)).0,
        Verdict::Drop(DropReason::NoReverseMapping)
    );
    // Taken away, the flow ends with its next packet.
    changed.tunnels[0].nat.site.truncate(1);
    gw.publish(&changed);
    let (verdict, _) = gw.host_sends(1, &tcp(CONTAINER, 4000, "10.201.0.1", 8080, ACK));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoReverseMapping));
}

#[test]
fn a_container_is_hidden_from_the_site_and_one_of_its_ports_is_not() {
    let rules = TunnelNat {
        site: vec![],
        tenant: vec![
            pool("10.1.0.0/16", "172.16.0.1/32", 1024, 65535, false),
            forward(Protocol::TCP, "172.16.0.1", 80, CONTAINER, 80),
        ],
    };
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let out = in_tunnel(1, gw.host_sends(1, &udp(CONTAINER, 4000, "10.201.0.7", 53)));
    let Seen(given, to) = seen(&out);
    assert_eq!((given.ip(), to), (ip("172.16.0.1"), "10.201.0.7:53".parse().unwrap()));
    let back = in_overlay(gw.site_sends(1, &udp("10.201.0.7", 53, "172.16.0.1", given.port())));
    assert_eq!(seen(&back), ends("10.201.0.7:53", "10.1.0.4:4000"));
    let web = in_overlay(gw.site_sends(1, &tcp("10.201.0.7", 4000, "172.16.0.1", 80, SYN)));
    assert_eq!(seen(&web), ends("10.201.0.7:4000", "10.1.0.4:80"));
    let answer = in_tunnel(1, gw.host_sends(1, &tcp(CONTAINER, 80, "10.201.0.7", 4000, ACK | SYN)));
    assert_eq!(seen(&answer), ends("172.16.0.1:80", "10.201.0.7:4000"));
}

#[test]
fn errors_are_about_packets_as_their_senders_know_them() {
    let rules = TunnelNat {
        site: vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2999, false)],
        tenant: vec![fixed("10.1.0.0/16", "172.16.0.0/16")],
    };
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    // From the container, about what came from the site.
    let question = udp(SITE, 4000, "172.16.0.4", 53);
    let came = in_overlay(gw.site_sends(1, &question));
    let given = seen(&came).0.port();
    let error = in_tunnel(1, gw.host_sends(1, &unreachable(CONTAINER, "10.201.0.1", &came)));
    assert_eq!((seen(&error).0.ip(), seen(&error).1.ip()), (ip("172.16.0.4"), ip(SITE)));
    assert_eq!(seen(&quoted(&error)), ends("10.200.0.7:4000", "172.16.0.4:53"));
    // From the site, about the answer: by the host itself, and by a router there.
    let answer = in_tunnel(1, gw.host_sends(1, &udp(CONTAINER, 53, "10.201.0.1", given)));
    for from in [SITE, "10.200.0.254"] {
        let error = in_overlay(gw.site_sends(1, &unreachable(from, "172.16.0.4", &answer)));
        assert_eq!((seen(&error).0.ip(), seen(&error).1.ip()), (ip("10.201.0.1"), ip(CONTAINER)), "{from}");
        assert_eq!(
            seen(&quoted(&error)),
            Seen("10.1.0.4:53".parse().unwrap(), SocketAddr::new(ip("10.201.0.1"), given))
        );
    }
    // About nothing that was sent, from who is nobody, about somebody else's packet.
    let foreign = udp("172.16.0.4", 53, SITE, 4001);
    let (verdict, _) = gw.site_sends(1, &unreachable(SITE, "172.16.0.4", &foreign));
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentUnsupported));
    let (verdict, _) = gw.host_sends(1, &unreachable("10.1.0.77", "10.201.0.1", &came));
    assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedSource));
    let (verdict, _) = gw.site_sends(1, &unreachable("10.66.0.1", "172.16.0.4", &answer));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotInAllowedPrefixes));
    let (verdict, _) = gw.site_sends(1, &unreachable(SITE, "172.16.0.5", &answer));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoReverseMapping));
}

#[test]
fn pieces_of_a_packet_have_the_addresses_of_the_first() {
    let rules = of_site(vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2999, false)]);
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let whole = FrameBuilder::udp("10.200.0.7:4000", "10.1.0.4:53").payload(&[7; 600]).build()[14..].to_vec();
    let mut may = whole.clone();
    may[6] = 0;
    may[10..12].fill(0);
    let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&may[..20], 0)).to_be_bytes();
    may[10..12].copy_from_slice(&sum);
    let pieces: Vec<Vec<u8>> =
        penstock_wire::fragment::fragments(&may, 300).unwrap().map(|(h, p)| [&h[..], p].concat()).collect();
    assert_eq!(pieces.len(), 3);
    for piece in &pieces {
        let out = in_overlay(gw.site_sends(1, piece));
        assert_eq!(out[12..16], [10, 201, 0, 1]);
    }
    assert_eq!(gw.port.resolver().mappings(), 1);
    let later = in_overlay(gw.site_sends(1, &pieces[2]));
    assert_eq!(later[12..16], [10, 201, 0, 1]);
    let orphan = {
        let mut p = pieces[1].clone();
        p[4] ^= 0x55;
        p[10..12].fill(0);
        let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&p[..20], 0)).to_be_bytes();
        p[10..12].copy_from_slice(&sum);
        p
    };
    assert_eq!(gw.site_sends(1, &orphan).0, Verdict::Drop(DropReason::FragmentUnsupported));
}

#[test]
fn a_trace_says_what_was_translated_and_takes_nothing() {
    let rules = of_site(vec![pool("10.200.0.0/16", "10.201.0.1/32", 2000, 2000, false)]);
    let mut gw = Gateway::new(&two_sites([rules, TunnelNat::default()]));
    let frame = ethernet(&udp(SITE, 4000, CONTAINER, 53));
    let port = Policy::port_of(TunnelId(1));
    let explained = explain(&gw.published.load_full(), &frame, port);
    let said: Vec<_> = explained.steps.iter().filter(|s| s.layer == "nat").map(|s| s.text.clone()).collect();
    assert!(said.len() == 1 && said[0].contains("10.201.0.1:2000"), "{said:?}");
    let by_engine = gw.port.explain(&frame, port, gw.now);
    assert!(by_engine.steps.iter().any(|s| s.layer == "nat"));
    assert_eq!(gw.port.resolver().mappings(), 0);
    let refused = explain(&gw.published.load_full(), &ethernet(&v4(SITE, CONTAINER, Protocol::ESP, &[1; 30])), port);
    assert!(refused.steps.iter().any(|s| s.layer == "nat" && s.text.contains("by the rules of gw/site1")));
}

#[test]
fn a_rule_that_cannot_be_kept_refuses_the_goal_by_its_field() {
    let refused = |nat: TunnelNat| {
        let e = build(&two_sites([nat, TunnelNat::default()]), None).unwrap_err();
        e.to_string()
    };
    assert!(refused(of_site(vec![fixed("10.0.0.0/8", "10.1.0.0/16")])).contains("tunnels[0].nat.site[0].outside"));
    let tenant = vec![forward(Protocol::ESP, "10.9.0.1", 1, CONTAINER, 1)];
    assert!(refused(TunnelNat { site: vec![], tenant }).contains("tunnels[0].nat.tenant[0].protocol"));
}
