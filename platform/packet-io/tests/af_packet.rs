//! AF_PACKET ports as an Ethernet bridge between two kernels' TCP stacks, with the devices' default offloads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Nets, may_make_namespaces};
use penstock_model::{Gso, Nanos, Packet, PortId, Verdict};
use penstock_packet_io::{
    AfPacket, AfPacketOptions, FrameKind, IdlePolicy, Interface, IoStats, OffloadSetting, PacketIo, Poller, SendError,
    netns,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LEFT: PortId = PortId(1);
const RIGHT: PortId = PortId(2);

/// a - middle - b, the middle without addresses.
fn line(mtu: u32) -> Nets {
    let nets = Nets::new(&["gsoa", "gsom", "gsob"]);
    for i in 0..3 {
        nets.exec(i, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    nets.veth(0, "eth", 1, "left");
    nets.veth(2, "eth", 1, "right");
    for (i, host) in [(0, 1), (2, 2)] {
        nets.ip(i, &format!("addr add 192.0.2.{host}/24 dev eth"));
        nets.ip(i, &format!("link set eth mtu {mtu}"));
    }
    nets
}

#[derive(Debug, Default)]
struct Seen {
    longest: usize,
    super_frames: u64,
    partial: u64,
    left: IoStats,
    right: IoStats,
}

fn bridge(stop: &AtomicBool) -> Seen {
    let mut left = AfPacket::open("left", LEFT, &AfPacketOptions::default()).unwrap();
    let promiscuous = AfPacketOptions { promiscuous: true, ..AfPacketOptions::default() };
    let mut right = AfPacket::open("right", RIGHT, &promiscuous).unwrap();
    let mut poller = Poller::new(&[left.fd(), right.fd()], IdlePolicy::default()).unwrap();
    let (start, mut seen) = (Instant::now(), Seen::default());
    while !stop.load(Ordering::Acquire) {
        let n = copy(&mut left, &mut right, &mut seen) + copy(&mut right, &mut left, &mut seen);
        poller.round(n, Nanos(start.elapsed().as_nanos() as u64)).unwrap();
    }
    Seen { left: left.stats(), right: right.stats(), ..seen }
}

fn copy(from: &mut AfPacket, to: &mut AfPacket, seen: &mut Seen) -> usize {
    let n = from
        .poll(&mut |packets: &mut [Packet<'_>]| {
            for packet in packets {
                seen.longest = seen.longest.max(packet.len());
                seen.super_frames += u64::from(packet.offload.gso != Gso::None);
                seen.partial += u64::from(packet.offload.partial_checksum);
                to.send(packet.frame(), packet.offload).unwrap();
                packet.verdict = Verdict::Transmit(to.id());
            }
        })
        .unwrap();
    to.flush().unwrap();
    n
}

fn block(i: u64) -> Vec<u8> {
    (0..65_536u64 / 8).flat_map(|w| (w ^ (i << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// Sends `blocks` blocks of 64 KiB from a to b, where each is compared. Returns bits per second.
fn transfer(nets: &Nets, blocks: u64) -> f64 {
    let data: Vec<Vec<u8>> = (0..16).map(block).collect();
    let data = &data;
    std::thread::scope(|scope| {
        let listener = netns::run_in(nets.name(2), || TcpListener::bind("192.0.2.2:5000").unwrap()).unwrap();
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut buffer = vec![0; 65_536];
            for i in 0..blocks {
                stream.read_exact(&mut buffer).unwrap();
                assert!(buffer == data[(i % 16) as usize], "block {i} differs");
            }
            stream.write_all(b"done").unwrap();
        });
        let elapsed = netns::run_in(nets.name(0), || {
            let mut stream = TcpStream::connect("192.0.2.2:5000").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let start = Instant::now();
            for i in 0..blocks {
                stream.write_all(&data[(i % 16) as usize]).unwrap();
            }
            stream.read_exact(&mut [0; 4]).unwrap();
            start.elapsed()
        })
        .unwrap();
        receiver.join().unwrap();
        blocks as f64 * 65_536.0 * 8.0 / elapsed.as_secs_f64()
    })
}

fn with_bridge<T>(nets: &Nets, work: impl FnOnce() -> T) -> (T, Seen) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let middle = scope.spawn(|| netns::run_in(nets.name(1), || bridge(&stop)).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Release);
        let seen = middle.join().unwrap();
        (result.unwrap(), seen)
    })
}

#[test]
fn tcp_with_default_offloads_keeps_its_large_frames_and_every_byte() {
    if !may_make_namespaces() {
        return;
    }
    let nets = line(1500);
    let (bits, seen) = with_bridge(&nets, || transfer(&nets, 8192));
    eprintln!("{:.2} Gbit/s through two AF_PACKET ports; {seen:?}", bits / 1e9);
    assert!(seen.longest > 60_000, "frames of up to {} bytes only", seen.longest);
    assert!(seen.super_frames > 1000 && seen.partial >= seen.super_frames, "{seen:?}");
    assert_eq!((seen.left.transmit_failed, seen.right.transmit_failed), (0, 0));
    let errors = String::from_utf8(nets.exec(2, "nstat -az TcpInCsumErrors").stdout).unwrap();
    let count = errors.lines().find_map(|l| l.strip_prefix("TcpInCsumErrors")).unwrap();
    assert_eq!(count.split_whitespace().next(), Some("0"), "{errors}");
}

#[test]
fn a_filter_lets_only_its_kinds_in_and_own_frames_are_not_heard() {
    if !may_make_namespaces() {
        return;
    }
    let nets = line(1500);
    nets.ip(1, "addr add 192.0.2.9/24 dev left");
    netns::run_in(nets.name(1), || {
        let filter = Some(vec![FrameKind::UdpDestination(4789)]);
        let mut port = AfPacket::open("left", LEFT, &AfPacketOptions { filter, ..AfPacketOptions::default() }).unwrap();
        netns::run_in(nets.name(0), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for to in ["192.0.2.9:4789", "192.0.2.9:4790", "192.0.2.9:4789"] {
                socket.send_to(b"hello", to).unwrap();
            }
        })
        .unwrap();
        // From the middle itself: outgoing, so not received.
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"out", "192.0.2.1:4789").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let mut ports = Vec::new();
        let n = port.poll(&mut |packets: &mut [Packet<'_>]| {
            ports.extend(packets.iter().map(|p| u16::from_be_bytes([p.frame()[36], p.frame()[37]])));
        });
        assert_eq!((n.unwrap(), ports), (2, vec![4789, 4789]));
        assert_eq!(port.stats().received, 2);
        assert_eq!(port.poll(&mut |_| panic!("nothing is left")).unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn an_interface_that_goes_down_is_waited_for_and_one_that_is_gone_is_an_error() {
    if !may_make_namespaces() {
        return;
    }
    let nets = line(1500);
    netns::run_in(nets.name(1), || {
        let mut port = AfPacket::open("left", LEFT, &AfPacketOptions::default()).unwrap();
        let poll = |port: &mut AfPacket| port.poll(&mut |_| ()).map(drop);
        nets.ip(1, "link set left down");
        assert!((0..3).all(|_| poll(&mut port).is_ok()));
        nets.ip(1, "link set left up");
        assert!(poll(&mut port).is_ok());
        let too_long = vec![0; 70_000];
        assert_eq!(port.send(&too_long, Default::default()), Err(SendError::TooLarge));
        nets.ip(1, "link del left");
        assert!((0..3).any(|_| poll(&mut port).is_err()), "nobody would notice that the interface is gone");
        assert!(!port.interface().exists());
        assert!(AfPacket::open("left", LEFT, &AfPacketOptions::default()).is_err());
    })
    .unwrap();
}

#[test]
fn offloads_and_mtu_of_an_own_interface_can_be_set_and_a_refusal_names_the_setting() {
    if !may_make_namespaces() {
        return;
    }
    let nets = line(1500);
    netns::run_in(nets.name(1), || {
        let veth = Interface::open("left").unwrap();
        assert!(veth.offload(OffloadSetting::TxChecksum).unwrap());
        assert_eq!(veth.receive_queues().unwrap(), 1);
        for on in [false, true] {
            veth.set_offload(OffloadSetting::TxChecksum, on).unwrap();
            veth.set_offload(OffloadSetting::GenericReceive, on).unwrap();
            assert_eq!(veth.offload(OffloadSetting::TxChecksum).unwrap(), on);
            assert_eq!(veth.offload(OffloadSetting::GenericReceive).unwrap(), on);
        }
        veth.set_mtu(1600).unwrap();
        assert_eq!(veth.mtu().unwrap(), 1600);
        let error = Interface::open("lo").unwrap().set_offload(OffloadSetting::TxChecksum, false).unwrap_err();
        assert!(error.to_string().contains("lo: tx-checksumming cannot be turned off"), "{error}");
    })
    .unwrap();
}
