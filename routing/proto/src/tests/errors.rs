//! RFC 7606: which error costs what.
use super::pair::*;
use crate::wire::attributes::{Attributes, Dialect};
use crate::wire::message::{HEADER, MessageType, encode};
use crate::wire::update::{Agreed, Nlri, Update, announce};
use crate::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn agreed(external: bool) -> Agreed {
    Agreed {
        dialect: Dialect { four_byte_as: true, external },
        families: Family::ALL.into(),
        extended_next_hop: true,
        paths_received: BTreeSet::new(),
        paths_sent: BTreeSet::new(),
    }
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 2];
/// MP_REACH up to its prefixes: IPv6, unicast, a next hop.
const REACH: &[u8] = &[0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
const NLRI: &[u8] = &[24, 198, 51, 100];

fn body(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let list = attributes.concat();
    [&[0, 0][..], &(list.len() as u16).to_be_bytes(), &list, nlri].concat()
}

#[derive(Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    Routes,
    Session(u8, u8),
}

fn cost(attributes: &[&[u8]], nlri: &[u8]) -> Cost {
    match Update::decode(&body(attributes, nlri), &agreed(true)) {
        Err(n) => Cost::Session(n.code, n.subcode),
        Ok(u) if u.malformed.is_some() => {
            assert!(u.announced.is_empty() && !u.withdrawn.is_empty(), "{u:?}");
            Cost::Routes
        }
        Ok(u) => {
            assert_eq!(u.announced.len(), 1);
            Cost::Nothing
        }
    }
}

#[test]
fn what_can_be_contained_costs_the_routes_of_the_message_alone() {
    assert_eq!(cost(&[ORIGIN, PATH, HOP], NLRI), Cost::Nothing);
    for (what, list) in [
        ("origin of another value", vec![&[0x40, 1, 1, 9][..], PATH, HOP]),
        ("origin of another length", vec![&[0x40, 1, 2, 0, 0], PATH, HOP]),
        ("origin with wrong flags", vec![&[0xc0, 1, 1, 0], PATH, HOP]),
        ("no origin", vec![PATH, HOP]),
        ("no path", vec![ORIGIN, HOP]),
        ("no next hop", vec![ORIGIN, PATH]),
        ("a path cut short", vec![ORIGIN, &[0x40, 2, 5, 2, 1, 0, 0, 0xfd], HOP]),
        ("an empty segment", vec![ORIGIN, &[0x40, 2, 2, 2, 0], HOP]),
        ("an AS_SET", vec![ORIGIN, &[0x40, 2, 6, 1, 1, 0, 0, 0xfd, 0xea], HOP]),
        ("AS 0", vec![ORIGIN, &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], HOP]),
        ("a next hop of three bytes", vec![ORIGIN, PATH, &[0x40, 3, 3, 1, 2, 3]]),
        ("a MED of three bytes", vec![ORIGIN, PATH, HOP, &[0x80, 4, 3, 0, 0, 0]]),
        ("communities with a rest", vec![ORIGIN, PATH, HOP, &[0xc0, 8, 5, 0, 0, 0, 0, 0]]),
        ("no communities", vec![ORIGIN, PATH, HOP, &[0xc0, 8, 0]]),
        ("large communities with a rest", vec![ORIGIN, PATH, HOP, &[0xc0, 32, 4, 0, 0, 0, 0]]),
        ("a list that overruns", vec![ORIGIN, PATH, HOP, &[0xc0, 8, 200, 0]]),
    ] {
        assert_eq!(cost(&list, NLRI), Cost::Routes, "{what}");
    }
}

#[test]
fn what_mp_reach_announces_with_wrong_flags_counts_as_withdrawn() {
    let wrong = [&[0xc0, 14, 26][..], REACH, &[32, 0x20, 1, 0xd, 0xb8]].concat();
    let update = Update::decode(&body(&[ORIGIN, PATH, &wrong], &[]), &agreed(true)).unwrap();
    assert_eq!(update.withdrawn, [Nlri { prefix: p("2001:db8::/32"), path_id: 0 }]);
    assert!(update.malformed.is_some() && update.announced.is_empty());
    // Of a family that is not agreed on there is a prefix as well, if none that matters.
    let v4 = Agreed { families: [Family::Ipv4].into(), ..agreed(true) };
    let update = Update::decode(&body(&[ORIGIN, PATH, &wrong], &[]), &v4).unwrap();
    assert!(update.withdrawn.is_empty() && update.announced.is_empty());
}

#[test]
fn what_can_be_left_out_costs_nothing() {
    for (what, more) in [
        ("an aggregator of a wrong length", &[0xc0, 7, 2, 0, 0][..]),
        ("an atomic aggregate with content", &[0x40, 6, 1, 0]),
        ("local preference from outside", &[0x40, 5, 4, 0, 0, 0, 9]),
        ("an originator from outside", &[0x80, 9, 4, 1, 2, 3, 4]),
        ("the same attribute twice", ORIGIN),
        ("something unknown", &[0xc0, 200, 3, 1, 2, 3]),
        ("something unknown that goes no further", &[0x80, 201, 0]),
        ("an AS4_PATH where numbers have four bytes", &[0xc0, 17, 1, 0]),
    ] {
        assert_eq!(cost(&[ORIGIN, PATH, HOP, more], NLRI), Cost::Nothing, "{what}");
    }
}

