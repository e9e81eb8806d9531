//! Sites whose addresses are translated, behind `wireguard-go`: both sites of one tenant have the same addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod lab;
use lab::*;
use penstock_gateway_proto::{GatewayGoal, TunnelNat, TunnelState};
use penstock_gateway_server::PacketIoMode;
use penstock_model::*;
use penstock_policy::*;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);
/// What the tenant knows the hosts of the first and second site by.
const FIRST: &str = "10.201.0.7";
const SECOND: &str = "10.202.0.7";
/// A router behind the first site's tunnel, and who is behind that.
const BEHIND: &str = "10.200.9.2";

#[test]
fn sites_with_the_same_addresses_meet_their_tenant_by_af_xdp() {
    if possible(&["ip", "wg", "wireguard-go", "ping"]) {
        everything(PacketIoMode::AfXdp);
    }
}

#[test]
fn sites_with_the_same_addresses_meet_their_tenant_by_af_packet() {
    if possible(&["ip", "wg", "wireguard-go", "ping"]) {
        everything(PacketIoMode::AfPacket);
    }
}

fn everything(packet_io: PacketIoMode) {
    let mut lab = Lab::start(packet_io);
    lab.change(1, both_sites_of_one_tenant);
    let connected =
        |lab: &Lab| lab.status.borrow().tunnels.iter().filter(|t| t.state == TunnelState::Connected).count();
    eventually("both sites are connected", || connected(&lab) == 2);
    one_to_one(&lab);
    too_long(&lab);
    errors_from_the_container(&lab);
    errors_from_behind_the_site(&lab);
    behind_one_address(&mut lab);
    forwarded(&mut lab);
    let l = &lab.status.borrow().ledger;
    let outcomes = l.transmitted + l.tunnelled + l.passed + l.consumed + l.dropped.values().sum::<u64>();
    assert_eq!(l.received, outcomes, "every packet has one outcome");
}

fn fixed(inside: &str, outside: &str) -> TranslationRule {
    let kind = NatKind::Static { inside: inside.parse().unwrap(), outside: outside.parse().unwrap() };
    TranslationRule { name: outside.into(), kind }
}

/// The second tunnel becomes the first tenant's.
fn both_sites_of_one_tenant(goal: &mut GatewayGoal) {
    goal.networks[0].routes.clear();
    goal.networks[1].routes.clear();
    for (tunnel, prefix) in goal.tunnels.iter_mut().zip(["10.201.0.0/16", "10.202.0.0/16"]) {
        tunnel.tenant = TenantId(1);
        tunnel.prefixes = vec![prefix.parse().unwrap()];
        tunnel.nat = TunnelNat { site: vec![fixed("10.200.0.0/16", prefix)], tenant: vec![] };
        goal.networks[0].routes.push(Route { prefix: tunnel.prefixes[0], next_hop: NextHop::Tunnel(tunnel.id) });
    }
    for list in &mut goal.acls {
        list.rules.push(rule("udp", AclAction::Allow, Protocol::UDP, 0));
    }
}

/// Who asks the container at port 80 is told who it is there.
fn asked_by(lab: &Lab, branch: &str) -> SocketAddr {
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            lab.run_in("c1", || {
                let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
                ready.send(()).unwrap();
                let (mut stream, from) = listener.accept().unwrap();
                stream.write_all(from.to_string().as_bytes()).unwrap();
                from
            })
        });
        is_ready.recv_timeout(WAIT).unwrap();
        let told = lab.run_in(branch, || read_all(CONTAINER, 80));
        let from = server.join().unwrap();
        assert_eq!(told, from.to_string());
        from
    })
}

fn read_all(to: &str, port: u16) -> String {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&to, WAIT).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn one_to_one(lab: &Lab) {
    for (branch, known_as) in [("b1", FIRST), ("b2", SECOND)] {
        let (ok, text) = lab.ping(branch, CONTAINER, &[]);
        assert!(ok, "{branch} to the container: {text}");
        let (ok, text) = lab.ping("c1", known_as, &[]);
        assert!(ok, "the container to {known_as}: {text}");
        assert!(text.contains(&format!("from {known_as}")), "{text}");
        assert_eq!(asked_by(lab, branch).ip().to_string(), known_as);
    }
}

/// The gateway's own errors are about the packet that the container sent.
fn too_long(lab: &Lab) {
    let (ok, text) = lab.ping("c1", FIRST, &["-M", "do", "-s", "1472"]);
    assert!(!ok && text.contains("mtu = 1420"), "the container is told what fits: {text}");
    let (ok, text) = lab.ping("c1", FIRST, &["-s", "1472", "-M", "dont"]);
    assert!(ok, "and what may be cut passes: {text}");
}

