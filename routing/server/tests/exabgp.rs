//! Attributes that have brought routers down, injected by exabgp.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use std::time::Duration;
use support::*;

const EXABGP: &str = "/usr/sbin/exabgp";

/// Of the third number of the prefix: what its attribute is, and whether the route is to live.
const ODD: &[(u8, &str, bool)] = &[
    (1, "[ 0x63 0xc0 0x01020304 ]", true),    // nobody knows it: optional, transitive
    (2, "[ 0x63 0x80 0x01020304 ]", true),    // and optional alone
    (3, "[ 0x1c 0xc0 0x00 ]", true),          // entropy labels, deprecated (RFC 7447)
    (4, "[ 0x28 0xc0 0x01 ]", true),          // a prefix SID that ends too soon: the attribute is of no use here
    (5, "[ 0x80 0xe0 0x0000fde9 ]", true),    // an attribute set of someone else's VPN, partial
    (6, "[ 0xff 0xc0 0x0000 ]", true),        // reserved for development (RFC 2042)
    (7, "[ 0x20 0xc0 0x010203 ]", false),     // large communities of three bytes (RFC 8092, 5)
    (8, "[ 0x10 0xc0 0x0102030405 ]", false), // extended communities of five bytes (RFC 7606, 7.14)
];

fn configuration() -> String {
    let odd: String = ODD
        .iter()
        .map(|(n, attribute, _)| format!("  route 198.51.{n}.0/24 next-hop {THEIRS} attribute {attribute};\n"))
        .collect();
    format!(
        "neighbor {OURS} {{\n router-id {THEIRS};\n local-address {THEIRS};\n local-as {THEIR_AS};\n peer-as {OUR_AS};\n \
         hold-time 9;\n static {{\n  route 198.51.100.0/24 next-hop {THEIRS};\n{odd} }}\n}}\n"
    )
}

#[test]
fn an_odd_attribute_costs_its_own_route_at_most_and_never_the_session() {
    let Some(mut lab) = Lab::new("exa", EXABGP) else { return };
    let file = lab.file("exabgp.conf", &configuration());
    let quiet = [("exabgp.daemon.user", "root"), ("exabgp.log.level", "ERR"), ("exabgp.api.cli", "false")];
    lab.run_there(EXABGP, &[&file], &quiet);
    let ours = Ours::start(&lab, vec![open_peer("exabgp", THEIRS)], Duration::ZERO);
    eventually("the session is up", || ours.is_up("exabgp"));
    let lives = || ODD.iter().filter(|odd| odd.2).all(|(n, ..)| ours.has(&format!("198.51.{n}.0/24")));
    eventually("what is sound is there", || ours.has("198.51.100.0/24") && lives());
    let dead = ODD.iter().filter(|odd| !odd.2).count() as u64;
    eventually("what is malformed was seen", || ours.peer("exabgp").malformed >= dead);
    for (n, attribute, _) in ODD.iter().filter(|odd| !odd.2) {
        assert!(!ours.has(&format!("198.51.{n}.0/24")), "{attribute}");
    }
    // Beyond the hold time: it is the same session still.
    std::thread::sleep(Duration::from_secs(10));
    let peer = ours.peer("exabgp");
    assert_eq!((peer.state, peer.established), (SessionState::Established, 1), "{:?}", peer.last_error);
}
