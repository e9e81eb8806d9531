//! How fast a connection may be, each way, and what stays as it is when something else changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_engine::Ending;
use penstock_gateway_proto::*;
use penstock_model::*;
use std::sync::Arc;

const MEGABIT: u64 = 1_000_000;

/// Tenant 1's connection may receive 8 and transmit 4 Mbit/s.
fn capped() -> GatewayGoal {
    let mut goal = goal();
    goal.tunnels[0].caps = Caps { received: Some(8 * MEGABIT), transmitted: Some(4 * MEGABIT) };
    goal
}

fn publish(gw: &mut Gateway, goal: &GatewayGoal) {
    gw.publish(goal);
    follow(gw);
}

/// As the worker does with a new policy.
fn follow(gw: &mut Gateway) {
    let policy = gw.published.load_full();
    gw.port.set_rates(policy.rates(), gw.now);
}

/// Bytes of IP packets that pass within a second when twice the rate is offered.
fn passes(gw: &mut Gateway, mut send: impl FnMut(&mut Gateway) -> (Verdict, usize)) -> (u64, u64) {
    let (mut passed, mut refused) = (0, 0);
    for _ in 0..2000 {
        gw.now = gw.now.plus(std::time::Duration::from_micros(500));
        match send(gw) {
            (Verdict::Drop(DropReason::MeterExceeded), _) => refused += 1,
            (Verdict::Drop(reason), _) => panic!("{reason:?}"),
            (_, bytes) => passed += bytes as u64,
        }
    }
    (passed, refused)
}

fn from_site(tenant: u32) -> impl FnMut(&mut Gateway) -> (Verdict, usize) {
    let packet = v4(SITE, CONTAINER, Protocol::UDP, &udp(980));
    move |gw| (gw.site_sends(tenant, &packet).0, packet.len())
}

fn to_site(tenant: u32) -> impl FnMut(&mut Gateway) -> (Verdict, usize) {
    let packet = v4(CONTAINER, SITE, Protocol::UDP, &udp(980));
    move |gw| (gw.host_sends(tenant, &packet).0, packet.len())
}

fn udp(len: u16) -> Vec<u8> {
    let mut datagram = vec![0; usize::from(len)];
    datagram[..6].copy_from_slice(&[0x0f, 0xa0, 0, 53, (len >> 8) as u8, len as u8]);
    datagram
}

/// All inbound UDP is allowed.
fn open_to_udp(mut goal: GatewayGoal) -> GatewayGoal {
    for acl in &mut goal.acls {
        acl.rules.clear();
    }
    goal
}

#[test]
fn each_way_of_a_connection_has_the_rate_that_the_goal_says_and_no_other_connection_has() {
    let mut gw = Gateway::new(&open_to_udp(capped()));
    follow(&mut gw);
    let (received, refused) = passes(&mut gw, from_site(1));
    assert!((1_000_000..1_110_000).contains(&received), "8 Mbit/s and its burst: {received}");
    assert_eq!(refused, 2000 - received / 1000);
    let (transmitted, _) = passes(&mut gw, to_site(1));
    assert!((500_000..560_000).contains(&transmitted), "4 Mbit/s and its burst: {transmitted}");
    assert_eq!(passes(&mut gw, from_site(2)), (2_000_000, 0));
    assert_eq!(passes(&mut gw, to_site(2)), (2_000_000, 0));
    let policy = gw.published.load_full();
    let refusals: Vec<_> = policy.meters().map(|(_, _, n)| gw.port.meters()[usize::from(n)].refused()).collect();
    assert!(refusals.len() == 2 && refusals.iter().all(|n| *n > 800), "{refusals:?}");
}

#[test]
fn a_meter_goes_on_when_another_tenant_changes_and_a_new_cap_holds_from_the_next_packet() {
    let mut gw = Gateway::new(&open_to_udp(capped()));
    follow(&mut gw);
    passes(&mut gw, from_site(1));
    let mut goal = open_to_udp(capped());
    goal.tunnels[1].caps.received = Some(MEGABIT);
    publish(&mut gw, &goal);
    let resolved = gw.port.resolved();
    let (received, _) = passes(&mut gw, from_site(1));
    assert!(received < 1_010_000, "no second burst: {received}");
    assert_eq!(gw.port.resolved(), resolved, "and its flow is replayed as it was");
    let (received, _) = passes(&mut gw, from_site(2));
    assert!((125_000..160_000).contains(&received), "{received}");
    goal.tunnels[0].caps = Caps::default();
    publish(&mut gw, &goal);
    assert_eq!(passes(&mut gw, from_site(1)), (2_000_000, 0));
    let (received, _) = passes(&mut gw, from_site(2));
    assert!((125_000..160_000).contains(&received), "its number has not become another's: {received}");
}

