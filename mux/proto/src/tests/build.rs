use super::fixture::*;
use crate::{ALL_PORTS, Idle, MAX_BACKEND, MAX_SERVICE, MuxGoal, NextHopInfo, Policy, Pool, SnatBlock};
use penstock_model::{BackendId, Mac, PoolId, Protocol, ServiceId, Underlay};
use std::net::IpAddr;

fn refusal(change: impl FnOnce(&mut MuxGoal)) -> (String, String) {
    let mut goal = goal(&[1, 2]);
    change(&mut goal);
    let e = Policy::build(&goal, next_hop, Underlay(ip(OWN))).unwrap_err();
    (e.field, e.problem)
}

macro_rules! refused {
    ($($name:ident: $change:expr => $field:literal, $problem:literal;)*) => {
        $(#[test] fn $name() {
            let (field, problem) = refusal($change);
            assert_eq!((field.as_str(), problem.as_str()), ($field, $problem));
        })*
    };
}

refused! {
    a_service_id_beyond_the_limit_is_refused: |g| g.services[1].id = ServiceId(MAX_SERVICE + 1)
        => "services[1].id", "1048576 is out of range: at most 1048575";
    a_service_id_twice_is_refused: |g| g.services[1].id = ServiceId(1) => "services[1].id", "1 is used twice";
    a_multicast_virtual_ip_is_refused: |g| g.services[0].vip = ip("224.0.0.1")
        => "services[0].vip", "224.0.0.1 cannot be a virtual IP";
    a_mapped_virtual_ip_is_refused: |g| g.services[2].vip = ip("::ffff:1.2.3.4")
        => "services[2].vip", "::ffff:1.2.3.4 cannot be a virtual IP";
    the_mux_s_own_address_is_no_virtual_ip: |g| g.services[0].vip = ip(OWN)
        => "services[0].vip", "192.0.2.1 is the mux's own address";
    a_protocol_without_ports_is_refused: |g| g.services[0].protocol = Protocol::GRE
        => "services[0].protocol", "gre cannot be balanced: TCP and UDP can";
    leased_ports_of_an_address_whose_ports_are_all_served_are_refused: |g| {
        g.services[1].port = ALL_PORTS;
        g.snat.push(SnatBlock { vip: ip(VIP), first: 1024, shift: 6, backend: BackendId(1) });
    } => "snat[0].vip", "203.0.113.10 has a rule for all ports";
    one_frontend_for_two_services_is_refused: |g| { g.services[1].protocol = Protocol::TCP; g.services[1].port = 80; }
        => "services[1].port", "203.0.113.10:tcp:80 is served twice";
    an_unknown_pool_is_refused: |g| g.services[1].pool = PoolId(7) => "services[1].pool", "there is no pool 7";
    a_pool_id_twice_is_refused: |g| { let p = g.pools[0].clone(); g.pools.push(p); } => "pools[1].id", "1 is used twice";
    an_unknown_backend_is_refused: |g| { g.backends.remove(1); }
        => "pools[0].table.members[1]", "there is no backend 2";
    a_slot_of_no_member_is_refused: |g| g.pools[0].table.slots[9] = 2
        => "pools[0].table.slots[9]", "index 2 is not below the number of members, 2";
    a_short_table_is_refused: |g| { g.pools[0].table.slots.pop(); }
        => "pools[0].table.slots", "4095 slots where 4096 are needed";
    a_broken_previous_table_is_refused: |g| { let mut t = table(&[1]); t.slots[0] = 1; g.pools[0].previous = vec![t]; }
        => "pools[0].previous[0].slots[0]", "index 1 is not below the number of members, 1";
    a_fourth_previous_table_is_refused: |g| g.pools[0].previous = vec![table(&[1]); 4]
        => "pools[0].previous", "4 tables, at most 3";
    a_backend_id_beyond_the_limit_is_refused: |g| g.backends[7].id = BackendId(MAX_BACKEND + 1)
        => "backends[7].id", "1048576 is out of range: at most 1048575";
    a_backend_id_twice_is_refused: |g| g.backends[7].id = BackendId(1) => "backends[7].id", "1 is used twice";
    a_group_address_of_a_backend_is_refused: |g| g.backends[0].mac = Mac::BROADCAST
        => "backends[0].mac", "ff:ff:ff:ff:ff:ff is not the address of one station";
    a_host_of_another_family_is_refused: |g| g.backends[2].host = Underlay(ip("2001:db8::1"))
        => "backends[2].host", "2001:db8::1 is not of the family of the mux's own address 192.0.2.1";
}

#[test]
fn a_previous_member_that_left_the_goal_is_no_error() {
    let mut goal = goal(&[1, 2]);
    goal.pools[0].previous = vec![table(&[1, 2, 77])];
    assert!(Policy::build(&goal, next_hop, Underlay(ip(OWN))).is_ok());
}

#[test]
fn a_goal_without_a_seed_can_still_be_read() {
    let mut json = serde_json::to_value(goal(&[1])).unwrap();
    json.as_object_mut().unwrap().remove("hash_seed");
    assert_eq!(serde_json::from_value::<MuxGoal>(json).unwrap().hash_seed, [0, 0]);
}

#[test]
fn a_policy_tells_its_vips_hosts_and_versions() {
    let policy = build(&goal(&[1, 2]));
    assert_eq!(policy.vips().iter().copied().collect::<Vec<_>>(), [ip(VIP), ip(VIP6)]);
    assert_eq!(policy.hosts().len(), 2);
    assert_eq!(policy.pools().collect::<Vec<_>>(), [("pool", 1)]);
    assert_eq!((policy.service_counters(), policy.backend_counters()), (5, 9));
    assert_eq!(Policy::empty().vips().len(), 0);
}

