//! The second chance: a packet of a flow that is not known here goes to whom the mux has named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;
use kit::*;
use penstock_model::{Addr16, BATCH, DropReason, HEADROOM, Overlay, Packet, Protocol, ServiceId, Verdict, Vni};
use penstock_slb_host::{HostGoal, NatRule, explain};
use penstock_wire::geneve::{GENEVE_PORT, NextOwners, next_owners, parse_geneve, write_header};
use std::net::IpAddr;

const MUX_MAC: penstock_model::Mac = penstock_model::Mac([2, 0x50, 0x53, 0x54, 0, 2]);

fn dips(owners: &[&str]) -> NextOwners {
    NextOwners::new(owners.iter().map(|a| Addr16::from(ip(a))))
}

/// From a mux or a host, to container `n` of tenant 1.
fn geneve(from: &str, n: u8, owners: &[&str], flags: u8) -> Vec<u8> {
    let inner = tcp(MUX_MAC, mac(1, n), CLIENT, VIP, flags);
    let mut header = [0; 64];
    let len = write_header(&mut header, vni(1), &dips(owners)).unwrap();
    let mut u = [0xc001u16, GENEVE_PORT].map(u16::to_be_bytes).concat();
    u.extend(((8 + len + inner.len()) as u16).to_be_bytes());
    u.extend([0, 0]);
    u.extend(&header[..len]);
    u.extend(inner);
    transport(NEXT_HOP_MAC, HOST_MAC, ip(from), ip(HOST), Protocol::UDP, 6, u)
}

/// The service is at containers 2 and 3 of this host, and 12 of the other.
fn goal_of_two() -> HostGoal {
    let mut goal = goal();
    goal.nat_rules.push(NatRule {
        service: ServiceId(7),
        network_interface: "t1-c3".to_owned(),
        vip: sock(VIP).ip(),
        protocol: Protocol::TCP,
        vip_port: 80,
        dip: Overlay(ip("10.0.0.3")),
        dip_port: 8080,
        floating: false,
        idle_seconds: None,
    });
    goal
}

fn unwrap_geneve(frame: &[u8]) -> (IpAddr, IpAddr, Vni, NextOwners, Vec<u8>) {
    let outer = penstock_wire::parse(frame).unwrap();
    assert_eq!(outer.dst_port, GENEVE_PORT);
    let (vni, inner) = parse_geneve(frame, &outer).unwrap();
    (outer.src.to_ip(), outer.dst.to_ip(), vni, next_owners(frame, &outer), frame[inner.l2 as usize..].to_vec())
}

#[test]
fn a_packet_of_an_unknown_flow_goes_to_the_next_owner_and_names_those_who_are_left() {
    let mut host = Host::new(&goal_of_two());
    let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.12", "10.0.0.3"], ACK), UNDERLAY);
    let (from, to, network, left, inner) = unwrap_geneve(&out);
    assert_eq!((from, to, network, left), (ip(HOST), ip(OTHER_HOST), vni(1), dips(&["10.0.0.3"])));
    let inner = see(&inner);
    assert_eq!((inner.src, inner.dst, inner.eth_dst), (sock(CLIENT), sock(VIP), mac(1, 12)));
    assert_eq!((host.engine.flows(), host.engine.resolver().passed_on()), (0, 1));
}

#[test]
fn the_last_owner_gets_plain_vxlan_and_takes_the_packet_as_it_is() {
    let mut host = Host::new(&goal_of_two());
    let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.12"], ACK), UNDERLAY);
    let (_, to, network, inner) = unwrap_vxlan(&out);
    assert_eq!((to, network, see(&inner).eth_dst), (ip(OTHER_HOST), vni(1), mac(1, 12)));
    let out = host.sent(UNDERLAY, &geneve(OTHER_HOST, 2, &[], ACK), port(1, 2));
    assert_eq!(see(&out).dst, sock("10.0.0.2:8080"));
}

#[test]
fn a_known_flow_and_a_packet_that_opens_one_stay_here() {
    let mut host = Host::new(&goal_of_two());
    for flags in [SYN, ACK, ACK] {
        let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.12"], flags), port(1, 2));
        assert_eq!(see(&out).dst, sock("10.0.0.2:8080"));
    }
    assert_eq!(host.engine.resolver().passed_on(), 0);
}

#[test]
fn a_flow_that_an_older_policy_knew_stays_here_also_without_its_rule() {
    let mut host = Host::new(&goal_of_two());
    host.sent(UNDERLAY, &geneve(MUX, 2, &[], SYN), port(1, 2));
    let mut without = goal_of_two();
    without.nat_rules.retain(|r| r.network_interface != "t1-c2");
    host.publish(&without);
    host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.12"], ACK), port(1, 2));
    // Another flow is not known, and there is no rule for it either.
    let other = tcp(MUX_MAC, mac(1, 2), "203.0.113.7:40001", VIP, ACK);
    assert_eq!(host.dropped(UNDERLAY, &vxlan(MUX, vni(1), &other)), DropReason::UnknownPort);
}