/// A third connection, of tenant 1 as the first is, which may transmit at this rate.
fn with_a_second_site(transmitted: u64) -> GatewayGoal {
    let mut goal = open_to_udp(capped());
    let mut third = goal.tunnels[0].clone();
    third.id = TunnelId(3);
    third.prefixes = vec!["10.203.0.0/16".parse().unwrap()];
    let TunnelKind::WireGuard { peer_public_key, .. } = &mut third.kind else { panic!() };
    *peer_public_key = [9; 32];
    third.caps = Caps { received: None, transmitted: Some(transmitted) };
    let route =
        penstock_policy::Route { prefix: third.prefixes[0], next_hop: penstock_policy::NextHop::Tunnel(third.id) };
    goal.networks[0].routes.push(route);
    goal.tunnels.push(third);
    goal
}

#[test]
fn between_two_sites_the_slower_connection_counts() {
    let mut gw = Gateway::new(&with_a_second_site(MEGABIT));
    follow(&mut gw);
    let packet = v4(SITE, "10.203.0.1", Protocol::UDP, &udp(980));
    let (passed, _) = passes(&mut gw, |gw| (gw.site_sends(1, &packet).0, packet.len()));
    assert!((125_000..160_000).contains(&passed), "{passed}");
    let policy = gw.published.load_full();
    let told = explain(&policy, &ethernet(&packet), Policy::port_of(TunnelId(1)));
    assert_eq!(told.ending, Ending::Tunnel(TunnelId(3)));
    let caps = ["at most 8000000 bit/s received by tunnel1", "at most 1000000 bit/s transmitted by tunnel3"];
    assert_eq!(meters_of(&told), caps);
}

#[test]
fn what_goes_on_to_another_site_uses_what_its_own_may_send() {
    let mut gw = Gateway::new(&with_a_second_site(4 * MEGABIT));
    follow(&mut gw);
    let packet = v4(SITE, "10.203.0.1", Protocol::UDP, &udp(980));
    // The burst is used up.
    passes(&mut gw, from_site(1));
    let mut turn = 0;
    let mut onward = 0;
    let (both, _) = passes(&mut gw, |gw| {
        turn += 1;
        // One packet in five of 16 Mbit/s goes to the other site, whose connection would take them all.
        let (to, bytes) = if turn % 5 == 0 { (gw.site_sends(1, &packet).0, packet.len()) } else { from_site(1)(gw) };
        if to == Verdict::Tunnel(TunnelId(3)) {
            onward += 1;
        }
        (to, bytes)
    });
    assert!(onward > 100, "{onward}");
    assert!((990_000..1_010_000).contains(&both), "8 Mbit/s for all that comes from the site: {both}");
}

/// What a trace says of caps, without the bursts.
fn meters_of(told: &penstock_engine::Explanation) -> Vec<&str> {
    let meters = told.steps.iter().filter(|s| s.layer == "meter");
    meters.filter_map(|s| Some(s.text.split_once(',')?.0)).collect()
}

#[test]
fn a_trace_tells_of_the_direction_that_is_asked_for_and_of_no_other() {
    let policy = Arc::new(build(&open_to_udp(capped()), None).unwrap());
    let inward = v4(SITE, CONTAINER, Protocol::UDP, &udp(980));
    let told = explain(&policy, &ethernet(&inward), Policy::port_of(TunnelId(1)));
    assert_eq!(meters_of(&told), ["at most 8000000 bit/s received by tunnel1"]);
    let outward = v4(CONTAINER, SITE, Protocol::UDP, &udp(980));
    let told = explain(&policy, &vxlan(HOST, 1, &outward), UNDERLAY);
    assert_eq!(told.ending, Ending::Tunnel(TunnelId(1)));
    assert_eq!(meters_of(&told), ["at most 4000000 bit/s transmitted by tunnel1"]);
    assert!(told.steps.iter().all(|s| s.layer != "encapsulation"), "{:?}", told.steps);
}
