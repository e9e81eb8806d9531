//! What collectors hear (RFC 7854).
use super::pair::p;
use super::told::{NOW, Stage, agreed, route};
use crate::policy::{Match, PrefixRange, Rule};
use crate::wire::message::{self, MessageType};
use crate::wire::update::{self, Nlri, Update};
use crate::*;

const COLLECTOR: CollectorId = CollectorId(7);
const BOTH: Views = Views { pre_policy: true, post_policy: true };

/// One message, as far as a test looks at it.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Initiation,
    Up(u8),
    Down(u8, u8),
    Statistics(u8, u64),
    /// Of which peer, after the policy or not, and what: announced or withdrawn.
    Route(u8, bool, Prefix, bool),
    End(u8, bool),
}

fn read(m: &[u8]) -> Vec<Heard> {
    if m[5] == 4 {
        return vec![Heard::Initiation];
    }
    let (post, peer, body) = (m[7] & 0x40 != 0, m[31] - 10, &m[48..]);
    match m[5] {
        3 => {
            let (kind, _, length) = message::split(&body[20..]).unwrap().unwrap();
            let (second, ..) = message::split(&body[20 + length..]).unwrap().unwrap();
            assert_eq!((kind, second), (MessageType::Open, MessageType::Open));
            assert_eq!((&body[12..16], &body[16..18]), (&[192, 0, 2, 1][..], &179_u16.to_be_bytes()[..]));
            vec![Heard::Up(peer)]
        }
        2 => vec![Heard::Down(peer, body[0])],
        1 => vec![Heard::Statistics(peer, u64::from_be_bytes(*body.last_chunk().unwrap()))],
        0 => {
            let (_, body, _) = message::split(body).unwrap().unwrap();
            let update = Update::decode(body, &agreed(!post)).unwrap();
            assert_eq!(update.malformed, None);
            let end = update.end_of_rib.map(|_| Heard::End(peer, post));
            let gone = update.withdrawn.iter().map(|n| Heard::Route(peer, post, n.prefix, false));
            let lists = update.announced.iter().flat_map(|(_, list)| list);
            gone.chain(lists.map(|n| Heard::Route(peer, post, n.prefix, true))).chain(end).collect()
        }
        other => panic!("type {other}"),
    }
}

fn heard(stage: &mut Stage) -> Vec<Heard> {
    let mut out = Vec::new();
    loop {
        match stage.speaker.fill_collector(COLLECTOR) {
            Filled::Message(m) => out.extend(read(&m)),
            Filled::Again => {}
            Filled::Nothing => return out,
            Filled::CutOff => panic!("cut off"),
        }
    }
}

/// Two peers; of the first, 10.0.0.0/8 and what is in it is refused.
fn stage() -> Stage {
    let mut stage = Stage::new(&[(65001, false), (65002, false)]);
    let mut goal = RouterGoal { local_as: 65000, ..RouterGoal::default() };
    goal.peers = stage.speaker.peers().map(|(_, peer)| peer.clone()).collect();
    let inside = Match { prefixes: vec![PrefixRange::within(p("10.0.0.0/8"))], ..Match::default() };
    let refuse = Rule { matches: inside, accept: false, ..Rule::default() };
    let mut import = Policy::accept_all();
    import.rules.insert(0, refuse);
    goal.peers[0].import = Some(import);
    stage.speaker.apply(&goal, NOW).unwrap();
    stage
}

