//! Routes that an operator sets, and containers that pass on what is not for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::*;
use penstock_policy::{RouteTable, UserHop, UserRoute};
use penstock_slb_host::{HostGoal, ROUTER_MAC, explain};

const A: &str = "10.0.0.2:1000";
const B: &str = "10.0.1.102:80";
const REMOTE: &str = "10.0.0.12:80";
const FIREWALL: u8 = 3;

fn route(name: &str, prefix: &str, next_hop: UserHop) -> UserRoute {
    UserRoute { name: name.to_owned(), prefix: prefix.parse().unwrap(), next_hop }
}

fn by_firewall() -> UserHop {
    UserHop::Appliances(vec![Overlay(ip("10.0.0.3"))])
}

/// Tenant 1: what the two subnets send each other, and what the first sends to the other host, goes by container 3.
fn chained() -> HostGoal {
    let mut goal = goal();
    let table = |subnet: &str, routes| RouteTable {
        name: format!("from {subnet}"),
        subnets: vec![subnet.parse().unwrap()],
        from_sites: false,
        routes,
    };
    goal.networks[0].tables = vec![
        table(
            "10.0.0.0/24",
            vec![
                route("to-b", "10.0.1.0/24", by_firewall()),
                route("to-remote", "10.0.0.12/32", by_firewall()),
                route("closed", "172.16.1.0/24", UserHop::Discard),
                route("wide", "10.0.0.0/8", UserHop::Discard),
                route("out", "172.16.2.0/24", UserHop::Internet),
            ],
        ),
        table("10.0.1.0/24", vec![route("to-a", "10.0.0.0/24", by_firewall())]),
    ];
    goal.ports.iter_mut().find(|p| p.network_interface == "t1-c3").unwrap().forwards = true;
    goal
}

fn container(n: u8, src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, n), ROUTER_MAC, src, dst, flags)
}

#[test]
fn a_chain_on_one_host_leads_both_directions_through_the_appliance() {
    let mut host = Host::new(&chained());
    for (round, flags) in [(0, SYN), (1, ACK), (2, ACK)] {
        for (from, to, src, dst, flags) in
            [(2, 102, A, B, flags), (102, 2, B, A, if flags == SYN { SYN | ACK } else { ACK })]
        {
            let frame = host.sent(port(1, from), &container(from, src, dst, flags), port(1, FIREWALL));
            let seen = see(&frame);
            assert_eq!((seen.eth_dst, seen.src, seen.dst, seen.ttl), (mac(1, FIREWALL), sock(src), sock(dst), 63));
            let frame = host.sent(port(1, FIREWALL), &container(FIREWALL, src, dst, flags), port(1, to));
            assert_eq!((see(&frame).eth_dst, see(&frame).src, see(&frame).dst), (mac(1, to), sock(src), sock(dst)));
        }
        assert_eq!(host.engine.resolved(), 2, "round {round}: each side of the appliance is decided once");
    }
    // The other tenant has the same addresses and no such routes.
    let direct = tcp(mac(2, 2), ROUTER_MAC, A, B, SYN);
    host.sent(port(2, 2), &direct, port(2, 102));
}

#[test]
fn a_chain_to_another_host_comes_back_through_the_appliance() {
    let mut host = Host::new(&chained());
    for flags in [SYN, ACK] {
        host.sent(port(1, 2), &container(2, A, REMOTE, flags), port(1, FIREWALL));
        let out = host.sent(port(1, FIREWALL), &container(FIREWALL, A, REMOTE, flags), UNDERLAY);
        let (_, to, network, inner) = unwrap_vxlan(&out);
        assert_eq!((to, network, see(&inner).eth_dst), (ip(OTHER_HOST), vni(1), mac(1, 12)));
        // The other host sends the answer to the appliance: by its Ethernet address.
        let answer = vxlan(OTHER_HOST, vni(1), &tcp(mac(1, 12), mac(1, FIREWALL), REMOTE, A, flags | ACK));
        host.sent(UNDERLAY, &answer, port(1, FIREWALL));
        host.sent(port(1, FIREWALL), &container(FIREWALL, REMOTE, A, flags | ACK), port(1, 2));
    }
    assert_eq!(host.engine.resolved(), 2);
}

