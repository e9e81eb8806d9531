use super::pair::*;
use crate::*;
use penstock_model::Nanos;
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_that_connect_at_once_end_with_one_session() {
    let mut pair = Pair::external();
    pair.pass(5 * SECOND);
    assert!(pair.is_up());
    assert_eq!(pair.ups, [1, 1], "the collision cost no established session");
    pair.pass(600 * SECOND);
    assert!(pair.is_up() && pair.ups == [1, 1], "keepalives keep it");
}

#[test]
fn one_that_only_waits_is_connected_to() {
    let passive = PeerGoal { passive: true, ..peer("a", "192.0.2.1", 65001) };
    let mut pair = Pair::new(peer("b", "192.0.2.2", 65002), passive, [65001, 65002]);
    assert!(pair.pass(5 * SECOND).is_up());
}

#[test]
fn silence_ends_the_session_after_the_hold_time_and_takes_the_routes() {
    let mut pair = Pair::external();
    pair.speakers[1].announce(set(&["203.0.113.1/32"]));
    assert!(pair.pass(5 * SECOND).knows(0, "203.0.113.1/32"));
    pair.cut = true;
    assert!(pair.pass(80 * SECOND).knows(0, "203.0.113.1/32"));
    assert!(!pair.pass(11 * SECOND).knows(0, "203.0.113.1/32"));
    assert_eq!(pair.status(0).last_error.as_deref(), Some("hold timer expired"));
    pair.cut = false;
    pair.break_wires();
    assert!(pair.pass(70 * SECOND).knows(0, "203.0.113.1/32"), "and they find each other again");
}

#[test]
fn the_smaller_hold_time_is_agreed_on() {
    let quick = PeerGoal { hold_seconds: 9, ..peer("b", "192.0.2.2", 65002) };
    let mut pair = Pair::new(quick, peer("a", "192.0.2.1", 65001), [65001, 65002]);
    pair.pass(5 * SECOND);
    assert_eq!((pair.status(0).hold_seconds, pair.status(1).hold_seconds), (Some(9), Some(9)));
}

#[test]
fn a_peer_of_another_as_than_expected_is_refused_and_not_stormed() {
    let mut pair = Pair::new(peer("b", "192.0.2.2", 65009), peer("a", "192.0.2.1", 65001), [65001, 65002]);
    pair.pass(600 * SECOND);
    assert!(!pair.is_up() && pair.ups == [0, 0]);
    let status = pair.status(0);
    assert!(status.last_error.unwrap().contains("bad peer AS"));
    // Both sides try: a hot loop would be thousands.
    assert!(status.messages_sent < 150, "{} messages in ten minutes", status.messages_sent);
}

#[test]
fn bfd_down_ends_the_session_at_once_also_for_routes_that_a_restart_would_keep() {
    let restarting = PeerGoal { restart_seconds: Some(120), ..peer("b", "192.0.2.2", 65002) };
    let mut pair = Pair::new(restarting, peer("a", "192.0.2.1", 65001), [65001, 65002]);
    pair.speakers[1].announce(set(&["203.0.113.1/32"]));
    pair.pass(5 * SECOND);
    let id = pair.peer_of(0);
    let now = pair.now;
    pair.speakers[0].handle_bfd(id, BfdState::Up, now);
    assert!(pair.pass(SECOND).is_up());
    let now = pair.now;
    pair.speakers[0].handle_bfd(id, BfdState::Down, now);
    assert!(!pair.knows(0, "203.0.113.1/32"));
    assert!(pair.status(0).last_error.unwrap().contains("BFD down (6/10)"));
}

#[test]
fn a_neighbour_that_ends_bfd_on_purpose_keeps_the_session() {
    let mut pair = Pair::external();
    pair.pass(5 * SECOND);
    let id = pair.peer_of(0);
    // It says that it goes, then falls silent, then tries again in vain.
    for state in [BfdState::Up, BfdState::AdminDown, BfdState::Down, BfdState::Init, BfdState::Down] {
        let now = pair.now;
        pair.speakers[0].handle_bfd(id, state, now);
        assert!(pair.pass(SECOND).is_up(), "{state}");
    }
    assert_eq!(pair.ups, [1, 1]);
}

