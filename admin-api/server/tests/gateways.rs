//! What a gateway would refuse as a whole is refused before it gets there: tenants share gateways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, targets};
use penstock_gateway_proto::{GatewayGoal, GatewayStatus, PeerAddress, Policy, TunnelKind, TunnelState, TunnelStatus};
use penstock_model::{PortId, Protocol, Underlay};
use penstock_policy::{NatKind, NextHop, PortRange, TranslationRule};
use penstock_slb_host::HostGoal;
use penstock_southbound::{Gateway, Host};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const KEY: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";
const OTHER: &str = "qRCwZSKInrMAq5sepfCdaCsRJaoLe5jhtzfiw7CjbwM=";

async fn lab() -> Lab {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    lab
}

fn site(wireguard: Value, routes: &[&str]) -> Value {
    let routes: Vec<Value> = routes.iter().map(|r| json!({ "destinationPrefix": r })).collect();
    json!({"connectionType": "WireGuard", "wireGuardConfiguration": wireguard, "routes": routes})
}

async fn put(lab: &Lab, path: &str, properties: Value) -> (StatusCode, Value) {
    lab.call(Method::PUT, &format!("/networking/v1/VirtualGateways/{path}"), Some(&json!({"properties": properties})))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_would_refuse_is_refused_where_it_stands() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    let refused = |(status, body): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
        targets(&body).remove(0).1
    };
    // VXLAN's own port, and Geneve's is free at a gateway.
    let at = put(
        &lab,
        "red/networkConnections/x",
        site(json!({"peerPublicKey": KEY, "listenPort": 4789}), &["172.16.0.0/12"]),
    );
    assert_eq!(refused(at.await), "/properties/wireGuardConfiguration/listenPort");

    let same = json!({"peerPublicKey": KEY, "privateKey": OTHER, "listenPort": 51000});
    let first = put(&lab, "red/networkConnections/y", site(same.clone(), &["172.16.0.0/12"])).await;
    assert_eq!(first.0, StatusCode::CREATED, "{}", first.1);
    let second = put(&lab, "red/networkConnections/b", site(same.clone(), &["172.32.0.0/12"])).await;
    assert!(second.1.to_string().contains("/red/networkConnections/y'"), "it says which: {}", second.1);
    assert_eq!(refused(second), "/properties/wireGuardConfiguration/peerPublicKey");
    // Of whatever tenant.
    let second = put(&lab, "blue/networkConnections/b", site(same, &["172.32.0.0/12"])).await;
    assert_eq!(refused(second), "/properties/wireGuardConfiguration/peerPublicKey");

    let batch = json!([{"resourceRef": "/VirtualGateways/red/networkConnections/x",
        "properties": site(json!({"peerPublicKey": KEY, "listenPort": 4789}), &["172.16.0.0/12"])}]);
    let (status, body) = lab.batch(batch).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
    assert!(targets(&body)[0].1.starts_with("/resources/0/properties/"), "{body:#}");

    let (goal, _) = gateway.wait(|g: &GatewayGoal| g.tunnels.len() == 3).await;
    Policy::build(&goal, Underlay("10.1.5.2".parse().unwrap()), PortId(0), |_| None, None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_routes_waits_for_them_and_holds_nobody_up() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    gateway.wait(|g: &GatewayGoal| g.tunnels.len() == 2).await;
    let path = "/VirtualGateways/red/networkConnections/empty";
    let empty = lab.put(path, site(json!({"peerPublicKey": KEY}), &[])).await;
    assert_eq!(empty["properties"]["configurationState"]["status"], "Warning", "{empty:#}");
    assert_eq!(empty["properties"]["configurationState"]["detailedInfo"][0]["code"], "NoRoutes");
    lab.put("/VirtualGateways/blue/networkConnections/full", site(json!({"peerPublicKey": KEY}), &["172.16.0.0/12"]))
        .await;
    let (goal, _) = gateway.wait(|g: &GatewayGoal| g.tunnels.iter().any(|t| t.name.ends_with("/full"))).await;
    assert_eq!(goal.tunnels.len(), 3);
    Policy::build(&goal, Underlay("10.1.5.2".parse().unwrap()), PortId(0), |_| None, None).unwrap();
    lab.put(path, site(json!({"peerPublicKey": KEY}), &["172.16.0.0/12"])).await;
    gateway.wait(|g: &GatewayGoal| g.tunnels.len() == 4).await;
}

/// A connection of the tenant red by these routes, with these rules.
fn translated(routes: &[&str], rules: Value) -> Value {
    let mut properties = site(json!({"peerPublicKey": KEY}), routes);
    properties["natRules"] = rules;
    properties
}

