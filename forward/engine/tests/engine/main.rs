//! The engine with a small product of its own: what becomes of packets, asserted by the whole ledger.
mod apply;
mod flows;
mod fuzz;
mod super_frames;
mod toy;