#[test]
fn ten_thousand_vips_are_found_and_no_other() {
    let mut goal = goal(&[1]);
    goal.services = (0..10_000)
        .flat_map(|v: u32| [80, 443].map(|p| (v, p)))
        .enumerate()
        .map(|(i, (v, p))| service(i as u32, &format!("203.{}.{}.1", v / 250, v % 250), Protocol::TCP, p))
        .collect();
    let mut mux = Mux::new(&goal);
    for v in (0..10_000).step_by(7) {
        let vip = format!("203.{}.{}.1", v / 250, v % 250);
        assert!(mux.send(&tcp(client(v), &vip, 443, SYN)).is_ok());
        assert!(mux.send(&tcp(client(v), &vip, 8080, SYN)).is_err());
        assert!(mux.send(&tcp(client(v), &format!("203.{}.{}.2", v / 250, v % 250), 443, SYN)).is_err());
    }
}

#[test]
fn virtual_ips_beyond_the_steering_map_are_refused_and_as_many_as_it_holds_are_not() {
    let vips = |n: u32| {
        let mut goal = goal(&[1, 2]);
        goal.services = (0..n)
            .map(|i| {
                let vip = std::net::Ipv4Addr::from(0x1400_0000 + i).to_string();
                service(i, &vip, penstock_model::Protocol::TCP, 80)
            })
            .collect();
        Policy::build(&goal, next_hop, Underlay(ip(OWN)))
    };
    let most = penstock_maps::VIP_CAPACITY;
    assert_eq!(vips(most).unwrap().vips().len(), most as usize);
    assert_eq!(vips(most + 1).unwrap_err().field, format!("services[{most}].vip"));
}

#[test]
fn a_virtual_ip_is_idle_without_members_or_a_way_to_any_of_them() {
    let said = |policy: Policy| policy.idle().into_values().collect::<Vec<_>>();
    assert_eq!(said(Policy::build(&goal(&[1, 2]), next_hop, Underlay(ip(OWN))).unwrap()), [None, None]);
    let unresolved = Policy::build(&goal(&[1, 2]), |_| None, Underlay(ip(OWN))).unwrap();
    assert_eq!(said(unresolved.with_next_hops(next_hop)), [None, None]);
    assert_eq!(said(unresolved), [Some(Idle::NextHopUnresolved); 2]);
    let first = backend(1).host;
    let one_way = Policy::build(&goal(&[1, 2]), |h| next_hop(h).filter(|_| h == first), Underlay(ip(OWN))).unwrap();
    assert_eq!(said(one_way), [None, None], "one backend is enough");
    assert_eq!(said(Policy::build(&goal(&[]), next_hop, Underlay(ip(OWN))).unwrap()), [Some(Idle::NoBackend); 2]);
    // One service of two that works is enough to attract packets.
    let mut half = goal(&[1]);
    half.pools.push(Pool { id: PoolId(2), table: table(&[]), ..half.pools[0].clone() });
    half.services[0].pool = PoolId(2);
    assert_eq!(said(Policy::build(&half, next_hop, Underlay(ip(OWN))).unwrap()), [None, None]);
}

#[test]
fn a_virtual_ip_stays_while_its_last_backends_drain_and_can_be_reached() {
    let said = |goal: &MuxGoal, hop: fn(Underlay<IpAddr>) -> Option<NextHopInfo>| {
        Policy::build(goal, hop, Underlay(ip(OWN))).unwrap().idle().into_values().collect::<Vec<_>>()
    };
    let draining = changed(&goal(&[1, 2]), &[], &[2]);
    assert!(draining.pools[0].table.is_empty());
    assert_eq!(said(&draining, next_hop), [None, None], "its connections would end with the announcement");
    assert_eq!(said(&draining, |_| None), [Some(Idle::NextHopUnresolved); 2]);
    assert_eq!(said(&settled(&draining), next_hop), [Some(Idle::NoBackend); 2]);
    let mut gone = draining;
    gone.backends.retain(|b| b.id != BackendId(2));
    assert_eq!(said(&gone, next_hop), [Some(Idle::NoBackend); 2], "who drained does not exist any more");
}

#[test]
fn a_policy_knows_whether_an_underlay_says_anything_new() {
    let policy = build(&goal(&[1, 2]));
    assert!(policy.has_next_hops(next_hop));
    assert!(!policy.has_next_hops(|_| None));
    let one = backend(1).host;
    let moved = |h| next_hop(h).map(|n| if h == one { crate::NextHopInfo { eth_dst: Mac([6; 6]), ..n } } else { n });
    assert!(!policy.has_next_hops(moved));
    let over = policy.with_next_hops(moved);
    assert!(over.has_next_hops(moved) && !over.has_next_hops(next_hop));
    assert!(Policy::empty().has_next_hops(|_| None));
}

#[test]
fn a_router_that_cannot_be_is_refused_by_field() {
    let peer = penstock_routing_proto::PeerGoal::new("tor", ip("192.0.2.9"), 0);
    let router = penstock_routing_proto::RouterGoal { local_as: 1, peers: vec![peer], ..Default::default() };
    let (field, problem) = refusal(|g| g.router = Some(router));
    assert_eq!((field.as_str(), problem.as_str()), ("router.peers[0].remote_as", "0 is no AS number"));
}
