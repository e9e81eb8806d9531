//! Namespaces for tests: made with `ip`, named `pst-<what><n>-<pid>`, removed on drop and, after a crash, by the next test.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Tests of one process run side by side.
static MADE: AtomicU32 = AtomicU32::new(0);

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this process may make namespaces; says so if not.
pub fn may_make_namespaces() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    let root = output.stdout == b"0\n";
    if !root {
        eprintln!("skipped: needs root for network namespaces");
    }
    root
}

/// Namespaces of one test.
pub struct Nets {
    names: Vec<String>,
}

impl Nets {
    /// One namespace for each of `what`, with loopback up.
    pub fn new(what: &[&str]) -> Self {
        remove_those_of_dead_processes();
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let names: Vec<String> = what.iter().map(|w| format!("pst-{w}{n}-{}", std::process::id())).collect();
        let nets = Self { names };
        for name in &nets.names {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            // No router solicitations between the packets that a test counts.
            let disable = "net.ipv6.conf.default.accept_ra=0";
            Command::new("ip").args(["netns", "exec", name, "sysctl", "-qw", disable]).status().unwrap();
        }
        nets
    }

    pub fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    /// `ip` in namespace `i`.
    pub fn ip(&self, i: usize, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.names[i]));
    }

    /// A veth between two namespaces, both ends up.
    pub fn veth(&self, a: usize, name_a: &str, b: usize, name_b: &str) {
        let (ns_a, ns_b) = (&self.names[a], &self.names[b]);
        ip(&format!("link add {name_a} netns {ns_a} type veth peer name {name_b} netns {ns_b}"));
        self.ip(a, &format!("link set {name_a} up"));
        self.ip(b, &format!("link set {name_b} up"));
    }

    pub fn exec(&self, i: usize, command: &str) -> std::process::Output {
        let mut full = vec!["netns", "exec", self.names[i].as_str()];
        full.extend(command.split_whitespace());
        Command::new("ip").args(full).output().unwrap()
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Names end in the process id of their maker; only names of the shape `pst-<what><n>-<pid>` made by these tests are touched.
fn remove_those_of_dead_processes() {
    const MINE: [&str; 6] = ["pst-xdpa", "pst-xdpb", "pst-gsoa", "pst-gsob", "pst-gsom", "pst-tun"];
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
        let Some((stem, pid)) = name.rsplit_once('-') else { continue };
        let dead = pid.parse::<u32>().is_ok_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        if dead && MINE.contains(&stem.trim_end_matches(|c: char| c.is_ascii_digit())) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}
