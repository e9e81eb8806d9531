//! What peers are told of others' routes.
use super::pair::{p, set};
use crate::wire::attributes::{Attributes, Community, Dialect};
use crate::wire::message;
use crate::wire::open::{Capabilities, Open};
use crate::wire::update::{self, Agreed, Nlri, Update};
use crate::*;
use penstock_model::Nanos;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const OWN_AS: u32 = 65000;
pub(super) const NOW: Nanos = Nanos::from_secs(1);

/// A speaker whose peers are played by the test.
pub(super) struct Stage {
    pub(super) speaker: Speaker,
    pub(super) ids: Vec<PeerId>,
}

pub(super) fn agreed(external: bool) -> Agreed {
    Agreed {
        dialect: Dialect { four_byte_as: true, external },
        families: [Family::Ipv4].into(),
        extended_next_hop: false,
        paths_received: BTreeSet::new(),
        paths_sent: BTreeSet::new(),
    }
}

fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 + n as u8))
}

fn ends(n: usize) -> Ends {
    Ends { local: "192.0.2.1:179".parse().unwrap(), remote: SocketAddr::new(address(n), 40000) }
}

impl Stage {
    /// Peers by their AS; those of our own are clients if `client` says so.
    pub(super) fn new(peers: &[(u32, bool)]) -> Self {
        let mut speaker = Speaker::new(Ipv4Addr::new(10, 0, 0, 1), 1);
        let peer = |(n, (asn, client)): (usize, &(u32, bool))| PeerGoal {
            passive: true,
            reflector_client: *client,
            import: Some(Policy::accept_all()),
            export: Some(Policy::accept_all()),
            ..PeerGoal::new(format!("p{n}"), address(n), *asn)
        };
        let goal = RouterGoal {
            local_as: OWN_AS,
            peers: peers.iter().enumerate().map(peer).collect(),
            ..RouterGoal::default()
        };
        speaker.apply(&goal, NOW).unwrap();
        let ids: Vec<PeerId> = speaker.peers().map(|(id, _)| id).collect();
        let mut stage = Self { speaker, ids };
        for (n, (asn, _)) in peers.iter().enumerate() {
            stage.speaker.handle_connected(stage.ids[n], Way::Passive, ends(n), NOW);
            let capabilities =
                Capabilities { four_byte_as: true, families: [Family::Ipv4].into(), ..Capabilities::default() };
            let open = Open { asn: *asn, hold_seconds: 90, id: Ipv4Addr::new(10, 0, 1, n as u8), capabilities };
            stage.hear(n, &[message::open(&open), message::keepalive()].concat());
        }
        for n in 0..peers.len() {
            drop(stage.said_to(n));
        }
        stage
    }

    pub(super) fn hear(&mut self, n: usize, bytes: &[u8]) {
        self.speaker.handle_bytes(self.ids[n], Way::Passive, bytes, NOW);
    }

    /// A peer tells a route.
    pub(super) fn tell(&mut self, n: usize, prefix: &str, attributes: &Attributes) {
        let external = self.speaker.peer(self.ids[n]).unwrap().remote_as != OWN_AS;
        let route = [Nlri { prefix: p(prefix), path_id: 0 }];
        let (message, _) = update::announce(attributes, &route, &agreed(external)).unwrap();
        self.hear(n, &message);
    }

    /// All that the peer is told from now on: announced and withdrawn.
    fn said_to(&mut self, n: usize) -> Vec<(Prefix, Option<Arc<Attributes>>)> {
        while self.speaker.fill(self.ids[n], NOW) {}
        let external = self.speaker.peer(self.ids[n]).unwrap().remote_as != OWN_AS;
        let mut out = Vec::new();
        let mut rest = Vec::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Transmit(id, _, bytes) if id == self.ids[n] => {
                    let (kind, body, _) = message::split(&bytes).unwrap().unwrap();
                    if kind == message::MessageType::Update {
                        let update = Update::decode(body, &agreed(external)).unwrap();
                        assert_eq!(update.malformed, None);
                        out.extend(update.withdrawn.iter().map(|n| (n.prefix, None)));
                        for (attributes, list) in update.announced {
                            out.extend(list.iter().map(|n| (n.prefix, Some(attributes.clone()))));
                        }
                    }
                }
                other => rest.push(other),
            }
        }
        out
    }
}

