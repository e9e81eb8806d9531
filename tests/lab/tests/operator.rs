//! What the operator does: declare, ask, trace, and make mistakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_lab::{Lab, text};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

macro_rules! lab {
    () => {
        match Lab::shared() {
            Some(lab) => lab,
            None => return,
        }
    };
}

const CURL: &str = "curl -s --cacert $P/ca.pem --cert $P/operator.pem --key $P/operator.key";
const API: &str = "https://10.1.31.2/networking/v1";

fn curl(lab: &Lab, args: &str) -> Value {
    let line = format!("P={}/pki; {CURL} {args}", lab.state().display());
    let body = lab.out("controller", &line);
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{args}: {e}: {body}"))
}

#[test]
fn a_load_balancer_put_by_curl_serves_within_a_second() {
    let lab = lab!();
    let vip = json!({"resourceId": "curl-vip", "properties": {
        "ipAddress": "203.0.113.77", "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"}});
    let balancer = json!({"resourceId": "curl-lb", "properties": {
        "frontendIPConfigurations": [{"resourceId": "fe", "properties": {
            "publicIPAddress": {"resourceRef": "/publicIPAddresses/curl-vip"}}}],
        "backendAddressPools": [{"resourceId": "pool", "properties": {}}],
        "loadBalancingRules": [{"resourceId": "http", "properties": {
            "frontendIPConfigurations": [{"resourceRef": "/loadBalancers/curl-lb/frontendIPConfigurations/fe"}],
            "backendAddressPool": {"resourceRef": "/loadBalancers/curl-lb/backendAddressPools/pool"},
            "protocol": "Tcp", "frontendPort": "80", "backendPort": 8080, "enableFloatingIP": false}}]}});
    let mut nic = lab.cli_json(&["get", "networkInterfaces", "green-1"]);
    nic["properties"]["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"]
        .as_array_mut()
        .unwrap()
        .push(json!({"resourceRef": "/loadBalancers/curl-lb/backendAddressPools/pool"}));
    let put = |path: &str, body: &Value| {
        let file = lab.file("body.json", body);
        let put =
            format!("-X PUT -H 'Content-Type: application/json; charset=UTF-8' -d @{} {API}/{path}", file.display());
        curl(lab, &put)
    };
    let shown = put("publicIPAddresses/curl-vip", &vip);
    assert_eq!(shown["resourceId"], "curl-vip", "{shown}");
    assert!(shown["etag"].as_str().is_some_and(|e| e.starts_with("W/\"")), "{shown}");
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    let shown = put("loadBalancers/curl-lb", &balancer);
    assert_eq!(shown["properties"]["loadBalancingRules"][0]["properties"]["frontendPort"], 80, "{shown}");
    put("networkInterfaces/green-1", &nic);
    let took = lab.wait_until(Duration::from_secs(1), "the new virtual IP serves", || {
        lab.ok("client", "curl -sf -m 0.3 http://203.0.113.77/ | grep -q green-1")
    });
    println!("the new virtual IP served {took:?} after the last PUT");
    let original = lab.state().join("lab.json");
    assert!(lab.cli(&["apply", "-f", original.to_str().unwrap()]).status.success());
    for (kind, id) in [("loadBalancers", "curl-lb"), ("publicIPAddresses", "curl-vip")] {
        let out = lab.cli(&["delete", kind, id]);
        assert!(out.status.success(), "{}", text(&out));
    }
    lab.wait_until(Duration::from_secs(2), "the deleted virtual IP is gone", || {
        !lab.ok("client", "curl -sf -m 0.3 http://203.0.113.77/")
    });
}

