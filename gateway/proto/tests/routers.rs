//! Routers of tenants: whose packets reach them, and what becomes of routes that sites tell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::NextHop;
use penstock_routing_proto::{Chosen, PeerGoal, RouterGoal};

const ROUTER: &str = "10.1.0.254";

fn router(tenant: u32) -> TenantRouter {
    let name = format!("peer{tenant}");
    let peer = PeerGoal {
        local_address: Some(ip(ROUTER)),
        max_prefixes: Some(10),
        ..PeerGoal::new(&name, ip("10.200.0.7"), 65010)
    };
    TenantRouter {
        name: format!("router{tenant}"),
        vni: goal().networks[tenant as usize - 1].vni,
        goal: RouterGoal { local_as: 64512, peers: vec![peer], ..RouterGoal::default() },
        sites: [(name, TunnelId(tenant))].into(),
        own: [].into(),
    }
}

fn with_routers() -> GatewayGoal {
    GatewayGoal { routers: vec![router(1), router(2)], ..goal() }
}

fn told(prefix: &str, peers: &[&str]) -> Chosen {
    Chosen { prefix: prefix.parse().unwrap(), peers: peers.iter().map(|p| (*p).into()).collect() }
}

#[test]
fn what_a_site_tells_becomes_routes_of_its_tenant_alone() {
    let learned = Learned::from([("router1".into(), vec![told("10.210.0.0/16", &["peer1"])])]);
    let before = build(&with_routers(), None).unwrap();
    let goal = with_routers().with_learned(&learned);
    let route = goal.networks[0].routes.last().unwrap();
    assert_eq!((route.prefix.to_string().as_str(), route.next_hop), ("10.210.0.0/16", NextHop::Tunnel(TunnelId(1))));
    assert_eq!(goal.networks[1], with_routers().networks[1], "the other tenant has none of it");
    assert!(goal.tunnels[0].prefixes.contains(&"10.210.0.0/16".parse().unwrap()), "and it may come from there");
    assert_eq!(goal.tunnels[1].prefixes, with_routers().tunnels[1].prefixes);
    build(&goal, Some(&before)).unwrap();
    assert_eq!(with_routers().with_learned(&Learned::new()), with_routers());
}

#[test]
fn nothing_that_is_told_takes_the_place_of_what_was_said() {
    let own = with_routers().networks[0].prefixes[0];
    let inside = format!("{}/32", own.network());
    let said = with_routers().networks[0].routes[0].prefix.to_string();
    let all = vec![told(&inside, &["peer1"]), told(&said, &["peer1"]), told("10.211.0.0/16", &["nobody"])];
    let goal = with_routers().with_learned(&Learned::from([("router1".into(), all)]));
    assert_eq!(goal, with_routers());
}

/// Of the first tenant.
fn with_a_second_site() -> GatewayGoal {
    let mut goal = with_routers();
    let mut second = tunnel(1);
    (second.id, second.name) = (TunnelId(3), "gw/second".into());
    let TunnelKind::WireGuard { peer_public_key, .. } = &mut second.kind else { panic!() };
    *peer_public_key = [9; 32];
    second.prefixes = vec!["10.201.0.0/16".parse().unwrap()];
    goal.tunnels.push(second);
    goal
}

#[test]
fn the_second_best_site_may_send_from_what_it_has_told_too() {
    let mut both = with_a_second_site();
    both.routers[0].sites.insert("standby".into(), TunnelId(3));
    let learned = Learned::from([("router1".into(), vec![told("10.210.0.0/16", &["standby", "peer1"])])]);
    let goal = both.with_learned(&learned);
    assert_eq!(goal.networks[0].routes.last().unwrap().next_hop, NextHop::Tunnel(TunnelId(3)));
    let prefix = "10.210.0.0/16".parse().unwrap();
    assert!([0, 2].iter().all(|i: &usize| goal.tunnels[*i].prefixes.contains(&prefix)));
    build(&goal, None).unwrap();
}

#[test]
fn of_two_routers_of_a_network_both_sites_may_send_from_what_both_have_told() {
    let mut both = with_a_second_site();
    let mut other = router(1);
    (other.name, other.sites) = ("router3".into(), [("peer1".into(), TunnelId(3))].into());
    both.routers.push(other);
    let told = || vec![told("10.210.0.0/16", &["peer1"])];
    let goal = both.with_learned(&Learned::from([("router1".into(), told()), ("router3".into(), told())]));
    let prefix = "10.210.0.0/16".parse().unwrap();
    assert_eq!(goal.networks[0].routes.iter().filter(|r| r.prefix == prefix).count(), 1);
    assert!([0, 2].iter().all(|i: &usize| goal.tunnels[*i].prefixes.contains(&prefix)));
    build(&goal, None).unwrap();
}

#[test]
fn a_router_that_cannot_be_is_refused_by_field() {
    let refused = |change: fn(&mut GatewayGoal)| {
        let mut goal = with_routers();
        change(&mut goal);
        build(&goal, None).unwrap_err().field
    };
    let at = |field: &str| format!("routers[1].goal.peers[0].{field}");
    assert_eq!(refused(|g| g.routers[1].name = "router1".into()), "routers[1].name");
    assert_eq!(refused(|g| g.routers[1].vni = Vni::new(77).unwrap()), "routers[1].vni");
    assert_eq!(refused(|g| g.routers[1].goal.peers[0].local_address = None), at("local_address"));
    assert_eq!(refused(|g| g.routers[1].goal.peers[0].max_prefixes = None), at("max_prefixes"));
    let own = |address: &str| {
        let mut goal = with_routers();
        goal.routers[1].goal.peers[0].local_address = Some(ip(address));
        build(&goal, None).unwrap_err().field
    };
    for address in ["224.0.0.9", "255.255.255.255", "0.0.0.0", "ff02::1", "::ffff:10.1.0.254"] {
        assert_eq!(own(address), at("local_address"), "{address}: no TCP stack takes it");
    }
    assert_eq!(
        refused(|g| g.routers[1].sites = [("peer2".into(), TunnelId(1))].into()),
        at("name"),
        "another tenant's"
    );
    assert_eq!(refused(|g| g.routers[1].goal.local_as = 0), "routers[1].goal.local_as");
    assert_eq!(
        refused(|g| {
            let endpoint = g.networks[1].endpoints[0].addr.0;
            g.routers[1].goal.peers[0].local_address = Some(endpoint);
        }),
        at("local_address")
    );
    assert_eq!(
        refused(|g| {
            let mut twin = g.routers[1].clone();
            twin.name = "twin".into();
            g.routers.push(twin);
        }),
        "routers[2].goal.peers[0].address"
    );
}