pub(super) fn route(path: &[u32], hop: &str) -> Attributes {
    let mut a = Attributes::local(hop.parse().unwrap());
    a.as_path.0 = path.to_vec();
    a
}

#[test]
fn an_external_peer_sees_our_as_and_our_address() {
    let mut stage = Stage::new(&[(65001, false), (65002, false)]);
    let told = Attributes { med: Some(7), local_pref: None, ..route(&[65001], "192.0.2.10") };
    stage.tell(0, "198.51.100.0/24", &told);
    let said = stage.said_to(1);
    let attributes = said[0].1.clone().unwrap();
    assert_eq!(attributes.as_path.0, [OWN_AS, 65001]);
    assert_eq!((attributes.next_hop.global, attributes.med), ("192.0.2.1".parse().unwrap(), None));
    assert!(stage.said_to(0).is_empty(), "it is not told what it told");
}

#[test]
fn internal_routes_go_on_only_by_reflection_and_never_back() {
    let mut plain = Stage::new(&[(OWN_AS, false), (OWN_AS, false), (65002, false)]);
    plain.tell(0, "198.51.100.0/24", &route(&[], "192.0.2.10"));
    assert!(plain.said_to(1).is_empty(), "RFC 4271, 9.2: not from internal to internal");
    assert_eq!(plain.said_to(2).len(), 1);

    let mut reflector = Stage::new(&[(OWN_AS, true), (OWN_AS, false), (OWN_AS, true)]);
    reflector.tell(0, "198.51.100.0/24", &route(&[], "192.0.2.10"));
    for n in [1, 2] {
        let said = reflector.said_to(n);
        let a = said[0].1.clone().unwrap();
        assert_eq!(
            (a.originator, a.cluster_list.clone()),
            (Some(Ipv4Addr::new(10, 0, 1, 0)), vec![Ipv4Addr::new(10, 0, 0, 1)])
        );
        assert_eq!(a.next_hop.global, address(0), "not rewritten");
    }
    assert!(reflector.said_to(0).is_empty());
    // What we have reflected comes back over another reflector: refused, and why.
    let back = Attributes {
        originator: Some(Ipv4Addr::new(10, 0, 9, 9)),
        cluster_list: vec![Ipv4Addr::new(10, 0, 0, 1)],
        ..route(&[], "192.0.2.11")
    };
    reflector.tell(1, "203.0.113.0/24", &back);
    let seen = reflector.speaker.route(p("203.0.113.0/24")).unwrap();
    assert_eq!(seen.paths[0].why_not.as_deref(), Some("it was reflected by us before"));
}

#[test]
fn routes_that_cannot_be_used_are_kept_with_the_reason() {
    let mut stage = Stage::new(&[(65001, false)]);
    for (prefix, attributes, why) in [
        ("198.51.100.0/24", route(&[65001, OWN_AS], "192.0.2.10"), "its path has our own AS in it"),
        ("198.51.101.0/24", route(&[65009, 65001], "192.0.2.10"), "its path does not begin with the peer's AS"),
        ("127.1.0.0/16", route(&[65001], "192.0.2.10"), "nothing may be routed to this prefix"),
        ("198.51.102.0/24", route(&[65001], "192.0.2.1"), "its next hop cannot be used"),
    ] {
        stage.tell(0, prefix, &attributes);
        let seen = stage.speaker.route(p(prefix)).unwrap();
        assert_eq!((seen.paths[0].why_not.as_deref(), seen.paths[0].best), (Some(why), false), "{prefix}");
    }
}

