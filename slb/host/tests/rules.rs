//! What a rule can say: floating virtual IPs, all ports, how long a connection may be silent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::*;
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{ALL_PORTS, HostGoal, NatRule, ROUTER_MAC, explain};
use std::time::Duration;

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
/// The same addresses, at ports that no rule is for alone.
const OTHER_PORT: &str = "198.51.100.1:7001";
const OTHER_PORT6: &str = "[2001:db8:f::1]:7001";

fn from_mux(client: &str, vip: &str, flags: u8) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, 2), client, vip, flags))
}

fn from_container(src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, 2), ROUTER_MAC, src, dst, flags)
}

fn floating() -> HostGoal {
    let mut goal = goal();
    for rule in &mut goal.nat_rules {
        (rule.floating, rule.dip_port) = (true, rule.vip_port);
    }
    goal
}

fn all_ports(floating: bool) -> HostGoal {
    let mut goal = goal();
    let more =
        goal.nat_rules.iter().map(|r| NatRule { vip_port: ALL_PORTS, dip_port: ALL_PORTS, floating, ..r.clone() });
    let more: Vec<_> = more.collect();
    goal.nat_rules.extend(more);
    goal
}

#[test]
fn a_floating_virtual_ip_reaches_the_container_as_it_was_sent_and_is_answered_by_it() {
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        let mut host = Host::new(&floating());
        for flags in [SYN, ACK, ACK] {
            let inside = see(&host.sent(UNDERLAY, &from_mux(client, vip, flags), port(1, 2)));
            assert_eq!(
                inside,
                Seen { src: sock(client), dst: sock(vip), ttl: 64, eth_dst: mac(1, 2), eth_src: ROUTER_MAC }
            );
            let back = see(&host.sent(port(1, 2), &from_container(vip, client, SYN | ACK), UNDERLAY));
            assert_eq!(
                back,
                Seen { src: sock(vip), dst: sock(client), ttl: 63, eth_dst: NEXT_HOP_MAC, eth_src: HOST_MAC }
            );
        }
        assert_eq!(host.engine.resolved(), 1, "decided once, replayed after");
    }
}

#[test]
fn a_container_opens_nothing_by_a_floating_virtual_ip_and_lends_it_to_nobody() {
    let mut host = Host::new(&floating());
    assert_eq!(host.dropped(port(1, 2), &from_container(VIP, CLIENT, SYN)), DropReason::SpoofedSource);
    // A restarted host believes the rest of a connection, of the rule's port alone.
    assert_eq!(see(&host.sent(port(1, 2), &from_container(VIP, CLIENT, ACK), UNDERLAY)).src, sock(VIP));
    assert_eq!(host.dropped(port(1, 2), &from_container(OTHER_PORT, CLIENT, ACK)), DropReason::NoRoute);
    // The neighbour of the same tenant has no such rule.
    let stolen = tcp(mac(1, 3), ROUTER_MAC, VIP, CLIENT, ACK);
    assert_eq!(host.dropped(port(1, 3), &stolen), DropReason::SpoofedSource);
}

#[test]
fn connections_to_a_floating_virtual_ip_outlive_the_membership() {
    let mut host = Host::new(&floating());
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    host.sent(port(1, 2), &from_container(VIP, CLIENT, SYN | ACK), UNDERLAY);
    let mut goal = floating();
    goal.nat_rules.clear();
    goal.networks[0].epoch = Epoch(2);
    host.publish(&goal);
    let inside = see(&host.sent(UNDERLAY, &from_mux(CLIENT, VIP, ACK), port(1, 2)));
    assert_eq!(inside.dst, sock(VIP));
    assert_eq!(see(&host.sent(port(1, 2), &from_container(VIP, CLIENT, ACK), UNDERLAY)).src, sock(VIP));
    // Nothing new begins.
    let other = "203.0.113.9:5";
    assert_eq!(host.dropped(UNDERLAY, &from_mux(other, VIP, SYN)), DropReason::UnknownPort);
    assert_eq!(host.dropped(port(1, 2), &from_container(VIP, other, ACK)), DropReason::NoRoute);
}

