//! What a host does, packet by packet, through the engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_engine::Ending;
use penstock_model::*;
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{ROUTER_MAC, explain};

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);

fn from_mux(client: &str, vip: &str, flags: u8) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, 2), client, vip, flags))
}

fn from_container(tenant: u32, n: u8, src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(tenant, n), ROUTER_MAC, src, dst, flags)
}

#[test]
fn a_vip_connection_goes_to_the_container_and_its_answer_straight_to_the_client() {
    for (client, vip, dip) in [(CLIENT, VIP, "10.0.0.2:8080"), (CLIENT6, VIP6, "[fd00::2]:8080")] {
        let mut host = Host::new(&goal());
        for flags in [SYN, ACK, ACK] {
            let inside = see(&host.sent(UNDERLAY, &from_mux(client, vip, flags), port(1, 2)));
            assert_eq!(
                inside,
                Seen { src: sock(client), dst: sock(dip), ttl: 64, eth_dst: mac(1, 2), eth_src: ROUTER_MAC }
            );
            let back = see(&host.sent(port(1, 2), &from_container(1, 2, dip, client, SYN | ACK), UNDERLAY));
            assert_eq!(
                back,
                Seen { src: sock(vip), dst: sock(client), ttl: 63, eth_dst: NEXT_HOP_MAC, eth_src: HOST_MAC }
            );
        }
        assert_eq!(host.engine.resolved(), 1, "decided once, replayed after");
    }
}

#[test]
fn a_host_that_has_forgotten_the_flow_still_answers_as_the_vip() {
    let mut host = Host::new(&goal());
    let back = see(&host.sent(port(1, 2), &from_container(1, 2, "10.0.0.2:8080", CLIENT, ACK), UNDERLAY));
    assert_eq!(back.src, sock(VIP));
    // But a connection that the container opens is nobody's answer.
    assert_eq!(
        host.dropped(port(1, 2), &from_container(1, 2, "10.0.0.2:8080", "203.0.113.8:5", SYN)),
        DropReason::NoRoute
    );
}

#[test]
fn an_established_flow_outlives_its_rule_and_a_new_one_does_not_begin() {
    let mut host = Host::new(&goal());
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    let mut goal = goal();
    goal.nat_rules.clear();
    goal.networks[0].epoch = Epoch(2);
    host.publish(&goal);
    let inside = see(&host.sent(UNDERLAY, &from_mux(CLIENT, VIP, ACK), port(1, 2)));
    assert_eq!(inside.dst, sock("10.0.0.2:8080"));
    let back = see(&host.sent(port(1, 2), &from_container(1, 2, "10.0.0.2:8080", CLIENT, ACK), UNDERLAY));
    assert_eq!(back.src, sock(VIP));
    assert_eq!(host.dropped(UNDERLAY, &from_mux("203.0.113.9:1", VIP, SYN)), DropReason::UnknownPort);
}

#[test]
fn containers_of_one_network_reach_each_other_on_this_host_and_the_next() {
    let mut host = Host::new(&goal());
    for (t, a, b, router) in [(1, "10.0.0.2:1", "10.0.0.3:2", false), (2, "[fd00::2]:1", "[fd00::3]:2", false)] {
        let there = see(&host.sent(port(t, 2), &from_container(t, 2, a, b, SYN), port(t, 3)));
        assert_eq!((there.eth_dst, there.eth_src, there.ttl), (mac(t, 3), ROUTER_MAC, 64 - u8::from(router)));
        let back = see(&host.sent(port(t, 3), &from_container(t, 3, b, a, SYN | ACK), port(t, 2)));
        assert_eq!((back.src, back.dst, back.eth_dst), (sock(b), sock(a), mac(t, 2)));
    }
    // Between subnets it is routed.
    let routed = see(&host.sent(port(1, 2), &from_container(1, 2, "10.0.0.2:1", "10.0.1.102:2", SYN), port(1, 102)));
    assert_eq!(routed.ttl, 63);
    // To the other host it is encapsulated with the tenant's VNI.
    for t in [1, 2] {
        let out = host.sent(port(t, 2), &from_container(t, 2, "10.0.0.2:1", "10.0.0.12:2", SYN), UNDERLAY);
        let (src, dst, id, inner) = unwrap_vxlan(&out);
        assert_eq!((src, dst, id), (ip(HOST), ip(OTHER_HOST), vni(t)));
        assert_eq!(see(&inner).eth_dst, mac(t, 12));
        let answer = tcp(ROUTER_MAC, mac(t, 2), "10.0.0.12:2", "10.0.0.2:1", SYN | ACK);
        assert_eq!(see(&host.sent(UNDERLAY, &vxlan(OTHER_HOST, vni(t), &answer), port(t, 2))).eth_dst, mac(t, 2));
    }
}

