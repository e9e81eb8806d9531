//! With BIRD 2 as the neighbour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use std::time::Duration;
use support::*;

const BIRD: &str = "/usr/sbin/bird";

fn bird(protocols: &str) -> String {
    format!(
        "router id {THEIRS};\nprotocol device {{ scan time 1; }}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol static s4 {{ ipv4; route 198.51.100.0/24 blackhole; }}\n\
         protocol static s6 {{ ipv6; route 2001:db8:9::/48 blackhole; }}\n{protocols}\n"
    )
}

fn session(name: &str, own: &str, ours: &str, our_as: u32, more: &str) -> String {
    format!(
        "protocol bgp {name} {{ local {own} as {THEIR_AS}; neighbor {ours} as {our_as}; hold time 9; \
         connect retry time 1; connect delay time 1; error wait time 1, 2; {more} }}\n"
    )
}

fn external(name: &str, own: &str, ours: &str, more: &str) -> String {
    session(name, own, ours, OUR_AS, more)
}

const EXPORT4: &str = "ipv4 { import all; export where source = RTS_STATIC; };";
const EXPORT6: &str = "ipv6 { import all; export where source = RTS_STATIC; };";

#[test]
fn routes_of_both_families_go_both_ways_and_withdrawals_follow() {
    let Some(mut lab) = Lab::new("bbo", BIRD) else { return };
    let md5 = "password \"secret\"; ttl security on;";
    let sessions = [external("b4", THEIRS, OURS, &format!("{EXPORT4} {md5}")), external("b6", THEIRS6, OURS6, EXPORT6)];
    lab.bird(&bird(&sessions.concat()));
    let key = Some(SecretText("secret".to_owned()));
    let peers = vec![
        PeerGoal { md5_key: key, hops: Some(1), ..open_peer("four", THEIRS) },
        PeerGoal { local_address: Some(ip(OURS6)), ..open_peer("six", THEIRS6) },
    ];
    let mut ours = Ours::start(&lab, peers, Duration::from_millis(500));
    ours.announce(&["203.0.113.10/32", "2001:db8:f::10/128"]);
    eventually("both sessions are up", || ours.is_up("four") && ours.is_up("six"));
    eventually("we have BIRD's", || ours.has("198.51.100.0/24") && ours.has("2001:db8:9::/48"));
    eventually("BIRD has ours", || {
        lab.birdc("show route 203.0.113.10/32").contains(OURS)
            && lab.birdc("show route 2001:db8:f::10/128").contains(OURS6)
    });
    ours.announce(&["203.0.113.10/32"]);
    eventually("the withdrawal arrives", || !lab.birdc("show route 2001:db8:f::10/128").contains(OURS6));
    ours.tell_to_stop();
    eventually("BIRD is asked to prefer others", || lab.birdc("show route 203.0.113.10/32 all").contains("(65535,0)"));
    ours.wait();
    assert!(!lab.birdc("show route").contains("203.0.113.10"));
    let told = lab.birdc("show protocols all b4");
    assert!(told.contains("Administrative shutdown") && told.contains("penstock is leaving"), "{told}");
}

