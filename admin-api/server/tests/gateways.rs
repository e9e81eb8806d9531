//! What a gateway would refuse as a whole is refused before it gets there: tenants share gateways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, targets};
use penstock_gateway_proto::{GatewayGoal, Policy};
use penstock_model::{PortId, Underlay};
use penstock_southbound::Gateway;
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
