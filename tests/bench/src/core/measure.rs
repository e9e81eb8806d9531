use super::pool::Pool;
use crate::report::{Report, Row};
use std::time::{Duration, Instant};

/// Windows whose median counts.
const WINDOWS: usize = 101;
/// Rounds before it counts: caches, branch predictors, page tables.
const WARM_UP: Duration = Duration::from_millis(100);
/// Time that one window measures.
const WINDOW: Duration = Duration::from_millis(6);

/// Median, least and most nanoseconds for one packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) median: f64,
    pub(crate) range: (f64, f64),
}

/// Repeats a round over the pool. `round` writes the frames and returns the time of what is measured.
pub(crate) fn measure(mut round: impl FnMut() -> Duration) -> Cost {
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        round();
    }
    let mut windows: Vec<f64> = (0..WINDOWS).map(|_| window(&mut round)).collect();
    windows.sort_by(f64::total_cmp);
    Cost { median: windows[WINDOWS / 2], range: (windows[0], windows[WINDOWS - 1]) }
}

fn window(round: &mut impl FnMut() -> Duration) -> f64 {
    let (mut spent, mut packets) = (Duration::ZERO, 0usize);
    while spent < WINDOW {
        spent += round();
        packets += Pool::PACKETS;
    }
    spent.as_nanos() as f64 / packets as f64
}

/// Adds a row for a cost.
pub(crate) fn report(
    report: &mut Report,
    name: &str,
    flows: Option<u64>,
    packet_bytes: u64,
    cost: Cost,
    bytes_per_flow: Option<f64>,
) {
    report.add(Row {
        name: name.to_owned(),
        flows,
        packet_bytes: Some(packet_bytes),
        ns_per_packet: Some(cost.median),
        pps: Some(1e9 / cost.median),
        bytes_per_flow,
        range: Some(cost.range),
        ..Row::default()
    });
}
