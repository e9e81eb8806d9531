//! What is remembered of connections, and for how long: closing, forged and competing ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_engine::Ending;
use penstock_model::*;
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{HostResolver, Notice, ROUTER_MAC};
use std::time::Duration;

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
const FIN: u8 = 1;
const RST: u8 = 4;

fn from_mux(client: &str, vip: &str, flags: u8) -> Vec<u8> {
    vxlan(MUX, vni(1), &tcp(MUX_MAC, mac(1, 2), client, vip, flags))
}

fn from_container(src: &str, dst: &str, flags: u8) -> Vec<u8> {
    tcp(mac(1, 2), ROUTER_MAC, src, dst, flags)
}

fn answer(client: &str, flags: u8) -> Vec<u8> {
    from_container("10.0.0.2:8080", client, flags)
}

fn client(n: u32) -> String {
    format!("203.0.113.{}:{}", 1 + n % 250, 1024 + n)
}

fn wait(host: &mut Host, time: Duration) {
    host.now = host.now.plus(time);
}

fn sweep(host: &mut Host) {
    for _ in 0..=host.engine.flow_table().buckets() / 64 {
        host.engine.maintain(host.now);
    }
}

fn open(host: &mut Host, client: &str, vip: &str) {
    host.sent(UNDERLAY, &from_mux(client, vip, SYN), port(1, 2));
    host.sent(port(1, 2), &answer(client, SYN | ACK), UNDERLAY);
    host.sent(UNDERLAY, &from_mux(client, vip, ACK), port(1, 2));
}

#[test]
fn connections_that_were_closed_make_room_for_new_ones() {
    let mut host = Host::new(&goal());
    // Twenty a second, of a port's share of 682 flows.
    for n in 0..6000 {
        wait(&mut host, Duration::from_millis(50));
        let client = client(n);
        open(&mut host, &client, VIP);
        host.sent(UNDERLAY, &from_mux(&client, VIP, FIN | ACK), port(1, 2));
        host.sent(port(1, 2), &answer(&client, FIN | ACK), UNDERLAY);
        host.sent(UNDERLAY, &from_mux(&client, VIP, ACK), port(1, 2));
        host.engine.maintain(host.now);
    }
}

#[test]
fn a_connection_is_remembered_as_long_as_its_stage_says() {
    let after = |last: &[(bool, u8)], seconds: u64| {
        let mut host = Host::new(&goal());
        open(&mut host, CLIENT, VIP);
        for (from_client, flags) in last {
            match from_client {
                true => host.sent(UNDERLAY, &from_mux(CLIENT, VIP, *flags), port(1, 2)),
                false => host.sent(port(1, 2), &answer(CLIENT, *flags), UNDERLAY),
            };
        }
        wait(&mut host, Duration::from_secs(seconds));
        sweep(&mut host);
        host.engine.flows()
    };
    assert_eq!((after(&[], 1700), after(&[], 2400)), (2, 0), "established");
    assert_eq!((after(&[(true, FIN | ACK)], 55), after(&[(true, FIN | ACK)], 130)), (2, 0), "half closed");
    let again = [(true, FIN | ACK), (true, FIN | ACK)];
    assert_eq!(after(&again, 55), 2, "a FIN that is repeated is no second one");
    let both = [(true, FIN | ACK), (false, FIN | ACK), (true, ACK)];
    assert_eq!((after(&both, 9), after(&both, 20)), (2, 0), "closed");
    assert_eq!((after(&[(false, RST)], 9), after(&[(false, RST)], 20)), (2, 0), "reset");
}

#[test]
fn a_port_pair_that_was_closed_can_be_used_again_at_once_and_has_to_prove_itself_again() {
    let mut host = Host::new(&goal());
    open(&mut host, CLIENT, VIP);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, FIN | ACK), port(1, 2));
    host.sent(port(1, 2), &answer(CLIENT, FIN | ACK), UNDERLAY);
    assert_eq!(host.engine.flow_table().established(), 2);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    assert_eq!(host.engine.flow_table().established(), 0);
    open(&mut host, CLIENT, VIP);
    assert_eq!(host.engine.flow_table().established(), 2);
    wait(&mut host, Duration::from_secs(1700));
    assert_eq!(see(&host.sent(port(1, 2), &answer(CLIENT, ACK), UNDERLAY)).src, sock(VIP));
}

