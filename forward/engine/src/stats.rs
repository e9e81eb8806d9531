//! What a worker's packets have been charged to.

use crate::Expressed;
use penstock_flow::{Meter, Transposition};
use penstock_model::{DropReason, Ledger, Nanos, Verdict};

/// Packets and bytes that a transposition's counter has seen: bytes of the frame that is decided about, without what it came in
/// and what was padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) ledger: Ledger,
    pub(crate) counters: Vec<Counter>,
    pub(crate) meters: Vec<Meter>,
    /// Packets that the resolver was asked about.
    pub(crate) resolved: u64,
}

impl Stats {
    #[inline]
    pub(crate) fn admits(&mut self, meter: u16, bytes: usize, now: Nanos) -> bool {
        meter == Transposition::NO_METER
            || self.meters.get_mut(usize::from(meter)).is_none_or(|meter| meter.admit(bytes, now))
    }

    #[inline]
    pub(crate) fn count(&mut self, counter: u32, bytes: u32) {
        if let Some(counter) = self.counters.get_mut(counter as usize) {
            counter.packets += 1;
            counter.bytes += u64::from(bytes);
        }
    }

    #[inline]
    pub(crate) fn receive(&mut self, bytes: usize) {
        self.ledger.received += 1;
        self.ledger.received_bytes += bytes as u64;
    }

    /// Books packets that were sent on.
    pub(crate) fn enter_expressed(&mut self, done: &Expressed) {
        self.ledger.received += done.packets;
        self.ledger.received_bytes += done.received_bytes;
        self.ledger.transmitted += done.packets;
        self.ledger.transmitted_bytes += done.transmitted_bytes;
    }

    /// Books the outcome of one packet. `Pending` from a resolver is a drop that nobody gave a reason for.
    #[inline]
    pub(crate) fn enter(&mut self, verdict: Verdict, bytes: usize) -> Verdict {
        let ledger = &mut self.ledger;
        match verdict {
            Verdict::Transmit(_) => {
                ledger.transmitted += 1;
                ledger.transmitted_bytes += bytes as u64;
            }
            Verdict::Tunnel(_) => ledger.tunnelled += 1,
            Verdict::Pass => ledger.passed += 1,
            Verdict::Consumed => ledger.consumed += 1,
            Verdict::Drop(reason) => ledger.count_drop(reason),
            Verdict::Pending => {
                ledger.count_drop(DropReason::Unsupported);
                return Verdict::Drop(DropReason::Unsupported);
            }
        }
        verdict
    }
}
