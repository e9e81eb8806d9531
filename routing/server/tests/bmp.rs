//! With pmacct's pmbmpd as the collector, and two that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use penstock_routing_server::CollectorConfig;
use serde_json::Value;
use std::net::TcpListener;
use support::*;

const COLLECTOR: &str = "/usr/sbin/pmbmpd";

fn collector(port: u16) -> CollectorConfig {
    let address = format!("{THEIRS}:{port}").parse().unwrap();
    CollectorConfig { address, pre_policy: true, post_policy: true, statistics_seconds: 1 }
}

/// A neighbour that tells one route of each family, and 10.9.0.0/16.
fn frr() -> String {
    format!(
        "no bgp ebgp-requires-policy\nrouter bgp {THEIR_AS}\n bgp router-id {THEIRS}\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n timers bgp 3 9\n neighbor {OURS} remote-as {OUR_AS}\n \
         address-family ipv4 unicast\n  network 198.51.100.0/24\n  network 10.9.0.0/16\n exit-address-family\n \
         address-family ipv6 unicast\n  neighbor {OURS} activate\n  network 2001:db8:9::/48\n exit-address-family\n"
    )
}

/// All but 10.0.0.0/8.
fn import() -> Policy {
    let inside = Match { prefixes: vec![PrefixRange::within(p("10.0.0.0/8"))], ..Match::default() };
    let mut policy = Policy::accept_all();
    policy.rules.insert(0, Rule { matches: inside, accept: false, ..Rule::default() });
    policy
}

#[test]
fn a_collector_sees_peers_and_their_routes_and_others_that_take_nothing_hold_nothing_up() {
    let Some(mut lab) = Lab::new("bmp", COLLECTOR) else { return };
    let log = lab.file("bmp.log", "");
    let conf = format!(
        "daemonize: false\nbmp_daemon_ip: {THEIRS}\nbmp_daemon_port: 11019\nbmp_daemon_max_peers: 4\n\
         bmp_daemon_msglog_file: {log}\nbmp_daemon_msglog_output: json\n"
    );
    let conf = lab.file("pmbmpd.conf", &conf);
    lab.run_there(COLLECTOR, &["-f", &conf], &[]);
    // One that never reads, and one that is not there.
    let mute = lab.in_ns("b", || TcpListener::bind(format!("{THEIRS}:11020")).unwrap());
    lab.frr(&frr());
    let peer =
        PeerGoal { import: Some(import()), families: Family::ALL.into(), port: Some(179), ..open_peer("frr", THEIRS) };
    let mut ours = Ours::start_watched(&lab, vec![peer], vec![collector(11019), collector(11020), collector(11021)]);
    eventually("we have FRR's", || ours.has("198.51.100.0/24") && ours.has("2001:db8:9::/48"));

    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    };
    let is = |e: &Value, key: &str, value: &str| e.get(key).and_then(Value::as_str) == Some(value);
    let of_type = |kind: &str| events().into_iter().filter(|e| is(e, "bmp_msg_type", kind)).collect::<Vec<_>>();
    let routes = |prefix: &str, log_type: &str| {
        let all = of_type("route_monitor");
        let policies = all.into_iter().filter(|e| is(e, "ip_prefix", prefix) && is(e, "log_type", log_type));
        let mut policies: Vec<u64> = policies.filter_map(|e| e.get("is_post").and_then(Value::as_u64)).collect();
        policies.sort_unstable();
        policies.dedup();
        policies
    };
    eventually("the collector knows us", || of_type("init").iter().any(|e| e.to_string().contains("Penstock test")));
    eventually("and the peer", || of_type("peer_up").iter().any(|e| is(e, "peer_ip", THEIRS)));
    eventually("routes before and after the policy", || {
        routes("198.51.100.0/24", "update") == [0, 1] && routes("2001:db8:9::/48", "update") == [0, 1]
    });
    eventually("what the policy refuses, before it", || routes("10.9.0.0/16", "update") == [0]);
    eventually("what is counted", || !of_type("stats").is_empty());
    lab.configure(&["router bgp 65001", "address-family ipv4 unicast", "no network 198.51.100.0/24"]);
    eventually("a withdrawal", || !ours.has("198.51.100.0/24") && routes("198.51.100.0/24", "withdraw") == [0, 1]);

    let collectors = || ours.status.borrow().collectors.clone();
    eventually("who is there and who is not is told", || {
        let connected: Vec<bool> = collectors().iter().map(|c| c.connected).collect();
        let why = collectors().last().and_then(|c| c.last_error.clone());
        connected == [true, true, false] && why.is_some_and(|w| w.contains("cannot connect"))
    });
    assert!(ours.is_up("frr") && ours.peer("frr").established == 1);
    ours.tell_to_stop();
    ours.wait();
    eventually("the end of the session", || of_type("peer_down").iter().any(|e| is(e, "peer_ip", THEIRS)));
    eventually("and of the watch", || !of_type("term").is_empty());
    drop(mute);
}