#[test]
fn between_containers_of_one_host_the_one_that_knows_the_flow_gets_it() {
    let mut host = Host::new(&goal_of_two());
    host.sent(UNDERLAY, &geneve(MUX, 3, &[], SYN), port(1, 3));
    let flows = host.engine.flows();
    for _ in 0..3 {
        let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.3", "10.0.0.12"], ACK), port(1, 3));
        assert_eq!((see(&out).dst, see(&out).eth_dst), (sock("10.0.0.3:8080"), mac(1, 3)));
    }
    assert_eq!(host.engine.flows(), flows, "nothing is remembered of the one who did not know");
}

#[test]
fn no_list_makes_a_packet_go_round() {
    for owners in [&["10.0.0.2", "10.0.0.2"][..], &["10.0.0.3", "10.0.0.2", "10.0.0.3"], &["10.0.0.99", "10.0.0.1"]] {
        let mut host = Host::new(&goal_of_two());
        let (verdict, _) = host.put(UNDERLAY, &geneve(MUX, 2, owners, ACK));
        let last = if owners.contains(&"10.0.0.3") { port(1, 3) } else { port(1, 2) };
        assert_eq!(verdict, Verdict::Transmit(last), "{owners:?}");
    }
}

#[test]
fn a_list_from_outside_the_fabric_or_for_another_network_leads_nowhere() {
    let mut host = Host::new(&goal_of_two());
    let foreign = geneve("192.0.2.66", 2, &["10.0.0.12"], ACK);
    assert_eq!(host.dropped(UNDERLAY, &foreign), DropReason::UntrustedUnderlaySource);
    // Tenant 2 has a container with the same address; the list means the one of the packet's own network.
    let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.12"], ACK), UNDERLAY);
    assert_eq!(unwrap_vxlan(&out).2, vni(1));
}

#[test]
fn packets_of_one_batch_keep_their_own_lists() {
    let mut host = Host::new(&goal_of_two());
    let last = |n: usize| if n.is_multiple_of(2) { "10.0.0.3" } else { "10.0.0.102" };
    let mut buffers: Vec<Vec<u8>> = (0..BATCH)
        .map(|n| [vec![0; HEADROOM], geneve(MUX, 2, &["10.0.0.12", last(n)], ACK), vec![0; 64]].concat())
        .collect();
    let mut batch: Vec<_> = buffers
        .iter_mut()
        .map(|b| {
            let len = b.len() - HEADROOM - 64;
            Packet::new(b, HEADROOM, len, UNDERLAY).unwrap()
        })
        .collect();
    host.engine.process(&mut batch, host.now);
    for (n, packet) in batch.iter().enumerate() {
        assert_eq!(unwrap_geneve(packet.frame()).3, dips(&[last(n)]));
    }
}

#[test]
fn the_explanation_says_to_whom_it_is_passed_and_does_the_same() {
    let mut host = Host::new(&goal_of_two());
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    for owners in [&["10.0.0.12", "10.0.0.3"][..], &["10.0.0.3"]] {
        let frame = geneve(MUX, 2, owners, ACK);
        let told = explain(&host.policies.load_full(), &hasher, &frame, UNDERLAY, |_, _| None);
        let step = told.steps.iter().find(|s| s.layer == "second chance").unwrap();
        assert!(step.text.contains("\"t1-c2\"") && step.text.contains(owners[0]), "{step:?}");
        let (verdict, out) = host.put(UNDERLAY, &frame);
        let to = if owners.len() == 2 { UNDERLAY } else { port(1, 3) };
        assert_eq!((told.ending, told.frame), (penstock_engine::Ending::Transmit(to), out));
        assert_eq!(verdict, Verdict::Transmit(to));
    }
}

#[test]
fn an_appliance_passes_to_the_next_owner_what_a_mux_names_owners_of() {
    let mut goal = goal_of_two();
    goal.nat_rules.retain(|r| r.network_interface != "t1-c2");
    goal.ports[0].forwards = true;
    let mut host = Host::new(&goal);
    host.sent(UNDERLAY, &geneve(MUX, 3, &[], SYN), port(1, 3));
    let out = host.sent(UNDERLAY, &geneve(MUX, 2, &["10.0.0.3"], ACK), port(1, 3));
    assert_eq!(see(&out).dst, sock("10.0.0.3:8080"));
}
