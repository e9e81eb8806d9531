use super::goal::{PORT, VIP};
use super::nets::{GENERATOR_PORT, Nets};
use penstock_bpf::testrun::{Flows, Generator};
use penstock_bpf::{Sink, SinkPoint};
use penstock_model::{Packet, PortId};
use penstock_packet_io::{AfPacket, AfPacketOptions, PacketIo, interface_index};
use std::time::{Duration, Instant};

pub(crate) const FRAME: usize = 60;
const WARM_UP: Duration = Duration::from_millis(100);
const WINDOW: Duration = Duration::from_millis(400);
/// Frames of one call, some 100 to 300 ms: between calls the kernel pauses for some milliseconds.
const BURST: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// What one window saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) pps: f64,
    /// The part of the time in which some thread waited for a processor. Both are busy with what is measured, so that whoever
    /// else wants to run waits, and then runs in its place.
    pub(crate) disturbance: f64,
}

/// The generator and the sink, at the same interface. On the thread that made it.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) flows: u32,
    generator: Generator,
    sink: Sink,
}

impl Load {
    /// In the generator's namespace. Where frames are counted must fit who sends them: see [`SinkPoint`].
    pub(crate) fn new(nets: &Nets, flows: u32, sink: SinkPoint) -> Self {
        let ifindex = interface_index(GENERATOR_PORT).unwrap();
        let frame = frame(nets);
        let order =
            Flows { count: flows, stride: 7919, base_address: [198, 18, 0, 1].into(), ports: 256, first_port: 20_000 };
        let generator = Generator::new(ifindex, order, &frame).unwrap();
        Self { flows, generator, sink: Sink::attach(ifindex, sink).unwrap() }
    }

    /// Sends until a frame as `right` wants it has come back, and some time more.
    pub(crate) fn warm_up(&self, right: impl Fn(&[u8]) -> bool) {
        let mut ears = AfPacket::open(GENERATOR_PORT, PortId(0), &AfPacketOptions::default()).unwrap();
        let start = Instant::now();
        let (mut heard, mut last) = (false, Vec::new());
        while !heard {
            assert!(start.elapsed() < PATIENCE, "nothing right comes back; the last frame was {last:02x?}");
            self.generator.send(64).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            ears.poll(&mut |frames: &mut [Packet<'_>]| {
                for frame in frames {
                    heard |= right(frame.frame());
                    last = frame.frame().to_vec();
                }
            })
            .unwrap();
        }
        // A packet socket costs what it watches.
        drop(ears);
        self.send_for(WARM_UP);
    }

    pub(crate) fn send_for(&self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.generator.send(BURST).unwrap();
        }
    }

    /// Sends until frames come back, and some time more. What they are, a sink in the driver lets nobody see.
    pub(crate) fn warm_up_unseen(&self) {
        let start = Instant::now();
        while self.sink.tally().unwrap().packets == 0 {
            assert!(start.elapsed() < PATIENCE, "nothing comes back");
            self.generator.send(64).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        self.send_for(WARM_UP);
    }

    /// Frames per second at the sink, which must be `bytes` long.
    pub(crate) fn window(&self, bytes: usize) -> Window {
        let (start, before, waited_before) = (Instant::now(), self.sink.tally().unwrap(), waited());
        self.send_for(WINDOW);
        let (time, after, waited_by_now) = (start.elapsed(), self.sink.tally().unwrap(), waited());
        let disturbance = waited_by_now.saturating_sub(waited_before).as_secs_f64() / time.as_secs_f64();
        let packets = (after.packets - before.packets) as f64;
        let mean = (after.bytes - before.bytes) as f64 / packets;
        assert!((mean - bytes as f64).abs() < 0.01, "frames at the sink are {mean} bytes long and not {bytes}");
        Window { pps: packets / time.as_secs_f64(), disturbance }
    }
}

/// How long, since the machine's start, some thread was ready to run and had no processor: Documentation/accounting/psi.rst.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total =
        text.lines().next().and_then(|some| some.rsplit_once("total=")).and_then(|(_, us)| us.trim().parse().ok());
    Duration::from_micros(total.unwrap_or(0))
}

/// UDP without a checksum: the generator writes addresses over it, and connection tracking would refuse a wrong one.
fn frame(nets: &Nets) -> Vec<u8> {
    let mut frame = vec![0; FRAME];
    frame[..6].copy_from_slice(&nets.dut_mac.0);
    frame[6..12].copy_from_slice(&nets.generator_mac.0);
    frame[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, (FRAME - 14) as u8, 0, 0, 0x40, 0, 64, 17]);
    frame[30..34].copy_from_slice(&VIP.octets());
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME - 34) as u16).to_be_bytes());
    frame
}
