//! A client, a router, a mux and a host, each in a network namespace of its own, joined by veth with default offloads.
#![allow(unreachable_pub, dead_code)]

pub mod capture;
pub mod frame;
pub mod goal;

use penstock_packet_io::netns;
use std::process::Command;

pub const VIP4: &str = "203.0.113.10";
pub const VIP6: &str = "2001:db8:100::10";
pub const MUX: &str = "192.0.2.2";
pub const HOST: &str = "198.51.100.2";

/// Removes its namespaces when dropped; and, before it makes them, those that a crashed run left.
pub struct Lab {
    prefix: String,
}

impl Lab {
    /// `None`, and says so, without the rights to make namespaces.
    pub fn new(tag: &str) -> Option<Self> {
        Self::with_queues(tag, 1)
    }

    /// With several queues on the link between router and mux.
    pub fn with_queues(tag: &str, queues: u32) -> Option<Self> {
        if !is_root() {
            println!("skipped: needs root to make network namespaces");
            return None;
        }
        let lab = Self { prefix: format!("pst-{tag}{}", std::process::id()) };
        lab.remove();
        for ns in ["c", "r", "m", "h"] {
            run(&["ip", "netns", "add", &lab.ns(ns)]);
            lab.ip(ns, "link set lo up");
        }
        lab.join("r", "rc", "c", "c0", 1500, 1);
        lab.join("r", "rm", "m", "m0", 1600, queues);
        lab.join("r", "rh", "h", "h0", 1600, 1);
        lab.address();
        Some(lab)
    }

    pub fn ns(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    pub fn ip(&self, ns: &str, args: &str) {
        let ns = self.ns(ns);
        let mut all = vec!["ip", "-n", &ns];
        all.extend(args.split(' '));
        run(&all);
    }

    pub fn in_ns<T: Send>(&self, ns: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.ns(ns), work).unwrap()
    }

    pub fn mac(&self, ns: &str, interface: &str) -> [u8; 6] {
        self.in_ns(ns, || penstock_packet_io::Interface::open(interface).unwrap().mac().unwrap().0)
    }

    fn join(&self, a: &str, a_if: &str, b: &str, b_if: &str, mtu: u32, queues: u32) {
        let (na, nb) = (self.ns(a), self.ns(b));
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        let add = format!("ip -n {na} link add {a_if} {queues} type veth peer name {b_if} {queues} netns {nb}");
        run(&add.split(' ').collect::<Vec<_>>());
        self.ip(a, &format!("link set {a_if} mtu {mtu} up"));
        self.ip(b, &format!("link set {b_if} mtu {mtu} up"));
    }

    fn address(&self) {
        for (ns, interface, v4, v6) in [
            ("c", "c0", "198.18.0.2/24", "2001:db8:1::2/64"),
            ("r", "rc", "198.18.0.1/24", "2001:db8:1::1/64"),
            ("m", "m0", "192.0.2.2/24", "2001:db8:2::2/64"),
            ("r", "rm", "192.0.2.1/24", "2001:db8:2::1/64"),
            ("h", "h0", "198.51.100.2/24", "2001:db8:3::2/64"),
            ("r", "rh", "198.51.100.1/24", "2001:db8:3::1/64"),
        ] {
            self.ip(ns, &format!("addr add {v4} dev {interface}"));
            self.ip(ns, &format!("addr add {v6} dev {interface} nodad"));
        }
        for (ns, v4, v6) in [
            ("c", "198.18.0.1", "2001:db8:1::1"),
            ("m", "192.0.2.1", "2001:db8:2::1"),
            ("h", "198.51.100.1", "2001:db8:3::1"),
        ] {
            self.ip(ns, &format!("route add default via {v4}"));
            self.ip(ns, &format!("-6 route add default via {v6}"));
        }
        self.ip("r", &format!("route add {VIP4}/32 via {MUX}"));
        self.ip("r", &format!("-6 route add {VIP6}/128 via 2001:db8:2::2"));
        self.in_ns("r", || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
    }

    /// The router's end of the link to the mux takes frames of XDP programs, as an interface that is no veth does.
    pub fn take_frames_of_programs(&self, takes: bool) {
        let on = if takes { "on" } else { "off" };
        run(&["ip", "netns", "exec", &self.ns("r"), "ethtool", "-K", "rm", "gro", on]);
    }

    fn remove(&self) {
        for ns in ["c", "r", "m", "h"] {
            let _ =
                Command::new("ip").args(["netns", "del", &self.ns(ns)]).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remove();
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

fn run(command: &[&str]) {
    let out = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
