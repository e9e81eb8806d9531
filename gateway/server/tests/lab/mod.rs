//! A gateway between a host and two branch sites, in network namespaces: a switch in the middle; on the host two containers
//! behind kernel VXLAN, of two tenants with the same addresses; at the branches `wireguard-go` or Open vSwitch.
#![allow(dead_code, unreachable_pub)]
use penstock_gateway_proto::*;
use penstock_gateway_server::{BgpConfig, GatewayConfig, PacketIoMode};
use penstock_model::*;
use penstock_packet_io::{Interface, OffloadSetting, netns};
use penstock_policy::*;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub const GATEWAY: &str = "10.77.0.1";
pub const HOST: &str = "10.77.0.2";
pub const CONTAINER: &str = "10.1.0.4";
/// Where all containers are.
const CONTAINERS: &str = "10.1.0.0/16";
pub const SITE: &str = "10.200.0.7";
/// Where Open vSwitch is, and the peer beside it.
pub const OVS: &str = "10.77.0.11";
pub const PEER: &str = "10.77.0.12";
pub const PORT: u16 = 51820;
const PREFIX: &str = "pst-wg-";

mod ovs;
mod routers;

pub struct Lab {
    name: String,
    roles: Vec<String>,
    children: Vec<Child>,
    directories: Vec<std::path::PathBuf>,
    goals: watch::Sender<Option<Arc<GatewayGoal>>>,
    pub status: watch::Receiver<GatewayStatus>,
    stop: watch::Sender<bool>,
    gateway: Option<std::thread::JoinHandle<()>>,
    pub goal: GatewayGoal,
}

/// True if tests that need namespaces and these tools can run; says so if not.
pub fn possible(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|t| {
        !Command::new("sh").args(["-c", &format!("command -v {t} >/dev/null")]).status().is_ok_and(|s| s.success())
    });
    let is_root = output("id", &["-u"]).trim() == "0";
    if !is_root || missing.is_some() {
        println!("skipped: needs root and {tools:?} (root: {is_root}, missing: {missing:?})");
        return false;
    }
    true
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

struct Keys {
    private: [u8; 32],
    public: [u8; 32],
    private_text: String,
    public_text: String,
}

fn keys() -> Keys {
    use base64::Engine;
    let private_text = output("wg", &["genkey"]).trim().to_owned();
    let public_text = output("sh", &["-c", &format!("echo {private_text} | wg pubkey")]).trim().to_owned();
    let bytes = |t: &str| base64::engine::general_purpose::STANDARD.decode(t).unwrap().try_into().unwrap();
    Keys { private: bytes(&private_text), public: bytes(&public_text), private_text, public_text }
}

pub fn vni(tenant: u32) -> u32 {
    5000 + tenant
}

pub fn mac(tenant: u32) -> Mac {
    Mac([2, 0, 0, 1, 0, tenant as u8])
}

impl Lab {
    /// Sites behind WireGuard.
    pub fn start(packet_io: PacketIoMode) -> Self {
        let mut lab = Self::wired(packet_io, &[("b1", "10.77.0.11"), ("b2", "10.77.0.12")]);
        let (private, peers) = lab.sites();
        lab.goal = goal(|tenant| TunnelKind::WireGuard {
            private_key: Secret32(private),
            peer_public_key: peers[tenant as usize - 1],
            preshared_key: None,
            listen_port: PORT,
            endpoint: None,
            persistent_keepalive_seconds: None,
        });
        lab.run_gateway(packet_io);
        lab
    }

    /// The sites of both tenants behind one Open vSwitch: GRE with key 7, and with key 8 and checksums. Beside it stands a
    /// neighbour `p` that is a peer too, by key 9.
    pub fn start_gre(packet_io: PacketIoMode) -> Self {
        let mut lab = Self::wired(packet_io, &[("o", OVS), ("p", PEER)]);
        lab.open_vswitch();
        let gre = |peer: &str, key, checksum| TunnelKind::Gre {
            peer: Underlay(peer.parse().unwrap()),
            key: Some(key),
            checksum,
        };
        lab.goal = goal(|tenant| gre(OVS, 6 + tenant, tenant == 2));
        let mut third = lab.goal.tunnels[0].clone();
        third.id = TunnelId(3);
        third.name = "gw/site3".into();
        third.prefixes = vec!["10.203.0.0/16".parse().unwrap()];
        third.kind = gre(PEER, 9, false);
        let route = Route { prefix: third.prefixes[0], next_hop: NextHop::Tunnel(third.id) };
        lab.goal.networks[0].routes.push(route);
        lab.goal.tunnels.push(third);
        lab.run_gateway(packet_io);
        lab
    }