#[test]
fn a_forged_syn_does_not_end_an_established_connection() {
    let mut host = Host::new(&goal());
    open(&mut host, CLIENT, VIP);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    wait(&mut host, Duration::from_secs(1700));
    sweep(&mut host);
    assert_eq!((host.engine.flows(), host.engine.flow_table().established()), (2, 2));
}

#[test]
fn forged_syns_that_are_answered_establish_nothing_and_block_nobody() {
    let mut host = Host::new(&goal());
    for n in 0..9000 {
        let client = client(n);
        host.sent(UNDERLAY, &from_mux(&client, VIP, SYN), port(1, 2));
        for _ in 0..2 {
            host.sent(port(1, 2), &answer(&client, SYN | ACK), UNDERLAY);
        }
        host.sent(UNDERLAY, &from_mux(&client, VIP, SYN), port(1, 2));
    }
    assert_eq!(host.engine.flow_table().established(), 0);
    let other = tcp(mac(2, 2), ROUTER_MAC, "10.0.0.2:1", "10.0.0.3:2", SYN);
    host.sent(port(2, 2), &other, port(2, 3));
    open(&mut host, CLIENT, VIP);
}

#[test]
fn a_port_that_has_used_its_share_is_refused_and_the_others_are_not() {
    let mut host = Host::new(&goal());
    let refused = (0..9000).find(|n| {
        let client = client(*n);
        let first = host.put(UNDERLAY, &from_mux(&client, VIP, SYN)).0;
        host.put(port(1, 2), &answer(&client, SYN | ACK));
        host.put(UNDERLAY, &from_mux(&client, VIP, ACK));
        first == Verdict::Drop(DropReason::FlowTableFull)
    });
    assert!(refused.is_some());
    assert!(host.engine.flow_table().established() <= 4096 / PORTS.len());
    for _ in 0..2 {
        let other = tcp(mac(2, 2), ROUTER_MAC, "10.0.0.2:1", "10.0.0.3:2", ACK);
        host.sent(port(2, 2), &other, port(2, 3));
    }
}

#[test]
fn new_connections_of_others_survive_a_flood_of_one_port() {
    let mut host = Host::new(&goal());
    let syn = tcp(mac(2, 2), ROUTER_MAC, "10.0.0.2:1", "10.0.0.12:2", SYN);
    host.sent(port(2, 2), &syn, UNDERLAY);
    for n in 0..20_000 {
        host.put(UNDERLAY, &from_mux(&client(n), VIP, SYN));
    }
    let resolved = host.engine.resolved();
    let back = tcp(ROUTER_MAC, mac(2, 2), "10.0.0.12:2", "10.0.0.2:1", SYN | ACK);
    host.sent(UNDERLAY, &vxlan(OTHER_HOST, vni(2), &back), port(2, 2));
    assert_eq!(host.engine.resolved(), resolved, "the answer was expected");
}

#[test]
fn a_new_connection_by_another_virtual_address_is_answered_by_that_one() {
    const SECOND: &str = "198.51.100.2:80";
    let mut goal = goal();
    let mut second = goal.nat_rules[0].clone();
    (second.vip, second.service) = (ip("198.51.100.2"), ServiceId(8));
    goal.nat_rules.push(second);
    let mut host = Host::new(&goal);
    for vip in [VIP, SECOND, VIP, SECOND] {
        open(&mut host, CLIENT, vip);
        wait(&mut host, Duration::from_secs(20));
        assert_eq!(see(&host.sent(port(1, 2), &answer(CLIENT, ACK), UNDERLAY)).src, sock(vip));
    }
}

