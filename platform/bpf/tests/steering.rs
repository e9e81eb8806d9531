//! The steering program and AF_XDP sockets on a veth pair, with real packets from kernel sockets at the other end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../packet-io/tests/common/mod.rs"]
mod common;

use common::{Nets, may_make_namespaces};
use penstock_bpf::testrun::{Flows, Generator};
use penstock_bpf::{Sink, SinkPoint, Steering, WayOut};
use penstock_maps::{OwnedEndpoint, SteerCounter};
use penstock_model::{Nanos, Packet, PortId, Verdict};
use penstock_packet_io::{AfXdp, AfXdpOptions, IdlePolicy, PacketIo, Poller, interface_index, netns};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(7);
const VIP4: &str = "198.51.100.1";
const VIP6: &str = "2001:db8:ff::1";

/// Two namespaces a (client) and b (node), joined by veth with addresses 192.0.2.1 and 192.0.2.2 and their IPv6 twins.
fn pair() -> Nets {
    let nets = Nets::new(&["xdpa", "xdpb"]);
    nets.veth(0, "client", 1, "node");
    for (i, dev) in [(0, "client"), (1, "node")] {
        nets.ip(i, &format!("addr add 192.0.2.{}/24 dev {dev}", i + 1));
        nets.ip(i, &format!("addr add 2001:db8::{}/64 dev {dev} nodad", i + 1));
    }
    nets.ip(0, &format!("route add {VIP4}/32 via 192.0.2.2"));
    nets.ip(0, &format!("route add {VIP6}/128 via 2001:db8::2"));
    nets
}

fn swap(frame: &mut [u8], a: usize, b: usize, len: usize) {
    for i in 0..len {
        frame.swap(a + i, b + i);
    }
}

/// Turns a packet round: addresses and, for UDP, ports. Checksums are sums, so swapping changes none. A UDP checksum that
/// was left to the hardware is taken out (IPv4) or completed (IPv6).
fn turn_round(frame: &mut [u8]) {
    swap(frame, 0, 6, 6);
    let v4 = frame[12..14] == [0x08, 0x00];
    if v4 {
        swap(frame, 26, 30, 4)
    } else {
        swap(frame, 22, 38, 16)
    }
    let (l4, protocol) = if v4 { (34, frame[23]) } else { (54, frame[20]) };
    if protocol == 17 {
        swap(frame, l4, l4 + 2, 2);
        frame[l4 + 6..l4 + 8].fill(0);
        if !v4 {
            let sum = checksum_v6(frame, l4);
            frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        }
    } else if v4 && protocol == 1 {
        frame[l4] = 0;
        frame[l4 + 2..l4 + 4].fill(0);
        let sum = !fold(add(0, &frame[l4..]));
        frame[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |s, w| s + u32::from(w[0]) * 256 + u32::from(*w.get(1).unwrap_or(&0)))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn checksum_v6(frame: &[u8], l4: usize) -> u16 {
    let len = frame.len() - l4;
    !fold(add(add(17 + len as u32, &frame[22..54]), &frame[l4..]))
}

/// Runs an echo on the node's AF_XDP socket while `client` runs in the client's namespace.
fn with_echo<T: Send>(nets: &Nets, client: impl FnOnce() -> T + Send) -> (T, Report) {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let node = scope.spawn(|| netns::run_in(nets.name(1), || echo(&ready, &stop)).unwrap());
        let started = Instant::now();
        while !ready.load(Ordering::Acquire) && started.elapsed() < Duration::from_secs(10) && !node.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let result = scope.spawn(|| netns::run_in(nets.name(0), client).unwrap()).join();
        stop.store(true, Ordering::Release);
        let report = node.join().unwrap();
        (result.unwrap(), report)
    })
}

struct Report {
    received: u64,
    counts: penstock_bpf::SteerCounts,
    stats: penstock_packet_io::IoStats,
}

