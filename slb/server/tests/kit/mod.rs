//! A host, two tenants' containers with the same addresses, another host and a mux made of kernel VXLAN devices.
//!
//! ```text
//! c1, c2 (tenant 1)  c3 (tenant 2, the addresses of c1)
//!   \       |       /
//!    host agent (h) ---- bridge (b) ---- other host (p: 10.0.0.12 of tenant 1; q: the same of tenant 2)
//!                                   \--- mux and client (m)
//! ```
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_model::*;
use penstock_policy::*;
use penstock_slb_host::*;
use penstock_slb_server::{HostConfig, PortConfig};
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PREFIX: &str = "pst-sh";
pub const CONTAINER_MAC: [&str; 3] = ["02:01:00:00:00:02", "02:01:00:00:00:03", "02:02:00:00:00:02"];
pub const PEER_MAC: &str = "02:01:00:00:00:12";

/// Namespaces and processes that go when this is dropped.
pub struct Lab {
    name: String,
    children: Vec<Child>,
    pub dir: std::path::PathBuf,
}

/// Runs a command to its end.
pub fn run(words: &str) -> Output {
    let mut parts = words.split_whitespace();
    let out = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

fn quietly(words: &str) {
    let mut parts = words.split_whitespace();
    let _ = Command::new(parts.next().unwrap()).args(parts).output();
}

/// Whether this process may make namespaces; says so if not.
pub fn is_root() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if !root {
        println!("skipped: needs root to make network namespaces");
    }
    root
}

/// Removes what a run that crashed has left behind.
fn remove_stale() {
    let list = String::from_utf8(run("ip netns list").stdout).unwrap();
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok()) else {
            continue;
        };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            quietly(&format!("ip netns del {name}"));
        }
    }
}

