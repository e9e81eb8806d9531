//! Goals that are refused, with the field that is to blame; and the trace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_engine::Ending;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::*;
use std::sync::Arc;

fn refused(change: impl FnOnce(&mut GatewayGoal)) -> String {
    let mut goal = goal();
    change(&mut goal);
    build(&goal, None).unwrap_err().field
}

#[test]
fn a_bad_goal_is_refused_by_the_name_of_the_field() {
    assert_eq!(refused(|g| g.networks[1].vni = vni(1)), "networks[1].vni");
    assert_eq!(refused(|g| g.networks[1].tenant = TenantId(1)), "networks[1].prefixes");
    assert_eq!(refused(|g| g.tunnels[1].id = TunnelId(1)), "tunnels[1].id");
    assert_eq!(refused(|g| g.tunnels[1].id = TunnelId(1 << 20)), "tunnels[1].id");
    assert_eq!(refused(|g| g.tunnels[0].prefixes.clear()), "tunnels[0].prefixes");
    assert_eq!(refused(|g| g.tunnels[1].tenant = TenantId(7)), "tunnels[1].tenant");
    assert_eq!(
        refused(|g| g.networks[0].routes[0].next_hop = NextHop::Tunnel(TunnelId(50))),
        "networks[0].routes[0].next_hop"
    );
    let other_family = refused(|g| g.networks[0].endpoints[0].host = Underlay(ip("2001:db8::1")));
    assert_eq!(other_family, "networks[0].endpoints[0].host");
    let same_peer = refused(|g| {
        let TunnelKind::WireGuard { peer_public_key, .. } = &mut g.tunnels[1].kind else { panic!() };
        *peer_public_key = [1; 32];
    });
    assert_eq!(same_peer, "tunnels[1].kind.peer_public_key");
    let other_key = refused(|g| {
        let TunnelKind::WireGuard { private_key, .. } = &mut g.tunnels[1].kind else { panic!() };
        *private_key = Secret32([8; 32]);
    });
    assert_eq!(other_key, "tunnels[1].kind.listen_port");
    let vxlan = refused(|g| {
        let TunnelKind::WireGuard { listen_port, .. } = &mut g.tunnels[0].kind else { panic!() };
        *listen_port = 4789;
    });
    assert_eq!(vxlan, "tunnels[0].kind.listen_port");
}

#[test]
fn ports_beyond_the_steering_map_are_refused_and_as_many_as_it_holds_are_not() {
    let most = penstock_maps::ENDPOINT_CAPACITY - 2; // VXLAN and GRE
    let mut goal = goal();
    let first = goal.tunnels[0].clone();
    goal.tunnels = (0..most)
        .map(|n| {
            let mut tunnel = Tunnel { id: TunnelId(n), tenant: TenantId(1 + n % 2), ..first.clone() };
            let TunnelKind::WireGuard { listen_port, .. } = &mut tunnel.kind else { panic!() };
            *listen_port = 20_000 + n as u16;
            tunnel
        })
        .collect();
    goal.networks.iter_mut().for_each(|n| n.routes.clear());
    assert_eq!(build(&goal, None).unwrap().listen_ports().count(), most as usize);
    let mut more = Tunnel { id: TunnelId(most), ..first };
    let TunnelKind::WireGuard { listen_port, .. } = &mut more.kind else { panic!() };
    *listen_port = 19_999;
    goal.tunnels.push(more);
    assert_eq!(build(&goal, None).unwrap_err().field, format!("tunnels[{most}].kind.listen_port"));
}

#[test]
fn a_route_into_another_tenants_tunnel_is_refused() {
    let mut goal = goal();
    goal.networks[0].routes[0].next_hop = NextHop::Tunnel(TunnelId(2));
    let error = build(&goal, None).unwrap_err();
    assert_eq!(error.to_string(), "networks[0].routes[0].next_hop: tunnel 2 belongs to another tenant");
}

#[test]
fn a_secret_is_never_printed() {
    let text = format!("{:?}", goal());
    assert!(text.contains("Secret32(..)") && !text.contains("[7, 7"), "{text}");
}

#[test]
fn the_trace_tells_what_is_done_and_why() {
    let policy = Arc::new(build(&goal(), None).unwrap());
    let syn = 2;
    let told = explain(&policy, &ethernet(&tcp(SITE, 4000, CONTAINER, 80, syn)), Policy::port_of(TunnelId(2)));
    assert_eq!(told.ending, Ending::Transmit(UNDERLAY));
    assert_eq!(open(&told.frame).1, vni(2));
    let layers: Vec<_> = told.steps.iter().map(|s| s.layer.as_str()).collect();
    assert_eq!(layers, ["tunnel", "acl", "encapsulation"]);
    assert!(told.steps[0].text.contains("gw/site2"), "{:?}", told.steps);

    let told = explain(&policy, &ethernet(&tcp(SITE, 4000, CONTAINER, 22, syn)), Policy::port_of(TunnelId(2)));
    assert_eq!(told.ending, Ending::Drop(DropReason::AclDenied));

    let told = explain(&policy, &vxlan(HOST, 1, &tcp(CONTAINER, 1, SITE, 443, syn)), UNDERLAY);
    assert_eq!(told.ending, Ending::Tunnel(TunnelId(1)));
    assert!(told.steps.iter().any(|s| s.layer == "route" && s.text.contains("10.200.0.0/16")), "{:?}", told.steps);
}