fn echo(ready: &AtomicBool, stop: &AtomicBool) -> Report {
    let ifindex = interface_index("node").unwrap();
    let mut steering = Steering::attach(ifindex).unwrap();
    let mut port = AfXdp::open(ifindex, 0, PORT, AfXdpOptions::default()).unwrap();
    eprintln!("steering {}, {}", steering.mode(), port.capabilities().mode);
    steering.register_socket(0, port.fd()).unwrap();
    steering.set_vips([VIP4, VIP6].map(|ip| ip.parse::<IpAddr>().unwrap())).unwrap();
    let own = "192.0.2.2".parse().unwrap();
    steering.set_endpoints([OwnedEndpoint::udp(own, 4789), OwnedEndpoint::protocol(own, 47)]).unwrap();
    ready.store(true, Ordering::Release);
    let mut poller = Poller::new(&[port.fd()], IdlePolicy::default()).unwrap();
    let start = Instant::now();
    let mut received = 0;
    while !stop.load(Ordering::Acquire) {
        let n = port
            .poll(&mut |packets: &mut [Packet<'_>]| {
                for packet in packets {
                    turn_round(packet.frame_mut());
                    packet.verdict = Verdict::Transmit(PORT);
                }
            })
            .unwrap();
        port.flush().unwrap();
        received += n as u64;
        poller.round(n, Nanos(start.elapsed().as_nanos() as u64)).unwrap();
    }
    Report { received, counts: steering.counts().unwrap(), stats: port.stats() }
}

fn ask(socket: &UdpSocket, to: &str, payload: &[u8]) -> bool {
    socket.send_to(payload, to).unwrap();
    let mut answer = vec![0; 4096];
    match socket.recv_from(&mut answer) {
        Ok((n, from)) => from == to.parse().unwrap() && answer[..n] == *payload,
        Err(_) => false,
    }
}

fn client_socket(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

#[test]
fn virtual_ips_and_tunnel_ports_reach_the_socket_and_the_rest_reaches_the_kernel() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    let name = nets.name(0).to_owned();
    let ping = move |to: &str| {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &name, "ping", "-c", "1", "-W", "2", to]).output().unwrap().status.success()
    };
    let ((), report) = with_echo(&nets, move || {
        let v4 = client_socket("0.0.0.0:0");
        let v6 = client_socket("[::]:0");
        // ARP and ND for the next hop pass to the kernel, or nothing below would work.
        for i in 0..200u32 {
            assert!(ask(&v4, &format!("{VIP4}:80"), &i.to_be_bytes()), "IPv4 packet {i}");
        }
        assert!(ask(&v4, &format!("{VIP4}:80"), &[7; 1472]), "a full-size packet");
        for i in 0..50u32 {
            assert!(ask(&v6, &format!("[{VIP6}]:80"), &i.to_be_bytes()), "IPv6 packet {i}");
        }
        assert!(ask(&v4, "192.0.2.2:4789", b"tunnel"), "the tunnel's port on the node's own address");
        let gre = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47); s.sendto(bytes(4), ('192.0.2.2', 0))";
        assert!(std::process::Command::new("python3").args(["-c", gre]).status().unwrap().success(), "GRE");
        assert!(ping(VIP4), "ICMP to a virtual IP is answered by the echo");
        assert!(ping("192.0.2.2"), "ICMP to the node's own address is answered by its kernel");
        assert!(ping("2001:db8::2"), "and over IPv6");
        // Another port of the node's own address is the kernel's: it says that nobody listens.
        v4.connect("192.0.2.2:4790").unwrap();
        v4.send(b"x").unwrap();
        let error = v4.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    assert_eq!(report.counts.get(SteerCounter::Vip), 200 + 1 + 50 + 1);
    assert_eq!(report.counts.get(SteerCounter::Endpoint), 2, "a datagram and a GRE packet");
    assert_eq!(report.counts.get(SteerCounter::NoSocket), 0);
    assert!(report.counts.get(SteerCounter::Passed) >= 4, "{:?}", report.counts);
    assert_eq!(report.received, 254);
    assert_eq!(report.stats.transmitted, 254);
    assert_eq!((report.stats.missed, report.stats.transmit_failed), (0, 0));
}