fn nat_rule(kind: &str, mode: &str, internal: Value, external: Value) -> Value {
    json!({"name": "rule", "type": kind, "mode": mode, "internalMappings": [internal], "externalMappings": [external]})
}

fn space(prefix: &str) -> Value {
    json!({ "addressSpace": prefix })
}

fn port(prefix: &str, ports: &str) -> Value {
    json!({ "addressSpace": prefix, "portRange": ports })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_translation_reach_the_gateway_and_come_back_as_they_were_said() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    let mut forward = nat_rule("Static", "IngressSnat", port("192.168.50.9", "80"), port("172.16.0.1", "8080"));
    forward["protocol"] = json!("tcp");
    let mut pool = nat_rule("Dynamic", "IngressSnat", space("192.168.0.0/16"), port("172.16.0.0/28", "2000-2999"));
    pool["filtering"] = json!("EndpointIndependent");
    let rules = json!([
        nat_rule("Static", "EgressSnat", space("10.0.0.0/24"), space("10.99.0.0/24")),
        forward,
        pool,
        nat_rule("Dynamic", "EgressSnat", space("fd00:10::/64"), space("fd00:99::1")),
    ]);
    let path = "/VirtualGateways/red/networkConnections/nat";
    let back = lab.put(path, translated(&["172.16.0.0/24"], rules)).await;
    let said = &back["properties"]["natRules"];
    assert_eq!(said[1]["protocol"], "Tcp", "{said:#}");
    assert_eq!(said[1]["externalMappings"][0]["portRange"], "8080");
    assert_eq!(said[2]["filtering"], "EndpointIndependent");

    let (goal, _) = gateway.wait(|g: &GatewayGoal| g.tunnels.iter().any(|t| t.name.ends_with("/nat"))).await;
    let nat = &goal.tunnels.iter().find(|t| t.name.ends_with("/nat")).unwrap().nat;
    let net = |s: &str| s.parse().unwrap();
    let kinds = |rules: &[TranslationRule]| rules.iter().map(|r| r.kind.clone()).collect::<Vec<_>>();
    assert_eq!(
        kinds(&nat.site),
        [
            NatKind::Forward {
                protocol: Protocol::TCP,
                outside: "172.16.0.1".parse().unwrap(),
                outside_port: 8080,
                inside: "192.168.50.9".parse().unwrap(),
                inside_port: 80,
            },
            NatKind::Pool {
                inside: vec![net("192.168.0.0/16")],
                outside: vec![net("172.16.0.0/28")],
                ports: PortRange { first: 2000, last: 2999 },
                is_open: true,
            },
        ]
    );
    assert_eq!(
        kinds(&nat.tenant),
        [
            NatKind::Static { inside: net("10.0.0.0/24"), outside: net("10.99.0.0/24") },
            NatKind::Pool {
                inside: vec![net("fd00:10::/64")],
                outside: vec![net("fd00:99::1/128")],
                ports: PortRange { first: 1024, last: 65535 },
                is_open: false,
            },
        ]
    );
    Policy::build(&goal, Underlay("10.1.5.2".parse().unwrap()), PortId(0), |_| None, None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_translation_that_cannot_be_kept_is_refused_where_it_stands() {
    let lab = lab().await;
    let with = |mut rule: Value, name: &str, value: &str| {
        rule[name] = json!(value);
        rule
    };
    let ingress = |internal, external| nat_rule("Static", "IngressSnat", internal, external);
    let pool = |external| nat_rule("Dynamic", "IngressSnat", space("192.168.0.0/16"), external);
    let fine = || ingress(space("192.168.1.0/24"), space("172.16.1.0/24"));
    let mut two = fine();
    two["internalMappings"] = json!([space("192.168.1.0/24"), space("192.168.2.0/24")]);
    for (rule, at) in [
        (ingress(space("192.168.1.0/24"), space("172.17.0.0/24")), "/externalMappings/0/addressSpace"),
        (ingress(space("192.168.1.0/25"), space("172.16.9.0/24")), "/externalMappings/0/addressSpace"),
        (fine(), "/externalMappings/0/addressSpace"),
        (ingress(space("192.168.1.0/24"), space("172.16.2.0/24")), "/internalMappings/0/addressSpace"),
        (two, "/internalMappings"),
        (ingress(port("192.168.9.1", "80"), port("172.16.9.1", "80")), "/protocol"),
        (
            with(ingress(port("192.168.9.1", "80"), port("172.16.9.0/24", "80")), "protocol", "Tcp"),
            "/externalMappings/0/addressSpace",
        ),
        (
            with(ingress(port("192.168.9.1", "80"), port("172.16.9.1", "80-81")), "protocol", "Udp"),
            "/externalMappings/0/portRange",
        ),
        (with(fine(), "protocol", "Tcp"), "/protocol"),
        (with(fine(), "filtering", "EndpointIndependent"), "/filtering"),
        (pool(port("172.16.9.1", "0-80")), "/externalMappings/0/portRange"),
        (with(pool(space("172.16.9.1")), "protocol", "Udp"), "/protocol"),
        (pool(space("172.16.1.7")), "/externalMappings/0/addressSpace"),
    ] {
        let said = rule.to_string();
        let connection = translated(&["172.16.0.0/16"], json!([fine(), rule]));
        let (status, body) = put(&lab, "red/networkConnections/nat", connection).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{said}: {body:#}");
        assert_eq!(targets(&body).remove(0).1, format!("/properties/natRules/1{at}"), "{said}: {body:#}");
    }
}

/// A second gateway in the pool of the first.
async fn lab_of_two() -> Lab {
    let mut lab = lab().await;
    let pool = json!({"resourceRef": "/gatewayPools/default"});
    lab.put("/gateways/gw2", json!({"underlayAddress": "10.1.5.3", "pool": pool})).await;
    lab.config.gateway_hold_off = 1;
    lab.restart().await;
    lab
}

/// The gateway that a network's routes lead to, from a host.
fn leads_to(goal: &HostGoal, address: &str) -> bool {
    let mut hops = goal.networks.iter().flat_map(|n| &n.routes).map(|r| r.next_hop);
    hops.all(|hop| matches!(hop, NextHop::Vtep { addr, .. } if addr == Underlay(address.parse().unwrap())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_of_the_pool_takes_over_and_keeps_what_it_took() {
    let mut lab = lab_of_two().await;
    let mut host = Node::<Host>::start(&lab, "host1");
    let mut standby = Node::<Gateway>::start(&lab, "gw2");
    let mut active = Node::<Gateway>::start(&lab, "gw1");
    let (before, revision) = active.wait(|g: &GatewayGoal| g.tunnels.len() == 2).await;
    standby.wait(|g: &GatewayGoal| g.tunnels.is_empty() && !g.vteps.is_empty()).await;
    host.wait(|g: &HostGoal| !g.networks.is_empty() && leads_to(g, "10.1.5.2")).await;
    let roaming =
        before.tunnels.iter().find(|t| matches!(t.kind, TunnelKind::WireGuard { endpoint: None, .. })).unwrap();
    let at: std::net::SocketAddr = "198.51.100.9:4711".parse().unwrap();
    let told = TunnelStatus {
        id: roaming.id,
        name: roaming.name.clone(),
        state: TunnelState::Connected,
        endpoint: Some(PeerAddress::Socket(at)),
        handshake_age_seconds: Some(3),
        received_bytes: 0,
        transmitted_bytes: 0,
    };
    active.status.send_replace(GatewayStatus {
        applied: before.revision,
        tunnels: vec![told],
        ..GatewayStatus::default()
    });
    let path = format!("/networking/v1/{}", roaming.name);
    let shown = async || lab.call(Method::GET, &path, None).await.1["properties"]["connectionState"].clone();
    for _ in 0..200 {
        if shown().await == "Connected" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(shown().await, "Connected", "the controller has heard it; {revision:?}");
    drop(active);
    let (goal, _) = standby.wait_long(|g: &GatewayGoal| g.tunnels.len() == 2).await;
    let taken = goal.tunnels.iter().find(|t| t.id == roaming.id).unwrap();
    assert!(matches!(taken.kind, TunnelKind::WireGuard { endpoint, .. } if endpoint == Some(at)), "{:?}", taken.kind);
    host.wait_long(|g: &HostGoal| leads_to(g, "10.1.5.3")).await;
    let history = lab.call(Method::GET, "/penstock/v1/history", None).await.1.to_string();
    assert!(history.contains("gw1 is gone: gw2 takes over"), "{history}");
    // What operators say of the pool does not choose another one; neither does a restart, nor that the first is back.
    lab.put("/gatewayPools/default", json!({"type": "All", "redundantGatewayCount": 1})).await;
    lab.restart().await;
    let mut back = Node::<Gateway>::start(&lab, "gw1");
    back.wait_long(|g: &GatewayGoal| g.tunnels.is_empty() && g.vteps.len() >= 2).await;
    standby.wait_long(|g: &GatewayGoal| g.tunnels.len() == 2).await;
    host.wait_long(|g: &HostGoal| leads_to(g, "10.1.5.3")).await;
}
