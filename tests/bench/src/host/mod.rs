//! A container's bulk TCP by a virtual IP, through the host agent, against the same transfer that the kernel routes.
//!
//! Each site is a client, a host and a container of their own, joined by veths with the offloads that they have by themselves. The
//! client is the mux too: a VXLAN device of the kernel takes what is for the virtual IP to the host; answers come straight back.
//! `iperf3` sends to the container (`-in`) and back (`-out`), by one connection and by sixteen.
//!
//! | site | host |
//! | --- | --- |
//! | `host/penstock` | `penstock_slb_server::run`, as the binary runs it |
//! | `host/user-space` | the same without kernel replay |
//! | `host/kernel` | routes, without encapsulation and translation |
//!
//! All share two processors. Sites are measured in turn, round after round.
mod site;

use crate::report::{Comparison, Report, Row};
use crate::veth::{nets, verdict::spread};
use site::{Kind, Site};

const ROUNDS: usize = 5;
/// A reference that moves more than this between rounds measures the machine's neighbours.
const STEADY: f64 = 0.15;
const AIM: f64 = 0.8;
const STREAMS: [u32; 2] = [1, 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Direction {
    const ALL: [Self; 2] = [Self::In, Self::Out];

    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

pub(crate) fn run(report: &mut Report) {
    if !Kind::ALL.iter().any(|kind| Direction::ALL.iter().any(|d| report.wants(&name(*kind, *d)))) {
        return;
    }
    if let Err(reason) = nets::possible().and_then(|()| site::possible()) {
        report.note(format!("host: skipped: {reason}"));
        return;
    }
    let sites = Kind::ALL.map(Site::new);
    for streams in STREAMS {
        for direction in Direction::ALL {
            measure(report, &sites, streams, direction);
        }
    }
}

fn name(kind: Kind, direction: Direction) -> String {
    format!("{}-{}", kind.name(), direction.name())
}

fn measure(report: &mut Report, sites: &[Site], streams: u32, direction: Direction) {
    let mut rates = vec![Vec::new(); sites.len()];
    for _ in 0..ROUNDS {
        for (site, rates) in sites.iter().zip(&mut rates) {
            rates.push(site.transfer(streams, direction));
        }
    }
    let row = |name: String| Row { name, flows: Some(streams.into()), cores: Some(2), ..Row::default() };
    for (site, rates) in sites.iter().zip(&rates) {
        let (least, median, most) = spread(rates);
        let gbits = Some(median / 1e9);
        report.add(Row { gbits, range: Some((least / 1e9, most / 1e9)), ..row(name(site.kind, direction)) });
    }
    let of = |kind| sites.iter().position(|s| s.kind == kind).map(|i| spread(&rates[i]));
    let (Some(penstock), Some(kernel)) = (of(Kind::Penstock), of(Kind::Kernel)) else { return };
    let reference_moved = (kernel.2 - kernel.0) / kernel.1;
    let ratio = penstock.1 / kernel.1;
    let verdict = (reference_moved <= STEADY).then_some(if ratio >= AIM { "reached" } else { "missed" });
    let row = row(format!("host/penstock-to-kernel-{}", direction.name()));
    report.compare(Comparison { row, ratio, aim: AIM, verdict, reference_moved });
}