#[test]
fn no_tenant_receives_another_tenants_packet_whatever_pair_and_direction() {
    let mut host = Host::new(&goal());
    for (t, n) in PORTS {
        let own = format!("10.0.{}.{n}:5", n / 100);
        for (peer_tenant, peer) in PORTS.iter().filter(|p| p.0 != t || p.1 != n) {
            let dst = format!("10.0.{}.{peer}:6", peer / 100);
            let (verdict, _) = host.put(port(t, n), &from_container(t, n, &own, &dst, SYN));
            let expected = if dst.split(':').next() == own.split(':').next() {
                // The other tenant's container with my own address: to me it is myself.
                assert_ne!(*peer_tenant, t);
                Verdict::Drop(DropReason::MartianDestination)
            } else {
                Verdict::Transmit(port(t, *peer))
            };
            assert_eq!(verdict, expected, "{t}/{n} to {peer_tenant}/{peer}");
            // From the underlay the VNI alone says whose it is: the MAC of the other tenant's container does not exist there.
            let inner = tcp(ROUTER_MAC, mac(*peer_tenant, *peer), "10.0.0.12:1", &dst, SYN);
            let (verdict, _) = host.put(UNDERLAY, &vxlan(OTHER_HOST, vni(t), &inner));
            let expected = if *peer_tenant == t {
                Verdict::Transmit(port(t, *peer))
            } else {
                Verdict::Drop(DropReason::UnknownPort)
            };
            assert_eq!(verdict, expected);
        }
    }
}

#[test]
fn a_route_leads_to_the_gateway_and_its_answers_come_back() {
    let mut host = Host::new(&goal());
    let (_, dst, id, inner) =
        unwrap_vxlan(&host.sent(port(2, 2), &from_container(2, 2, "10.0.0.2:1", "172.16.0.9:2", SYN), UNDERLAY));
    assert_eq!((dst, id, see(&inner).eth_dst, see(&inner).ttl), (ip(GATEWAY), vni(2), GATEWAY_MAC, 63));
    // A site opens a connection; the answer goes back by the gateway.
    let opened = tcp(GATEWAY_MAC, mac(2, 2), "172.16.0.9:7", "10.0.0.2:8080", SYN);
    host.sent(UNDERLAY, &vxlan(GATEWAY, vni(2), &opened), port(2, 2));
    let back = host.sent(port(2, 2), &from_container(2, 2, "10.0.0.2:8080", "172.16.0.9:7", SYN | ACK), UNDERLAY);
    assert_eq!(unwrap_vxlan(&back).1, ip(GATEWAY));
    assert_eq!(
        host.dropped(port(2, 2), &from_container(2, 2, "10.0.0.2:1", "172.16.66.1:2", SYN)),
        DropReason::RouteDiscard
    );
    assert_eq!(host.dropped(port(2, 2), &from_container(2, 2, "10.0.0.2:1", "192.0.2.1:2", SYN)), DropReason::NoRoute);
}