#[test]
fn flows_that_are_denied_from_the_first_packet_take_no_place() {
    let mut goal = goal();
    goal.acls = vec![Acl {
        name: "closed".to_owned(),
        rules: vec![rule("none", 100, AclAction::Deny, AclDirection::Inbound, None)],
    }];
    goal.ports[0].acl = Some(AclId(0));
    let mut host = Host::new(&goal);
    for n in 0..100 {
        for flags in [SYN, ACK, ACK] {
            assert_eq!(host.dropped(UNDERLAY, &from_mux(&client(n), VIP, flags)), DropReason::AclDenied);
        }
    }
    assert_eq!(host.engine.flows(), 0);
}

#[test]
fn a_syn_is_explained_as_it_is_decided() {
    // A connection that is under way keeps the service that is gone; one that has closed begins anew, without it.
    for (last, reason) in [(None, None), (Some(FIN | ACK), Some(DropReason::UnknownPort))] {
        let mut host = Host::new(&goal());
        open(&mut host, CLIENT, VIP);
        if let Some(flags) = last {
            host.sent(UNDERLAY, &from_mux(CLIENT, VIP, flags), port(1, 2));
        }
        let mut goal = goal();
        goal.nat_rules.clear();
        goal.networks[0].epoch = Epoch(2);
        host.publish(&goal);
        let syn = from_mux(CLIENT, VIP, SYN);
        let explained = host.engine.explain(&syn, UNDERLAY, host.now).ending;
        let (verdict, _) = host.put(UNDERLAY, &syn);
        assert_eq!(verdict, reason.map_or(Verdict::Transmit(port(1, 2)), Verdict::Drop));
        assert_eq!(explained, reason.map_or(Ending::Transmit(port(1, 2)), Ending::Drop));
    }
}

/// A host that says which flows are replayed elsewhere, and a connection to the virtual address that is under way.
fn replaying(goal: &penstock_slb_host::HostGoal) -> Host {
    let mut host = Host::new(goal);
    let resolver = HostResolver::new(host.policies.clone(), penstock_flow::FlowHasher::new([7; 16])).with_notices();
    host.engine = penstock_engine::Port::new(resolver, penstock_slb_host::flow_table(4096, PORTS.len()));
    host
}

/// Source and destination port of each flow that comes back from where it was replayed.
fn unsettled(host: &mut Host) -> Vec<(u16, u16)> {
    let notices = std::iter::from_fn(|| host.engine.resolver_mut().poll_notice());
    let places = notices.filter_map(|notice| match notice {
        Notice::Unsettled(place) => place.key(|_| Some(1)),
        Notice::Settled(_) => None,
    });
    let ports = places.map(|key| key.ports);
    ports.map(|[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))).collect()
}

#[test]
fn a_forged_syn_does_not_take_a_connection_from_whoever_replays_it_and_its_end_does() {
    let mut host = replaying(&goal());
    open(&mut host, CLIENT, VIP);
    unsettled(&mut host);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, SYN), port(1, 2));
    assert_eq!(unsettled(&mut host), []);
    host.sent(UNDERLAY, &from_mux(CLIENT, VIP, FIN | ACK), port(1, 2));
    assert_eq!(unsettled(&mut host), [(40000, 80), (8080, 40000)]);
}

#[test]
fn an_answer_that_is_decided_otherwise_from_now_on_is_not_replayed_as_before() {
    let site = "172.16.0.5:40000";
    let mut host = replaying(&goal());
    host.sent(UNDERLAY, &from_mux(site, VIP, SYN), port(1, 2));
    host.sent(port(1, 2), &answer(site, SYN | ACK), UNDERLAY);
    host.sent(UNDERLAY, &from_mux(site, VIP, ACK), port(1, 2));
    unsettled(&mut host);
    // The same ports to the container's own address: its answers go back by the gateway.
    let direct = vxlan(GATEWAY, vni(1), &tcp(GATEWAY_MAC, mac(1, 2), site, "10.0.0.2:8080", SYN));
    host.sent(UNDERLAY, &direct, port(1, 2));
    assert_eq!(unsettled(&mut host), [(8080, 40000)]);
    let (_, to, ..) = unwrap_vxlan(&host.sent(port(1, 2), &answer(site, SYN | ACK), UNDERLAY));
    assert_eq!(to, ip(GATEWAY));
}
