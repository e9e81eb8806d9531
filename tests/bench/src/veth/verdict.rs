use super::PACKET_BYTES;
use super::dut::Variant;
use crate::report::{Comparison, Report, Row};

/// A reference that moves more than this between rounds measures the machine's neighbours.
const STEADY: f64 = 0.15;
const AIMS: [(&str, Variant, f64); 2] =
    [("veth/penstock-to-floor", Variant::Floor, 0.95), ("veth/penstock-to-nft", Variant::Nft, 1.4)];

/// Holds Penstock's rate against the others, if it and they were measured.
pub(crate) fn judge<'a>(report: &mut Report, flows: u32, of: impl Fn(Variant) -> Option<&'a [f64]>) {
    let (Some(penstock), Some(floor)) = (of(Variant::Penstock), of(Variant::Floor)) else { return };
    let (least, median, most) = spread(floor);
    let moved = (most - least) / median;
    let steady = moved <= STEADY;
    if !steady {
        report.note(format!(
            "veth: no verdict at {flows} flows: the reference (veth/floor-afxdp) moved by {:.0} % between rounds, more than {:.0} %. Measure again on a quiet machine.",
            moved * 100.0,
            STEADY * 100.0
        ));
    }
    for (name, other, aim) in AIMS {
        let Some(other) = of(other) else { continue };
        let ratio = spread(penstock).1 / spread(other).1;
        let verdict = steady.then_some(if ratio >= aim { "reached" } else { "missed" });
        let row = Row {
            name: name.to_owned(),
            flows: Some(flows.into()),
            packet_bytes: Some(PACKET_BYTES),
            ..Row::default()
        };
        report.compare(Comparison { row, ratio, aim, verdict, reference_moved: moved });
    }
}

/// Least, median and most.
pub(crate) fn spread(rates: &[f64]) -> (f64, f64, f64) {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}
