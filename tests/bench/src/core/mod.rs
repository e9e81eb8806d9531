//! The forwarding core alone: frames in memory, decided and rewritten in place, batches of 64, one core.
//!
//! Timed: making the batch of `Packet`s over 2,048 buffers, and `Port::process` with everything that it does in production
//! (header checks, IPv4 checksum, virtual IP and slot lookup, flow table, checksum completion, hop limit, encapsulation,
//! counters, ledger). Not timed: writing the frames, which happens just before on the same core, so that packets come out
//! of its cache as they would come from a card that writes into it; and packet I/O.
mod acl;
mod gateway;
mod gre;
mod measure;
mod mux;
mod pool;
mod stages;

use crate::report::Report;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) const FLOWS: [u64; 3] = [1 << 14, 1_000_000, 10_000_000];

/// Times that a flow is sent to be established: twice, and twice again for those that others pushed out of probation.
pub(crate) const OPENING_ROUNDS: usize = 6;

pub(crate) fn run(report: &mut Report) {
    pin(report);
    mux::stateless(report);
    mux::established(report);
    mux::new_flows(report);
    mux::other_packets(report);
    acl::run(report);
    gateway::run(report);
    gre::run(report);
    stages::run(report);
    report.note("core: in memory, one core, batches of 64, random flow order; frames are written before the clock starts; processor time of the thread.");
}

/// On the last processor that we may use.
fn pin(report: &mut Report) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(core) = (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core)) {
        let mut one = CpuSet::new();
        one.set(core);
        if sched_setaffinity(None, &one).is_ok() {
            report.note(format!("core: pinned to processor {core}."));
        }
    }
}

/// Numbers in no order that a prefetcher could guess (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let r = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(r) * u128::from(n)) >> 64) as u64
    }
}
