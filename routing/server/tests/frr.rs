//! With FRR as the neighbour: bgpd, bfdd, zebra.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use serde_json::Value;
use std::time::Duration;
use support::*;

const FRR: &str = "/usr/lib/frr/bgpd";

fn bgpd(neighbour: &str) -> String {
    format!(
        "router bgp {THEIR_AS}\n bgp router-id {THEIRS}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n{neighbour}\n"
    )
}

fn v4_neighbour(more: &str) -> String {
    format!(
        " neighbor {OURS} remote-as {OUR_AS}\n neighbor {OURS} timers 3 9\n neighbor {OURS} timers connect 1\n{more}\
         address-family ipv4 unicast\n  network 198.51.100.0/24\n  neighbor {OURS} activate\n exit-address-family\n"
    )
}

fn route(lab: &Lab, family: &str, prefix: &str) -> Value {
    lab.vtysh_json(&format!("show bgp {family} unicast {prefix} json"))
}

fn knows(lab: &Lab, family: &str, prefix: &str) -> bool {
    route(lab, family, prefix)["paths"].as_array().is_some_and(|p| !p.is_empty())
}

#[test]
fn routes_go_both_ways_over_a_signed_session_that_comes_from_next_door() {
    let Some(mut lab) = Lab::new("fmd", FRR) else { return };
    let signed = format!(" neighbor {OURS} password secret\n neighbor {OURS} ttl-security hops 1\n");
    lab.frr(&bgpd(&v4_neighbour(&signed)));
    let peer = PeerGoal { md5_key: Some(SecretText("secret".to_owned())), hops: Some(1), ..open_peer("frr", THEIRS) };
    let mut ours = Ours::start(&lab, vec![peer], Duration::from_secs(2));
    ours.announce(&["203.0.113.10/32", "203.0.113.11/32"]);
    eventually("the session is up", || ours.is_up("frr"));
    eventually("FRR has our prefix", || knows(&lab, "ipv4", "203.0.113.10/32"));
    eventually("we have FRR's", || ours.has("198.51.100.0/24"));
    let path = &route(&lab, "ipv4", "203.0.113.10/32")["paths"][0];
    assert_eq!(path["nexthops"][0]["ip"], OURS);
    assert_eq!(path["aspath"]["string"], OUR_AS.to_string());

    ours.announce(&["203.0.113.11/32"]);
    eventually("the withdrawal arrives", || !knows(&lab, "ipv4", "203.0.113.10/32"));
    assert!(knows(&lab, "ipv4", "203.0.113.11/32"));

    // Leaving: FRR prefers others while we still forward, then hears a withdrawal, then words.
    ours.tell_to_stop();
    eventually("FRR is asked to prefer others", || {
        let route = route(&lab, "ipv4", "203.0.113.11/32");
        let path = &route["paths"][0];
        path["community"]["string"].as_str().is_some_and(|c| c.contains("graceful-shutdown"))
            && path["locPrf"].as_u64() == Some(0)
    });
    ours.wait();
    assert!(!knows(&lab, "ipv4", "203.0.113.11/32"));
    let neighbour = lab.vtysh_json(&format!("show bgp neighbor {OURS} json"))[OURS].clone();
    assert_eq!(neighbour["lastNotificationReason"], "Cease/Administrative Shutdown", "{neighbour}");
    assert_eq!(neighbour["lastShutdownDescription"], "penstock is leaving", "{neighbour}");
}

#[test]
fn a_wrong_key_makes_no_session_and_the_right_one_set_later_does() {
    let Some(mut lab) = Lab::new("fky", FRR) else { return };
    lab.frr(&bgpd(&v4_neighbour(&format!(" neighbor {OURS} password right\n"))));
    let with = |key: &str| PeerGoal { md5_key: Some(SecretText(key.to_owned())), ..open_peer("frr", THEIRS) };
    let ours = Ours::start(&lab, vec![with("wrong")], Duration::ZERO);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!ours.is_up("frr"));
    ours.goal.send_replace(goal(vec![with("right")]).into());
    eventually("the session is up", || ours.is_up("frr"));
}

