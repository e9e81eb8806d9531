//! Which container does this packet for a virtual IP go to?
//!
//! The mux's decisions: VIP lookup, slot, affinity, encapsulation. Sans-IO: driven by `penstock-engine`.
//! [`MuxGoal`] is what the controller tells a mux; `mux/server` turns it and the state of the underlay into a [`Policy`].
//! It knows no socket, no clock, and not why the controller chose its tables.
//!
//! Order of calls: [`Policy::build`] from a goal, [`Policy::succeed`] the one in force, publish it; each worker drives a
//! [`MuxResolver`], which takes the newest policy once a batch. [`explain`] says what a policy does to a frame and why.
//!
//! Stateless first. A packet hashes to a slot and the slot has an owner: that is all, and equal on all muxes, while the slot
//! never changed hands. In a slot that did, the flow table is asked first. What it does not know goes
//!
//! | packet | while the change settles (`previous` given) | afterwards |
//! | --- | --- | --- |
//! | TCP SYN | current owner, remembered | current owner |
//! | other TCP | previous owner if it is healthy, remembered; else current | current owner |
//! | UDP | as other TCP: a datagram does not say whether it is the first, and the previous owner is as good for a new flow | current owner |
//! | ICMP error | as the packet that it quotes, not remembered | current owner |
//!
//! An entry holds while its backend is a healthy member of the pool, also over later changes of the table.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decide;
mod echo;
mod error;
mod explain;
mod goal;
mod hash;
mod key;
mod policy;
mod quote;
mod resolver;
mod slots;
mod status;
mod validate;
mod vips;

#[cfg(test)]
mod tests;

pub use error::GoalError;
pub use explain::explain;
pub use goal::{Backend, Distribution, MuxGoal, Pool, Service};
pub use key::MuxKey;
pub use policy::{MAX_BACKEND, MAX_SERVICE, MUX_MAC, NextHopInfo, Policy};
pub use resolver::{Foreign, MuxResolver};
pub use status::{MuxStatus, Traffic};
