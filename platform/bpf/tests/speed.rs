//! Rates of the packet ports on a veth pair. Measurements, so run by hand, optimised, on a quiet machine:
//! `cargo test --release -p penstock-bpf --test speed -- --ignored --nocapture --test-threads 1`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../packet-io/tests/common/mod.rs"]
mod common;

use common::{Nets, may_make_namespaces};
use penstock_bpf::testrun::{Flows, Generator};
use penstock_bpf::{Sink, SinkPoint, Steering};
use penstock_model::{Packet, PortId, Verdict};
use penstock_packet_io::{
    AfPacket, AfPacketOptions, AfXdp, AfXdpOptions, PacketIo, interface_index, netns, pin_this_thread,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(1);

fn frame() -> Vec<u8> {
    let mut f = vec![0u8; 60];
    f[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    f[12..14].copy_from_slice(&[0x08, 0x00]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    f[30..34].copy_from_slice(&[198, 51, 100, 1]);
    f[36..40].copy_from_slice(&[0, 80, 0, 26]);
    f
}

/// What comes back to the client's side in a second, in Mpps; five windows.
fn rate(open: impl Fn() -> (Option<Steering>, Box<dyn PacketIo>) + Sync) -> Vec<f64> {
    let nets = Nets::new(&["xdpa", "xdpb"]);
    nets.veth(0, "client", 1, "node");
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            netns::enter(nets.name(1)).unwrap();
            pin_this_thread(1).unwrap();
            let (_steering, mut port) = open();
            ready.store(true, Ordering::Release);
            while !stop.load(Ordering::Acquire) {
                let swap = &mut |packets: &mut [Packet<'_>]| {
                    for packet in packets {
                        let frame = packet.frame_mut();
                        for i in 0..6 {
                            frame.swap(i, i + 6);
                        }
                        packet.verdict = Verdict::Transmit(PORT);
                    }
                };
                port.poll(swap).unwrap();
                port.flush().unwrap();
            }
            eprintln!("  {:?}", port.stats());
        });
        while !ready.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        netns::enter(nets.name(0)).unwrap();
        pin_this_thread(0).unwrap();
        let client = interface_index("client").unwrap();
        let sink = Sink::attach(client, SinkPoint::Tc).unwrap();
        let flows =
            Flows { count: 16_384, stride: 1, base_address: [10, 0, 0, 0].into(), ports: 16_384, first_port: 1024 };
        let generator = Generator::new(client, flows, &frame()).unwrap();
        generator.send(100_000).unwrap();
        let windows = (0..5)
            .map(|_| {
                let (start, before) = (Instant::now(), sink.tally().unwrap().packets);
                while start.elapsed() < Duration::from_secs(1) {
                    generator.send(200_000).unwrap();
                }
                (sink.tally().unwrap().packets - before) as f64 / start.elapsed().as_secs_f64() / 1e6
            })
            .collect();
        stop.store(true, Ordering::Release);
        windows
    })
}

fn report(name: &str, mut windows: Vec<f64>) -> f64 {
    windows.sort_by(f64::total_cmp);
    let median = windows[windows.len() / 2];
    eprintln!("{name}: {median:.3} Mpps ({:.3}-{:.3})", windows[0], windows[windows.len() - 1]);
    median
}

#[test]
#[ignore = "a measurement"]
fn swapping_addresses_on_each_port() {
    if !may_make_namespaces() {
        return;
    }
    let xdp = || {
        let ifindex = interface_index("node").unwrap();
        let mut steering = Steering::attach(ifindex).unwrap();
        let port = AfXdp::open(ifindex, 0, PORT, AfXdpOptions::default()).unwrap();
        steering.register_socket(0, port.fd()).unwrap();
        steering.set_vips([[198, 51, 100, 1].into()]).unwrap();
        (Some(steering), Box::new(port) as Box<dyn PacketIo>)
    };
    let packet = |qdisc_bypass| {
        move || {
            // The generator needs a peer that takes XDP frames: a steering program that owns nothing.
            let steering = Steering::attach_to("node").unwrap();
            let options = AfPacketOptions { qdisc_bypass, ..AfPacketOptions::default() };
            (Some(steering), Box::new(AfPacket::open("node", PORT, &options).unwrap()) as Box<dyn PacketIo>)
        }
    };
    let fast = report("AF_XDP swap", rate(xdp));
    report("AF_PACKET swap", rate(packet(false)));
    report("AF_PACKET swap, queueing discipline bypassed", rate(packet(true)));
    assert!(fast > 0.0, "AF_XDP moves nothing");
}