#[test]
fn without_leave_to_forward_nothing_is_passed_on_in_either_direction() {
    let mut goal = chained();
    goal.ports.iter_mut().for_each(|p| p.forwards = false);
    let mut host = Host::new(&goal);
    assert_eq!(host.dropped(port(1, FIREWALL), &container(FIREWALL, A, B, SYN)), DropReason::SpoofedSource);
    let foreign = vxlan(OTHER_HOST, vni(1), &tcp(mac(1, 12), mac(1, FIREWALL), REMOTE, A, SYN));
    assert_eq!(host.dropped(UNDERLAY, &foreign), DropReason::UnknownPort);
    // With leave it is the tenant's own affair, and the Ethernet address is still checked.
    let mut host = Host::new(&chained());
    assert_eq!(host.dropped(port(1, FIREWALL), &tcp(mac(1, 2), ROUTER_MAC, A, B, SYN)), DropReason::SpoofedSource);
}

#[test]
fn an_operators_route_comes_before_the_networks_own_where_it_is_as_long() {
    let mut host = Host::new(&chained());
    let from_a = |dst: &str| container(2, A, dst, SYN);
    assert_eq!(host.dropped(port(1, 2), &from_a("172.16.1.1:80")), DropReason::RouteDiscard);
    assert_eq!(host.dropped(port(1, 2), &from_a("172.16.2.1:80")), DropReason::NoRoute, "and no ports are leased");
    host.sent(port(1, 2), &from_a("172.16.3.1:80"), UNDERLAY);
    // 10.0.0.0/8 is shorter than the network's 10.0.0.0/16, and longer than nothing.
    host.sent(port(1, 2), &from_a("10.0.0.3:80"), port(1, 3));
    assert_eq!(host.dropped(port(1, 2), &from_a("10.9.9.9:80")), DropReason::RouteDiscard);
}

#[test]
fn a_route_to_an_appliance_that_is_gone_leads_nowhere_and_takes_effect_in_mid_flow() {
    let mut host = Host::new(&chained());
    host.sent(port(1, 2), &container(2, A, B, SYN), port(1, FIREWALL));
    let mut goal = chained();
    goal.networks[0].epoch = Epoch(2);
    goal.networks[0].tables[0].routes[0].next_hop = UserHop::Appliances(vec![Overlay(ip("10.0.0.99"))]);
    host.publish(&goal);
    assert_eq!(host.dropped(port(1, 2), &container(2, A, B, ACK)), DropReason::RouteDiscard);
    goal.networks[0].epoch = Epoch(3);
    goal.networks[0].tables.clear();
    host.publish(&goal);
    host.sent(port(1, 2), &container(2, A, B, ACK), port(1, 102));
}

#[test]
fn an_appliance_that_is_named_by_its_second_address_does_not_get_its_own_packets_back() {
    let mut goal = chained();
    let second = "10.0.0.33/24".parse().unwrap();
    let is_firewall = |name: &str| name == "t1-c3";
    goal.ports.iter_mut().find(|p| is_firewall(&p.network_interface)).unwrap().addresses.push(second);
    let first = goal.networks[0].endpoints.iter().find(|e| is_firewall(&e.network_interface)).unwrap().clone();
    goal.networks[0].endpoints.push(penstock_policy::Endpoint { addr: Overlay(second.ip()), ..first });
    for route in goal.networks[0].tables.iter_mut().flat_map(|t| &mut t.routes) {
        if let UserHop::Appliances(all) = &mut route.next_hop {
            *all = vec![Overlay(second.ip())];
        }
    }
    let mut host = Host::new(&goal);
    host.sent(port(1, 2), &container(2, A, B, SYN), port(1, FIREWALL));
    host.sent(port(1, FIREWALL), &container(FIREWALL, A, B, SYN), port(1, 102));
    // And what it sends itself.
    host.sent(port(1, FIREWALL), &container(FIREWALL, "10.0.0.3:1", B, SYN), port(1, 102));
}

#[test]
fn trace_says_of_an_appliances_packets_what_is_done_with_them() {
    let mut host = Host::new(&chained());
    let frame = container(FIREWALL, A, B, SYN);
    let hasher = penstock_flow::FlowHasher::new([7; 16]);
    let told = explain(&host.policies.load_full(), &hasher, &frame, port(1, FIREWALL), |_, _| None);
    let done = host.sent(port(1, FIREWALL), &frame, port(1, 102));
    assert_eq!((told.ending, told.frame), (penstock_engine::Ending::Transmit(port(1, 102)), done));
}
