//! The engine with a small product of its own: what becomes of packets, asserted by the whole ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod apply;
mod flows;
mod fuzz;
mod super_frames;
mod tcp;
mod toy;
