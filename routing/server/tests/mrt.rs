//! A dump of the table, read by bgpdump.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use penstock_routing_proto::*;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use support::*;

const BIRD: &str = "/usr/sbin/bird";
const BGPDUMP: &str = "/usr/bin/bgpdump";
/// Besides the two that are looked at: more than one piece.
const MANY: u32 = 3000;

fn bird() -> String {
    let many: String = (0..MANY).map(|n| format!("route 20.{}.{}.0/24 blackhole;\n", n / 256, n % 256)).collect();
    let export = "import all; export filter { if source = RTS_STATIC then { bgp_med = 9; accept; } reject; };";
    let hop = format!("next hop address {THEIRS6};");
    format!(
        "router id {THEIRS};\nprotocol device {{ scan time 1; }}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol static s4 {{ ipv4; route 198.51.100.0/24 blackhole {{ bgp_community.add((65001,7)); }};\n\
         route 10.9.0.0/16 blackhole;\n{many} }}\n\
         protocol static s6 {{ ipv6; route 2001:db8:9::/48 blackhole; }}\n\
         protocol bgp b4 {{ local {THEIRS} as {THEIR_AS}; neighbor {OURS} as {OUR_AS}; hold time 9; connect retry time 1; \
         connect delay time 1; error wait time 1, 2; ipv4 {{ {export} }}; ipv6 {{ {export} {hop} }}; }}\n"
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
fn bgpdump_reads_the_table_as_the_router_has_it() {
    let Some(mut lab) = Lab::new("mrt", BGPDUMP) else { return };
    if !std::path::Path::new(BIRD).exists() {
        println!("skipped: needs {BIRD}");
        return;
    }
    lab.bird(&bird());
    let socket = std::path::PathBuf::from(lab.file("dump.sock", ""));
    std::fs::remove_file(&socket).unwrap();
    let peer = PeerGoal { import: Some(import()), families: Family::ALL.into(), ..open_peer("bird", THEIRS) };
    let mut ours = Ours::start_dumping(&lab, vec![peer], socket.clone());
    ours.announce(&["203.0.113.10/32"]);
    eventually("we have BIRD's", || ours.peer_if("bird").is_some_and(|peer| peer.received == u64::from(MANY) + 3));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600, "for its owner alone");

    let mut bytes = Vec::new();
    UnixStream::connect(&socket).unwrap().read_to_end(&mut bytes).unwrap();
    let file = lab.file("table.mrt", "");
    std::fs::write(&file, &bytes).unwrap();
    let out = Command::new(BGPDUMP).args(["-v", "-m", &file]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let line = |prefix: &str| {
        let found = text.lines().find(|l| l.split('|').nth(5) == Some(prefix));
        found.unwrap_or_else(|| panic!("no {prefix}: {}", String::from_utf8_lossy(&out.stderr))).to_owned()
    };
    let of = |prefix: &str| line(prefix).split('|').skip(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(of("198.51.100.0/24")[..6], [THEIRS, "65001", "198.51.100.0/24", "65001", "IGP", THEIRS]);
    assert_eq!(of("198.51.100.0/24")[6..9], ["100", "9", "65001:7"]);
    assert_eq!(of("2001:db8:9::/48")[..6], [THEIRS, "65001", "2001:db8:9::/48", "65001", "IGP", THEIRS6]);
    assert_eq!(of("203.0.113.10/32")[..3], ["0.0.0.0", &OUR_AS.to_string(), "203.0.113.10/32"]);
    assert!(!text.contains("10.9.0.0/16"), "the policy refuses it");
    assert_eq!(text.lines().filter(|l| l.contains("|20.")).count(), MANY as usize);
    ours.tell_to_stop();
    ours.wait();
    assert!(!socket.exists());
}