    /// All but the gateway and what is in the branches.
    fn wired(packet_io: PacketIoMode, branches: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (goals, _) = watch::channel(None);
        let (_, status) = watch::channel(GatewayStatus::default());
        let (stop, _) = watch::channel(false);
        let goal = GatewayGoal::default();
        let roles = ["g", "h", "b1", "b2", "c1", "c2", "s"].iter().chain(branches.iter().map(|(role, _)| role));
        let roles = roles.map(|role| (*role).to_owned()).collect();
        let (children, directories) = (Vec::new(), Vec::new());
        let lab = Self { name, roles, children, directories, goals, status, stop, gateway: None, goal };
        lab.wire(branches);
        if packet_io == PacketIoMode::AfPacket {
            lab.segment_before_the_gateway();
        }
        lab.containers();
        lab
    }

    fn run_gateway(&mut self, packet_io: PacketIoMode) {
        self.publish();
        let (status_sender, status) = watch::channel(GatewayStatus::default());
        self.status = status;
        let (goals, stop) = (self.goals.subscribe(), self.stop.subscribe());
        let config = GatewayConfig {
            interface: "eth0".into(),
            underlay_address: GATEWAY.parse().unwrap(),
            packet_io,
            flow_capacity: 4096,
            tenant_flow_capacity: None,
            bgp: BgpConfig::default(),
        };
        let ns = self.ns("g");
        self.gateway = Some(std::thread::spawn(move || {
            netns::enter(&ns).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(penstock_gateway_server::run(config, goals, status_sender, stop)).unwrap();
        }));
    }

    pub fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    /// A switch with the gateway, the host and two branches.
    fn wire(&self, branches: &[(&str, &str)]) {
        let switch = self.ns("s");
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add br0 mtu 1600 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        for (role, address) in [("g", GATEWAY), ("h", HOST)].iter().chain(branches) {
            let ns = self.ns(role);
            ip(&format!("netns add {ns}"));
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {switch} link add to-{role} mtu 1600 type veth peer name eth0 mtu 1600 netns {ns}"));
            ip(&format!("-n {switch} link set to-{role} master br0 up"));
            ip(&format!("-n {ns} addr add {address}/24 dev eth0"));
            ip(&format!("-n {ns} link set eth0 up"));
        }
    }

    /// The kernel cannot hand a segmentation of *encapsulated* packets to an AF_PACKET socket (the virtio-net header has no word for it)
    /// and drops them: the neighbour has to send finished packets, as Penstock's hosts do. With AF_XDP the driver sees to it.
    fn segment_before_the_gateway(&self) {
        netns::run_in(&self.ns("s"), || {
            let port = Interface::open("to-g").unwrap();
            port.set_offload(OffloadSetting::TcpSegmentation, false).unwrap();
            port.set_offload(OffloadSetting::GenericSegmentation, false).unwrap();
        })
        .unwrap();
    }