#[test]
fn bfd_that_was_up_before_a_new_key_still_ends_the_session() {
    let mut pair = Pair::external();
    pair.pass(5 * SECOND);
    let (id, now) = (pair.peer_of(0), pair.now);
    pair.speakers[0].handle_bfd(id, BfdState::Up, now);
    let keyed = PeerGoal { md5_key: Some(SecretText("new".to_owned())), ..peer("b", "192.0.2.2", 65002) };
    let goal = RouterGoal { local_as: 65001, peers: vec![keyed], ..RouterGoal::default() };
    pair.speakers[0].apply(&goal, now).unwrap();
    assert!(pair.pass(60 * SECOND).is_up() && pair.peer_of(0) != id, "a session of a peer that is another now");
    // BFD saw the neighbour all the time, so that it had nothing to say of it.
    let (id, now) = (pair.peer_of(0), pair.now);
    pair.speakers[0].handle_bfd(id, BfdState::Down, now);
    assert!(pair.status(0).last_error.is_some_and(|e| e.contains("BFD down")));
}

#[test]
fn leaving_asks_for_others_then_withdraws_then_says_why() {
    let mut pair = Pair::external();
    pair.speakers[0].announce(set(&["203.0.113.1/32"]));
    pair.pass(5 * SECOND);
    pair.speakers[0].drain();
    pair.pass(SECOND);
    let route = pair.speakers[1].route(p("203.0.113.1/32")).unwrap();
    assert_eq!(route.paths[0].communities, ["graceful-shutdown"]);
    assert_eq!(route.paths[0].local_pref, Some(0), "so that any other is better (RFC 8326)");
    pair.speakers[0].announce(BTreeSet::new());
    assert!(!pair.pass(SECOND).knows(1, "203.0.113.1/32") && pair.is_up());
    let now = pair.now;
    pair.speakers[0].shut_down("moving house", now);
    pair.pass(600 * SECOND);
    assert!(!pair.is_up());
    assert!(pair.status(1).last_error.unwrap().contains("moving house"));
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_by_the_send_hold_timer() {
    let mut pair = Pair::external();
    pair.writes = false;
    assert!(pair.pass(470 * SECOND).is_up());
    pair.pass(20 * SECOND);
    assert!(
        pair.status(0).last_error.is_some_and(|e| e.contains("send hold timer")) || pair.status(0).established == 2
    );
    let mut pair = Pair::external();
    assert!(pair.pass(2000 * SECOND).is_up() && pair.ups == [1, 1]);
}

#[test]
fn a_refresh_brings_everything_again_and_soft_changes_need_no_session() {
    let mut pair = Pair::external();
    pair.speakers[1].announce(set(&["203.0.113.1/32", "203.0.113.2/32"]));
    pair.pass(5 * SECOND);
    let change = |pair: &mut Pair, import: Option<Policy>| {
        let changed = PeerGoal { import, ..peer("b", "192.0.2.2", 65002) };
        let goal = RouterGoal { local_as: 65001, peers: vec![changed], ..RouterGoal::default() };
        let now = pair.now;
        pair.speakers[0].apply(&goal, now).unwrap();
        pair.pass(SECOND);
    };
    let one = Match { prefixes: vec![PrefixRange::exactly(p("203.0.113.1/32"))], ..Match::default() };
    change(&mut pair, Some(Policy { rules: vec![Rule { matches: one, accept: true, ..Rule::default() }] }));
    assert!(pair.knows(0, "203.0.113.1/32") && !pair.knows(0, "203.0.113.2/32"));
    change(&mut pair, Some(Policy::accept_all()));
    assert!(pair.knows(0, "203.0.113.2/32"), "it was kept, though refused");
    assert_eq!(pair.ups, [1, 1]);
}

#[test]
fn without_policies_nothing_is_exchanged_with_another_as_and_an_import_policy_asks_again() {
    let silent = PeerGoal { import: None, export: None, ..peer("b", "192.0.2.2", 65002) };
    let mut pair = Pair::new(silent.clone(), peer("a", "192.0.2.1", 65001), [65001, 65002]);
    pair.speakers[0].announce(set(&["203.0.113.1/32"]));
    pair.speakers[1].announce(set(&["203.0.113.2/32"]));
    pair.pass(5 * SECOND);
    assert!(pair.is_up() && !pair.knows(1, "203.0.113.1/32") && !pair.knows(0, "203.0.113.2/32"));
    assert_eq!(pair.speakers[0].rib().paths(), 1, "and nothing of it is kept");
    let open = PeerGoal { import: Some(Policy::accept_all()), ..silent };
    let goal = RouterGoal { local_as: 65001, peers: vec![open], ..RouterGoal::default() };
    let now = pair.now;
    pair.speakers[0].apply(&goal, now).unwrap();
    assert!(pair.pass(SECOND).knows(0, "203.0.113.2/32") && pair.ups == [1, 1]);
}

#[test]
fn what_an_import_policy_can_never_take_is_not_kept_of_an_internal_peer_either() {
    let with = |import: Option<Policy>| PeerGoal { import, ..peer("b", "192.0.2.2", 65001) };
    let mut pair = Pair::new(with(Some(Policy::default())), peer("a", "192.0.2.1", 65001), [65001, 65001]);
    pair.speakers[1].announce(set(&["203.0.113.1/32", "203.0.113.2/32"]));
    pair.pass(5 * SECOND);
    assert!(pair.is_up());
    assert_eq!((pair.speakers[0].rib().paths(), pair.status(0).received), (0, 0));
    for (import, paths) in
        [(None, 2), (Some(Policy { rules: vec![Rule::default()] }), 0), (Some(Policy::accept_all()), 2)]
    {
        let goal = RouterGoal { local_as: 65001, peers: vec![with(import.clone())], ..RouterGoal::default() };
        let now = pair.now;
        pair.speakers[0].apply(&goal, now).unwrap();
        pair.pass(SECOND);
        assert_eq!((pair.speakers[0].rib().paths(), pair.status(0).received), (paths, paths as u64), "{import:?}");
    }
    assert_eq!(pair.ups, [1, 1]);
}

#[test]
fn ten_thousand_prefixes_go_in_full_messages_and_all_come_back_out() {
    let all: BTreeSet<Prefix> =
        (0..10_000u32).map(|n| Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())).collect();
    let mut pair = Pair::external();
    pair.speakers[0].announce(all.clone());
    pair.pass(5 * SECOND);
    assert_eq!(pair.speakers[1].rib().len(), 10_000);
    assert!(pair.status(0).messages_sent < 120, "{} messages", pair.status(0).messages_sent);
    pair.speakers[0].announce(BTreeSet::new());
    pair.pass(SECOND);
    assert!(pair.speakers[1].rib().is_empty());
}

