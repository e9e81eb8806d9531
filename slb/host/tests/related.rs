//! ICMP errors about answers that went straight to the client: path MTU discovery across direct return.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_engine::Ending;
use penstock_model::*;
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{ROUTER_MAC, explain};

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
const ROUTER: &str = "192.0.2.1";
const ROUTER6: &str = "2001:db8:77::1";

/// "Too big" from a router about the packet `about` (an IP packet), of which `quoted` bytes are quoted.
fn too_big(from: &str, to: &str, about: &[u8], quoted: usize, eth: (Mac, Mac)) -> Vec<u8> {
    let (to, v6) = (sock(to).ip(), sock(to).is_ipv6());
    let mut l4 = if v6 { vec![2, 0, 0, 0, 0, 0, 5, 0] } else { vec![3, 4, 0, 0, 0, 0, 5, 0] };
    l4.extend(&about[..quoted.min(about.len())]);
    transport(eth.0, eth.1, ip(from), to, if v6 { Protocol::ICMPV6 } else { Protocol::ICMP }, 2, l4)
}

fn by_mux(inner: &[u8]) -> Vec<u8> {
    vxlan(MUX, vni(1), inner)
}

/// The IP packet that `src` sent.
fn packet(src: &str, dst: &str) -> Vec<u8> {
    tcp(Mac::ZERO, Mac::ZERO, src, dst, ACK)[14..].to_vec()
}

#[test]
fn a_too_big_about_an_answer_reaches_the_container_as_if_the_answer_had_been_its_own() {
    for (router, client, vip, dip) in
        [(ROUTER, CLIENT, VIP, "10.0.0.2:8080"), (ROUTER6, CLIENT6, VIP6, "[fd00::2]:8080")]
    {
        // With the whole transport header quoted, and with no more than RFC 792 asks for.
        let least = if sock(vip).is_ipv6() { 48 } else { 28 };
        for quoted in [1000, least] {
            let mut host = Host::new(&goal());
            let error = too_big(router, vip, &packet(vip, client), quoted, (MUX_MAC, mac(1, 2)));
            let got = host.sent(UNDERLAY, &by_mux(&error), port(1, 2));
            // Every checksum is what the container's own packet and an error about it would have.
            let expected = too_big(router, dip, &packet(dip, client), quoted, (ROUTER_MAC, mac(1, 2)));
            assert_eq!(got, expected, "{vip}, {quoted} bytes");
            assert_eq!(host.engine.flows(), 0);
        }
    }
}

#[test]
fn an_error_about_udp_keeps_a_checksum_that_is_not_there() {
    let mut goal = goal();
    goal.nat_rules[0].protocol = Protocol::UDP;
    let udp = |src: &str, sum: bool| {
        let l4 = [&sock(src).port().to_be_bytes()[..], &[0x9c, 0x40, 0, 8, 0, 0]].concat();
        let mut p =
            transport(Mac::ZERO, Mac::ZERO, sock(src).ip(), sock(CLIENT).ip(), Protocol::UDP, 6, l4)[14..].to_vec();
        if !sum {
            p[26..28].fill(0);
        }
        p
    };
    for sum in [true, false] {
        let mut host = Host::new(&goal);
        let error = too_big(ROUTER, VIP, &udp(VIP, sum), 100, (MUX_MAC, mac(1, 2)));
        let expected = too_big(ROUTER, "10.0.0.2:8080", &udp("10.0.0.2:8080", sum), 100, (ROUTER_MAC, mac(1, 2)));
        assert_eq!(host.sent(UNDERLAY, &by_mux(&error), port(1, 2)), expected);
    }
}

#[test]
fn an_error_about_what_nobody_sent_is_dropped() {
    let mut host = Host::new(&goal());
    let eth = (MUX_MAC, mac(1, 2));
    let cases = [
        (too_big(ROUTER, VIP, &packet("198.51.100.1:81", CLIENT), 100, eth), DropReason::NoReverseMapping),
        (too_big(ROUTER, VIP, &packet("198.51.100.9:80", CLIENT), 100, eth), DropReason::NoReverseMapping),
        (too_big(ROUTER, VIP, &packet(VIP, CLIENT), 27, eth), DropReason::NoReverseMapping),
        (too_big("10.0.0.3", VIP, &packet(VIP, CLIENT), 100, eth), DropReason::SpoofedSource),
        (too_big(ROUTER, VIP, &packet(VIP, "10.0.0.3:5"), 100, eth), DropReason::SpoofedSource),
    ];
    for (i, (error, reason)) in cases.into_iter().enumerate() {
        assert_eq!(host.dropped(UNDERLAY, &by_mux(&error)), reason, "case {i}");
    }
}