#[test]
fn ipv6_carries_both_families_and_the_peer_may_be_the_one_that_connects() {
    let Some(mut lab) = Lab::new("fv6", FRR) else { return };
    lab.frr(&bgpd(&format!(
        " neighbor {OURS6} remote-as {OUR_AS}\n neighbor {OURS6} timers 3 9\n neighbor {OURS6} timers connect 1\n \
         neighbor {OURS6} capability extended-nexthop\n \
         address-family ipv4 unicast\n  network 198.51.100.0/24\n  neighbor {OURS6} activate\n exit-address-family\n \
         address-family ipv6 unicast\n  network 2001:db8:9::/48\n  neighbor {OURS6} activate\n exit-address-family\n"
    )));
    let peer = PeerGoal { families: Family::ALL.into(), passive: true, ..open_peer("frr", THEIRS6) };
    let ours = Ours::start(&lab, vec![peer], Duration::ZERO);
    ours.announce(&["203.0.113.10/32", "2001:db8:f::10/128"]);
    eventually("the session is up", || ours.is_up("frr"));
    eventually("FRR has our prefixes", || {
        knows(&lab, "ipv4", "203.0.113.10/32") && knows(&lab, "ipv6", "2001:db8:f::10/128")
    });
    eventually("we have FRR's", || ours.has("198.51.100.0/24") && ours.has("2001:db8:9::/48"));
    let hop = &route(&lab, "ipv4", "203.0.113.10/32")["paths"][0]["nexthops"][0];
    assert_eq!((hop["ip"].as_str(), hop["afi"].as_str()), (Some(OURS6), Some("ipv6")), "{hop}");
}

#[test]
fn too_many_prefixes_end_the_session_and_a_policy_changes_without_one() {
    let Some(mut lab) = Lab::new("fmx", FRR) else { return };
    lab.frr(&bgpd(&v4_neighbour("")));
    let ours = Ours::start(&lab, vec![open_peer("frr", THEIRS)], Duration::ZERO);
    eventually("we have FRR's prefix", || ours.has("198.51.100.0/24"));
    let established = ours.peer("frr").established;
    let refusing = PeerGoal { import: Some(Policy::default()), ..open_peer("frr", THEIRS) };
    ours.goal.send_replace(goal(vec![refusing]).into());
    eventually("the prefix is refused", || !ours.has("198.51.100.0/24"));
    ours.goal.send_replace(goal(vec![open_peer("frr", THEIRS)]).into());
    eventually("the prefix is back", || ours.has("198.51.100.0/24"));
    assert_eq!(ours.peer("frr").established, established, "without a new session");
    let bounded = PeerGoal { max_prefixes: Some(1), ..open_peer("frr", THEIRS) };
    ours.goal.send_replace(goal(vec![bounded]).into());
    lab.vtysh("conf t\nrouter bgp 65001\naddress-family ipv4 unicast\nnetwork 198.51.101.0/24");
    eventually("the session has ended", || {
        ours.peer("frr").last_error.is_some_and(|e| e.contains("maximum number of prefixes"))
    });
    assert!(!ours.has("198.51.100.0/24"));
}

#[test]
fn bfd_notices_within_400_ms_on_either_side() {
    let Some(mut lab) = Lab::new("fbf", FRR) else { return };
    lab.frr(&bgpd(&v4_neighbour(&format!(" neighbor {OURS} bfd 3 100 100\n"))));
    let peer = PeerGoal { bfd: Some(BfdGoal::default()), hold_seconds: 90, ..open_peer("frr", THEIRS) };
    let ours = Ours::start(&lab, vec![peer], Duration::ZERO);
    ours.announce(&["203.0.113.10/32"]);
    let both_up = || ours.bfd_is("frr", BfdState::Up) && ours.is_up("frr") && knows(&lab, "ipv4", "203.0.113.10/32");
    eventually("BFD and BGP are up", both_up);
    eventually("the fast timers are agreed on", || ours.peer("frr").bfd.is_some_and(|b| b.detection_ms == 300));
    eventually("we have FRR's prefix", || ours.has("198.51.100.0/24"));
    let mut downs = 0;
    once_within(Duration::from_millis(400), "our side has noticed", || {
        std::thread::sleep(Duration::from_millis(500));
        // Nothing arrives any more, and no interface goes down: only BFD can tell.
        lab.signal("bfdd", "-STOP");
        let took = eventually("our side has noticed", || !ours.is_up("frr") && !ours.has("198.51.100.0/24"));
        lab.signal("bfdd", "-CONT");
        downs += 1;
        let bfd = ours.peer("frr").bfd.unwrap();
        assert_eq!((bfd.downs, bfd.diagnostic.as_deref()), (downs, Some("control detection time expired")));
        assert!(ours.peer("frr").last_error.unwrap().contains("BFD down"));
        eventually("all is up again", both_up);
        took
    });
    once_within(Duration::from_millis(500), "FRR has noticed, with the time to ask it,", || {
        std::thread::sleep(Duration::from_secs(1));
        lab.in_ns("a", || {
            let rules = "table inet t { chain o { type filter hook output priority 0; udp dport 3784 drop; }; }";
            run_command(&["nft", rules]);
        });
        let took = eventually("FRR has noticed", || !knows(&lab, "ipv4", "203.0.113.10/32"));
        lab.in_ns("a", || run_command(&["nft", "delete table inet t"]));
        eventually("all is up again", both_up);
        took
    });
}
