//! Two namespaces joined by a veth pair: ours, and a router's that others wrote: FRR or BIRD, as Debian has them.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use penstock_packet_io::netns;
use penstock_routing_proto::*;
use penstock_routing_server::{CollectorConfig, Inputs, ServerConfig, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub const OURS: &str = "192.0.2.2";
pub const THEIRS: &str = "192.0.2.1";
pub const OURS6: &str = "2001:db8::2";
pub const THEIRS6: &str = "2001:db8::1";
pub const OUR_AS: u32 = 4_200_000_000;
pub const THEIR_AS: u32 = 65001;

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn p(s: &str) -> Prefix {
    s.parse().unwrap()
}

/// Removes its namespaces and daemons when dropped; and, before it makes them, those that a crashed run left.
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    children: Vec<Child>,
}

impl Lab {
    /// `None`, and says so, without the rights or the daemons.
    pub fn new(tag: &str, needed: &str) -> Option<Self> {
        if !is_root() || !std::path::Path::new(needed).exists() {
            assert!(std::env::var_os("CI").is_none(), "CI must run as root with {needed} (deploy/packages test)");
            println!("skipped: needs root to make network namespaces, and {needed}");
            return None;
        }
        let prefix = format!("pst-{tag}{}", std::process::id());
        let lab = Self { dir: std::env::temp_dir().join(&prefix), prefix, children: Vec::new() };
        lab.remove();
        std::fs::create_dir_all(&lab.dir).unwrap();
        for end in ["a", "b"] {
            run_command(&["ip", "netns", "add", &lab.ns(end)]);
            lab.ip(end, "link set lo up");
            lab.in_ns(end, || std::fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").unwrap());
        }
        let (a, b) = (lab.ns("a"), lab.ns("b"));
        run_command(&["ip", "-n", &a, "link", "add", "v", "type", "veth", "peer", "name", "v", "netns", &b]);
        for (end, v4, v6) in [("a", OURS, OURS6), ("b", THEIRS, THEIRS6)] {
            lab.ip(end, "link set v up");
            lab.ip(end, &format!("addr add {v4}/24 dev v"));
            lab.ip(end, &format!("addr add {v6}/64 dev v nodad"));
        }
        Some(lab)
    }

    pub fn ns(&self, end: &str) -> String {
        format!("{}-{end}", self.prefix)
    }

    pub fn ip(&self, end: &str, args: &str) {
        let ns = self.ns(end);
        let mut all = vec!["ip", "-n", &ns];
        all.extend(args.split(' '));
        run_command(&all);
    }

    pub fn in_ns<T: Send>(&self, end: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.ns(end), work).unwrap()
    }

