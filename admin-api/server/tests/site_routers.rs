//! Routers of virtual gateways, from what a tenant says to what gateway and hosts are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, reference, targets};
use penstock_gateway_proto::{GatewayGoal, GatewayStatus, Policy, TenantRouterStatus};
use penstock_model::{PortId, Underlay};
use penstock_policy::NextHop;
use penstock_routing_proto::wire::attributes::Attributes;
use penstock_routing_proto::*;
use penstock_slb_host::HostGoal;
use penstock_southbound::{Gateway, Host};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const ROUTER: &str = "/VirtualGateways/red/bgpRouters/router";
const PEER: &str = "/VirtualGateways/red/bgpRouters/router/bgpPeers/site";

/// As a tenant says it: prefixes of 172.16.0.0/12 but one may come, and the network goes out as the second best way.
async fn say(lab: &Lab) {
    let permit =
        |criteria: Value, set: Value| json!({"action": "Permit", "matchCriteria": criteria, "setActions": set});
    lab.put(
        "/VirtualGateways/red/policyMaps/in",
        json!({"policyMapEntryList": [
            {"action": "Deny", "matchCriteria": [{"property": "MatchPrefix", "value": ["172.16.9.0/24"]}], "setActions": []},
            permit(json!([{"property": "MatchPrefix", "value": ["172.16.0.0/12"]}]), json!([{"property": "Local-Pref", "value": "200"}]))
        ]}),
    )
    .await;
    lab.put(
        "/VirtualGateways/red/policyMaps/out",
        json!({"policyMapEntryList": [permit(json!([]), json!([
            {"property": "MED", "value": "100"}, {"property": "As-Path", "value": ["64512", "64512"]}]))]}),
    )
    .await;
    lab.put(
        ROUTER,
        json!({"isEnabled": "true", "extAsNumber": "0.64512", "routerId": "10.0.0.250", "routerIP": ["10.0.0.250"]}),
    )
    .await;
    let map = |id: &str| reference(&format!("/VirtualGateways/red/policyMaps/{id}"));
    lab.put(
        PEER,
        json!({"peerIpAddress": "192.168.50.1", "asNumber": "65010", "policyMapIn": map("in"), "policyMapOut": map("out")}),
    )
    .await;
}

async fn lab() -> Lab {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    lab
}

