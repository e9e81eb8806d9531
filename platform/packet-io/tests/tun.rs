//! TUN and TAP devices against the kernel's own stack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Nets, may_make_namespaces};
use penstock_model::{Gso, Packet, PortId, Verdict};
use penstock_packet_io::{Layer, PacketIo, Tun, netns};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(3);

/// Polls until `done`, at most two seconds.
fn serve(tun: &mut Tun, mut handler: impl FnMut(&mut [Packet<'_>]), done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() && Instant::now() < deadline {
        if tun.poll(&mut handler).unwrap() == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The peer of every address: swaps source and destination, so each packet comes back from where it was sent to.
fn mirror(packets: &mut [Packet<'_>]) {
    for packet in packets {
        let frame = packet.frame_mut();
        if frame[12..14] == [0x08, 0x00] {
            for i in 0..4 {
                frame.swap(26 + i, 30 + i);
            }
            packet.verdict = Verdict::Transmit(PORT);
        }
    }
}

#[test]
fn a_tun_device_carries_tcp_of_the_kernel_with_large_segments() {
    if !may_make_namespaces() {
        return;
    }
    let nets = Nets::new(&["tun"]);
    netns::run_in(nets.name(0), || {
        let mut tun = Tun::open("pst0", Layer::Ip, PORT).unwrap();
        nets.ip(0, "addr add 192.0.2.1/24 dev pst0");
        nets.ip(0, "link set pst0 up");
        // 192.0.2.1 connects to 192.0.2.2; the mirror makes that a connection from .2 to .1, to a listener of our own.
        let listener = TcpListener::bind("192.0.2.1:7000").unwrap();
        let name = nets.name(0);
        let (mut longest, mut segmented) = (0, 0u64);
        std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all
            });
            let client = scope.spawn(move || {
                netns::enter(name).unwrap();
                let mut stream = TcpStream::connect("192.0.2.2:7000").unwrap();
                let data: Vec<u8> = (0..4_000_000u32).map(|i| (i / 7) as u8).collect();
                stream.write_all(&data).unwrap();
                data
            });
            serve(
                &mut tun,
                |packets| {
                    for packet in &mut *packets {
                        longest = longest.max(packet.len());
                        segmented += u64::from(packet.offload.gso == Gso::Tcp4);
                        assert!(!packet.offload.partial_checksum || packet.offload.checksum_start == 34);
                    }
                    mirror(packets);
                },
                || server.is_finished(),
            );
            assert!(server.join().unwrap() == client.join().unwrap(), "the data differs");
        });
        eprintln!("longest frame {longest}, {segmented} with segmentation left to us");
        assert!(longest > 20_000 && segmented > 10);
    })
    .unwrap();
}

#[test]
fn a_tap_device_carries_ethernet_frames() {
    if !may_make_namespaces() {
        return;
    }
    let nets = Nets::new(&["tun"]);
    netns::run_in(nets.name(0), || {
        let mut tap = Tun::open("pst0", Layer::Ethernet, PORT).unwrap();
        assert_eq!(tap.poll(&mut |_| panic!("it is down")).unwrap(), 0);
        nets.ip(0, "addr add 192.0.2.1/24 dev pst0");
        nets.ip(0, "link set pst0 up");
        nets.ip(0, "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev pst0");
        UdpSocket::bind("192.0.2.1:0").unwrap().send_to(&[5; 100], "192.0.2.2:9").unwrap();
        let found = std::cell::Cell::new(false);
        serve(
            &mut tap,
            |packets| {
                for packet in packets {
                    let f = packet.frame();
                    found.set(found.get() || (f[..6] == [2, 0, 0, 0, 0, 2] && f.len() == 142 && f[42..] == [5; 100]));
                }
            },
            || found.get(),
        );
        assert!(found.get());
        assert!(Tun::open("pst0", Layer::Ethernet, PORT).is_err(), "the name is taken");
        drop(tap);
        // A command that another test starts holds a copy of the descriptor until it runs.
        let is_gone = || penstock_packet_io::interface_index("pst0").is_err();
        let soon = (0..500).any(|_| {
            is_gone() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(soon, "the device goes with its owner");
    })
    .unwrap();
}
