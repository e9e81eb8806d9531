//! A container with a real firewall (nftables) in the way of two others, in both directions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::{Overlay, Revision};
use penstock_policy::{RouteTable, UserHop, UserRoute};
use penstock_slb_host::HostGoal;
use std::process::Command;
use std::time::{Duration, Instant};

const FIREWALL: &str = "c2";
/// Lets in new connections to port 8080 and nothing else; answers only of connections that it has seen from their beginning.
const RULES: &str = "table inet guard {
    counter opened {}
    counter answers {}
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established counter name answers accept
        ct state new tcp dport 8080 counter name opened accept
    }
}";

/// What c1 sends to the other host's 10.0.0.12 and fd00::12 goes by c2.
fn chained() -> HostGoal {
    let mut goal = goal();
    let route = |prefix: &str, appliance: &str| UserRoute {
        name: format!("guard {prefix}"),
        prefix: prefix.parse().unwrap(),
        next_hop: UserHop::Appliances(vec![Overlay(ip(appliance))]),
    };
    goal.networks[0].tables = vec![RouteTable {
        name: "chain".into(),
        subnets: goal.networks[0].subnets.clone(),
        from_sites: false,
        routes: vec![route("10.0.0.12/32", "10.0.0.3"), route("fd00::12/128", "fd00::3")],
    }];
    goal.ports[1].forwards = true;
    goal
}

fn load(lab: &Lab, rules: &str) {
    let file = lab.dir.join("rules.nft");
    std::fs::write(&file, rules).unwrap();
    run(&format!("ip netns exec {} nft -f {}", lab.ns(FIREWALL), file.display()));
}

fn packets(lab: &Lab, counter: &str) -> u64 {
    let out = lab.exec(FIREWALL, &format!("nft list counter inet guard {counter}"));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|w| *w != "packets");
    words.nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// The other host of this lab is the kernel's VXLAN: what a Penstock host reads in its routes it has as neighbours.
fn answer_by(lab: &Lab, mac: &str) {
    for addr in ["10.0.0.2", "fd00::2"] {
        lab.ip("p", &format!("neigh replace {addr} lladdr {mac} dev vx1"));
    }
}

#[test]
fn connections_pass_a_firewall_in_both_directions_and_what_it_refuses_does_not_pass() {
    if !is_root() {
        return;
    }
    if !Command::new("nft").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: needs nftables");
        return;
    }
    let mut lab = Lab::new("chain");
    lab.serve("p");
    for (key, value) in [
        ("net.ipv4.ip_forward", 1),
        ("net.ipv4.conf.all.rp_filter", 0),
        ("net.ipv4.conf.all.send_redirects", 0),
        ("net.ipv4.conf.eth0.send_redirects", 0),
        ("net.ipv6.conf.all.forwarding", 1),
    ] {
        assert!(lab.exec(FIREWALL, &format!("sysctl -qw {key}={value}")).status.success(), "{key}");
    }
    load(&lab, RULES);
    answer_by(&lab, CONTAINER_MAC[1]);
    lab.ip("p", &format!("neigh replace 10.0.0.3 lladdr {} dev vx1", CONTAINER_MAC[1]));
    let agent = Agent::start(&lab, chained());
    agent.ready(3);
    // A kernel that routes IPv6 asks for neighbours by its link-local address, once nobody else has that.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !lab.exec(FIREWALL, "ip -6 addr show dev eth0 tentative").stdout.is_empty() {
        assert!(Instant::now() < deadline, "the firewall's link-local address is still tentative");
        std::thread::sleep(Duration::from_millis(50));
    }

    let content = large();
    for to in ["10.0.0.12", "[fd00::12]"] {
        let (opened, answers) = (packets(&lab, "opened"), packets(&lab, "answers"));
        assert_eq!(lab.get("c1", &format!("http://{to}:8080/")), Ok(b"p".to_vec()), "{to}");
        assert!(packets(&lab, "opened") > opened, "{to}: the firewall saw the connection begin");
        assert!(packets(&lab, "answers") >= answers + 6, "{to}: and both directions of it");
        assert!(lab.get("c1", &format!("http://{to}:8080/large")) == Ok(content.clone()), "{to}: in bulk");
    }
    assert!(!lab.ping("c1", "10.0.0.12"), "the firewall lets no ping through");
    assert!(lab.ping("c2", "10.0.0.12"), "what it sends itself is its own affair");

    // Closed in mid-flow of the firewall, not of the network.
    load(
        &lab,
        "flush ruleset\ntable inet guard { chain forward {\ntype filter hook forward priority 0; policy drop;\n}\n}\n",
    );
    assert!(!lab.exec("c1", "curl -sS --max-time 1 http://10.0.0.12:8080/").status.success());

    // Without the route the firewall is not asked, and the other host answers straight.
    let mut direct = goal();
    direct.revision = Revision(2);
    direct.networks[0].epoch = penstock_model::Epoch(2);
    answer_by(&lab, CONTAINER_MAC[0]);
    agent.goal.send_replace(Some(std::sync::Arc::new(direct)));
    agent.wait("direct", Duration::from_secs(5), |s| s.applied == Revision(2));
    assert!(lab.ping("c1", "10.0.0.12"));
    assert_eq!(lab.get("c1", "http://10.0.0.12:8080/"), Ok(b"p".to_vec()));
    agent.stop().unwrap();
}