#[test]
fn what_hides_prefixes_costs_the_session() {
    for (what, list, nlri, end) in [
        ("a prefix of 33 bits", vec![ORIGIN, PATH, HOP], &[33, 1, 2, 3, 4, 5][..], (3, 10)),
        ("a prefix cut short", vec![ORIGIN, PATH, HOP], &[24, 1, 2], (3, 10)),
        (
            "MP_REACH with a next hop of 5",
            vec![ORIGIN, PATH, &[0x80, 14, 10, 0, 2, 1, 5, 1, 2, 3, 4, 5, 0]],
            &[],
            (3, 9),
        ),
        ("MP_REACH twice", vec![ORIGIN, PATH, &[0x80, 14, 3, 0, 2, 1], &[0x80, 14, 3, 0, 2, 1]], &[], (3, 1)),
        ("MP_UNREACH cut short", vec![&[0x80, 15, 5, 0, 2, 1, 64, 0]], &[], (3, 9)),
        ("an unknown attribute that all must know", vec![ORIGIN, PATH, HOP, &[0x40, 99, 0]], NLRI, (3, 2)),
    ] {
        assert_eq!(cost(&list, nlri), Cost::Session(end.0, end.1), "{what}");
    }
    for (what, list) in [
        ("an origin of another value and no prefix", vec![&[0x40, 1, 1, 9][..], PATH, HOP]),
        ("a list that overruns, and so perhaps a prefix", vec![ORIGIN, &[0xc0, 8, 200, 0]]),
        ("MP_UNREACH with wrong flags", vec![&[0xc0, 15, 3, 0, 2, 1]]),
        ("MP_REACH without a prefix, with wrong flags", vec![ORIGIN, PATH, &[&[0xc0, 14, 21][..], REACH].concat()]),
        ("withdrawals beside a MED of three bytes", vec![&[0x80, 15, 6, 0, 2, 1, 16, 0x20, 1], &[0x80, 4, 3, 0, 0, 0]]),
    ] {
        assert_eq!(cost(&list, &[]), Cost::Session(3, 1), "{what}");
    }
    assert!(Update::decode(&[0, 9, 0, 0], &agreed(true)).is_err());
    assert!(Update::decode(&[0, 0, 0, 9], &agreed(true)).is_err());
}

#[test]
fn a_malformed_attribute_withdraws_its_route_and_the_session_lives() {
    let mut pair = Pair::external();
    pair.speakers[1].announce(set(&["198.51.100.0/24", "203.0.113.1/32"]));
    assert!(pair.pass(Duration::from_secs(5)).knows(0, "198.51.100.0/24"));
    let broken = body(&[ORIGIN, PATH, HOP, &[0xc0, 8, 5, 0, 0, 0, 0, 0]], NLRI);
    pair.inject(&encode(MessageType::Update, |out| out.extend_from_slice(&broken)));
    assert!(pair.is_up() && !pair.knows(0, "198.51.100.0/24") && pair.knows(0, "203.0.113.1/32"));
    let status = pair.status(0);
    assert_eq!((status.malformed, status.established), (1, 1));
    assert!(status.last_error.unwrap().contains("COMMUNITIES is malformed"));
}

#[test]
fn what_is_passed_on_unread_is_marked_partial() {
    let u = Update::decode(&body(&[ORIGIN, PATH, HOP, &[0xc0, 200, 2, 7, 8]], NLRI), &agreed(true)).unwrap();
    let (attributes, list) = &u.announced[0];
    assert_eq!(attributes.others, [(200, Box::from([7, 8]))]);
    let (message, _) = announce(attributes, list, &agreed(true)).unwrap();
    assert!(message.windows(6).any(|w| w == [0xf0, 200, 0, 2, 7, 8]), "{message:?}");
}

#[test]
fn two_byte_speakers_get_what_they_understand_and_nothing_is_lost() {
    let mut a = Attributes::local("192.0.2.1".parse().unwrap());
    a.as_path.0 = vec![65001, 4_200_000_001, 65002];
    let old = Agreed { dialect: Dialect { four_byte_as: false, external: true }, ..agreed(true) };
    let route = [Nlri { prefix: p("198.51.100.0/24"), path_id: 0 }];
    let (message, _) = announce(&a, &route, &old).unwrap();
    let u = Update::decode(&message[HEADER..], &old).unwrap();
    assert_eq!(u.announced[0].0.as_path, a.as_path);
}

#[test]
fn attributes_that_no_message_holds_are_seen_to() {
    let mut a = Attributes::local("192.0.2.1".parse().unwrap());
    a.communities = (0..1100).map(crate::wire::attributes::Community).collect();
    let route = [Nlri { prefix: p("198.51.100.0/24"), path_id: 0 }];
    assert_eq!(announce(&a, &route, &agreed(true)), None);
}