#[test]
fn communities_that_forbid_it_are_obeyed_and_the_reason_is_told() {
    let mut stage = Stage::new(&[(65001, false), (65002, false), (OWN_AS, false)]);
    for (community, told) in [(Community::NO_EXPORT, [0, 1]), (Community::NO_ADVERTISE, [0, 0])] {
        let mut a = route(&[65001], "192.0.2.10");
        a.communities = vec![community];
        stage.tell(0, "198.51.100.0/24", &a);
        let announced = |said: Vec<(Prefix, Option<Arc<Attributes>>)>| said.iter().filter(|(_, a)| a.is_some()).count();
        assert_eq!([announced(stage.said_to(1)), announced(stage.said_to(2))], told, "{community}");
        let seen = stage.speaker.route(p("198.51.100.0/24")).unwrap();
        assert!(
            seen.not_advertised.iter().any(|(peer, why)| peer == "p1" && *why == format!("it carries {community}"))
        );
    }
}

#[test]
fn the_better_path_takes_over_and_its_end_brings_the_other_back() {
    let mut stage = Stage::new(&[(65001, false), (65002, false), (65003, false)]);
    stage.tell(0, "198.51.100.0/24", &route(&[65001, 65009], "192.0.2.10"));
    assert_eq!(stage.said_to(2)[0].1.clone().unwrap().as_path.0, [OWN_AS, 65001, 65009]);
    stage.tell(1, "198.51.100.0/24", &route(&[65002], "192.0.2.11"));
    assert_eq!(stage.said_to(2)[0].1.clone().unwrap().as_path.0, [OWN_AS, 65002]);
    let id = stage.ids[1];
    stage.speaker.handle_closed(id, Way::Passive, "gone", NOW);
    assert_eq!(stage.said_to(2)[0].1.clone().unwrap().as_path.0, [OWN_AS, 65001, 65009]);
    let id = stage.ids[0];
    stage.speaker.handle_closed(id, Way::Passive, "gone", NOW);
    assert_eq!(stage.said_to(2), [(p("198.51.100.0/24"), None)]);
}

#[test]
fn a_refresh_takes_no_withdrawal_back_that_is_still_to_be_said() {
    let mut stage = Stage::new(&[(65001, false)]);
    stage.speaker.announce(set(&["203.0.113.1/32", "203.0.113.2/32"]));
    assert_eq!(stage.said_to(0).len(), 2);
    stage.speaker.announce(set(&["203.0.113.2/32"]));
    // The peer asks for everything before there was room to tell it.
    stage.hear(0, &message::route_refresh(Family::Ipv4));
    let said = stage.said_to(0);
    let of = |prefix: &str| said.iter().filter(|(x, _)| *x == p(prefix)).map(|(_, a)| a.is_some()).collect::<Vec<_>>();
    assert_eq!((of("203.0.113.1/32"), of("203.0.113.2/32")), (vec![false], vec![true]));
    assert!(stage.said_to(0).is_empty());
}

#[test]
fn a_peer_that_cannot_be_asked_again_is_asked_by_a_new_session() {
    let mut stage = Stage::new(&[(65001, false)]);
    let with = |import| PeerGoal { import, ..stage.speaker.peer(stage.ids[0]).unwrap().clone() };
    let goals = [None, Some(Policy::accept_all())].map(|import| RouterGoal {
        local_as: OWN_AS,
        peers: vec![with(import)],
        ..RouterGoal::default()
    });
    stage.speaker.apply(&goals[0], NOW).unwrap();
    assert!(stage.speaker.is_established());
    stage.speaker.apply(&goals[1], NOW).unwrap();
    assert!(!stage.speaker.is_established());
}

#[test]
fn own_prefixes_that_come_and_go_at_once_are_not_worth_a_word() {
    let mut stage = Stage::new(&[(65001, false)]);
    stage.speaker.announce(set(&["203.0.113.1/32"]));
    stage.speaker.announce(BTreeSet::new());
    assert!(stage.said_to(0).is_empty());
    assert!(stage.speaker.is_settled());
}