#[test]
fn a_collector_that_comes_late_hears_everything_and_then_what_changes() {
    let mut stage = stage();
    stage.tell(0, "10.1.0.0/16", &route(&[65001], "192.0.2.10"));
    stage.tell(0, "198.51.100.0/24", &route(&[65001], "192.0.2.10"));
    stage.speaker.watch(COLLECTOR, BOTH, "test", "Penstock");
    let route_of = |post, prefix| Heard::Route(0, post, p(prefix), true);
    let all = [
        Heard::Initiation,
        Heard::Up(0),
        Heard::Up(1),
        route_of(false, "10.1.0.0/16"),
        route_of(false, "198.51.100.0/24"),
        Heard::End(0, false),
        route_of(true, "198.51.100.0/24"),
        Heard::End(0, true),
        Heard::End(1, false),
        Heard::End(1, true),
    ];
    assert_eq!(heard(&mut stage), all);

    stage.tell(1, "203.0.113.0/24", &route(&[65002], "192.0.2.11"));
    let of_1 = |post| Heard::Route(1, post, p("203.0.113.0/24"), true);
    assert_eq!(heard(&mut stage), [of_1(false), of_1(true)]);
    stage.speaker.tell_statistics(COLLECTOR);
    assert_eq!(heard(&mut stage), [Heard::Statistics(0, 2), Heard::Statistics(1, 1)]);
    let (gone, _) = update::withdraw(&[Nlri { prefix: p("203.0.113.0/24"), path_id: 0 }], &agreed(true));
    stage.hear(1, &gone);
    let gone = |post| Heard::Route(1, post, p("203.0.113.0/24"), false);
    assert_eq!(heard(&mut stage), [gone(false), gone(true)]);

    let (one, two) = (stage.ids[0], stage.ids[1]);
    stage.tell(1, "203.0.113.0/24", &route(&[65002], "192.0.2.11"));
    stage.speaker.handle_closed(one, Way::Passive, "gone", NOW);
    let bye = message::notification(&crate::wire::notification::Notification::new(6, 2));
    stage.speaker.handle_bytes(two, Way::Passive, &bye, NOW);
    assert_eq!(heard(&mut stage), [Heard::Down(0, 4), Heard::Down(1, 3)], "nothing of routes that have ended");
}

#[test]
fn a_policy_that_changes_is_seen_after_it_alone() {
    let mut stage = stage();
    stage.tell(0, "10.1.0.0/16", &route(&[65001], "192.0.2.10"));
    stage.speaker.watch(COLLECTOR, Views { pre_policy: false, post_policy: true }, "test", "");
    drop(heard(&mut stage));
    let mut goal = RouterGoal { local_as: 65000, ..RouterGoal::default() };
    goal.peers = stage.speaker.peers().map(|(_, peer)| peer.clone()).collect();
    goal.peers[0].import = Some(Policy::accept_all());
    stage.speaker.apply(&goal, NOW).unwrap();
    assert_eq!(heard(&mut stage), [Heard::Route(0, true, p("10.1.0.0/16"), true)]);
}

fn numbered(n: u32) -> Nlri {
    let address = std::net::Ipv4Addr::from(0x1400_0000 + (n << 8));
    Nlri { prefix: Prefix::new(address.into(), 24).unwrap(), path_id: 0 }
}

#[test]
fn a_table_goes_to_a_collector_once_whatever_its_size() {
    let mut stage = stage();
    let routes: Vec<Nlri> = (0..10_000).map(numbered).collect();
    let mut rest = &routes[..];
    while !rest.is_empty() {
        let (message, taken) = update::announce(&route(&[65001], "192.0.2.10"), rest, &agreed(true)).unwrap();
        stage.hear(0, &message);
        rest = &rest[taken..];
    }
    stage.speaker.watch(COLLECTOR, BOTH, "test", "");
    let heard = heard(&mut stage);
    for view in [false, true] {
        let told = heard.iter().filter_map(|h| match h {
            Heard::Route(0, post, prefix, true) if *post == view => Some(*prefix),
            _ => None,
        });
        assert!(told.eq(routes.iter().map(|n| n.prefix)), "{view}");
    }
}

#[test]
fn a_collector_that_takes_nothing_is_cut_off_and_costs_nothing_more() {
    let mut stage = stage();
    stage.speaker.watch(COLLECTOR, BOTH, "test", "");
    let mut first = 0;
    // Announced and withdrawn: the table stays small, and what a collector would have to hear grows.
    while first < 150_000 {
        let list: Vec<Nlri> = (first..first + 150).map(numbered).collect();
        let (message, taken) = update::announce(&route(&[65001], "192.0.2.10"), &list, &agreed(true)).unwrap();
        stage.hear(0, &message);
        stage.hear(0, &update::withdraw(&list[..taken], &agreed(true)).0);
        first += taken as u32;
    }
    assert_eq!(stage.speaker.rib().paths(), 0);
    assert_eq!(stage.speaker.fill_collector(COLLECTOR), Filled::CutOff);
    assert_eq!(stage.speaker.fill_collector(COLLECTOR), Filled::Nothing, "it is forgotten");
}
