//! What a container or a client tries that is not its own to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::*;
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{PROBE_V4, ROUTER_MAC};

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);

fn from_mux(client: &str, vip: &str, flags: u8) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, 2), client, vip, flags))
}

fn from_container(src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, 2), ROUTER_MAC, src, dst, flags)
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 99], &frame[12..]].concat()
}

#[test]
fn a_vlan_tag_of_a_container_or_inside_an_encapsulation_leads_nowhere() {
    let mut host = Host::new(&goal());
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    let answer = from_container("10.0.0.2:8080", CLIENT, SYN | ACK);
    let east_west = from_container("10.0.0.2:1", "10.0.0.3:2", SYN);
    for frame in [&answer, &east_west] {
        assert_eq!(host.dropped(port(1, 2), &tagged(frame)), DropReason::VlanTagged);
    }
    let inner = tagged(&tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, ACK));
    assert_eq!(host.dropped(UNDERLAY, &vxlan(MUX, vni(1), &inner)), DropReason::VlanTagged);
    // On the provider network itself a tag is the operator's affair.
    host.sent(UNDERLAY, &tagged(&from_mux(CLIENT, VIP, ACK)), port(1, 2));
}

#[test]
fn a_service_port_sends_no_udp_that_nobody_asked_for() {
    let mut goal = goal();
    (goal.nat_rules[0].protocol, goal.nat_rules[0].dip_port) = (Protocol::UDP, 53);
    let mut host = Host::new(&goal);
    let udp = |from: Mac, to: Mac, src: &str, dst: &str| {
        let (src, dst) = (sock(src), sock(dst));
        let mut l4 = [src.port().to_be_bytes(), dst.port().to_be_bytes(), [0, 13], [0, 0]].concat();
        l4.extend(b"hello");
        transport(from, to, src.ip(), dst.ip(), Protocol::UDP, 6, l4)
    };
    for dst in ["10.9.0.2:8444", "10.9.0.1:4789", CLIENT] {
        let unasked = udp(mac(1, 2), ROUTER_MAC, "10.0.0.2:53", dst);
        assert_eq!(host.dropped(port(1, 2), &unasked), DropReason::NoReverseMapping, "to {dst}");
    }
    // An answer is let out.
    host.sent(UNDERLAY, &vxlan(MUX, vni(1), &udp(MUX_MAC, mac(1, 2), CLIENT, VIP)), port(1, 2));
    let answer = host.sent(port(1, 2), &udp(mac(1, 2), ROUTER_MAC, "10.0.0.2:53", CLIENT), UNDERLAY);
    assert_eq!(see(&answer).src, sock(VIP));
}

#[test]
fn a_service_port_reaches_no_node_of_the_fabric() {
    let mut host = Host::new(&goal());
    for node in [HOST, OTHER_HOST, MUX, GATEWAY] {
        let frame = from_container("10.0.0.2:8080", &format!("{node}:8444"), ACK);
        assert_eq!(host.dropped(port(1, 2), &frame), DropReason::NoReverseMapping, "{node}");
    }
}

#[test]
fn a_client_cannot_pass_for_a_neighbour_of_the_container() {
    let mut goal = goal();
    let mut neighbours = rule("in", 100, AclAction::Allow, AclDirection::Inbound, None);
    neighbours.src = vec!["10.0.0.0/16".parse().unwrap()];
    goal.acls.push(Acl { name: "neighbours".to_owned(), rules: vec![neighbours] });
    goal.ports[0].acl = Some(AclId(0));
    let mut host = Host::new(&goal);
    assert_eq!(host.dropped(UNDERLAY, &from_mux(CLIENT, VIP, SYN)), DropReason::AclDenied);
    for flags in [SYN, ACK] {
        assert_eq!(host.dropped(UNDERLAY, &from_mux("10.0.0.3:5", VIP, flags)), DropReason::SpoofedSource);
    }
}

#[test]
fn a_container_cannot_keep_another_ones_answers_from_the_probes() {
    let mut host = Host::new(&goal());
    let probe =
        |tenant: u32, local: u16| tcp(ROUTER_MAC, mac(tenant, 2), &format!("{PROBE_V4}:{local}"), "10.0.0.2:8080", SYN);
    let answer = |tenant: u32, src: u16, local: u16| {
        tcp(mac(tenant, 2), ROUTER_MAC, &format!("10.0.0.2:{src}"), &format!("{PROBE_V4}:{local}"), SYN | ACK)
    };
    for (tenant, local) in [(1, 40_000), (2, 40_001)] {
        host.engine.resolver_mut().expect_answer(port(tenant, 2), &probe(tenant, local));
    }
    for n in 0..300 {
        assert_eq!(host.dropped(port(2, 2), &answer(2, 1000 + n, 5)), DropReason::NoServiceOnPort, "no probe asked");
        assert_eq!(
            host.dropped(port(2, 2), &answer(2, 8080, 40_000)),
            DropReason::NoServiceOnPort,
            "another one's probe"
        );
    }
    let taken = (0..300).filter(|_| host.put(port(2, 2), &answer(2, 8080, 40_001)).0 == Verdict::Consumed).count();
    assert!((1..100).contains(&taken), "{taken}");
    assert_eq!(host.dropped(port(2, 2), &answer(2, 8080, 40_001)), DropReason::HandoffFull);
    assert_eq!(host.put(port(1, 2), &answer(1, 8080, 40_000)).0, Verdict::Consumed);
    host.now = host.now.plus(std::time::Duration::from_millis(150));
    assert_eq!(host.put(port(2, 2), &answer(2, 8080, 40_001)).0, Verdict::Consumed, "later again");
    let from: Vec<_> = std::iter::from_fn(|| host.engine.resolver_mut().poll_probe_frame()).map(|(p, _)| p).collect();
    assert_eq!(from.iter().filter(|p| **p == port(1, 2)).count(), 1);
}