#[test]
fn what_is_not_right_is_dropped_by_its_name() {
    let mut host = Host::new(&goal());
    let inner = tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, SYN);
    let cases = [
        (UNDERLAY, vxlan("10.9.0.66", vni(1), &inner), DropReason::UntrustedUnderlaySource),
        (UNDERLAY, vxlan(MUX, vni(3), &inner), DropReason::UnknownVni),
        (UNDERLAY, vxlan(MUX, vni(2), &inner), DropReason::UnknownPort),
        (UNDERLAY, from_mux(CLIENT, "198.51.100.1:81", SYN), DropReason::NoServiceOnPort),
        (UNDERLAY, from_mux(CLIENT, "198.51.100.9:80", SYN), DropReason::UnknownPort),
        (port(1, 2), from_container(1, 2, "10.0.0.3:1", "10.0.0.12:2", SYN), DropReason::SpoofedSource),
        (port(1, 2), from_container(1, 3, "10.0.0.2:1", "10.0.0.12:2", SYN), DropReason::SpoofedSource),
        (port(1, 2), from_container(1, 2, "10.0.0.2:1", "224.0.0.251:2", SYN), DropReason::Unsupported),
        (PortId(99), from_container(1, 2, "10.0.0.2:1", "10.0.0.12:2", SYN), DropReason::UnknownPort),
    ];
    for (i, (port, frame, reason)) in cases.into_iter().enumerate() {
        assert_eq!(host.dropped(port, &frame), reason, "case {i}");
    }
    assert_eq!(host.engine.flows(), 0);
    assert_eq!(host.put(UNDERLAY, &tcp(NEXT_HOP_MAC, HOST_MAC, CLIENT, "10.9.0.1:22", SYN)).0, Verdict::Pass);
}

#[test]
fn a_later_fragment_passes_between_endpoints_and_not_to_a_vip() {
    fn later(mut frame: Vec<u8>) -> Vec<u8> {
        frame[20..22].copy_from_slice(&[0, 100]);
        frame[24..26].copy_from_slice(&[0, 0]);
        let c = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&c.to_be_bytes());
        frame
    }
    let mut host = Host::new(&goal());
    let east_west = later(from_container(1, 2, "10.0.0.2:1", "10.0.0.3:2", ACK));
    host.sent(port(1, 2), &east_west, port(1, 3));
    let to_vip = vxlan(MUX, vni(1), &later(tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, ACK)));
    assert_eq!(host.dropped(UNDERLAY, &to_vip), DropReason::FragmentUnsupported);
    let answer = later(from_container(1, 2, "10.0.0.2:8080", CLIENT, ACK));
    assert_eq!(host.dropped(port(1, 2), &answer), DropReason::FragmentUnsupported);
}

#[test]
fn an_unresolved_next_hop_is_asked_for_and_the_flow_recovers() {
    let goal = goal();
    let mut host = Host::blind(&goal, true);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    let answer = from_container(1, 2, "10.0.0.2:8080", CLIENT, SYN | ACK);
    assert_eq!(host.dropped(port(1, 2), &answer), DropReason::NextHopUnresolved);
    assert_eq!(host.engine.resolver_mut().poll_unresolved(), Some(sock(CLIENT).ip()));
    let remote = from_container(1, 2, "10.0.0.2:1", "10.0.0.12:2", SYN);
    assert_eq!(host.dropped(port(1, 2), &remote), DropReason::NextHopUnresolved);
    assert_eq!(host.engine.resolver_mut().poll_unresolved(), Some(ip(OTHER_HOST)));
    host.neighbours_change(&goal);
    assert_eq!(see(&host.sent(port(1, 2), &answer, UNDERLAY)).src, sock(VIP));
    host.sent(port(1, 2), &remote, UNDERLAY);
}

fn with_acl(rules: Vec<penstock_policy::AclRule>, epoch: u32) -> penstock_slb_host::HostGoal {
    let mut goal = goal();
    goal.acls = vec![Acl { name: "web".to_owned(), rules }];
    goal.ports[0].acl = Some(AclId(0));
    goal.networks[0].epoch = Epoch(epoch);
    goal
}

#[test]
fn an_acl_sees_the_client_and_the_dip_and_a_change_takes_effect_in_mid_flow() {
    use AclAction::{Allow, Deny};
    use AclDirection::Inbound;
    let allow = with_acl(vec![rule("http", 100, Allow, Inbound, Some(8080))], 2);
    let deny = with_acl(vec![rule("no-http", 100, Deny, Inbound, Some(8080))], 3);
    let mut host = Host::new(&allow);
    let (request, answer) = (from_mux(CLIENT, VIP, ACK), from_container(1, 2, "10.0.0.2:8080", CLIENT, ACK));
    // Another tenant's flow, which nothing of this touches.
    let bystander = from_container(2, 2, "10.0.0.2:1", "10.0.0.3:2", ACK);
    host.sent(port(2, 2), &bystander, port(2, 3));
    host.sent(UNDERLAY, &request, port(1, 2));
    host.sent(port(1, 2), &answer, UNDERLAY);
    let resolved = host.engine.resolved();
    host.publish(&deny);
    // The answer's direction finds out by itself.
    assert_eq!(host.dropped(port(1, 2), &answer), DropReason::AclDenied);
    assert_eq!(host.dropped(UNDERLAY, &request), DropReason::AclDenied);
    assert_eq!(host.dropped(UNDERLAY, &request), DropReason::AclDenied);
    assert_eq!(host.engine.resolved(), resolved + 2, "a denied flow is remembered");
    host.sent(port(2, 2), &bystander, port(2, 3));
    assert_eq!(host.engine.resolved(), resolved + 2, "the other tenant's flow was not resolved again");
    host.publish(&with_acl(vec![rule("http", 100, Allow, Inbound, Some(8080))], 4));
    assert_eq!(see(&host.sent(port(1, 2), &answer, UNDERLAY)).src, sock(VIP), "and remembers what it was an answer to");
    host.sent(UNDERLAY, &request, port(1, 2));
}