    /// Each container is a namespace whose only interface is a VXLAN device of the host's kernel.
    fn containers(&self) {
        let host = self.ns("h");
        for tenant in [1, 2] {
            let ns = self.ns(&format!("c{tenant}"));
            ip(&format!("netns add {ns}"));
            ip(&format!(
                "-n {host} link add vx{tenant} address {} mtu 1500 type vxlan id {} local {HOST} remote {GATEWAY} dstport 4789 nolearning",
                mac(tenant),
                vni(tenant)
            ));
            ip(&format!("-n {host} link set vx{tenant} netns {ns}"));
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} addr add {CONTAINER}/24 dev vx{tenant}"));
            ip(&format!("-n {ns} link set vx{tenant} up"));
            ip(&format!("-n {ns} neigh add 10.1.0.1 lladdr {ROUTER_MAC} dev vx{tenant} nud permanent"));
            ip(&format!("-n {ns} route add default via 10.1.0.1"));
        }
    }

    fn sites(&mut self) -> ([u8; 32], [[u8; 32]; 2]) {
        let gateway = keys();
        let mut peers = [[0; 32]; 2];
        for (place, tenant) in [1u32, 2].into_iter().enumerate() {
            let ns = self.ns(&format!("b{tenant}"));
            // The control socket is named after the interface, for all namespaces together.
            let device = format!("pw{}-{}", std::process::id(), self.name.rsplit('-').next().unwrap())
                + if tenant == 1 { "a" } else { "b" };
            let child = Command::new("ip")
                .args(["netns", "exec", &ns, "wireguard-go", "-f", &device])
                .env("LOG_LEVEL", "error")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            self.children.push(child);
            eventually("wireguard-go opens its device", || {
                Command::new("ip").args(["-n", &ns, "link", "show", &device]).output().unwrap().status.success()
            });
            let site = keys();
            peers[place] = site.public;
            let script = format!(
                "printf %s '{}' | wg set {device} private-key /dev/stdin peer '{}' endpoint {GATEWAY}:{PORT} allowed-ips {CONTAINERS} persistent-keepalive 1",
                site.private_text, gateway.public_text
            );
            let out = Command::new("ip").args(["netns", "exec", &ns, "sh", "-c", &script]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            ip(&format!("-n {ns} addr add {SITE}/24 dev {device}"));
            ip(&format!("-n {ns} link set {device} mtu 1420 up"));
            ip(&format!("-n {ns} route add {CONTAINERS} dev {device}"));
        }
        (gateway.private, peers)
    }

    pub fn publish(&mut self) {
        self.goal.revision.0 += 1;
        self.goals.send_replace(Some(Arc::new(self.goal.clone())));
    }

    /// Changes the goal of a tenant; its epoch with it.
    pub fn change(&mut self, tenant: usize, change: impl FnOnce(&mut GatewayGoal)) {
        change(&mut self.goal);
        self.goal.networks[tenant - 1].epoch.0 += 1;
        self.publish();
        let revision = self.goal.revision;
        eventually("the goal is applied", || self.status.borrow().applied == revision);
    }

    pub fn ping(&self, role: &str, to: &str, more: &[&str]) -> (bool, String) {
        let ns = self.ns(role);
        let mut args = vec!["netns", "exec", &ns, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1"];
        args.extend(more);
        args.push(to);
        let out = Command::new("ip").args(&args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.success(), text)
    }

    pub fn run_in<T: Send>(&self, role: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.ns(role), work).unwrap()
    }

    pub fn ip(&self, role: &str, args: &str) {
        ip(&format!("-n {} {args}", self.ns(role)));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let gateway = self.gateway.take().map(std::thread::JoinHandle::join);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for role in &self.roles {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(role)]).output();
        }
        for directory in &self.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
        if !std::thread::panicking() {
            assert!(gateway.is_some_and(|g| g.is_ok()), "the gateway ended with a panic");
        }
    }
}

/// Namespaces and directories of test runs that are no more.
fn remove_leftovers() {
    let is_left = |name: &str| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    };
    for line in output("ip", &["netns", "list"]).lines() {
        let Some(name) = line.split_whitespace().next().filter(|name| is_left(name)) else { continue };
        for process in output("ip", &["netns", "pids", name]).split_whitespace() {
            let _ = Command::new("kill").arg(process).output();
        }
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn rule(name: &str, action: AclAction, protocol: Protocol, port: u16) -> AclRule {
    AclRule {
        name: name.into(),
        priority: 100,
        action,
        direction: AclDirection::Inbound,
        protocol: Some(protocol),
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: if port == 0 { PortRange::ANY } else { PortRange { first: port, last: port } },
        log: false,
    }
}

fn goal(kind: impl Fn(u32) -> TunnelKind) -> GatewayGoal {
    let acl = Acl {
        name: "web".into(),
        rules: vec![
            rule("http", AclAction::Allow, Protocol::TCP, 80),
            rule("ping", AclAction::Allow, Protocol::ICMP, 0),
        ],
    };
    let mut goal = GatewayGoal {
        revision: Revision(0),
        vteps: vec![Underlay(HOST.parse::<IpAddr>().unwrap())],
        acls: vec![acl.clone(), acl],
        ..GatewayGoal::default()
    };
    for tenant in [1u32, 2] {
        goal.networks.push(VirtualNetwork {
            name: format!("vnet{tenant}"),
            tenant: TenantId(tenant),
            vni: Vni::new(vni(tenant)).unwrap(),
            epoch: Epoch(1),
            prefixes: vec![CONTAINERS.parse().unwrap()],
            subnets: vec!["10.1.0.0/24".parse().unwrap()],
            endpoints: vec![Endpoint {
                addr: Overlay(CONTAINER.parse().unwrap()),
                mac: mac(tenant),
                host: Underlay(HOST.parse().unwrap()),
                acl: Some(AclId(tenant - 1)),
                network_interface: format!("nic{tenant}"),
            }],
            routes: vec![Route {
                prefix: "10.200.0.0/16".parse().unwrap(),
                next_hop: NextHop::Tunnel(TunnelId(tenant)),
            }],
            tables: Vec::new(),
        });
        goal.tunnels.push(Tunnel {
            id: TunnelId(tenant),
            name: format!("gw/site{tenant}"),
            tenant: TenantId(tenant),
            prefixes: vec!["10.200.0.0/16".parse().unwrap()],
            kind: kind(tenant),
            caps: Caps::default(),
            nat: TunnelNat::default(),
        });
    }
    goal
}
