//! A container that passes on what others send and is also behind a virtual IP: neither role takes packets from the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::*;
use penstock_slb_host::{HostGoal, ROUTER_MAC};
use std::time::Duration;

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
const FIN: u8 = 1;

/// Container 2 of tenant 1 passes on, and has the services of the usual goal.
fn both(floating: bool) -> HostGoal {
    let mut goal = goal();
    goal.ports.iter_mut().find(|p| p.network_interface == "t1-c2").unwrap().forwards = true;
    for rule in goal.nat_rules.iter_mut().filter(|_| floating) {
        (rule.floating, rule.dip_port) = (true, rule.vip_port);
    }
    goal
}

/// The same after it has left the pool.
fn alone(floating: bool) -> HostGoal {
    let mut goal = both(floating);
    goal.nat_rules.clear();
    goal.networks[0].epoch = Epoch(2);
    goal
}

fn from_mux(flags: u8) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, 2), CLIENT, VIP, flags))
}

fn from_container(src: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, 2), ROUTER_MAC, src, CLIENT, flags)
}

fn udp(eth: (Mac, Mac), src: &str, dst: &str) -> Vec<u8> {
    let (s, d) = (sock(src), sock(dst));
    let mut u = [s.port(), d.port(), 12, 0].map(u16::to_be_bytes).concat();
    u.extend(b"ping");
    transport(eth.0, eth.1, s.ip(), d.ip(), Protocol::UDP, 6, u)
}

#[test]
fn datagrams_to_a_floating_virtual_ip_are_answered() {
    let mut goal = both(true);
    goal.nat_rules[0].protocol = Protocol::UDP;
    let mut host = Host::new(&goal);
    host.sent(UNDERLAY, &vxlan(MUX, vni(1), &udp((MUX_MAC, mac(1, 2)), CLIENT, VIP)), port(1, 2));
    let back = see(&host.sent(port(1, 2), &udp((mac(1, 2), ROUTER_MAC), VIP, CLIENT), UNDERLAY));
    assert_eq!((back.src, back.dst), (sock(VIP), sock(CLIENT)));
    assert_eq!(host.engine.resolved(), 1, "the answer's flow was there");
}

#[test]
fn a_connection_by_a_floating_virtual_ip_ends_in_both_directions() {
    let mut host = Host::new(&both(true));
    host.sent(UNDERLAY, &from_mux(SYN), port(1, 2));
    host.sent(port(1, 2), &from_container(VIP, SYN | ACK), UNDERLAY);
    host.sent(UNDERLAY, &from_mux(ACK), port(1, 2));
    assert_eq!((host.engine.flows(), host.engine.flow_table().established()), (2, 2));
    host.sent(UNDERLAY, &from_mux(FIN | ACK), port(1, 2));
    host.sent(port(1, 2), &from_container(VIP, FIN | ACK), UNDERLAY);
    host.now = host.now.plus(Duration::from_secs(20));
    for _ in 0..=host.engine.flow_table().buckets() / 64 {
        host.engine.maintain(host.now);
    }
    assert_eq!(host.engine.flows(), 0);
}

#[test]
fn an_appliance_that_leaves_a_pool_keeps_its_connections() {
    for floating in [false, true] {
        let mut host = Host::new(&both(floating));
        let (own, seen) = if floating { (VIP, VIP) } else { ("10.0.0.2:8080", "10.0.0.2:8080") };
        host.sent(UNDERLAY, &from_mux(SYN), port(1, 2));
        host.sent(port(1, 2), &from_container(own, SYN | ACK), UNDERLAY);
        host.publish(&alone(floating));
        assert_eq!(see(&host.sent(UNDERLAY, &from_mux(ACK), port(1, 2))).dst, sock(seen));
        assert_eq!(see(&host.sent(port(1, 2), &from_container(own, ACK), UNDERLAY)).src, sock(VIP));
    }
}

#[test]
fn what_a_floating_virtual_ip_sends_never_leaves_for_the_tenants_own_addresses() {
    let mut host = Host::new(&both(true));
    for dst in ["10.0.0.12:80", "10.0.7.7:80"] {
        let frame = tcp(mac(1, 2), ROUTER_MAC, VIP, dst, ACK);
        assert_eq!(host.dropped(port(1, 2), &frame), DropReason::NoRoute, "{dst}");
    }
    host.sent(port(1, 2), &from_container(VIP, ACK), UNDERLAY);
}

#[test]
fn leave_to_pass_on_is_given_and_taken_back_in_mid_flow() {
    let mut goal = goal();
    let transit = vxlan(OTHER_HOST, vni(1), &tcp(mac(1, 12), mac(1, 2), "10.0.0.12:80", "10.0.1.102:5", ACK));
    let mut host = Host::new(&goal);
    assert_eq!(host.dropped(UNDERLAY, &transit), DropReason::UnknownPort);
    goal.ports[0].forwards = true;
    host.publish(&goal);
    host.sent(UNDERLAY, &transit, port(1, 2));
    goal.ports[0].forwards = false;
    host.publish(&goal);
    assert_eq!(host.dropped(UNDERLAY, &transit), DropReason::UnknownPort);
}