#[test]
fn the_answer_to_an_allowed_flow_is_allowed_in_both_directions() {
    use AclAction::Deny;
    let goal = with_acl(vec![rule("closed", 100, Deny, AclDirection::Inbound, None)], 2);
    let mut host = Host::new(&goal);
    // The container opens; what comes back is its answer.
    host.sent(port(1, 2), &from_container(1, 2, "10.0.0.2:1", "10.0.0.12:2", SYN), UNDERLAY);
    let answer = vxlan(OTHER_HOST, vni(1), &tcp(ROUTER_MAC, mac(1, 2), "10.0.0.12:2", "10.0.0.2:1", SYN | ACK));
    host.sent(UNDERLAY, &answer, port(1, 2));
    let unasked = vxlan(OTHER_HOST, vni(1), &tcp(ROUTER_MAC, mac(1, 2), "10.0.0.12:3", "10.0.0.2:1", SYN));
    assert_eq!(host.dropped(UNDERLAY, &unasked), DropReason::AclDenied);
    // On one host the receiver's list is asked too.
    host.sent(port(1, 2), &from_container(1, 2, "10.0.0.2:1", "10.0.0.3:2", SYN), port(1, 3));
    host.sent(port(1, 3), &from_container(1, 3, "10.0.0.3:2", "10.0.0.2:1", SYN | ACK), port(1, 2));
    assert_eq!(host.dropped(port(1, 3), &from_container(1, 3, "10.0.0.3:9", "10.0.0.2:1", SYN)), DropReason::AclDenied);
}

#[test]
fn what_is_explained_is_what_is_done() {
    let goal = with_acl(vec![rule("no-ssh", 100, AclAction::Deny, AclDirection::Inbound, Some(22))], 2);
    let mut host = Host::new(&goal);
    let policy = host.policies.load_full();
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    let frames = [
        (UNDERLAY, from_mux(CLIENT, VIP, SYN)),
        (port(1, 2), from_container(1, 2, "10.0.0.2:8080", CLIENT, ACK)),
        (port(1, 2), from_container(1, 2, "10.0.0.2:1", "10.0.0.12:2", SYN)),
        (port(1, 3), from_container(1, 3, "10.0.0.3:1", "10.0.0.2:22", SYN)),
        (port(1, 3), from_container(1, 3, "10.0.0.9:1", "10.0.0.2:22", SYN)),
        (port(1, 3), arp(mac(1, 3), "10.0.0.3", "10.0.0.1")),
    ];
    for (port, frame) in frames {
        let told = explain(&policy, &hasher, &frame, port, |_, _| None);
        let (verdict, out) = host.put(port, &frame);
        let ending = match verdict {
            Verdict::Transmit(p) => Ending::Transmit(p),
            Verdict::Drop(r) => Ending::Drop(r),
            other => panic!("{other:?}"),
        };
        assert_eq!(told.ending, ending);
        if matches!(verdict, Verdict::Transmit(_)) {
            assert_eq!(told.frame, out);
        }
        assert!(!told.steps.is_empty());
    }
}

fn arp(from: Mac, sender: &str, target: &str) -> Vec<u8> {
    let mut f = [Mac::BROADCAST.0, from.0].concat();
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(from.0);
    f.extend(sender.parse::<std::net::Ipv4Addr>().unwrap().octets());
    f.extend([0; 6]);
    f.extend(target.parse::<std::net::Ipv4Addr>().unwrap().octets());
    f
}