    /// FRR's daemons, in the other namespace: zebra, bfdd, bgpd.
    pub fn frr(&mut self, bgp: &str) {
        let d = self.dir.to_str().unwrap().to_owned();
        for daemon in ["zebra", "bfdd", "bgpd"] {
            std::fs::write(self.dir.join(format!("{daemon}.conf")), if daemon == "bgpd" { bgp } else { "" }).unwrap();
        }
        run_command(&["chown", "-R", "frr:frr", &d]);
        for daemon in ["zebra", "bfdd", "bgpd"] {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.ns("b"), &format!("/usr/lib/frr/{daemon}"), "-u", "frr", "-g", "frr"]);
            command.args(["-z", &format!("{d}/zserv"), "-i", &format!("{d}/{daemon}.pid"), "--vty_socket", &d]);
            command.args(["-f", &format!("{d}/{daemon}.conf"), "--log", &format!("file:{d}/{daemon}.log"), "-P", "0"]);
            if daemon == "bfdd" {
                command.args(["--bfdctl", &format!("{d}/bfdd.sock")]);
            }
            self.start(command);
            let socket = self.dir.join(format!("{daemon}.vty"));
            eventually(&format!("{daemon} runs"), || socket.exists());
        }
    }

    pub fn vtysh(&self, line: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("b"), "vtysh", "--vty_socket", self.dir.to_str().unwrap(), "-c", line]);
        let out = command.output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Changes FRR's configuration.
    pub fn configure(&self, lines: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("b"), "vtysh", "--vty_socket", self.dir.to_str().unwrap()]);
        let lines = ["configure"].iter().chain(lines).flat_map(|line| ["-c", line]);
        let out = command.args(lines).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }

    pub fn vtysh_json(&self, line: &str) -> Value {
        serde_json::from_str(&self.vtysh(line)).unwrap_or(Value::Null)
    }

    pub fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{daemon}.log"))).unwrap_or_default()
    }

    pub fn bird(&mut self, configuration: &str) {
        self.bird_with(configuration, &[]);
    }

    /// After one that ended: it says that it forwards by the routes that it had (RFC 4724 section 4.1).
    pub fn bird_again(&mut self, configuration: &str) {
        self.bird_with(configuration, &["-R"]);
    }

    fn bird_with(&mut self, configuration: &str, options: &[&str]) {
        let (conf, socket) = (self.dir.join("bird.conf"), self.dir.join("bird.ctl"));
        std::fs::write(&conf, configuration).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("b"), "/usr/sbin/bird", "-f", "-c", conf.to_str().unwrap()]);
        command.args(["-s", socket.to_str().unwrap()]).args(options);
        self.start(command);
        eventually("bird runs", || self.birdc("show status").contains("Daemon is up"));
    }

    pub fn birdc(&self, line: &str) -> String {
        let socket = self.dir.join("bird.ctl");
        let mut command = Command::new("/usr/sbin/birdc");
        command.args(["-s", socket.to_str().unwrap()]).args(line.split(' '));
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// A program in the other namespace.
    pub fn run_there(&mut self, program: &str, args: &[&str], environment: &[(&str, &str)]) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("b"), program]).args(args).envs(environment.iter().copied());
        self.start(command);
    }

    /// A file for a program; its path.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What a program in the other namespace says.
    pub fn asked(&self, program: &str, line: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("b"), program]).args(line.split(' '));
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    fn start(&mut self, mut command: Command) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        self.children.push(child);
    }

    /// A signal to one of FRR's daemons.
    pub fn signal(&self, daemon: &str, signal: &str) {
        let pid = std::fs::read_to_string(self.dir.join(format!("{daemon}.pid"))).unwrap();
        run_command(&["kill", signal, pid.trim()]);
    }

    /// Kills all daemons.
    pub fn kill_all(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(self.dir.join("bird.ctl"));
    }

    fn remove(&self) {
        for end in ["a", "b"] {
            let pids = Command::new("ip").args(["netns", "pids", &self.ns(end)]).output().unwrap();
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                if pid != std::process::id().to_string() {
                    let _ = Command::new("kill").args(["-KILL", pid]).status();
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &self.ns(end)]).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for daemon in ["bgpd", "bfdd", "zebra"] {
                println!("--- {daemon}\n{}", self.log(daemon));
            }
        }
        self.remove();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Our router, in a thread of its own in the first namespace.
pub struct Ours {
    pub goal: watch::Sender<Arc<RouterGoal>>,
    pub own: watch::Sender<Arc<BTreeSet<Prefix>>>,
    pub status: watch::Receiver<RouterStatus>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Ours {
    pub fn start(lab: &Lab, peers: Vec<PeerGoal>, drain: Duration) -> Self {
        let listen = vec!["0.0.0.0:179".parse().unwrap(), "[::]:179".parse().unwrap()];
        Self::start_in(peers, listen, drain, Default::default(), Self::place(lab, "a"))
    }

    /// With collectors that see what peers tell.
    pub fn start_watched(lab: &Lab, peers: Vec<PeerGoal>, collectors: Vec<CollectorConfig>) -> Self {
        Self::start_in(peers, Vec::new(), Duration::ZERO, (collectors, None), Self::place(lab, "a"))
    }

    /// With a socket that the table is to be had from.
    pub fn start_dumping(lab: &Lab, peers: Vec<PeerGoal>, socket: PathBuf) -> Self {
        Self::start_in(peers, Vec::new(), Duration::ZERO, (Vec::new(), Some(socket)), Self::place(lab, "a"))
    }

    /// At either end of the laboratory, for others to connect to nowhere.
    pub fn start_at(lab: &Lab, end: &str, peers: Vec<PeerGoal>) -> Self {
        Self::start_in(peers, Vec::new(), Duration::ZERO, Default::default(), Self::place(lab, end))
    }

    fn place(lab: &Lab, end: &str) -> impl FnOnce(Box<dyn FnOnce() + Send>) + Send + 'static {
        let ns = lab.ns(end);
        move |work| netns::run_in(&ns, work).unwrap()
    }