fn has_router(goal: &GatewayGoal) -> bool {
    goal.routers.iter().any(|r| !r.goal.peers.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tenant_says_of_its_router_reaches_the_gateway_and_what_sites_may_tell_the_hosts() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    let mut host = Node::<Host>::start(&lab, "host1");
    say(&lab).await;
    let (goal, _) = gateway.wait(has_router).await;
    Policy::build(&goal, Underlay("10.1.5.2".parse().unwrap()), PortId(0), |_| None, None).unwrap();
    let router = &goal.routers[0];
    let peer = &router.goal.peers[0];
    assert_eq!((router.goal.local_as, peer.remote_as), (64512, 65010));
    assert_eq!((peer.local_address, peer.max_prefixes), (Some("10.0.0.250".parse().unwrap()), Some(1000)));
    let tunnel = goal.tunnels.iter().find(|t| t.name.ends_with("/red-site")).unwrap().id;
    assert_eq!(router.sites[&peer.name], tunnel, "the connection whose routes lead to the peer");
    assert_eq!(router.own, ["10.0.0.0/16", "fd00:10::/48"].map(|p| p.parse().unwrap()).into());

    let route = |hop: &str| Attributes::local(hop.parse().unwrap());
    let taken =
        |prefix: &str| peer.import.as_ref().unwrap().evaluate(prefix.parse().unwrap(), &route("192.168.50.1"), 64512);
    assert!(matches!(taken("172.17.0.0/16"), Outcome::Changed(a) if a.local_pref == Some(200)));
    for refused in ["172.16.9.0/24", "10.0.7.0/24", "192.168.50.0/24", "8.0.0.0/8"] {
        assert_eq!(taken(refused), Outcome::Refused, "{refused}");
    }
    let told = peer.export.as_ref().unwrap().evaluate("10.0.0.0/16".parse().unwrap(), &route("10.0.0.250"), 64512);
    assert!(matches!(told, Outcome::Changed(a) if a.med == Some(100) && a.as_path.0 == [64512, 64512]));

    let to_gateway = |goal: &HostGoal, prefix: &str| {
        let routes = goal.networks.iter().filter(|n| n.name == "red").flat_map(|n| &n.routes);
        let mut of = routes.filter(|r| r.prefix == prefix.parse().unwrap());
        of.any(|r| matches!(r.next_hop, NextHop::Vtep { addr, .. } if addr.0.to_string() == "10.1.5.2"))
    };
    host.wait(|g: &HostGoal| to_gateway(g, "172.16.0.0/12") && to_gateway(g, "192.168.50.0/24")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_router_has_learned_is_shown_with_reasons() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    say(&lab).await;
    let (goal, _) = gateway.wait(has_router).await;
    let peer = lab.get(PEER).await;
    assert_eq!(peer["properties"]["connectionState"], "Disconnected", "{peer:#}");

    let name = &goal.routers[0].goal.peers[0].name;
    let path = PathStatus {
        peer: Some(name.clone()),
        best: false,
        why_not: Some("the import policy refuses it".to_owned()),
        next_hop: "192.168.50.1".parse().unwrap(),
        as_path: "65010".to_owned(),
        communities: vec![],
        local_pref: None,
        med: None,
        stale: false,
    };
    let route = RouteStatus {
        prefix: "8.0.0.0/8".parse().unwrap(),
        paths: vec![path],
        advertised_to: vec![],
        not_advertised: vec![],
    };
    let status = RouterStatus { local_as: 64512, routes: vec![route], ..RouterStatus::default() };
    let routers = vec![TenantRouterStatus { name: goal.routers[0].name.clone(), status }];
    gateway.status.send_replace(GatewayStatus { applied: goal.revision, routers, ..GatewayStatus::default() });
    for _ in 0..500 {
        let shown = lab.get(ROUTER).await["properties"]["learnedRoutes"].clone();
        if shown[0]["paths"][0]["whyNot"] == "the import policy refuses it" {
            let (_, all) = lab.call(Method::GET, "/penstock/v1/status", None).await;
            assert_eq!(all["routers"][0]["router"], "VirtualGateways/red/bgpRouters/router", "{all:#}");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the refused route is not shown: {:#}", lab.get(ROUTER).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_by_its_place_and_what_has_no_effect_is_warned_of() {
    let lab = lab().await;
    say(&lab).await;
    let refused = async |path: &str, properties: Value| {
        let url = format!("/networking/v1{path}");
        let (status, body) = lab.call(Method::PUT, &url, Some(&json!({"properties": properties}))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
        targets(&body).remove(0).1
    };
    let router = json!({"extAsNumber": "0.64512", "routerIP": ["10.0.0.4"]});
    assert_eq!(refused(ROUTER, router).await, "/properties/routerIP/0", "an interface has the address");
    let group = json!({"extAsNumber": "0.64512", "routerIP": ["10.200.0.1", "224.0.0.9"]});
    assert_eq!(refused(ROUTER, group).await, "/properties/routerIP/1", "a group is no host");
    let entry = |property: &str, value: Value| json!({"policyMapEntryList": [{"action": "Permit", "matchCriteria": [], "setActions": [{"property": property, "value": value}]}]});
    let map = "/VirtualGateways/red/policyMaps/out";
    let at = "/properties/policyMapEntryList/0/setActions/0";
    assert_eq!(refused(map, entry("Weight", json!("1"))).await, at);
    assert_eq!(refused(map, entry("MED", json!("many"))).await, at);
    let foreign = refused(map, entry("As-Path", json!(["65099"]))).await;
    assert!(foreign.ends_with("policyMapOut"), "{foreign}");

    let code =
        async |path: &str| lab.get(path).await["properties"]["configurationState"]["detailedInfo"][0]["code"].clone();
    lab.put(PEER, json!({"peerIpAddress": "192.168.50.1", "asNumber": "65010"})).await;
    assert_eq!(code(PEER).await, "PolicyMapMissing");
    lab.put(PEER, json!({"peerIpAddress": "198.51.100.1", "asNumber": "65010"})).await;
    assert_eq!(code(PEER).await, "NoRoutes");
}