#[test]
fn mistakes_are_refused_all_at_once_and_nothing_is_applied() {
    let lab = lab!();
    let mistakes = json!({"resources": [
        {"resourceRef": "/virtualNetworks/good", "resourceId": "good", "properties": {
            "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]},
            "logicalNetwork": {"resourceRef": "/logicalNetworks/provider"},
            "subnets": [{"resourceId": "s", "properties": {"addressPrefix": "10.9.0.0/24"}}]}},
        {"resourceRef": "/teapots/t", "resourceId": "t", "properties": {}},
        {"resourceRef": "/networkInterfaces/outside", "resourceId": "outside", "properties": {
            "server": {"resourceRef": "/servers/host1"}, "privateMacAddress": "020000000099",
            "privateMacAllocationMethod": "Static",
            "ipConfigurations": [{"resourceId": "v4", "properties": {
                "privateIPAddress": "10.8.0.5", "privateIPAllocationMethod": "Static",
                "subnet": {"resourceRef": "/virtualNetworks/good/subnets/s"}}}]}},
        {"resourceRef": "/loadBalancers/dup", "resourceId": "dup", "properties": {
            "frontendIPConfigurations": [{"resourceId": "fe", "properties": {
                "publicIPAddress": {"resourceRef": "/publicIPAddresses/blue-vip"}}}],
            "backendAddressPools": [{"resourceId": "p", "properties": {}}],
            "loadBalancingRules": [
                {"resourceId": "same", "properties": {
                    "frontendIPConfigurations": [{"resourceRef": "/loadBalancers/dup/frontendIPConfigurations/fe"}],
                    "backendAddressPool": {"resourceRef": "/loadBalancers/dup/backendAddressPools/p"},
                    "protocol": "TCP", "frontendPort": 80, "backendPort": 8080}},
                {"resourceId": "wrong", "properties": {
                    "frontendIPConfigurations": [{"resourceRef": "/loadBalancers/dup/frontendIPConfigurations/fe"}],
                    "backendAddressPool": {"resourceRef": "/loadBalancers/dup/backendAddressPools/missing"},
                    "protocol": "TCP", "frontendPort": "many", "backendPort": 8080}}]}}
    ]});
    let file = lab.file("mistakes.json", &mistakes);
    let out = lab.cli(&["apply", "-f", file.to_str().unwrap(), "--json"]);
    assert!(!out.status.success());
    let all = text(&out);
    for expected in [
        "/resources/1",                                                               // an unknown kind
        "/resources/2/properties/ipConfigurations/0/properties/privateIPAddress",     // outside its subnet
        "/resources/3/properties/loadBalancingRules/0/properties/frontendPort",       // VIP:port taken
        "/resources/3/properties/loadBalancingRules/1/properties/frontendPort",       // a wrong type
        "/resources/3/properties/loadBalancingRules/1/properties/backendAddressPool", // dangling
    ] {
        assert!(all.contains(expected), "no error at {expected}: {all}");
    }
    assert!(!lab.cli(&["get", "virtualNetworks", "good"]).status.success(), "the good part was applied");
}

#[test]
fn status_top_and_trace_tell_the_same_story() {
    let lab = lab!();
    let status = lab.cli_json(&["status"]);
    let shown = status.to_string();
    for node in ["mux1", "mux2", "host1", "host2", "gateway"] {
        assert!(shown.contains(node), "{node} is not in {shown}");
    }
    let top = lab.cli_json(&["top", "--once"]).to_string();
    assert!(top.contains("203.0.113.10") && top.contains("blue-1"), "{top}");
    let trace = lab.cli_json(&[
        "trace",
        "--src",
        "198.51.100.2",
        "--dst",
        "203.0.113.10",
        "--proto",
        "tcp",
        "--sport",
        "40000",
        "--dport",
        "80",
    ]);
    let text = trace.to_string();
    assert!(text.contains("mux") && text.contains("host"), "{text}");
    // What trace says is what happens: a connection from that port reaches the container that it names.
    let answer = lab.out("client", "curl -s --local-port 40000 http://203.0.113.10/");
    let container = answer.split(' ').next().unwrap();
    assert!(text.contains(container), "trace does not name {container}: {text}");
}

#[test]
fn every_node_has_metrics_and_malformed_packets_are_counted() {
    let lab = lab!();
    // Enough connections that the router gives each mux some, and a packet by the tunnel.
    lab.out("client", "curl -s -H 'Connection: close' 'http://203.0.113.10/?[1-40]'");
    lab.wait_until(Duration::from_secs(15), "the site's tunnel", || lab.ok("branch-a", "ping -c 1 -W 1 10.0.0.11"));
    for (node, name) in [
        ("mux1", "penstock_mux_received_packets_total"),
        ("mux2", "penstock_mux_received_packets_total"),
        ("host1", "penstock_host_received_packets_total"),
        ("gateway", "penstock_gateway_received_packets_total"),
    ] {
        lab.wait_until(Duration::from_secs(3), "packets are counted", || lab.metric(node, name, "") > 0.0);
    }
    // A UDP datagram to the VXLAN port of a host from outside the fabric.
    let before = lab.metric("host1", "penstock_host_dropped_packets_total", "");
    lab.out("client", "for i in $(seq 50); do echo junk >/dev/udp/10.1.11.2/4789; done");
    lab.wait_until(Duration::from_secs(3), "junk is counted", || {
        lab.metric("host1", "penstock_host_dropped_packets_total", "") >= before + 50.0
    });
}

#[test]
fn an_idle_node_uses_under_two_percent_of_a_core() {
    const NODES: [&str; 6] = ["controller", "mux1", "mux2", "host1", "host2", "gateway"];
    const WATCHED: Duration = Duration::from_secs(5);
    let lab = lab!();
    // What the tests before have started has ended.
    std::thread::sleep(Duration::from_secs(2));
    let used = || NODES.map(|node| lab.processor_time(node));
    let (before, since) = (used(), Instant::now());
    std::thread::sleep(WATCHED);
    let (after, watched) = (used(), since.elapsed());
    // Time is counted in ticks: one at each end may be too many.
    let allowed = watched.mul_f64(0.02) + Duration::from_millis(20);
    for ((node, before), after) in NODES.iter().zip(before).zip(after) {
        let used = after - before;
        println!("{node}: {:.2} % of a core when idle", 100.0 * used.as_secs_f64() / watched.as_secs_f64());
        assert!(used <= allowed, "{node} used {used:?} in {watched:?}, with nothing to do");
    }
}
