//! Does any connection change its container, whatever comes and goes?
//!
//! A fabric of muxes and hosts made of the real pure crates (planner, mux, host, engine) over a network that is a function call.
//! [`World::step`] takes one seeded transition and checks what must hold after it; a failure names the seed. It knows no
//! socket, no clock and no thread. Publication is taken to reach all muxes at once.
//!
//! Two tenants have the same addresses. Every packet goes by a mux drawn anew, which is harder than any ECMP. A connection is
//! followed over three changes of its pool, as many previous owners as a packet can name.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a simulation that cannot go on says why and stops"
)]

mod fabric;
mod world;

pub use world::{Counts, World};

/// SplitMix64 (public domain, Vigna): the whole run follows from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