#[test]
fn an_error_about_a_flow_that_is_denied_is_denied_and_explained() {
    let mut goal = goal();
    goal.acls = vec![Acl {
        name: "closed".to_owned(),
        rules: vec![rule("none", 100, AclAction::Deny, AclDirection::Inbound, None)],
    }];
    goal.ports[0].acl = Some(AclId(0));
    let mut host = Host::new(&goal);
    let error = by_mux(&too_big(ROUTER, VIP, &packet(VIP, CLIENT), 100, (MUX_MAC, mac(1, 2))));
    assert_eq!(host.dropped(UNDERLAY, &error), DropReason::AclDenied);
    let told =
        explain(&host.policies.load_full(), &penstock_flow::FlowHasher::new([7; 16]), &error, UNDERLAY, |_, _| None);
    assert_eq!(told.ending, Ending::Drop(DropReason::AclDenied));
    assert!(told.steps.iter().any(|s| s.layer == "icmp"));
}

/// "Port unreachable" or the like from `from` to `to` about the packet `about`.
fn unreachable(eth: (Mac, Mac), from: &str, to: &str, about: &[u8], quoted: usize) -> Vec<u8> {
    let (from, to) = (ip(from), ip(to));
    let mut l4 = if to.is_ipv6() { vec![1, 4, 0, 0, 0, 0, 0, 0] } else { vec![3, 3, 0, 0, 0, 0, 0, 0] };
    l4.extend(&about[..quoted.min(about.len())]);
    transport(eth.0, eth.1, from, to, if to.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMP }, 2, l4)
}

