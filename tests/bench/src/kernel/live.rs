use crate::report::{Comparison, Report, Row};
use crate::veth::dut::{kernel, mux, receive_by_thread, undo_receive_by_thread};
use crate::veth::goal::nft_rules;
use crate::veth::nets::Nets;
use crate::veth::traffic::{FRAME, Load, Window};
use crate::veth::{GENERATOR_CPU, PACKET_BYTES, QUIET, before_others, load_average, verdict};
use penstock_bpf::{Floor, SinkPoint};
use penstock_packet_io::{interface_index, netns, pin_this_thread};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);
const FLOWS: [u32; 3] = [1, 1 << 14, 1 << 20];
/// Connection tracking holds as many without being told; beyond it measures its own limits.
const MOST_TRACKED: u32 = 1 << 14;
const ENCAPSULATION: usize = 50;
/// Of the rate of the floor.
const AIM: f64 = 0.85;
const STEADY: f64 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Floor,
    Penstock,
    Kernel,
    Nft,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Floor, Self::Penstock, Self::Kernel, Self::Nft];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "kernel/floor",
            Self::Penstock => "kernel/penstock",
            Self::Kernel => "kernel/kernel-forward",
            Self::Nft => "kernel/nft-dnat-jhash",
        }
    }

    fn is_xdp(self) -> bool {
        matches!(self, Self::Floor | Self::Penstock)
    }

    /// Starts it; what is returned stops it.
    fn start(self, nets: &Nets, cores: u64) -> Box<dyn FnOnce()> {
        let stop: Box<dyn FnOnce()> = match self {
            Self::Floor => floor(nets),
            Self::Penstock => mux(nets, true),
            Self::Kernel => return kernel(nets, None, cores == 2),
            Self::Nft => return kernel(nets, Some(nft_rules()), cores == 2),
        };
        if cores == 1 {
            return stop;
        }
        receive_by_thread(nets);
        let undo = undo_receive_by_thread(nets);
        // The thread goes with the program: while that is there.
        Box::new(move || {
            undo();
            stop();
        })
    }
}

fn floor(nets: &Nets) -> Box<dyn FnOnce()> {
    let mut headers = [0; 64];
    headers[..6].copy_from_slice(&nets.generator_mac.0);
    headers[6..12].copy_from_slice(&nets.dut_mac.0);
    headers[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
    let attach = || Floor::attach(interface_index(nets.dut_port()).unwrap(), &headers).unwrap();
    let program = netns::run_in(nets.dut(), attach).unwrap();
    Box::new(move || drop(program))
}

pub(super) fn run(report: &mut Report) {
    let wanted: Vec<Variant> = Variant::ALL.into_iter().filter(|v| report.wants(v.name())).collect();
    for cores in [1, 2] {
        for flows in FLOWS {
            let variants: Vec<_> =
                wanted.iter().copied().filter(|v| *v != Variant::Nft || flows <= MOST_TRACKED).collect();
            if variants.is_empty() {
                continue;
            }
            let rounds = rounds(&variants, flows, cores);
            let rates: Vec<Vec<f64>> =
                (0..variants.len()).map(|v| rounds.iter().map(|round| round[v].pps).collect()).collect();
            for (variant, rates) in variants.iter().zip(&rates) {
                report.add(row(variant.name(), flows, cores, rates));
            }
            let of = |wanted| variants.iter().position(|v| *v == wanted).map(|i| rates[i].as_slice());
            if let (Some(penstock), Some(floor)) = (of(Variant::Penstock), of(Variant::Floor)) {
                judge(report, flows, cores, penstock, floor);
            }
        }
    }
    report.note(format!("kernel: median of {ROUNDS} rounds; load average after the last {}.", load_average()));
}

/// Of each round the rate against the floor's, as the rounds of a busy machine differ; of those the median.
fn judge(report: &mut Report, flows: u32, cores: u64, penstock: &[f64], floor: &[f64]) {
    let (least, median, most) = verdict::spread(floor);
    let reference_moved = (most - least) / median;
    let ratios: Vec<f64> = penstock.iter().zip(floor).map(|(p, f)| p / f).collect();
    let ratio = verdict::spread(&ratios).1;
    let verdict = (reference_moved <= STEADY).then_some(if ratio >= AIM { "reached" } else { "missed" });
    let row = Row {
        name: "kernel/penstock-to-floor".to_owned(),
        flows: Some(flows.into()),
        cores: Some(cores),
        packet_bytes: Some(PACKET_BYTES),
        ..Row::default()
    };
    report.compare(Comparison { row, ratio, aim: AIM, verdict, reference_moved });
}

/// Windows by round, of the rounds that others on the machine disturbed least.
fn rounds(variants: &[Variant], flows: u32, cores: u64) -> Vec<Vec<Window>> {
    let nets = Nets::new();
    let measured = netns::run_in(nets.generator(), || {
        pin_this_thread(GENERATOR_CPU).unwrap();
        before_others(None);
        let (start, mut rounds) = (Instant::now(), Vec::new());
        for first in 0.. {
            rounds.push(round(variants, first, &nets, flows, cores));
            let quiet = rounds.iter().filter(|r| disturbance(r) <= QUIET).count();
            if quiet >= ROUNDS || (start.elapsed() > PATIENCE && rounds.len() >= ROUNDS) {
                break;
            }
        }
        rounds.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
        rounds.truncate(ROUNDS);
        rounds
    });
    measured.unwrap()
}

/// Each variant once, beginning with another each time.
fn round(variants: &[Variant], first: usize, nets: &Nets, flows: u32, cores: u64) -> Vec<Window> {
    let mut windows = vec![None; variants.len()];
    for place in 0..variants.len() {
        let index = (first + place) % variants.len();
        windows[index] = Some(window(variants[index], nets, flows, cores));
    }
    windows.into_iter().flatten().collect()
}

/// The sink first: a veth's peer says by its program that it takes frames.
fn window(variant: Variant, nets: &Nets, flows: u32, cores: u64) -> Window {
    let point = if variant.is_xdp() { SinkPoint::Xdp } else { SinkPoint::Tc };
    let load = Load::new(nets, flows, point);
    let stop = variant.start(nets, cores);
    load.warm_up_unseen();
    let bytes = if variant.is_xdp() { FRAME + ENCAPSULATION } else { FRAME };
    let window = load.window(bytes);
    stop();
    window
}

fn disturbance(round: &[Window]) -> f64 {
    round.iter().map(|w| w.disturbance).fold(0.0, f64::max)
}

fn row(name: &str, flows: u32, cores: u64, pps: &[f64]) -> Row {
    let (least, median, most) = verdict::spread(pps);
    Row {
        name: name.to_owned(),
        flows: Some(flows.into()),
        cores: Some(cores),
        packet_bytes: Some(PACKET_BYTES),
        ns_per_packet: Some(1e9 / median),
        pps: Some(median),
        range: Some((1e9 / most, 1e9 / least)),
        ..Row::default()
    }
}
