//! Which decision was made for this flow, and what does it do to a packet?
//!
//! [`Transposition`] is a decision as plain data: what to rewrite, pop, push, meter, and where to send. The flow table
//! stores it with the [`Epoch`](penstock_model::Epoch) of the policy that made it. This crate knows no policy.
mod transposition;

pub use transposition::{Flags, Transposition};