/// As the host sends it on: by the next hop, with one hop less.
fn sent_on(mut frame: Vec<u8>) -> Vec<u8> {
    let v4 = frame[12] == 8;
    frame[if v4 { 22 } else { 21 }] = 63;
    if v4 {
        frame[24..26].fill(0);
        let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

#[test]
fn what_a_container_complains_about_reaches_the_client_as_the_virtual_address_s_own_complaint() {
    for (client, vip, dip) in [(CLIENT, VIP, "10.0.0.2:8080"), (CLIENT6, VIP6, "[fd00::2]:8080")] {
        let (own, vip_ip, to) = (sock(dip).ip().to_string(), sock(vip).ip().to_string(), sock(client).ip().to_string());
        let least = if sock(vip).is_ipv6() { 48 } else { 28 };
        for quoted in [1000, least] {
            let mut host = Host::new(&goal());
            let complaint = unreachable((mac(1, 2), ROUTER_MAC), &own, &to, &packet(client, dip), quoted);
            assert_eq!(host.dropped(port(1, 2), &complaint), DropReason::NoReverseMapping, "about nothing that came");
            let request = tcp(MUX_MAC, mac(1, 2), client, vip, SYN);
            host.sent(UNDERLAY, &by_mux(&request), port(1, 2));
            let got = host.sent(port(1, 2), &complaint, UNDERLAY);
            let expected = unreachable((HOST_MAC, NEXT_HOP_MAC), &vip_ip, &to, &packet(client, vip), quoted);
            assert_eq!(got, sent_on(expected), "{vip}, {quoted} bytes");
            // Not to somebody else, and not about what somebody else got.
            let third = if sock(vip).is_ipv6() { "2001:db8:c::99" } else { "203.0.113.99" };
            let stray = unreachable((mac(1, 2), ROUTER_MAC), &own, third, &packet(client, dip), quoted);
            assert_eq!(host.dropped(port(1, 2), &stray), DropReason::NoReverseMapping);
        }
    }
}

#[test]
fn errors_about_a_flow_with_a_leased_port_are_translated_both_ways() {
    let lease = penstock_slb_host::SnatLease {
        network_interface: "t1-c2".to_owned(),
        dip: Overlay(ip("10.0.0.2")),
        vip: ip("198.51.100.9"),
        first: 1024,
        count: 64,
        protocol: None,
    };
    let (own, server) = ("10.0.0.2:40000", "192.0.2.80:443");
    let mut host = Host::new(&penstock_slb_host::HostGoal { snat: vec![lease], ..goal() });
    let left = see(&host.sent(port(1, 2), &tcp(mac(1, 2), ROUTER_MAC, own, server, SYN), UNDERLAY)).src;
    let out = left.to_string();
    // A router on the way is too narrow.
    let error = too_big(ROUTER, &out, &packet(&out, server), 28, (MUX_MAC, mac(1, 2)));
    let got = host.sent(UNDERLAY, &by_mux(&error), port(1, 2));
    assert_eq!(got, too_big(ROUTER, own, &packet(own, server), 28, (ROUTER_MAC, mac(1, 2))));
    // Another port of the block is nobody's.
    let other = format!("198.51.100.9:{}", 1024 + (left.port() - 1024 + 1) % 64);
    let stray = too_big(ROUTER, &other, &packet(&other, server), 28, (MUX_MAC, mac(1, 2)));
    assert_eq!(host.dropped(UNDERLAY, &by_mux(&stray)), DropReason::NoReverseMapping);
    // The container does not want the answer.
    let complaint = unreachable((mac(1, 2), ROUTER_MAC), "10.0.0.2", "192.0.2.80", &packet(server, own), 28);
    let got = host.sent(port(1, 2), &complaint, UNDERLAY);
    let expected = unreachable((HOST_MAC, NEXT_HOP_MAC), "198.51.100.9", "192.0.2.80", &packet(server, &out), 28);
    assert_eq!(got, sent_on(expected));
}

/// Container 3 passes on what container 2 exchanges with the outside.
fn guarded() -> penstock_slb_host::HostGoal {
    let mut goal = goal();
    goal.ports[1].forwards = true;
    goal.networks[0].tables = vec![penstock_policy::RouteTable {
        name: "guarded".to_owned(),
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        from_sites: false,
        routes: vec![penstock_policy::UserRoute {
            name: "out".to_owned(),
            prefix: "0.0.0.0/0".parse().unwrap(),
            next_hop: penstock_policy::UserHop::Appliances(vec![Overlay(ip("10.0.0.3"))]),
        }],
    }];
    goal
}

#[test]
fn an_error_for_what_is_reached_through_an_appliance_goes_through_it() {
    let mut host = Host::new(&guarded());
    let about = packet("192.0.2.80:443", "10.0.0.2:40000");
    let error = unreachable((mac(1, 2), ROUTER_MAC), "10.0.0.2", "192.0.2.80", &about, 28);
    let got = host.sent(port(1, 2), &error, port(1, 3));
    let expected = unreachable((ROUTER_MAC, mac(1, 3)), "10.0.0.2", "192.0.2.80", &about, 28);
    assert_eq!(got, sent_on(expected));
    // What came by the virtual address is still complained about as that.
    host.sent(UNDERLAY, &by_mux(&tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, SYN)), port(1, 2));
    let client = sock(CLIENT).ip().to_string();
    let complaint = unreachable((mac(1, 2), ROUTER_MAC), "10.0.0.2", &client, &packet(CLIENT, "10.0.0.2:8080"), 28);
    host.sent(port(1, 2), &complaint, UNDERLAY);
}

#[test]
fn an_error_for_an_appliance_is_about_what_it_has_passed_on_or_about_its_own_virtual_address() {
    let mut goal = goal();
    goal.ports[0].forwards = true;
    let mut host = Host::new(&goal);
    host.sent(UNDERLAY, &by_mux(&tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, SYN)), port(1, 2));
    goal.nat_rules.clear();
    goal.networks[0].epoch = Epoch(2);
    host.publish(&goal);
    // It has left the pool; the connection goes on.
    let error = too_big(ROUTER, VIP, &packet(VIP, CLIENT), 28, (MUX_MAC, mac(1, 2)));
    let own = "10.0.0.2:8080";
    let expected = too_big(ROUTER, own, &packet(own, CLIENT), 28, (ROUTER_MAC, mac(1, 2)));
    assert_eq!(host.sent(UNDERLAY, &by_mux(&error), port(1, 2)), expected);
    for quoted in [28, 20] {
        let passed = "10.0.1.102:80";
        let error = too_big("10.0.0.12", passed, &packet(passed, "10.0.0.12:5"), quoted, (MUX_MAC, mac(1, 2)));
        let expected = too_big("10.0.0.12", passed, &packet(passed, "10.0.0.12:5"), quoted, (ROUTER_MAC, mac(1, 2)));
        assert_eq!(host.sent(UNDERLAY, &by_mux(&error), port(1, 2)), expected, "{quoted} bytes quoted");
    }
}