#[test]
fn fragments_to_a_virtual_ip_reach_the_socket() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    let ((), report) = with_echo(&nets, || {
        let socket = client_socket("0.0.0.0:0");
        socket.send_to(&[1; 4000], format!("{VIP4}:80")).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(report.counts.get(SteerCounter::Vip), 3, "three fragments of 1,500 bytes");
    assert_eq!(report.received, 3);
}

#[test]
fn an_address_that_is_given_up_returns_to_the_kernel_and_one_that_stays_is_not_touched() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    netns::run_in(nets.name(1), || {
        let ifindex = interface_index("node").unwrap();
        let mut steering = Steering::attach(ifindex).unwrap();
        let ip = |last: u8| IpAddr::from([203, 0, 113, last]);
        steering.set_vips((0..200).map(ip)).unwrap();
        steering.set_vips((100..250).map(ip)).unwrap();
        let too_many = (0..=penstock_maps::VIP_CAPACITY).map(|i| IpAddr::from(i.to_be_bytes()));
        assert!(steering.set_vips(too_many).unwrap_err().to_string().contains("more than the kernel map holds"));
        assert!(steering.register_socket(64, 0).is_err());
        assert!(steering.register_socket(0, 0).is_err(), "standard input is no AF_XDP socket");
        assert!(Steering::attach(ifindex).is_err(), "a second program on one interface is refused");
        let program = |name| nets.exec(1, name).stdout;
        assert!(String::from_utf8_lossy(&program("ip link show node")).contains("prog/xdp"));
        drop(steering);
        assert!(!String::from_utf8_lossy(&program("ip link show node")).contains("prog/xdp"), "dropping detaches");
    })
    .unwrap();
}

#[test]
fn how_frames_leave_a_veth_follows_what_its_peer_does() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    let gro = |on: &str| nets.exec(0, &format!("ethtool -K client gro {on}"));
    netns::run_in(nets.name(1), || {
        let steering = Steering::attach(interface_index("node").unwrap()).unwrap();
        gro("off");
        assert!(steering.way_out().unwrap_err().reason.contains("takes no frames"));
        gro("on");
        assert_eq!(steering.way_out(), Ok(WayOut::Redirect));
        let peer = netns::run_in(nets.name(0), || Steering::attach(interface_index("client").unwrap()).unwrap());
        assert_eq!(steering.way_out(), Ok(WayOut::Answer));
        drop(peer);
        assert_eq!(steering.way_out(), Ok(WayOut::Redirect));
    })
    .unwrap();
}

#[test]
fn a_second_process_life_can_bind_the_queue_again() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    netns::run_in(nets.name(1), || {
        let ifindex = interface_index("node").unwrap();
        for _ in 0..5 {
            AfXdp::open(ifindex, 0, PORT, AfXdpOptions::default()).unwrap();
        }
        let error = AfXdp::open(ifindex, 9, PORT, AfXdpOptions::default()).unwrap_err().to_string();
        assert!(error.contains("queue 9: cannot bind"), "{error}");
        let odd = AfXdpOptions { chunks: 1000, ..AfXdpOptions::default() };
        assert!(AfXdp::open(ifindex, 0, PORT, odd).is_err());
    })
    .unwrap();
}

/// Ethernet, IPv4, UDP; 60 bytes.
fn udp_frame(src: [u8; 6], dst: [u8; 6], to: [u8; 4]) -> Vec<u8> {
    let mut f = vec![0u8; 60];
    f[..6].copy_from_slice(&dst);
    f[6..12].copy_from_slice(&src);
    f[12..14].copy_from_slice(&[0x08, 0x00]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    f[30..34].copy_from_slice(&to);
    f[36..40].copy_from_slice(&[0, 80, 0, 26]);
    f
}

#[test]
fn generated_flows_are_all_different_valid_and_arrive_at_the_sink() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    let flows = Flows { count: 1000, stride: 7, base_address: [10, 0, 0, 0].into(), ports: 100, first_port: 1024 };
    let sink = netns::run_in(nets.name(1), || Sink::attach(interface_index("node").unwrap(), SinkPoint::Xdp).unwrap())
        .unwrap();
    netns::run_in(nets.name(0), || {
        let ifindex = interface_index("client").unwrap();
        let frame = udp_frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [198, 51, 100, 1]);
        let generator = Generator::new(ifindex, flows, &frame).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        // The position is per CPU and the thread may move between CPUs, so more are drawn than there are flows.
        for _ in 0..4000 {
            let run = generator.preview().unwrap();
            assert_eq!(run.action, 4, "XDP_REDIRECT");
            assert_eq!(fold(add(0, &run.output[14..34])), 0xffff, "IPv4 header checksum");
            seen.insert(run.output[26..36].to_vec());
        }
        assert_eq!(seen.len(), 1000);
        // Bursts that fit the 256 places of a veth's ring, each awaited: so none may be missing.
        for burst in 1..=50u64 {
            generator.send(128).unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while sink.tally().unwrap().packets < burst * 128 {
                assert!(Instant::now() < deadline, "{:?} after {burst} bursts", sink.tally());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    })
    .unwrap();
    let tally = sink.tally().unwrap();
    assert!(tally.bytes >= tally.packets * 60, "{tally:?}");
}
