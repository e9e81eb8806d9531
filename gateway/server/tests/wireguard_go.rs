//! The gateway with the peers that it meets outside: `wireguard-go` at the sites, the kernel's VXLAN at the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod lab;
use lab::*;
use penstock_gateway_proto::TunnelState;
use penstock_gateway_server::PacketIoMode;
use penstock_model::*;
use penstock_policy::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

const BULK: usize = 8 << 20;
const WAIT: Duration = Duration::from_secs(10);

#[test]
fn sites_and_containers_meet_by_af_xdp() {
    if possible(&["ip", "wg", "wireguard-go", "ping"]) {
        everything(PacketIoMode::AfXdp);
    }
}

#[test]
fn sites_and_containers_meet_by_af_packet() {
    if possible(&["ip", "wg", "wireguard-go", "ping"]) {
        everything(PacketIoMode::AfPacket);
    }
}

fn everything(packet_io: PacketIoMode) {
    let mut lab = Lab::start(packet_io);
    let connected =
        |lab: &Lab| lab.status.borrow().tunnels.iter().filter(|t| t.state == TunnelState::Connected).count();
    eventually("both sites are connected", || connected(&lab) == 2);
    println!("{:?}", lab.status.borrow().packet_io);
    pings(&lab);
    tenants_stay_apart(&lab);
    bulk(&lab);
    access_rules(&mut lab);
    roaming(&lab);
    storm(&lab);
    let status = lab.status.borrow().clone();
    println!("{:?}", status.ledger);
    let l = &status.ledger;
    let outcomes = l.transmitted + l.tunnelled + l.passed + l.consumed + l.dropped.values().sum::<u64>();
    assert_eq!(l.received, outcomes, "every packet has one outcome");
}

fn pings(lab: &Lab) {
    for tenant in [1, 2] {
        let (ok, text) = lab.ping(&format!("b{tenant}"), CONTAINER, &[]);
        assert!(ok, "site {tenant} to its container: {text}");
        assert!(text.contains("ttl=63"), "one router: {text}");
        let (ok, text) = lab.ping(&format!("c{tenant}"), SITE, &[]);
        assert!(ok, "container {tenant} to its site: {text}");
    }
    let (ok, text) = lab.ping("c1", SITE, &["-M", "do", "-s", "1472"]);
    assert!(!ok && text.contains("mtu = 1420"), "the container is told what fits: {text}");
    let (ok, text) = lab.ping("c1", SITE, &["-M", "do", "-s", "1392"]);
    assert!(ok, "and what fits passes: {text}");
}

fn tenants_stay_apart(lab: &Lab) {
    std::thread::scope(|scope| {
        for tenant in [1u8, 2] {
            let (ready, is_ready) = mpsc::channel();
            let name = format!("c{tenant}");
            let server = scope.spawn(move || {
                lab.run_in(&name, || {
                    let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
                    ready.send(()).unwrap();
                    let (mut stream, from) = listener.accept().unwrap();
                    stream.write_all(&[tenant]).unwrap();
                    from
                })
            });
            is_ready.recv_timeout(WAIT).unwrap();
            let got = lab.run_in(&format!("b{tenant}"), || {
                let mut stream = connect(80).unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                byte[0]
            });
            assert_eq!(got, tenant, "a site reaches its own tenant");
            assert_eq!(server.join().unwrap().ip().to_string(), SITE);
        }
    });
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&SocketAddr::new(CONTAINER.parse().unwrap(), port), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(stream)
}

fn pattern(seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..BULK / 8)
        .flat_map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        })
        .collect()
}

/// A large transfer both ways arrives intact, with the default offloads of everybody's interfaces.
fn bulk(lab: &Lab) {
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            lab.run_in("c1", || {
                let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
                ready.send(()).unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(WAIT)).unwrap();
                let mut got = vec![0; BULK];
                stream.read_exact(&mut got).unwrap();
                stream.write_all(&pattern(2)).unwrap();
                got
            })
        });
        is_ready.recv_timeout(WAIT).unwrap();
        let started = std::time::Instant::now();
        let back = lab.run_in("b1", || {
            let mut stream = connect(80).unwrap();
            stream.write_all(&pattern(1)).unwrap();
            let mut back = vec![0; BULK];
            stream.read_exact(&mut back).unwrap();
            back
        });
        println!("{} MiB each way in {:?}", BULK >> 20, started.elapsed());
        assert!(server.join().unwrap() == pattern(1), "site to container");
        assert!(back == pattern(2), "container to site");
    });
}

