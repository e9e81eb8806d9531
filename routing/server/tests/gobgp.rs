//! With GoBGP as the neighbour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use serde_json::Value;
use std::time::Duration;
use support::*;

const GOBGP: &str = "/usr/bin/gobgpd";

fn configuration() -> String {
    let family = |name: &str| {
        format!("  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{name}\"\n")
    };
    format!(
        "[global.config]\n  as = {THEIR_AS}\n  router-id = \"{THEIRS}\"\n[[neighbors]]\n  [neighbors.config]\n    \
         neighbor-address = \"{OURS}\"\n    peer-as = {OUR_AS}\n    auth-password = \"secret\"\n  [neighbors.timers.config]\n    \
         hold-time = 9\n    connect-retry = 1\n{}{}",
        family("ipv4-unicast"),
        family("ipv6-unicast")
    )
}

fn has(lab: &Lab, family: &str, prefix: &str) -> bool {
    let all: Value =
        serde_json::from_str(&lab.asked("gobgp", &format!("global rib -a {family} -j"))).unwrap_or_default();
    all.get(prefix).is_some()
}

#[test]
fn both_families_go_both_ways_over_a_signed_ipv4_session_and_are_withdrawn() {
    let Some(mut lab) = Lab::new("gob", GOBGP) else { return };
    let file = lab.file("gobgpd.toml", &configuration());
    lab.run_there(GOBGP, &["-f", &file, "--api-hosts", "127.0.0.1:50051", "-l", "error", "--log-plain"], &[]);
    eventually("gobgpd answers", || lab.asked("gobgp", "neighbor").contains(OURS));
    let peer = PeerGoal {
        md5_key: Some(SecretText("secret".to_owned())),
        families: Family::ALL.into(),
        other_next_hop: Some(ip(OURS6)),
        ..open_peer("gobgp", THEIRS)
    };
    let mut ours = Ours::start(&lab, vec![peer], Duration::ZERO);
    ours.announce(&["203.0.113.10/32", "2001:db8:f::10/128"]);
    eventually("the session is up", || ours.is_up("gobgp"));
    lab.asked("gobgp", &format!("global rib add 198.51.100.0/24 nexthop {THEIRS} med 7"));
    lab.asked("gobgp", &format!("global rib -a ipv6 add 2001:db8:9::/48 nexthop {THEIRS6}"));
    eventually("we have GoBGP's", || ours.has("198.51.100.0/24") && ours.has("2001:db8:9::/48"));
    eventually("GoBGP has ours", || has(&lab, "ipv4", "203.0.113.10/32") && has(&lab, "ipv6", "2001:db8:f::10/128"));
    lab.asked("gobgp", "global rib del 198.51.100.0/24");
    eventually("its withdrawal arrives", || !ours.has("198.51.100.0/24"));
    ours.announce(&["203.0.113.10/32"]);
    eventually("and ours", || !has(&lab, "ipv6", "2001:db8:f::10/128"));
    assert!(has(&lab, "ipv4", "203.0.113.10/32") && ours.has("2001:db8:9::/48"), "and nothing else");
    ours.tell_to_stop();
    ours.wait();
    assert!(!has(&lab, "ipv4", "203.0.113.10/32"));
}