#[test]
fn routes_of_a_peer_that_restarts_stay_until_it_is_back() {
    let Some(mut lab) = Lab::new("bgr", BIRD) else { return };
    let with = |routes: &str| {
        format!(
            "{routes}{}",
            external("b4", THEIRS, OURS, &format!("{EXPORT4} graceful restart on; graceful restart time 20;"))
        )
    };
    lab.bird(&bird(&with("protocol static s5 { ipv4; route 198.51.101.0/24 blackhole; }\n")));
    let peer = PeerGoal { restart_seconds: Some(30), ..open_peer("bird", THEIRS) };
    let ours = Ours::start(&lab, vec![peer], Duration::ZERO);
    eventually("we have both", || ours.has("198.51.100.0/24") && ours.has("198.51.101.0/24"));
    lab.kill_all();
    eventually("the session is down", || !ours.is_up("bird"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(ours.has("198.51.100.0/24") && ours.has("198.51.101.0/24"), "kept while BIRD is away");
    lab.bird_again(&bird(&with("")));
    eventually("what BIRD no longer has goes", || {
        assert!(ours.has("198.51.100.0/24"), "what it has again stays");
        !ours.has("198.51.101.0/24")
    });
    assert!(ours.is_up("bird"));
}

#[test]
fn routes_of_a_peer_that_lost_them_go_when_it_is_back() {
    let Some(mut lab) = Lab::new("bgl", BIRD) else { return };
    let restarting = format!("{EXPORT4} graceful restart on; graceful restart time 20;");
    let configuration = bird(&external("b4", THEIRS, OURS, &restarting));
    lab.bird(&configuration);
    let peer = PeerGoal { restart_seconds: Some(30), ..open_peer("bird", THEIRS) };
    let ours = Ours::start(&lab, vec![peer], Duration::ZERO);
    eventually("we have its route", || ours.has("198.51.100.0/24"));
    lab.kill_all();
    eventually("the session is down", || !ours.is_up("bird"));
    // It forwards nothing by what it had, and has nothing to announce now.
    lab.bird(&configuration.replace("route 198.51.100.0/24 blackhole;", ""));
    eventually("the session is up again", || ours.is_up("bird"));
    eventually("and the route is gone", || !ours.has("198.51.100.0/24"));
}

#[test]
fn bfd_of_bird_is_understood() {
    let Some(mut lab) = Lab::new("bbf", BIRD) else { return };
    let bfd = "protocol bfd { interface \"v\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }\n";
    let sessions = [
        external("b4", THEIRS, OURS, &format!("{EXPORT4} bfd on;")),
        external("b6", THEIRS6, OURS6, &format!("{EXPORT6} bfd on;")),
    ];
    let configuration = bird(&format!("{bfd}{}", sessions.concat()));
    lab.bird(&configuration);
    let with_bfd = |name, address| PeerGoal { bfd: Some(BfdGoal::default()), ..open_peer(name, address) };
    let ours = Ours::start(&lab, vec![with_bfd("four", THEIRS), with_bfd("six", THEIRS6)], Duration::ZERO);
    let all_is_up = || {
        eventually("BFD is up over both", || ours.bfd_is("four", BfdState::Up) && ours.bfd_is("six", BfdState::Up));
        eventually("and BGP", || ours.is_up("four") && ours.is_up("six"));
        eventually("we have BIRD's", || ours.has("198.51.100.0/24"));
    };
    all_is_up();
    std::thread::sleep(Duration::from_secs(3));
    assert!(ours.bfd_is("four", BfdState::Up) && ours.peer("four").bfd.unwrap().downs == 0);
    once_within(Duration::from_millis(400), "BFD has noticed that BIRD is gone", || {
        all_is_up();
        std::thread::sleep(Duration::from_millis(500));
        lab.kill_all();
        let took = eventually("BFD has noticed", || ours.bfd_is("four", BfdState::Down));
        lab.bird(&configuration);
        took
    });
}

#[test]
fn a_reflector_passes_routes_between_internal_peers_with_all_paths() {
    let Some(mut lab) = Lab::new("brr", BIRD) else { return };
    // Two speakers of our own AS in one BIRD, each with a table of its own and addresses of its own: BIRD has one session
    // with a neighbour's address.
    lab.ip("b", "addr add 192.0.2.3/24 dev v");
    lab.ip("a", "addr add 192.0.2.4/24 dev v");
    let client = |n: u8, own: &str, ours: &str, route: &str| {
        format!(
            "ipv4 table t{n};\nprotocol static r{n} {{ ipv4 {{ table t{n}; }}; route {route} via 192.0.2.{n}0; \
             route 198.18.0.0/24 via 192.0.2.{n}0; }}\n\
             protocol direct d{n} {{ ipv4 {{ table t{n}; }}; }}\n\
             protocol bgp c{n} {{ local {own} as {OUR_AS}; neighbor {ours} as {OUR_AS}; router id {own}; hold time 9; \
             connect delay time 1; connect retry time 1; \
             ipv4 {{ table t{n}; import all; export where source = RTS_STATIC; add paths on; }}; }}\n"
        )
    };
    lab.bird(&bird(&format!(
        "{}{}",
        client(1, THEIRS, OURS, "10.1.0.0/16"),
        client(3, "192.0.2.3", "192.0.2.4", "10.3.0.0/16")
    )));
    let client = |name, address, local| PeerGoal {
        local_address: Some(ip(local)),
        remote_as: OUR_AS,
        reflector_client: true,
        add_path: AddPathGoal { receive: true, send: true },
        ..open_peer(name, address)
    };
    let ours =
        Ours::start(&lab, vec![client("one", THEIRS, OURS), client("three", "192.0.2.3", "192.0.2.4")], Duration::ZERO);
    eventually("both sessions are up", || ours.is_up("one") && ours.is_up("three"));
    eventually("the route of one is with three", || {
        lab.birdc("show route table t3 10.1.0.0/16").contains("192.0.2.10")
    });
    let told = lab.birdc("show route table t3 all 10.1.0.0/16");
    assert!(told.contains(&format!("BGP.originator_id: {THEIRS}")), "{told}");
    assert!(told.contains(&format!("BGP.cluster_list: {OURS}")), "{told}");
    assert!(told.contains("BGP.next_hop: 192.0.2.10"), "the next hop is not ours: {told}");
    eventually("and the other way", || lab.birdc("show route table t1 10.3.0.0/16").contains("192.0.2.30"));
    // Both have 198.18.0.0/24: each has the other's besides its own, and none has its own back.
    eventually("both paths are there", || {
        ours.status.borrow().routes.iter().any(|r| r.prefix == p("198.18.0.0/24") && r.paths.len() == 2)
    });
    let t1 = lab.birdc("show route table t1 all 198.18.0.0/24");
    assert!(t1.contains("192.0.2.30") && t1.matches("BGP.next_hop").count() == 1, "{t1}");
}