fn access_rules(lab: &mut Lab) {
    let (ready, is_ready) = mpsc::channel();
    let ns = lab.ns("c1");
    let server = std::thread::spawn(move || {
        penstock_packet_io::netns::run_in(&ns, || {
            let denied = TcpListener::bind((CONTAINER, 22)).unwrap();
            let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap_or(0) == 1 {
                stream.write_all(&byte).unwrap();
            }
            drop(denied);
        })
        .unwrap();
    });
    is_ready.recv_timeout(WAIT).unwrap();
    let error = lab.run_in("b1", || connect(22).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "port 22 is not allowed");
    let mut stream = lab.run_in("b1", || connect(80).unwrap());
    let mut echo = |wait: Duration| {
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(b"x").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).is_ok()
    };
    assert!(echo(WAIT));
    lab.change(1, |g| g.acls[0].rules[0].action = AclAction::Deny);
    assert!(!echo(Duration::from_secs(1)), "the change takes effect in mid-flow");
    assert!(lab.ping("b1", CONTAINER, &[]).0, "and only where it says");
    lab.change(1, |g| g.acls[0].rules[0].action = AclAction::Allow);
    assert!(echo(WAIT), "and back: TCP has kept its bytes");
    drop(stream);
    server.join().unwrap();
    let denied = lab.status.borrow().ledger.dropped.get("acl_denied").copied().unwrap_or(0);
    eventually("denied packets are counted", || {
        denied > 0 || lab.status.borrow().ledger.dropped.contains_key("acl_denied")
    });
}

fn roaming(lab: &Lab) {
    let endpoint =
        |lab: &Lab| lab.status.borrow().tunnels.iter().find(|t| t.id == TunnelId(1)).and_then(|t| t.endpoint);
    assert_eq!(endpoint(lab).unwrap().ip().to_string(), "10.77.0.11");
    lab.ip("b1", "addr add 10.77.0.99/24 dev eth0");
    lab.ip("b1", "addr del 10.77.0.11/24 dev eth0");
    lab.ip("b1", "addr replace 10.77.0.99/24 dev eth0");
    eventually("the site is found at its new address", || {
        lab.ping("b1", CONTAINER, &[]).0 && endpoint(lab).is_some_and(|e| e.ip().to_string() == "10.77.0.99")
    });
    assert!(lab.ping("c1", SITE, &[]).0, "and reached there");
}

/// Datagrams of all kinds of nonsense, to the tunnel port and to VXLAN's, from a neighbour and from a trusted host.
fn storm(lab: &Lab) {
    for role in ["b2", "h"] {
        lab.run_in(role, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let mut x = 0x9e37_79b9_7f4a_7c15u64;
            for n in 0..6000usize {
                let len = [0, 1, 8, 20, 32, 92, 148, 1400][n % 8];
                let mut bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        x as u8
                    })
                    .collect();
                if let Some(kind) = bytes.first_chunk_mut::<4>() {
                    *kind = [[1, 2, 3, 4, 8, 0][n / 8 % 6], 0, 0, 0];
                }
                let port = if n % 3 == 0 { 4789 } else { PORT };
                let _ = socket.send_to(&bytes, (GATEWAY, port));
            }
        });
    }
    for tenant in [1, 2] {
        let (ok, text) = lab.ping(&format!("b{tenant}"), CONTAINER, &[]);
        assert!(ok, "after the storm: {text}");
    }
    eventually("the storm is in the counts", || {
        let status = lab.status.borrow();
        let dropped = |reason: &str| status.ledger.dropped.get(reason).copied().unwrap_or(0);
        dropped("bad_tunnel_header") > 1000
            && dropped("unknown_peer") > 100
            && dropped("untrusted_underlay_source") > 500
    });
}
