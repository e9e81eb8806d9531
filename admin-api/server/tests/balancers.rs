//! What rules of load balancers say, at the nodes that do it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, reference, targets};
use penstock_admin_server::VipLimitTable;
use penstock_model::{Overlay, Protocol};
use penstock_mux_proto::{LimitCounts, MuxGoal, MuxStatus, VipLimit, VipLimited, VipRate};
use penstock_slb_host::{HostGoal, HostStatus, PortStatus, ProbeKind, ProbeStatus};
use penstock_southbound::{Host, Mux};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

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
async fn who_asks_for_what_is_not_done_yet_is_told_so() {
    let lab = lab().await;
    let path = "/loadBalancers/web/loadBalancingRules/tls";
    lab.put(path, rule(json!({"protocol": "Tcp", "frontendPort": 443, "backendPort": 443, "enableTcpReset": true})))
        .await;
    let said = lab.get(path).await["properties"]["configurationState"].clone();
    assert_eq!((&said["status"], &said["detailedInfo"][0]["code"]), (&json!("Warning"), &json!("NotImplemented")));
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

fn in_seconds(seconds: i64) -> String {
    let at = time::OffsetDateTime::from(std::time::SystemTime::now()) + time::Duration::seconds(seconds);
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

async fn drains(lab: &Lab) -> Value {
    lab.call(Method::GET, "/penstock/v1/status", None).await.1["drains"].clone()
}

/// What is drained, once that much is left of the first.
async fn left(lab: &Lab, left: f64) -> Value {
    for _ in 0..300 {
        let seen = drains(lab).await;
        if seen[0]["left"] == json!(left) {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("not {left} left but {:#}", drains(lab).await);
}

/// The interface as it was put, drained until then or not.
async fn drain(lab: &Lab, interface: &str, until: Option<String>) {
    let mut properties = lab.get(&format!("/networkInterfaces/{interface}")).await["properties"].clone();
    properties["draining"] = until.map_or(Value::Null, |deadline| json!({"deadline": deadline}));
    lab.put(&format!("/networkInterfaces/{interface}"), properties).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_backend_gets_nothing_new_keeps_what_it_has_until_its_deadline_and_can_be_taken_back() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut host = Node::<Host>::start(&lab, "host1");
    let flows = |n: u64| HostStatus {
        ports: vec![PortStatus { network_interface: "blue1".into(), flows: n, ..PortStatus::default() }],
        ..HostStatus::default()
    };
    let web = |g: &MuxGoal| {
        let service = g.services.iter().find(|s| s.port == 80 && s.vip.is_ipv4());
        service.and_then(|s| g.pools.iter().find(|p| p.id == s.pool)).cloned()
    };
    let members = |g: &MuxGoal| web(g).map_or(0, |p| p.table.members.len());
    let (before, _) = mux.wait(|g: &MuxGoal| members(g) == 3).await;
    let blue1 = before.backends.iter().find(|b| b.name == "blue1" && b.dip.addr.0.is_ipv4()).unwrap().id;
    host.status.send_replace(flows(40));

    drain(&lab, "blue1", Some(in_seconds(3600))).await;
    let (goal, _) = mux.wait(|g: &MuxGoal| members(g) == 2).await;
    assert!(web(&goal).unwrap().previous[0].members.contains(&blue1), "old connections still go there");
    let (goal, _) = host.wait(|g: &HostGoal| g.nat_rules.iter().any(|r| r.network_interface == "blue1")).await;
    assert!(goal.nat_rules.iter().any(|r| r.network_interface == "blue1"), "and are translated");
    left(&lab, 40.0).await;
    host.status.send_replace(flows(10));
    let seen = left(&lab, 10.0).await;
    assert_eq!(
        (&seen[0]["resource"], &seen[0]["state"], &seen[0]["percent"]),
        (&json!("networkInterfaces/blue1"), &json!("draining"), &json!(75.0)),
        "{seen:#}"
    );

    drain(&lab, "blue1", None).await;
    mux.wait(|g: &MuxGoal| members(g) == 3).await;
    assert_eq!(drains(&lab).await, json!([]));

    // At the deadline nothing goes there any more.
    drain(&lab, "blue1", Some(in_seconds(2))).await;
    let over = |g: &MuxGoal| {
        let pool = web(g);
        pool.is_some_and(|p| [&p.table].into_iter().chain(&p.previous).all(|t| !t.members.contains(&blue1)))
    };
    mux.wait(over).await;
    host.wait(|g: &HostGoal| g.nat_rules.iter().all(|r| r.network_interface != "blue1")).await;
    assert_eq!(drains(&lab).await[0]["state"], json!("overdue"));

    let bad = json!({"draining": {"deadline": "tomorrow"}});
    let found = refused(&lab, "/loadBalancerMuxes/mux1", bad).await;
    assert!(found.iter().any(|(_, at)| at.ends_with("/draining/deadline")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mux_is_told_that_it_is_drained_and_that_it_is_not_any_more() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut other = Node::<Mux>::start(&lab, "mux2");
    mux.wait(|g: &MuxGoal| !g.draining && !g.services.is_empty()).await;
    let mut properties = lab.get("/loadBalancerMuxes/mux1").await["properties"].clone();
    properties["draining"] = json!({"deadline": in_seconds(600)});
    lab.put("/loadBalancerMuxes/mux1", properties.clone()).await;
    let (goal, _) = mux.wait(|g: &MuxGoal| g.draining).await;
    assert!(!goal.services.is_empty(), "what comes all the same is forwarded");
    let (goal, _) = other.wait(|g: &MuxGoal| !g.services.is_empty()).await;
    assert!(!goal.draining);
    // It has reported once, which tells no rate: until it has again, nobody knows whether packets come.
    let seen = drains(&lab).await;
    assert_eq!((&seen[0]["resource"], &seen[0]["state"]), (&json!("loadBalancerMuxes/mux1"), &json!("unknown")));
    assert_eq!((&seen[0]["left"], &seen[0]["percent"]), (&Value::Null, &Value::Null));
    let mut seen = Value::Null;
    for _ in 0..300 {
        mux.status.send_modify(|s| s.flows += 1);
        seen = drains(&lab).await;
        if seen[0]["state"] == json!("done") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(
        (&seen[0]["state"], &seen[0]["left"], &seen[0]["percent"]),
        (&json!("done"), &json!(0.0), &json!(100.0))
    );
    properties["draining"] = Value::Null;
    lab.put("/loadBalancerMuxes/mux1", properties).await;
    mux.wait(|g: &MuxGoal| !g.draining).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_virtual_ip_is_its_frontends_else_the_sites_and_trace_and_status_say_it() {
    let mut lab = lab().await;
    let rate = VipRate::new;
    let limits = |g: &MuxGoal| g.limits.iter().map(|l| (l.vip, l.clone())).collect::<BTreeMap<IpAddr, VipLimit>>();
    let vip4: IpAddr = "203.0.113.10".parse().unwrap();
    {
        let mut mux = Node::<Mux>::start(&lab, "mux1");
        let (goal, _) = mux.wait(|g: &MuxGoal| !g.services.is_empty()).await;
        assert!(goal.limits.is_empty(), "nobody has said one: {:?}", goal.limits);
    }
    lab.config.vip_limit = VipLimitTable { packets_per_second: rate(9000), new_flows_per_second: rate(90) };
    lab.restart().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let (goal, _) = mux.wait(|g: &MuxGoal| !g.limits.is_empty()).await;
    let vips: BTreeSet<IpAddr> = goal.services.iter().map(|s| s.vip).collect();
    assert_eq!(limits(&goal).keys().copied().collect::<BTreeSet<_>>(), vips);

    let path = "/loadBalancers/web/frontendIPConfigurations/fe4";
    let mut frontend = lab.get(path).await["properties"].clone();
    frontend["rateLimit"] = json!({"packetsPerSecond": 0, "newFlowsPerSecond": 5});
    lab.put(path, frontend.clone()).await;
    let said = |g: &MuxGoal| limits(g).get(&vip4).is_some_and(|l| l.new_flows_per_second == rate(5));
    let (goal, _) = mux.wait(said).await;
    assert_eq!(limits(&goal)[&vip4].packets_per_second, None, "0: no limit");
    let other = limits(&goal).into_values().find(|l| l.vip != vip4).unwrap();
    assert_eq!((other.packets_per_second, other.new_flows_per_second), (rate(9000), rate(90)));

    let question = json!({"source": "198.51.100.9", "destination": vip4, "destinationPort": 80});
    let trace = lab.call(Method::POST, "/penstock/v1/trace", Some(&question)).await.1.to_string();
    assert!(trace.contains("beyond 5 new flows a second"), "{trace}");
    let counts = LimitCounts { packets_dropped: 0, flows_stateless: 4, flows_dropped: 17 };
    let limited = vec![VipLimited { vip: vip4, counts }];
    mux.status.send_replace(MuxStatus { limited, ..MuxStatus::default() });
    let shown = json!({"packetsDropped": 0, "flowsDropped": 17, "flowsStateless": 4});
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = lab.call(Method::GET, "/penstock/v1/status", None).await.1;
        let services = status["services"].as_array().unwrap();
        let of = |vip: &Value| services.iter().find(|s| &s["vip"] == vip).map(|s| s["limited"].clone());
        if of(&json!(vip4)) == Some(shown.clone()) {
            assert_eq!(of(&json!(other.vip)), Some(Value::Null));
            break;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    frontend["rateLimit"] = json!({"packetsPerSecond": 100_000_001});
    let found = refused(&lab, path, frontend).await;
    assert!(found.iter().any(|(_, at)| at.ends_with("packetsPerSecond")), "{found:?}");
}
