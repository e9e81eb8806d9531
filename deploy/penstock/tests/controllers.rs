//! Three controllers and a three-member etcd in namespaces of their own, with a mux that follows them: the leader is killed, held and cut off
//! in the middle of a stream of changes. Needs root and etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../admin-api/store/tests/support/etcd.rs"]
mod etcd;
mod support;

use etcd::Cluster;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{must, run};

const BINARY: &str = env!("CARGO_BIN_EXE_penstock");
const LONG: Duration = Duration::from_secs(90);
const VIP: &str = "203.0.113.10";

/// Namespaces on one bridge: controllers 1 to 3, each with its etcd; the mux; and a client.
struct Site {
    /// Of the names of its namespaces.
    prefix: String,
    dir: PathBuf,
    etcd: Option<Cluster>,
    controllers: Vec<Option<Child>>,
    mux: Option<Child>,
}

fn address(i: usize) -> String {
    format!("10.77.0.1{i}")
}

impl Site {
    fn new() -> Option<Self> {
        if must("id -u").trim() != "0" {
            println!("skipped: needs root");
            return None;
        }
        if !etcd::is_installed() {
            return None;
        }
        let prefix = format!("pst-ha{}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&dir).unwrap();
        let site = Self { prefix, dir, etcd: None, controllers: vec![None, None, None], mux: None };
        must(&format!(
            "ip netns add {0}-b && ip -n {0}-b link add br0 type bridge && ip -n {0}-b link set br0 up",
            site.prefix
        ));
        for (i, name) in ["1", "2", "3", "mux", "client"].iter().enumerate() {
            let (ns, b) = (site.ns(name), site.ns("b"));
            must(&format!("ip netns add {ns}"));
            must(&format!("ip -n {ns} link add eth0 type veth peer name {name} netns {b}"));
            must(&format!("ip -n {b} link set {name} master br0 up && ip -n {ns} link set lo up"));
            must(&format!("ip -n {ns} addr add {}/24 dev eth0 && ip -n {ns} link set eth0 up", address(i + 1)));
        }
        must(&format!("ip -n {} route add {VIP} via {}", site.ns("client"), address(4)));
        let dir = site.dir.display();
        must(&format!("{BINARY} pki init --dir {dir}"));
        for i in 1..=3 {
            must(&format!("{BINARY} pki issue --role controller --name ctl{i} --ip {} --dir {dir}", address(i)));
        }
        must(&format!(
            "{BINARY} pki issue --role mux --name mux1 --dir {dir} && {BINARY} pki issue --role operator --name op --dir {dir}"
        ));
        Some(site)
    }

    fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn start_all(&mut self) {
        let within = |i| ["ip", "netns", "exec", &self.ns(&format!("{i}"))].map(str::to_owned).to_vec();
        self.etcd = Some(Cluster::start_at((1..=3).map(|i| (within(i), address(i), 2379, 2380)).collect()));
        let secret: Vec<u8> = (0..64).collect();
        for i in 1..=3 {
            let state = self.dir.join(format!("state{i}"));
            std::fs::create_dir_all(&state).unwrap();
            std::fs::write(state.join("secrets.key"), &secret).unwrap();
            must(&format!("chmod 600 {}", state.join("secrets.key").display()));
            let (dir, at) = (self.dir.display(), address(i));
            let endpoints: Vec<String> = (1..=3).map(|i| format!("\"http://{}:2379\"", address(i))).collect();
            let config = format!(
                "[node]\nname = \"ctl{i}\"\nca = \"{dir}/ca.pem\"\ncertificate = \"{dir}/ctl{i}.pem\"\nkey = \"{dir}/ctl{i}.key\"\n\
                 state_dir = \"{dir}/state{i}\"\n[controller]\nlisten = \"{at}:8443\"\nsouthbound_listen = \"{at}:8444\"\n\
                 [controller.etcd]\nendpoints = [{}]\nadvertise = \"https://{at}:8443\"\n",
                endpoints.join(", ")
            );
            std::fs::write(self.dir.join(format!("{i}.toml")), config).unwrap();
            self.start(i);
        }
    }

    fn process(&self, ns: &str, config: &str) -> Child {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.dir.join(format!("{config}.log")));
        Command::new("ip")
            .args(["netns", "exec", &self.ns(ns), "setpriv", "--pdeathsig", "KILL", BINARY, "run", "--config"])
            .arg(self.dir.join(format!("{config}.toml")))
            .stderr(Stdio::from(log.unwrap()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn start(&mut self, i: usize) {
        self.controllers[i - 1] = Some(self.process(&i.to_string(), &i.to_string()));
    }

    fn start_mux(&mut self) {
        let dir = self.dir.display();
        let all: Vec<String> = (1..=3).map(|i| format!("\"{}:8444\"", address(i))).collect();
        let config = format!(
            "[node]\ncontroller = [{}]\nca = \"{dir}/ca.pem\"\ncertificate = \"{dir}/mux1.pem\"\nkey = \"{dir}/mux1.key\"\n\
             state_dir = \"{dir}/mux\"\n[mux]\ninterface = \"eth0\"\nunderlay_address = \"{}\"\n",
            all.join(", "),
            address(4)
        );
        std::fs::write(self.dir.join("mux.toml"), config).unwrap();
        self.mux = Some(self.process("mux", "mux"));
    }

    /// The status code and body that a controller answers with. 0: nothing.
    fn ask(&self, i: usize, method: &str, path: &str, body: &str) -> (u32, String) {
        ask(&self.ns("client"), &self.dir.display().to_string(), i, method, path, body)
    }

    /// The one that leads, other than `not`.
    fn leader(&self, not: Option<usize>) -> Option<usize> {
        (1..=3).find(|i| Some(*i) != not && self.ask(*i, "GET", "/penstock/v1/status", "").0 == 200)
    }

    fn wait<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = done() {
                return found;
            }
            assert!(
                start.elapsed() < LONG,
                "not in time: {what}\n{}",
                run(&format!("tail -n 8 {}/*.log", self.dir.display()))
                    .stdout
                    .escape_ascii()
                    .to_string()
                    .replace("\\n", "\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, i: usize, signal: &str) {
        must(&format!("kill -{signal} {}", self.controllers[i - 1].as_ref().unwrap().id()));
    }

    /// The mux is connected to a leader, and has what that wants it to have.
    fn mux_follows(&self, leader: usize) {
        self.wait("the mux follows the leader", || {
            let (code, body) = self.ask(leader, "GET", "/penstock/v1/status", "");
            let status: serde_json::Value = serde_json::from_str(&body).ok().filter(|_| code == 200)?;
            let node = status["nodes"].as_array()?.iter().find(|n| n["name"] == "mux1")?.clone();
            (node["connected"] == true && node["goalRevision"] == node["appliedRevision"]).then_some(())
        });
    }
}

fn ask(ns: &str, dir: &str, i: usize, method: &str, path: &str, body: &str) -> (u32, String) {
    let data = if body.is_empty() { String::new() } else { format!("-d '{body}'") };
    let out = run(&format!(
        "ip netns exec {ns} curl -s -m 12 --connect-timeout 1 --cacert {dir}/ca.pem --cert {dir}/op.pem --key {dir}/op.key -X {method} {data} \
         -w '\\n%{{http_code}}' https://{}:8443{path}",
        address(i)
    ));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), body.to_owned())
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.controllers.iter_mut().chain([&mut self.mux]).flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.etcd = None;
        for name in ["1", "2", "3", "mux", "client", "b"] {
            run(&format!("ip netns del {}", self.ns(name)));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A load balancer whose virtual IP the mux answers pings of.
const BALANCER: &str = r#"{"resources": [
  {"resourceRef": "/loadBalancerMuxes/mux1", "properties": {"underlayAddress": "10.77.0.14"}},
  {"resourceRef": "/publicIPAddresses/vip", "properties": {"ipAddress": "203.0.113.10", "publicIPAllocationMethod": "Static"}},
  {"resourceRef": "/loadBalancers/web", "properties": {
    "frontendIPConfigurations": [{"resourceId": "fe", "properties": {"publicIPAddress": {"resourceRef": "/publicIPAddresses/vip"}}}],
    "backendAddressPools": [{"resourceId": "pool", "properties": {}}],
    "loadBalancingRules": [{"resourceId": "http", "properties": {"protocol": "Tcp", "frontendPort": 80, "backendPort": 80,
      "frontendIPConfigurations": [{"resourceRef": "/loadBalancers/web/frontendIPConfigurations/fe"}],
      "backendAddressPool": {"resourceRef": "/loadBalancers/web/backendAddressPools/pool"}}}]}}]}"#;

#[test]
fn a_leader_that_is_killed_held_or_cut_off_costs_no_acknowledged_change_and_no_packet() {
    let Some(mut site) = Site::new() else { return };
    site.start_all();
    let mut leader = site.wait("a leader", || site.leader(None));
    let (code, body) = site.ask(leader, "POST", "/networking/v1/%24batch", BALANCER);
    assert_eq!(code, 200, "{body}");
    site.start_mux();
    site.mux_follows(leader);
    let client = site.ns("client");
    let ping = |arguments: &str| format!("ip netns exec {client} ping {arguments} {VIP}");
    site.wait("the virtual IP answers", || run(&ping("-c 1 -W 1")).status.success().then_some(()));

    // A stream of changes, each to whichever controller takes it; and pings of the virtual IP, all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, ns, dir) = (stop.clone(), client.clone(), site.dir.display().to_string());
    let writer = std::thread::spawn(move || {
        let (mut acknowledged, mut to, mut longest, mut last) = (Vec::new(), 1, Duration::ZERO, Instant::now());
        while !ended.load(Ordering::Relaxed) {
            let path = format!("/networking/v1/virtualServers/w{}", acknowledged.len());
            // 200: it was done when it was asked for before, and nobody said so.
            if matches!(ask(&ns, &dir, to, "PUT", &path, "{\"properties\": {}}").0, 200 | 201) {
                acknowledged.push(path);
                longest = longest.max(last.elapsed());
                last = Instant::now();
            } else {
                to = to % 3 + 1;
            }
        }
        (acknowledged, longest)
    });
    let pings = Command::new("sh")
        .args(["-c", &format!("exec {}", ping("-i 0.02 -q"))])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let took = |site: &Site, from: usize, what: &str, start: Instant| {
        let leader = site.wait("another leader", || site.leader(Some(from)));
        println!("{what}: controller {leader} leads after {:?}", start.elapsed());
        site.mux_follows(leader);
        println!("{what}: the mux follows it after {:?}", start.elapsed());
        leader
    };

    let (start, former) = (Instant::now(), leader);
    site.signal(former, "KILL");
    leader = took(&site, former, "killed", start);
    site.controllers[former - 1].as_mut().unwrap().wait().unwrap();
    site.start(former);

    let (start, former) = (Instant::now(), leader);
    site.signal(former, "STOP");
    leader = took(&site, former, "held", start);
    site.signal(former, "CONT");
    site.wait("the one that was held sends to the leader", || {
        (site.ask(former, "GET", "/penstock/v1/status", "").0 == 307).then_some(())
    });
    site.mux_follows(leader);

    let (start, former) = (Instant::now(), leader);
    let link = |state: &str| must(&format!("ip -n {} link set {former} {state}", site.ns("b")));
    link("down");
    leader = took(&site, former, "cut off", start);
    link("up");
    site.wait("the one that was cut off sends to the leader", || {
        (site.ask(former, "GET", "/penstock/v1/status", "").0 == 307).then_some(())
    });
    site.mux_follows(leader);

    stop.store(true, Ordering::Relaxed);
    let (acknowledged, longest) = writer.join().unwrap();
    println!("{} changes acknowledged; the longest pause {longest:?}", acknowledged.len());
    assert!(acknowledged.len() > 20);
    for i in 1..=3 {
        site.wait("every acknowledged change is known", || {
            let (code, body) = site.ask(i, "GET", "/networking/v1/virtualServers", "");
            let all: serde_json::Value = serde_json::from_str(&body).ok().filter(|_| code == 200)?;
            (all["value"].as_array()?.len() >= acknowledged.len()).then_some(())
        });
        let (_, last) = site.ask(i, "GET", acknowledged.last().unwrap(), "");
        assert!(last.contains("etag"), "controller {i}: {last}");
    }
    must(&format!("kill -INT {}", pings.id()));
    let said = String::from_utf8(pings.wait_with_output().unwrap().stdout).unwrap();
    println!("{}", said.trim());
    let lost: f64 = said.split('%').next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(lost < 1.0, "the mux forwarded all the time: {said}");
}