/// A refusal comes to the socket that has sent: the quoted packet is its own.
fn refused(lab: &Lab, role: &str, to: &str) {
    lab.run_in(role, || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.connect((to, 4444)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        eventually("the refusal comes back", || {
            let sent = socket.send(b"anybody there?");
            let got = socket.recv(&mut [0; 16]);
            [sent.err(), got.err()].iter().flatten().any(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
    });
}

fn errors_from_the_container(lab: &Lab) {
    for branch in ["b1", "b2"] {
        refused(lab, branch, CONTAINER);
    }
}

/// The site's router tells that a packet's hops are used up, and its host that nobody listens.
fn errors_from_behind_the_site(lab: &Lab) {
    refused(lab, "c1", FIRST);
    // A network behind the site, whose only host is on the far side of its router.
    let (branch, behind) = (lab.ns("b1"), lab.ns("b2"));
    lab.ip("b1", &format!("link add near type veth peer name far netns {behind}"));
    for (role, device, address) in [("b1", "near", "10.200.9.1/24"), ("b2", "far", "10.200.9.2/24")] {
        lab.ip(role, &format!("addr add {address} dev {device}"));
        lab.ip(role, &format!("link set {device} up"));
    }
    // The second site's route to the containers leads into its own tunnel: answers to them go back as they came.
    lab.ip("b2", "rule add from 10.200.9.2 lookup 99");
    lab.ip("b2", "route add default via 10.200.9.1 dev far table 99");
    netns_forward(&branch);
    let known_as = BEHIND.replace("10.200.", "10.201.");
    let (ok, text) = lab.ping("c1", &known_as, &[]);
    assert!(ok, "who is behind the site answers: {text}");
    let (ok, text) = lab.ping("c1", &known_as, &["-t", "2"]);
    assert!(!ok && text.contains("Time to live exceeded"), "the router tells: {text}");
    assert!(text.contains(&format!("From {FIRST}")), "by the address that the tenant knows: {text}");
    lab.ip("b1", "link del near");
}

fn netns_forward(ns: &str) {
    let on = ["netns", "exec", ns, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    assert!(std::process::Command::new("ip").args(on).status().unwrap().success());
}

/// The first site behind one address: whoever asks is known by it.
fn behind_one_address(lab: &mut Lab) {
    let ports = PortRange { first: 2000, last: 2999 };
    lab.change(1, |goal| {
        let pool = NatKind::Pool {
            inside: vec!["10.200.0.0/16".parse().unwrap()],
            outside: vec!["10.201.0.1/32".parse().unwrap()],
            ports,
            is_open: false,
        };
        goal.tunnels[0].nat.site = vec![TranslationRule { name: "one address".into(), kind: pool }];
    });
    for _ in 0..3 {
        let from = asked_by(lab, "b1");
        assert_eq!(from.ip(), "10.201.0.1".parse::<IpAddr>().unwrap());
        assert!(ports.contains(from.port()), "{from}");
    }
    let (ok, text) = lab.ping("b1", CONTAINER, &[]);
    assert!(ok, "and its pings are answered: {text}");
    refused(lab, "b1", CONTAINER);
    let (ok, _) = lab.ping("c1", "10.201.0.1", &[]);
    assert!(!ok, "but nobody is there who has not asked");
    assert_eq!(asked_by(lab, "b2").ip().to_string(), SECOND, "the other site is as it was");
}

/// A port of that address leads to a server at the site.
fn forwarded(lab: &mut Lab) {
    lab.change(1, |goal| {
        let kind = NatKind::Forward {
            protocol: Protocol::TCP,
            outside: "10.201.0.1".parse().unwrap(),
            outside_port: 8080,
            inside: SITE.parse().unwrap(),
            inside_port: 80,
        };
        goal.tunnels[0].nat.site.push(TranslationRule { name: "web".into(), kind });
    });
    let lab = &*lab;
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            lab.run_in("b1", || {
                let listener = TcpListener::bind((SITE, 80)).unwrap();
                ready.send(()).unwrap();
                let (mut stream, from) = listener.accept().unwrap();
                stream.write_all(b"the site's page").unwrap();
                from.ip().to_string()
            })
        });
        is_ready.recv_timeout(WAIT).unwrap();
        assert_eq!(lab.run_in("c1", || read_all("10.201.0.1", 8080)), "the site's page");
        assert_eq!(server.join().unwrap(), CONTAINER);
    });
}