#[test]
fn too_many_prefixes_end_the_session_for_five_minutes() {
    let bounded = PeerGoal { max_prefixes: Some(5), ..peer("b", "192.0.2.2", 65002) };
    let mut pair = Pair::new(bounded, peer("a", "192.0.2.1", 65001), [65001, 65002]);
    let hosts: Vec<String> = (1..=6).map(|n| format!("203.0.113.{n}/32")).collect();
    pair.speakers[1].announce(hosts.iter().map(|h| p(h)).collect());
    pair.pass(5 * SECOND);
    assert!(!pair.is_up() && pair.speakers[0].rib().is_empty());
    assert!(pair.status(0).last_error.unwrap().contains("maximum number of prefixes"));
    pair.speakers[1].announce(set(&["203.0.113.1/32"]));
    assert!(!pair.pass(200 * SECOND).is_up());
    assert!(pair.pass(200 * SECOND).is_up() && pair.knows(0, "203.0.113.1/32"));
}

#[test]
fn a_route_with_more_attributes_than_the_peer_may_fill_is_taken_for_withdrawn() {
    let bounded = PeerGoal { max_attribute_bytes: Some(100), ..peer("b", "192.0.2.2", 65002) };
    let communities: Vec<_> = (0..30).map(|n| format!("65002:{n}").try_into().unwrap()).collect();
    let set = |communities| Set { add_communities: communities, ..Set::default() };
    let telling = |communities| PeerGoal {
        export: Some(Policy { rules: vec![Rule { matches: Match::default(), accept: true, set: set(communities) }] }),
        ..peer("a", "192.0.2.1", 65001)
    };
    let mut pair = Pair::new(bounded, telling(communities[..10].to_vec()), [65001, 65002]);
    pair.speakers[1].announce([p("203.0.113.1/32")].into());
    assert!(pair.pass(5 * SECOND).knows(0, "203.0.113.1/32"));
    let more = RouterGoal { local_as: 65002, peers: vec![telling(communities)], ..RouterGoal::default() };
    let now = pair.now;
    pair.speakers[1].apply(&more, now).unwrap();
    pair.pass(5 * SECOND);
    assert!(pair.is_up() && !pair.knows(0, "203.0.113.1/32"));
    assert_eq!(pair.status(0).received, 0);
}

#[test]
fn a_goal_that_is_refused_changes_nothing() {
    let mut pair = Pair::external();
    pair.pass(5 * SECOND);
    let bad = RouterGoal {
        local_as: 65001,
        peers: vec![PeerGoal { remote_as: 0, ..peer("b", "192.0.2.2", 1) }],
        ..RouterGoal::default()
    };
    let now: Nanos = pair.now;
    assert_eq!(pair.speakers[0].apply(&bad, now).unwrap_err().field, "peers[0].remote_as");
    assert!(pair.pass(SECOND).is_up());
}
