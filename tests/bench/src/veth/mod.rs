//! The whole way of a packet, in and out by one veth: Penstock's mux against a bare AF_XDP forwarder, kernel forwarding and
//! nftables, with the same packets, interfaces and sink.
//!
//! ```text
//! namespace gen                                    namespace dut
//! generator (processor 0) -> gen0 ================ veth -> device under test
//! sink: TC drop counter   <- gen0 ================ veth <-   (processor 1)
//! ```
//!
//! The generator offers more than any of them takes. Counted is what arrives at the sink in windows of a second. Processor 1
//! pays for deciding, transmitting (socket buffer, veth) and the sink. Of the AF_XDP rows the veth's receive side (steering
//! program, copy to the socket) runs on processor 0 with the generator, as an interrupt of a card would beside the worker;
//! of the kernel rows it runs on processor 1, in the thread of the interface's NAPI.
//!
//! Rounds visit all variants in turn, so that a slow phase of the machine meets all of them; the floor is the reference.
pub(crate) mod dut;
pub(crate) mod goal;
pub(crate) mod nets;
pub(crate) mod traffic;
pub(crate) mod verdict;

use crate::report::{Report, Row};
use dut::Variant;
use nets::Nets;
use penstock_bpf::SinkPoint;
use penstock_packet_io::{netns, pin_this_thread};
use rustix::process::{Pid, setpriority_process};
use std::time::{Duration, Instant};
use traffic::{Load, Window};

/// Rounds that count.
const ROUNDS: usize = 7;
/// A round that others disturbed more is repeated, as long as there is patience.
pub(crate) const QUIET: f64 = 0.08;
const PATIENCE: Duration = Duration::from_secs(90);
const FLOWS: [u32; 2] = [1 << 14, 1];
/// With the frame check sequence, which a veth does not carry.
pub(crate) const PACKET_BYTES: u64 = 64;
pub(crate) const GENERATOR_CPU: usize = 0;
pub(crate) const DUT_CPU: usize = 1;

pub(crate) fn run(report: &mut Report) {
    let variants: Vec<Variant> = Variant::ALL.into_iter().filter(|v| report.wants(v.name())).collect();
    if variants.is_empty() {
        return;
    }
    if let Err(reason) = nets::possible() {
        report.note(format!("veth: skipped: {reason}"));
        return;
    }
    for flows in FLOWS {
        let rounds = rounds(&variants, flows);
        let rates: Vec<Vec<f64>> =
            (0..variants.len()).map(|v| rounds.iter().map(|round| round[v].pps).collect()).collect();
        for (variant, rates) in variants.iter().zip(&rates) {
            report.add(row(variant.name(), flows, rates));
        }
        let of = |wanted| variants.iter().zip(&rates).find(|(v, _)| **v == wanted).map(|(_, r)| r.as_slice());
        verdict::judge(report, flows, of);
        let worst = rounds.iter().map(|r| disturbance(r)).fold(0.0, f64::max);
        report.note(format!(
            "veth: at {flows} flows, threads waited for a processor in at most {:.1} % of the time of the windows that count.",
            worst * 100.0
        ));
    }
    report.note(format!(
        "veth: median of {ROUNDS} rounds; generator on processor {GENERATOR_CPU}, device under test and sink on processor {DUT_CPU}."
    ));
    report.note(format!("veth: load average after the last round {}.", load_average()));
}

/// Windows by round, of the rounds that others on the machine disturbed least.
fn rounds(variants: &[Variant], flows: u32) -> Vec<Vec<Window>> {
    let nets = Nets::new();
    let measured = netns::run_in(nets.generator(), || {
        pin_this_thread(GENERATOR_CPU).unwrap();
        before_others(None);
        let load = Load::new(&nets, flows, SinkPoint::Tc);
        let (start, mut rounds) = (Instant::now(), Vec::new());
        for first in 0.. {
            rounds.push(round(variants, first, &nets, &load));
            let quiet = rounds.iter().filter(|r| disturbance(r) <= QUIET).count();
            if quiet == ROUNDS || (start.elapsed() > PATIENCE && rounds.len() >= ROUNDS) {
                break;
            }
        }
        rounds.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
        rounds.truncate(ROUNDS);
        rounds
    });
    measured.unwrap()
}

/// Each variant once. Each begins a round in its turn: none is always the one after the slowest.
fn round(variants: &[Variant], first: usize, nets: &Nets, load: &Load) -> Vec<Window> {
    let mut windows = vec![None; variants.len()];
    for place in 0..variants.len() {
        let index = (first + place) % variants.len();
        windows[index] = Some(window(variants[index], nets, load));
    }
    windows.into_iter().flatten().collect()
}

fn window(variant: Variant, nets: &Nets, load: &Load) -> Window {
    let dut = dut::start(variant, nets);
    load.warm_up(|frame| dut::is_right(variant, frame));
    dut.await_flows(nets, load);
    let window = load.window(dut::frame_bytes(variant));
    dut.check_flows(nets, load);
    window
}

fn disturbance(round: &[Window]) -> f64 {
    round.iter().map(|w| w.disturbance).fold(0.0, f64::max)
}

/// Lets a thread (the calling one: `None`) run before what else the machine does. Its caches it shares all the same.
pub(crate) fn before_others(thread: Option<Pid>) {
    // Refused where the right is missing: then the numbers move more.
    let _ = setpriority_process(thread, -20);
}

fn row(name: &str, flows: u32, pps: &[f64]) -> Row {
    let (least, median, most) = verdict::spread(pps);
    Row {
        name: name.to_owned(),
        flows: Some(flows.into()),
        packet_bytes: Some(PACKET_BYTES),
        ns_per_packet: Some(1e9 / median),
        pps: Some(median),
        range: Some((1e9 / most, 1e9 / least)),
        ..Row::default()
    }
}

pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(2).collect::<Vec<_>>().join(", ")
}