    /// Without a laboratory: in this process's own namespace.
    pub fn start_here(peers: Vec<PeerGoal>, listen: Vec<SocketAddr>) -> Self {
        Self::start_in(peers, listen, Duration::ZERO, Default::default(), |work| work())
    }

    fn start_in(
        peers: Vec<PeerGoal>,
        listen: Vec<SocketAddr>,
        drain: Duration,
        (collectors, dump_socket): (Vec<CollectorConfig>, Option<PathBuf>),
        place: impl FnOnce(Box<dyn FnOnce() + Send>) + Send + 'static,
    ) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
        let (goal, goals) = watch::channel(Arc::new(goal(peers)));
        let (own, owns) = watch::channel(Arc::new(BTreeSet::new()));
        let (sender, status) = watch::channel(RouterStatus::default());
        let (stop, stopping) = watch::channel(false);
        let config = ServerConfig {
            id: OURS.parse().unwrap(),
            listen,
            drain,
            farewell: "penstock is leaving".to_owned(),
            shown_routes: 100,
            collectors,
            dump_socket,
            description: "Penstock test".to_owned(),
        };
        let work = Box::new(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(config, Inputs { goal: goals, own: owns }, sender, stopping)).unwrap();
        });
        let thread = std::thread::spawn(move || place(work));
        Self { goal, own, status, stop, thread: Some(thread) }
    }

    pub fn announce(&self, prefixes: &[&str]) {
        self.own.send_replace(Arc::new(prefixes.iter().map(|s| p(s)).collect()));
    }

    pub fn peer(&self, name: &str) -> PeerStatus {
        let status = self.status.borrow();
        status.peers.iter().find(|p| p.name == name).cloned().unwrap_or_else(|| panic!("no peer {name}: {status:?}"))
    }

    pub fn peer_if(&self, name: &str) -> Option<PeerStatus> {
        self.status.borrow().peers.iter().find(|p| p.name == name).cloned()
    }

    pub fn bfd_is(&self, name: &str, state: BfdState) -> bool {
        let status = self.status.borrow();
        status.peers.iter().any(|p| p.name == name && p.bfd.as_ref().is_some_and(|b| b.state == state))
    }

    pub fn is_up(&self, name: &str) -> bool {
        self.status.borrow().peers.iter().any(|p| p.name == name && p.state == SessionState::Established)
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.status.borrow().routes.iter().any(|r| r.prefix == p(prefix) && r.paths.iter().any(|x| x.best))
    }

    /// Begins to leave.
    pub fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn wait(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn goal(peers: Vec<PeerGoal>) -> RouterGoal {
    RouterGoal { local_as: OUR_AS, peers, ..RouterGoal::default() }
}

/// A peer that everything is exchanged with.
pub fn open_peer(name: &str, address: &str) -> PeerGoal {
    PeerGoal {
        import: Some(Policy::accept_all()),
        export: Some(Policy::accept_all()),
        hold_seconds: 9,
        ..PeerGoal::new(name, ip(address), THEIR_AS)
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Something happens in that time, once in three: what else the machine was busy with is no fault of a speaker's.
#[track_caller]
pub fn once_within(limit: Duration, what: &str, mut tried: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    while times.len() < 3 {
        times.push(tried());
        println!("{what} after {times:?}");
        if times.last().is_some_and(|took| *took < limit) {
            return;
        }
    }
    panic!("{what} after {times:?}, not within {limit:?}");
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

pub fn run_command(command: &[&str]) {
    let out = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
