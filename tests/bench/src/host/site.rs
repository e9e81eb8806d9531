use super::Direction;
use crate::veth::nets::{ip, keeper, shell_in};
use penstock_model::{Epoch, Mac, Overlay, Protocol, Revision, ServiceId, TenantId, Underlay, Vni};
use penstock_packet_io::netns;
use penstock_policy::{Endpoint, VirtualNetwork};
use penstock_slb_host::{HostGoal, HostStatus, NatRule, Port};
use penstock_slb_server::{HostConfig, PortConfig};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);
const SECONDS: u32 = 2;
const CLIENT: &str = "192.0.2.1";
const HOST: &str = "192.0.2.2";
const VIP: &str = "198.51.100.1";
const CONTAINER: &str = "10.0.0.2";
const GATEWAY: &str = "10.0.0.1";
const CONTAINER_MAC: Mac = Mac([2, 1, 0, 0, 0, 2]);
const VNI: u32 = 5001;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Penstock,
    UserSpace,
    Kernel,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Penstock, Self::UserSpace, Self::Kernel];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Penstock => "host/penstock",
            Self::UserSpace => "host/user-space",
            Self::Kernel => "host/kernel",
        }
    }
}

/// Whether the tools are there.
pub(crate) fn possible() -> Result<(), String> {
    match Command::new("iperf3").arg("-v").stdout(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(_) => Err("needs `iperf3` (apt-get install iperf3)".to_owned()),
    }
}

/// A client, a host and a container.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    client: String,
    _agent: Option<Agent>,
    server: Child,
    keeper: Child,
}

impl Site {
    pub(crate) fn new(kind: Kind) -> Self {
        let name = |what| format!("pst-bench-{}-{}{what}", std::process::id(), kind as u8);
        let [client, host, container] = ["cl", "ho", "co"].map(name);
        let keeper = keeper(&[&client, &host, &container]);
        for ns in [&client, &host, &container] {
            ip(&format!("netns add {ns}"));
        }
        link(&client, "eth0", &host, "eth0");
        link(&container, "eth0", &host, "c0");
        ip(&format!("-n {client} addr add {CLIENT}/24 dev eth0"));
        ip(&format!("-n {host} addr add {HOST}/24 dev eth0"));
        ip(&format!("-n {container} link set eth0 address {CONTAINER_MAC} mtu 1500"));
        ip(&format!("-n {container} addr add {CONTAINER}/24 dev eth0"));
        ip(&format!("-n {container} route add default via {GATEWAY}"));
        let agent = match kind {
            Kind::Kernel => {
                ip(&format!("-n {host} addr add {GATEWAY}/24 dev c0"));
                ip(&format!("-n {client} route add {CONTAINER} via {HOST}"));
                shell_in(&host, "echo 1 > /proc/sys/net/ipv4/ip_forward", None);
                None
            }
            Kind::Penstock | Kind::UserSpace => {
                ip(&format!("-n {client} link add vx type vxlan id {VNI} local {CLIENT} remote {HOST} dstport 4789"));
                ip(&format!("-n {client} link set vx mtu 1500 up"));
                ip(&format!("-n {client} route add {VIP} dev vx src {CLIENT}"));
                ip(&format!("-n {client} neigh add {VIP} lladdr {CONTAINER_MAC} dev vx"));
                Some(Agent::start(&host, kind == Kind::Penstock))
            }
        };
        let server = Command::new("ip")
            .args(["netns", "exec", &container, "iperf3", "-s", "-p", "8080"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let site = Self { kind, client, _agent: agent, server, keeper };
        site.await_server();
        site
    }

    fn destination(&self) -> (&'static str, u16) {
        if self.kind == Kind::Kernel { (CONTAINER, 8080) } else { (VIP, 80) }
    }

    fn await_server(&self) {
        let start = Instant::now();
        while self.iperf(1, Direction::In, "-n 1M").is_err() {
            assert!(start.elapsed() < PATIENCE, "{}: the container does not answer", self.kind.name());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Bits a second that arrived.
    pub(crate) fn transfer(&self, streams: u32, direction: Direction) -> f64 {
        self.iperf(streams, direction, &format!("-t {SECONDS}")).unwrap()
    }

    fn iperf(&self, streams: u32, direction: Direction, length: &str) -> Result<f64, String> {
        let (address, port) = self.destination();
        let reverse = if direction == Direction::Out { "-R" } else { "" };
        let words =
            format!("netns exec {} iperf3 -J -c {address} -p {port} -P {streams} {length} {reverse}", self.client);
        let out = Command::new("ip").args(words.split_whitespace()).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
        let rate = answer.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
        rate.ok_or_else(|| answer["error"].to_string())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn link(a: &str, port_a: &str, b: &str, port_b: &str) {
    ip(&format!("link add {port_a} netns {a} mtu 1600 type veth peer name {port_b} netns {b} mtu 1600"));
    ip(&format!("-n {a} link set {port_a} up"));
    ip(&format!("-n {b} link set {port_b} up"));
}

/// The host agent, on a thread of its own.
struct Agent {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(ns: &str, kernel_replay: bool) -> Self {
        let ns = ns.to_owned();
        shell_in(&ns, "ip link set c0 mtu 1500", None);
        let config = HostConfig {
            underlay_interface: "eth0".to_owned(),
            underlay_address: HOST.parse().unwrap(),
            ports: vec![PortConfig { network_interface: "c".to_owned(), device: "c0".to_owned() }],
            flow_capacity: 4096,
            kernel_replay,
        };
        let (_goal, goals) = watch::channel(Some(Arc::new(goal())));
        let (statuses, status) = watch::channel(HostStatus::default());
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            netns::enter(&ns).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(penstock_slb_server::run(config, goals, statuses, stopped)).unwrap();
        });
        let start = Instant::now();
        while !status.borrow().ports.iter().any(|p| p.device.is_some()) {
            assert!(start.elapsed() < PATIENCE && !thread.is_finished(), "the host agent does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let modes = status.borrow().packet_io.clone();
        let replays = modes.iter().all(|mode| mode.ends_with(", kernel replay"));
        assert_eq!(replays, kernel_replay, "{modes:?}");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn goal() -> HostGoal {
    let (tenant, vni) = (TenantId(1), Vni::new(VNI).unwrap());
    let dip = Overlay(CONTAINER.parse().unwrap());
    HostGoal {
        revision: Revision(1),
        vteps: vec![Underlay(CLIENT.parse().unwrap())],
        networks: vec![VirtualNetwork {
            name: "net".to_owned(),
            tenant,
            vni,
            epoch: Epoch(1),
            prefixes: vec!["10.0.0.0/24".parse().unwrap()],
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
            endpoints: vec![Endpoint {
                addr: dip,
                mac: CONTAINER_MAC,
                host: Underlay(HOST.parse().unwrap()),
                acl: None,
                network_interface: "c".to_owned(),
            }],
            routes: vec![],
            tables: vec![],
        }],
        ports: vec![Port {
            network_interface: "c".to_owned(),
            tenant,
            vni,
            mac: CONTAINER_MAC,
            addresses: vec![format!("{CONTAINER}/24").parse().unwrap()],
            acl: None,
            forwards: false,
        }],
        nat_rules: vec![NatRule {
            service: ServiceId(1),
            network_interface: "c".to_owned(),
            vip: VIP.parse().unwrap(),
            protocol: Protocol::TCP,
            vip_port: 80,
            dip,
            dip_port: 8080,
            floating: false,
            idle_seconds: None,
        }],
        ..HostGoal::default()
    }
}
