//! Which decision was made for this flow, and what does it do to a packet?
//!
//! [`Transposition`] is a decision as plain data: what to rewrite, pop, push, meter, and where to send. [`FlowTable`]
//! stores it with the [`Epoch`](penstock_model::Epoch) of the policy that made it. This crate knows no policy, no header
//! layout, and reads no clock.
//!
//! Order of calls for a batch: [`FlowHasher::hash`] and [`FlowTable::prefetch`] for every packet, then
//! [`FlowTable::lookup`] for every packet, [`FlowTable::insert`] for what was missed; [`FlowTable::maintain`] once a batch.
//! Also here, as parts of what a flow may need: [`Meter`] (token bucket), [`PortPool`] (ports for NAT) and [`Mappings`] (what a
//! NAT that maps independently of destinations has given to whom).
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod hash;
mod mappings;
mod meter;
mod ports;
pub mod prefetch;
mod segment;
mod stamp;
mod table;
mod transposition;

pub use hash::FlowHasher;
pub use mappings::{End, Mappings, Scope};
pub use meter::{Meter, Rate};
pub use ports::PortPool;
pub use table::{FlowTable, Full, Hit, Quota};
pub use transposition::{Flags, Transposition};