#[test]
fn arp_is_answered_for_gateways_endpoints_and_the_source_of_probes() {
    let mut host = Host::new(&goal());
    for (target, owner) in [
        ("10.0.0.1", ROUTER_MAC),
        ("10.0.1.1", ROUTER_MAC),
        ("168.63.129.16", ROUTER_MAC),
        ("10.0.0.3", mac(2, 3)),
        ("10.0.0.12", mac(2, 12)),
    ] {
        let reply = host.sent(port(2, 2), &arp(mac(2, 2), "10.0.0.2", target), port(2, 2));
        assert_eq!(reply[..6], mac(2, 2).0);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[22..28], owner.0);
        assert_eq!(reply[28..32], target.parse::<std::net::Ipv4Addr>().unwrap().octets());
        assert_eq!(reply[38..42], [10, 0, 0, 2]);
    }
    for target in ["10.0.0.77", "10.0.0.2"] {
        assert_eq!(host.put(port(2, 2), &arp(mac(2, 2), "10.0.0.2", target)).0, Verdict::Consumed);
    }
    assert_eq!(host.dropped(port(2, 2), &arp(mac(2, 2), "10.0.0.3", "10.0.0.1")), DropReason::SpoofedSource);
}

#[test]
fn neighbour_solicitations_are_answered_and_duplicates_are_told() {
    let mut host = Host::new(&goal());
    let solicit = |src: &str, target: &str| {
        let mut l4 = vec![135, 0, 0, 0, 0, 0, 0, 0];
        l4.extend(target.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut f = transport(
            mac(1, 2),
            Mac([0x33, 0x33, 0xff, 0, 0, 1]),
            ip(src),
            ip("ff02::1:ff00:1"),
            Protocol::ICMPV6,
            2,
            l4,
        );
        f[21] = 255;
        f
    };
    for (target, owner) in [("fd00::1", ROUTER_MAC), ("fd00::3", mac(1, 3)), ("fe80::5053:5400:1", ROUTER_MAC)] {
        let reply = host.sent(port(1, 2), &solicit("fd00::2", target), port(1, 2));
        let seen = see(&reply);
        assert_eq!((seen.dst.ip(), seen.ttl), (ip("fd00::2"), 255));
        assert_eq!((reply[54], reply[58]), (136, 0x60));
        assert_eq!(reply[80..86], owner.0);
    }
    let duplicate = host.sent(port(1, 2), &solicit("::", "fd00::3"), port(1, 2));
    assert_eq!(see(&duplicate).dst.ip(), ip("ff02::1"));
    assert_eq!(host.put(port(1, 2), &solicit("::", "fd00::2")).0, Verdict::Consumed);
}

#[test]
fn the_gateway_of_a_subnet_answers_ping() {
    let mut host = Host::new(&goal());
    for (src, dst, protocol, request, reply) in
        [("10.0.0.2", "10.0.0.1", Protocol::ICMP, 8, 0), ("fd00::2", "fd00::1", Protocol::ICMPV6, 128, 129)]
    {
        let echo = transport(
            mac(1, 2),
            ROUTER_MAC,
            ip(src),
            ip(dst),
            protocol,
            2,
            vec![request, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 9],
        );
        let out = host.sent(port(1, 2), &echo, port(1, 2));
        let expected = transport(
            ROUTER_MAC,
            mac(1, 2),
            ip(dst),
            ip(src),
            protocol,
            2,
            vec![reply, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 9],
        );
        assert_eq!(out, expected);
    }
}

#[test]
fn what_a_container_sends_to_the_probes_reaches_them_and_nobody_else() {
    let mut host = Host::new(&goal());
    let answer = from_container(1, 2, "10.0.0.2:8080", "168.63.129.16:5000", SYN | ACK);
    let probe = tcp(ROUTER_MAC, mac(1, 2), "168.63.129.16:5000", "10.0.0.2:8080", SYN);
    host.engine.resolver_mut().expect_answer(port(1, 2), &probe);
    assert_eq!(host.put(port(1, 2), &answer).0, Verdict::Consumed);
    assert_eq!(host.engine.resolver_mut().poll_probe_frame(), Some((port(1, 2), answer)));
    assert_eq!(host.engine.flows(), 0);
}
