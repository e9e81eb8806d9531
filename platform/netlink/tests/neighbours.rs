//! The watcher against the kernel's own tables, in namespaces of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_netlink::Watcher;
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "PENSTOCK_NETLINK_INSIDE";

const FIXED: &str = "02:00:00:00:00:03";

struct Namespaces(u32);

impl Namespaces {
    fn new() -> Self {
        let ns = Self(std::process::id());
        let (a, b) = ns.names();
        for line in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add eth0 mtu 1600 type veth peer name eth0 netns {b}"),
            format!("-n {a} addr add 10.77.1.1/24 dev eth0"),
            format!("-n {b} addr add 10.77.1.2/24 dev eth0"),
            format!("-n {a} link set eth0 up"),
            format!("-n {b} link set eth0 up"),
            format!("-n {a} route add 10.99.0.0/16 via 10.77.1.2"),
            format!("-n {a} route add 10.98.0.0/16 via 10.77.1.3"),
            format!("-n {a} neigh add 10.77.1.3 lladdr {FIXED} dev eth0 nud permanent"),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        ns
    }

    fn names(&self) -> (String, String) {
        (format!("pst-nl-{}a", self.0), format!("pst-nl-{}b", self.0))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let (a, b) = self.names();
        for name in [a, b] {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

#[test]
fn a_solicited_next_hop_is_resolved_and_its_loss_is_seen() {
    if std::env::var_os(INSIDE).is_some() {
        inside();
        return;
    }
    if !std::fs::metadata("/run").is_ok_and(|_| is_root()) {
        println!("skipped: needs root and network namespaces");
        return;
    }
    let ns = Namespaces::new();
    let status = Command::new("timeout")
        .args(["30", "ip", "netns", "exec", &ns.names().0])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_solicited_next_hop_is_resolved_and_its_loss_is_seen", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

fn inside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let watcher = Watcher::start().await.unwrap();
        let dst = "10.99.3.4".parse().unwrap();
        assert_eq!(watcher.view().link("eth0").map(|l| l.mtu), Some(1600));
        assert_eq!(watcher.view().next_hop(dst), None);
        watcher.solicit(dst);
        let mut views = watcher.subscribe();
        let resolved = views.wait_for(|v| v.next_hop(dst).is_some());
        let hop = tokio::time::timeout(Duration::from_secs(5), resolved).await.unwrap().unwrap().next_hop(dst).unwrap();
        assert_eq!(hop.mtu, 1600);
        assert_ne!(hop.eth_src, hop.eth_dst);
        a_permanent_neighbour_stays(&watcher).await;
        assert!(Command::new("ip").args(["link", "set", "eth0", "down"]).status().unwrap().success());
        let lost = views.wait_for(|v| v.next_hop(dst).is_none());
        tokio::time::timeout(Duration::from_secs(5), lost).await.unwrap().unwrap();
    });
}

/// Nobody answers at its address: resolving it would lose it.
async fn a_permanent_neighbour_stays(watcher: &Watcher) {
    let dst = "10.98.0.1".parse().unwrap();
    watcher.solicit(dst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shown = Command::new("ip").args(["neigh", "show", "10.77.1.3"]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains(FIXED) && shown.contains("PERMANENT"), "{shown}");
    assert_eq!(watcher.view().next_hop(dst).map(|h| h.eth_dst.to_string()).as_deref(), Some(FIXED));
}