impl Lab {
    pub fn new(tag: &str) -> Self {
        remove_stale();
        let name = format!("{PREFIX}{}-{tag}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut lab = Self { name, children: Vec::new(), dir };
        for n in ["h", "b", "p", "q", "m"] {
            lab.add_namespace(n);
        }
        lab.build_underlay();
        lab.build_peers();
        for i in 0..3 {
            lab.add_container(i);
        }
        lab
    }

    pub fn ns(&self, short: &str) -> String {
        format!("{}{short}", self.name)
    }

    fn add_namespace(&mut self, short: &str) {
        let ns = self.ns(short);
        run(&format!("ip netns add {ns}"));
        run(&format!("ip -n {ns} link set lo up"));
    }

    /// `ip` in a namespace.
    pub fn ip(&self, short: &str, words: &str) {
        run(&format!("ip -n {} {words}", self.ns(short)));
    }

    fn build_underlay(&self) {
        let bridge = self.ns("b");
        self.ip("b", "link add br0 type bridge");
        self.ip("b", "link set br0 mtu 1600 up");
        for (i, n) in ["h", "p", "m"].into_iter().enumerate() {
            self.ip(n, &format!("link add eth0 mtu 1600 type veth peer name to-{n} mtu 1600 netns {bridge}"));
            self.ip("b", &format!("link set to-{n} master br0 up"));
            self.ip(n, "link set eth0 up");
            self.ip(n, &format!("addr add 10.9.0.{}/24 dev eth0", i + 1));
            self.ip(n, &format!("addr add fd99::{}/64 dev eth0 nodad", i + 1));
        }
        self.ip("h", "route add 203.0.113.0/24 via 10.9.0.3");
        self.ip("h", "-6 route add 2001:db8:c::/64 via fd99::3");
    }

    fn build_peers(&self) {
        self.ip("p", "link add vx1 type vxlan id 5001 local 10.9.0.2 remote 10.9.0.1 dstport 4789");
        self.ip("p", "link add vx2 type vxlan id 5002 local 10.9.0.2 remote 10.9.0.1 dstport 4789");
        self.ip("p", &format!("link set vx2 netns {}", self.ns("q")));
        for (n, device, mac) in [("p", "vx1", CONTAINER_MAC[0]), ("q", "vx2", CONTAINER_MAC[2])] {
            self.ip(n, &format!("link set {device} address {PEER_MAC} mtu 1500 up"));
            self.ip(n, &format!("addr add 10.0.0.12/24 dev {device}"));
            self.ip(n, &format!("addr add fd00::12/64 dev {device} nodad"));
            for addr in ["10.0.0.2", "fd00::2"] {
                self.ip(n, &format!("neigh add {addr} lladdr {mac} dev {device}"));
            }
        }
        // The mux: what goes to a VIP is encapsulated to the first container. The client is the same box.
        self.ip("m", "link add vx type vxlan id 5001 local 10.9.0.3 remote 10.9.0.1 dstport 4789");
        self.ip("m", "link set vx mtu 1500 up");
        self.ip("m", "addr add 203.0.113.7/32 dev lo");
        self.ip("m", "addr add 2001:db8:c::7/128 dev lo nodad");
        self.ip("m", "route add 198.51.100.1 dev vx src 203.0.113.7");
        self.ip("m", "-6 route add 2001:db8:f::1 dev vx src 2001:db8:c::7");
        for vip in ["198.51.100.1", "2001:db8:f::1"] {
            self.ip("m", &format!("neigh add {vip} lladdr {} dev vx", CONTAINER_MAC[0]));
        }
        for device in ["all", "eth0", "default"] {
            quietly(&format!("ip netns exec {} sysctl -qw net.ipv4.conf.{device}.rp_filter=0", self.ns("m")));
        }
    }

    /// Container `i` with its link to the host: c1 and c2 of tenant 1, c3 of tenant 2.
    pub fn add_container(&mut self, i: usize) {
        self.add_container_by(i, "");
    }

    /// `index`: of its device on the host, as `ip link add` wants it.
    pub fn add_container_by(&mut self, i: usize, index: &str) {
        let c = format!("c{}", i + 1);
        self.add_namespace(&c);
        self.ip("h", &format!("link add v{c} {index} type veth peer name eth0 netns {}", self.ns(&c)));
        self.ip(&c, &format!("link set eth0 address {} up", CONTAINER_MAC[i]));
        let last = if i == 1 { 3 } else { 2 };
        self.ip(&c, &format!("addr add 10.0.0.{last}/24 dev eth0"));
        self.ip(&c, &format!("addr add fd00::{last}/64 dev eth0 nodad"));
        self.ip(&c, "route add default via 10.0.0.1");
        self.ip(&c, "-6 route add default via fd00::1");
    }

    pub fn remove_container(&mut self, i: usize) {
        run(&format!("ip netns del {}", self.ns(&format!("c{}", i + 1))));
    }

    /// An HTTP server in a container, with its name at `/` and 32 MiB at `/large`.
    pub fn serve(&mut self, c: &str) -> usize {
        let root = self.dir.join(c);
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("index.html"), c).unwrap();
        if !root.join("large").exists() {
            std::fs::write(root.join("large"), large()).unwrap();
        }
        let ns = self.ns(c);
        let child = Command::new("ip")
            .args(["netns", "exec", &ns, "busybox", "httpd", "-f", "-p", "[::]:8080", "-h"])
            .arg(&root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    /// A server that answers `GET` over TLS of one version, with a certificate that nobody has signed.
    pub fn serve_tls(&mut self, c: &str, port: u16, version: &str) {
        let key = self.dir.join("key.pem");
        let key = key.display();
        if !self.dir.join("key.pem").exists() {
            run(&format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=c \
                 -keyout {key} -out {key}.crt"
            ));
        }
        let words = format!(
            "netns exec {} openssl s_server -accept {port} -www {version} -quiet -key {key} -cert {key}.crt",
            self.ns(c)
        );
        let child = Command::new("ip")
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// A server that sends each datagram back.
    pub fn echo(&mut self, c: &str, port: u16) {
        let words = format!("netns exec {} socat -b 9000 UDP6-RECVFROM:{port},fork,ipv6only=0 EXEC:cat", self.ns(c));
        let child = Command::new("ip").args(words.split_whitespace()).spawn().unwrap();
        self.children.push(child);
    }

    /// What comes back for one datagram within two seconds.
    pub fn ask(&self, from: &str, to: &str, datagram: &[u8]) -> Vec<u8> {
        let words = format!("netns exec {} timeout 4 socat -b 9000 -T 2 -t 2 - {to}", self.ns(from));
        let mut child = Command::new("ip")
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), datagram).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    /// An iperf3 server on the port that the VIP leads to.
    pub fn serve_iperf(&mut self, c: &str) {
        let ns = self.ns(c);
        let child = Command::new("ip")
            .args(["netns", "exec", &ns, "iperf3", "-s", "-p", "8080"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    pub fn kill(&mut self, child: usize) {
        self.children[child].kill().unwrap();
        self.children[child].wait().unwrap();
    }

    pub fn exec(&self, short: &str, words: &str) -> Output {
        let all = format!("ip netns exec {} {words}", self.ns(short));
        let mut parts = all.split_whitespace();
        Command::new(parts.next().unwrap()).args(parts).output().unwrap()
    }

    /// What `curl` gets, within ten seconds.
    pub fn get(&self, from: &str, url: &str) -> Result<Vec<u8>, String> {
        let out = self.exec(from, &format!("curl -sS -g --max-time 10 {url}"));
        if out.status.success() { Ok(out.stdout) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
    }

    pub fn ping(&self, from: &str, to: &str) -> bool {
        self.exec(from, &format!("ping -c 1 -W 2 {to}")).status.success()
    }

    /// TCP segments that a namespace found to be damaged.
    pub fn checksum_errors(&self, short: &str) -> u64 {
        let out = self.exec(short, "cat /proc/net/snmp");
        let text = String::from_utf8(out.stdout).unwrap();
        let mut rows = text.lines().filter(|l| l.starts_with("Tcp:")).map(str::split_whitespace);
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let (_, errors) = names.zip(values).find(|(name, _)| *name == "InCsumErrors").unwrap();
        errors.parse().unwrap()
    }

    /// A counter of a device.
    pub fn counter(&self, short: &str, device: &str, name: &str) -> u64 {
        let out = self.exec(short, &format!("cat /sys/class/net/{device}/statistics/{name}"));
        String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for n in ["c1", "c2", "c3", "h", "p", "q", "m", "b"] {
            quietly(&format!("ip netns del {}", self.ns(n)));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// 32 MiB without a period that fits packets.
pub fn large() -> Vec<u8> {
    let mut x = 1u32;
    (0..32 << 20)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect()
}

/// The host agent in its namespace, on a thread of its own.
pub struct Agent {
    pub goal: watch::Sender<Option<Arc<HostGoal>>>,
    pub status: watch::Receiver<HostStatus>,
    shutdown: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

pub fn config() -> HostConfig {
    HostConfig {
        underlay_interface: "eth0".into(),
        underlay_address: ip("10.9.0.1"),
        ports: (1..=3).map(|i| PortConfig { network_interface: format!("c{i}"), device: format!("vc{i}") }).collect(),
        flow_capacity: 4096,
        kernel_replay: true,
    }
}

impl Agent {
    pub fn start(lab: &Lab, goal: HostGoal) -> Self {
        Self::start_with(lab, goal, config())
    }

    pub fn start_with(lab: &Lab, goal: HostGoal, config: HostConfig) -> Self {
        let (goal, goals) = watch::channel(Some(Arc::new(goal)));
        let (statuses, status) = watch::channel(HostStatus::default());
        let (shutdown, stop) = watch::channel(false);
        let ns = lab.ns("h");
        let thread = std::thread::spawn(move || {
            penstock_packet_io::netns::enter(&ns).map_err(|e| e.to_string())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(penstock_slb_server::run(config, goals, statuses, stop)).map_err(|e| e.to_string())
        });
        Self { goal, status, shutdown, thread: Some(thread) }
    }

    /// Waits until `is` holds of the status.
    pub fn wait(&self, what: &str, limit: Duration, mut is: impl FnMut(&HostStatus) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            // A copy: who tells must not wait for who looks.
            let status = self.status.borrow().clone();
            if is(&status) {
                break;
            }
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}; {status:#?}");
            assert!(!self.thread.as_ref().unwrap().is_finished(), "the host agent has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    pub fn ready(&self, ports: usize) {
        self.wait("ready", Duration::from_secs(10), |s| {
            s.applied.0 > 0 && s.ports.iter().filter(|p| p.device.is_some()).count() == ports
        });
    }

    pub fn stop(mut self) -> Result<(), String> {
        self.shutdown.send_replace(true);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn network(tenant: u32, endpoints: &[(&str, &str, &str, &str)]) -> VirtualNetwork {
    VirtualNetwork {
        name: format!("vnet{tenant}"),
        tenant: TenantId(tenant),
        vni: Vni::new(5000 + tenant).unwrap(),
        epoch: Epoch(1),
        prefixes: vec!["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()],
        subnets: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        endpoints: endpoints
            .iter()
            .flat_map(|(name, last, mac, host)| {
                [format!("10.0.0.{last}"), format!("fd00::{last}")].map(|addr| Endpoint {
                    addr: Overlay(ip(&addr)),
                    mac: mac.parse().unwrap(),
                    host: Underlay(ip(host)),
                    acl: None,
                    network_interface: (*name).to_owned(),
                })
            })
            .collect(),
        routes: vec![],
        tables: Vec::new(),
    }
}

pub fn goal() -> HostGoal {
    let port = |name: &str, tenant: u32, last: u8, mac: &str| penstock_slb_host::Port {
        network_interface: name.into(),
        tenant: TenantId(tenant),
        vni: Vni::new(5000 + tenant).unwrap(),
        mac: mac.parse().unwrap(),
        addresses: vec![format!("10.0.0.{last}/24").parse().unwrap(), format!("fd00::{last}/64").parse().unwrap()],
        acl: None,
        forwards: false,
    };
    let nat = |vip: &str, dip: &str| NatRule {
        service: ServiceId(1),
        network_interface: "c1".into(),
        vip: ip(vip),
        protocol: Protocol::TCP,
        vip_port: 80,
        dip: Overlay(ip(dip)),
        dip_port: 8080,
        floating: false,
        idle_seconds: None,
    };
    let probe = |name: &str, dip: &str, kind| Probe {
        name: name.into(),
        network_interface: "c1".into(),
        dip: Overlay(ip(dip)),
        port: 8080,
        kind,
        interval_seconds: 1,
        count: 2,
        rise: 1,
        hold_down_seconds: 0,
    };
    let [c1, c2, c3] = CONTAINER_MAC;
    HostGoal {
        revision: Revision(1),
        vteps: vec![Underlay(ip("10.9.0.2")), Underlay(ip("10.9.0.3"))],
        networks: vec![
            network(
                1,
                &[("c1", "2", c1, "10.9.0.1"), ("c2", "3", c2, "10.9.0.1"), ("peer", "12", PEER_MAC, "10.9.0.2")],
            ),
            network(2, &[("c3", "2", c3, "10.9.0.1"), ("peer", "12", PEER_MAC, "10.9.0.2")]),
        ],
        acls: vec![],
        ports: vec![port("c1", 1, 2, c1), port("c2", 1, 3, c2), port("c3", 2, 2, c3)],
        nat_rules: vec![nat("198.51.100.1", "10.0.0.2"), nat("2001:db8:f::1", "fd00::2")],
        snat: vec![],
        site: vec![],
        nat_exemptions: vec![],
        probes: vec![
            probe("http4", "10.0.0.2", ProbeKind::Http { path: "/".into() }),
            probe("missing", "10.0.0.2", ProbeKind::Http { path: "/nothing-here".into() }),
            probe("tcp6", "fd00::2", ProbeKind::Tcp),
        ],
    }
}
