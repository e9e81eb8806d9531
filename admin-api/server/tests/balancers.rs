//! What rules of load balancers say, at the nodes that do it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, reference, targets};
use penstock_model::{Overlay, Protocol};
use penstock_mux_proto::MuxGoal;
use penstock_slb_host::{HostGoal, HostStatus, ProbeKind, ProbeStatus};
use penstock_southbound::{Host, Mux};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn lab() -> Lab {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    lab
}

/// A rule of the load balancer for its first frontend and its pool.
fn rule(more: Value) -> Value {
    let mut rule = json!({
        "frontendIPConfigurations": [reference("/loadBalancers/web/frontendIPConfigurations/fe4")],
        "backendAddressPool": reference("/loadBalancers/web/backendAddressPools/servers")
    });
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule
}

async fn refused(lab: &Lab, path: &str, properties: Value) -> Vec<(String, String)> {
    let path = format!("/networking/v1{path}");
    let (status, body) = lab.call(Method::PUT, &path, Some(&json!({"properties": properties}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
    targets(&body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floating_rule_reaches_its_hosts_with_its_idle_time_and_translates_no_port() {
    let lab = lab().await;
    let mut host = Node::<Host>::start(&lab, "host1");
    let said = json!({"protocol": "Tcp", "frontendPort": 443, "enableFloatingIP": true, "idleTimeoutInMinutes": 5});
    lab.put("/loadBalancers/web/loadBalancingRules/tls", rule(said)).await;
    let (goal, _) = host.wait(|g: &HostGoal| g.nat_rules.iter().any(|r| r.vip_port == 443)).await;
    for r in goal.nat_rules.iter().filter(|r| r.vip_port == 443) {
        assert_eq!((r.floating, r.dip_port, r.idle_seconds), (true, 443, Some(300)));
    }
    assert!(goal.nat_rules.iter().filter(|r| r.vip_port != 443).all(|r| !r.floating && r.idle_seconds.is_none()));
    let other = rule(json!({"protocol": "Tcp", "frontendPort": 444, "backendPort": 4, "enableFloatingIP": true}));
    let found = refused(&lab, "/loadBalancers/web/loadBalancingRules/other", other).await;
    assert!(found.iter().any(|(code, at)| code == "PortValueIsOutOfRange" && at.ends_with("backendPort")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_for_all_ports_is_one_for_each_protocol_and_stands_beside_others() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut host = Node::<Host>::start(&lab, "host1");
    let all = rule(json!({"protocol": "All", "frontendPort": 0, "backendPort": 0}));
    lab.put("/loadBalancers/web/loadBalancingRules/all", all.clone()).await;
    let (goal, _) = mux.wait(|g: &MuxGoal| g.services.iter().filter(|s| s.port == 0).count() == 2).await;
    let protocols: Vec<Protocol> = goal.services.iter().filter(|s| s.port == 0).map(|s| s.protocol).collect();
    assert!(protocols.contains(&Protocol::TCP) && protocols.contains(&Protocol::UDP));
    assert!(goal.services.iter().any(|s| s.port == 80), "the others stay");
    let (goal, _) = host.wait(|g: &HostGoal| g.nat_rules.iter().any(|r| r.vip_port == 0)).await;
    assert!(goal.nat_rules.iter().filter(|r| r.vip_port == 0).all(|r| r.dip_port == 0));

    let ported = rule(json!({"protocol": "All", "frontendPort": 80}));
    let found = refused(&lab, "/loadBalancers/web/loadBalancingRules/ported", ported).await;
    assert!(
        found.iter().any(|(code, at)| code == "PortValueIsOutOfRange" && at.ends_with("frontendPort")),
        "{found:?}"
    );
    let found = refused(&lab, "/loadBalancers/web/loadBalancingRules/twice", all).await;
    assert!(found.iter().any(|(code, _)| code == "RulesUseSameFrontendPort"), "{found:?}");
    let outbound = rule(json!({"protocol": "All"}));
    let found = refused(&lab, "/loadBalancers/web/outboundNatRules/out", outbound).await;
    assert!(found.iter().any(|(code, _)| code == "OutboundNatRuleConflict"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_probe_says_beyond_its_protocol_reaches_the_host() {
    let lab = lab().await;
    let mut host = Node::<Host>::start(&lab, "host1");
    let probe = json!({"protocol": "Https", "port": 443, "requestPath": "/ready", "numberOfSuccesses": 3, "holdDownInSeconds": 60});
    lab.put("/loadBalancers/web/probes/tls", probe).await;
    let said = json!({"protocol": "Tcp", "frontendPort": 443, "probe": reference("/loadBalancers/web/probes/tls")});
    lab.put("/loadBalancers/web/loadBalancingRules/tls", rule(said)).await;
    let of_tls = |g: &HostGoal| g.probes.iter().find(|p| p.name.ends_with("/tls")).cloned();
    let (goal, _) = host.wait(|g: &HostGoal| of_tls(g).is_some()).await;
    let probe = of_tls(&goal).unwrap();
    assert_eq!((probe.kind, probe.rise, probe.hold_down_seconds), (ProbeKind::Https { path: "/ready".into() }, 3, 60));
    let bare = refused(&lab, "/loadBalancers/web/probes/bare", json!({"protocol": "Https", "port": 443})).await;
    assert!(bare.iter().any(|(code, _)| code == "ProbeRequestPathIsRequired"), "{bare:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_down_each_rule_does_as_it_says() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let (host, other) = (Node::<Host>::start(&lab, "host1"), Node::<Host>::start(&lab, "host2"));
    for (port, policy) in [(81, "Drop"), (82, "KeepLast"), (83, "ForwardToAll")] {
        let probe = reference("/loadBalancers/web/probes/health");
        let said = json!({"protocol": "Tcp", "frontendPort": port, "probe": probe, "allBackendsDown": policy});
        lab.put(&format!("/loadBalancers/web/loadBalancingRules/{policy}"), rule(said)).await;
    }
    let status = |which: &[(&str, &str, bool)]| HostStatus {
        probes: which
            .iter()
            .map(|(interface, dip, healthy)| ProbeStatus {
                name: "loadBalancers/web/probes/health".into(),
                network_interface: (*interface).into(),
                dip: Overlay(dip.parse().unwrap()),
                healthy: *healthy,
                detail: "seen".into(),
                changes: 1,
            })
            .collect(),
        ..HostStatus::default()
    };
    let members = |g: &MuxGoal, port: u16| {
        let service = g.services.iter().find(|s| s.port == port);
        service.and_then(|s| g.pools.iter().find(|p| p.id == s.pool)).map_or(0, |p| p.table.members.len())
    };
    mux.wait(|g: &MuxGoal| [81, 82, 83].iter().all(|port| members(g, *port) == 3)).await;
    // The third is down before the others.
    other.status.send_replace(status(&[("blue3", "10.0.0.6", false)]));
    mux.wait(|g: &MuxGoal| [81, 82, 83].iter().all(|port| members(g, *port) == 2)).await;
    host.status.send_replace(status(&[("blue1", "10.0.0.4", false), ("blue2", "10.0.0.5", false)]));
    mux.wait(|g: &MuxGoal| [81, 82, 83].map(|port| members(g, port)) == [0, 2, 3]).await;
}