#[test]
fn access_lists_know_a_floating_container_by_its_own_address() {
    let mut goal = floating();
    let mut allow = rule("web", 10, AclAction::Allow, AclDirection::Inbound, Some(80));
    allow.dst = vec!["10.0.0.2/32".parse().unwrap()];
    let deny = rule("rest", 20, AclAction::Deny, AclDirection::Inbound, None);
    goal.acls = vec![Acl { name: "web".to_owned(), rules: vec![allow, deny] }];
    goal.ports[0].acl = Some(AclId(0));
    let mut host = Host::new(&goal);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    host.sent(port(1, 2), &from_container(VIP, CLIENT, SYN | ACK), UNDERLAY);
    goal.acls[0].rules.remove(0);
    goal.networks[0].epoch = Epoch(2);
    host.publish(&goal);
    assert_eq!(host.dropped(port(1, 2), &from_container(VIP, CLIENT, ACK)), DropReason::AclDenied);
}

#[test]
fn a_rule_for_all_ports_leaves_each_port_as_it_is_and_its_own_rules_go_first() {
    let addresses = |v4: bool| if v4 { ("10.0.0.2", OTHER_PORT, VIP) } else { ("fd00::2", OTHER_PORT6, VIP6) };
    for (client, is_floating) in [(CLIENT, false), (CLIENT6, false), (CLIENT, true), (CLIENT6, true)] {
        let (dip, other, vip) = addresses(sock(client).is_ipv4());
        let seen = |port| if is_floating { sock(other) } else { std::net::SocketAddr::new(ip(dip), port) };
        let mut host = Host::new(&all_ports(is_floating));
        let inside = see(&host.sent(UNDERLAY, &from_mux(client, other, SYN), port(1, 2)));
        assert_eq!(inside.dst, seen(7001));
        let answer = from_container(&seen(7001).to_string(), client, SYN | ACK);
        assert_eq!(see(&host.sent(port(1, 2), &answer, UNDERLAY)).src, sock(other));
        let inside = see(&host.sent(UNDERLAY, &from_mux(client, vip, SYN), port(1, 2)));
        assert_eq!(inside.dst.port(), 8080);
        let mut forgetful = Host::new(&all_ports(is_floating));
        let rest = from_container(&seen(7001).to_string(), client, ACK);
        assert_eq!(see(&forgetful.sent(port(1, 2), &rest, UNDERLAY)).src, sock(other));
    }
}

#[test]
fn a_connection_may_be_silent_for_as_long_as_its_rule_says() {
    let flows_after = |seconds: u64| {
        let mut goal = goal();
        goal.nat_rules[0].idle_seconds = Some(240);
        let mut host = Host::new(&goal);
        for vip in [VIP, VIP6] {
            let (client, dip) = if vip == VIP { (CLIENT, "10.0.0.2:8080") } else { (CLIENT6, "[fd00::2]:8080") };
            host.sent(UNDERLAY, &from_mux(client, vip, SYN), port(1, 2));
            host.sent(port(1, 2), &from_container(dip, client, SYN | ACK), UNDERLAY);
            host.sent(UNDERLAY, &from_mux(client, vip, ACK), port(1, 2));
        }
        host.now = host.now.plus(Duration::from_secs(seconds));
        for _ in 0..=host.engine.flow_table().buckets() / 64 {
            host.engine.maintain(host.now);
        }
        host.engine.flows()
    };
    assert_eq!(flows_after(230), 4);
    assert_eq!(flows_after(320), 2, "the rule of the other has no time of its own");
}

#[test]
fn a_trace_says_that_the_virtual_ip_floats() {
    let host = Host::new(&floating());
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    let said = explain(&host.policies.load(), &hasher, &from_mux(CLIENT, VIP, SYN), UNDERLAY, |_, _| None);
    let nat = said.steps.iter().find(|s| s.layer == "nat").unwrap();
    assert!(nat.text.contains("the container itself has 198.51.100.1"), "{}", nat.text);
}

#[test]
fn rules_that_would_have_to_translate_and_must_not_are_refused() {
    type Spoil = fn(&mut HostGoal);
    let cases: [(&str, Spoil); 4] = [
        ("nat_rules[0].dip_port", |g| g.nat_rules[0].floating = true),
        ("nat_rules[0].dip_port", |g| g.nat_rules[0].vip_port = ALL_PORTS),
        ("nat_rules[0].idle_seconds", |g| g.nat_rules[0].idle_seconds = Some(0)),
        ("nat_rules[0].vip", |g| {
            (g.nat_rules[0].floating, g.nat_rules[0].dip_port) = (true, 80);
            g.nat_rules[0].vip = ip("10.0.0.2");
        }),
    ];
    for (field, spoil) in cases {
        let mut goal = goal();
        spoil(&mut goal);
        assert_eq!(build(&goal, &empty(), false, 1).unwrap_err().field, field);
    }
}
