//! Which container does this packet for a virtual IP go to?
//!
//! The mux's decisions: VIP lookup, slot, affinity, encapsulation. Sans-IO: driven by `penstock-engine`.
//! [`MuxGoal`] is what the controller tells a mux; `mux/server` turns it and the state of the underlay into a policy snapshot.
#![forbid(unsafe_code)]

mod goal;
mod status;

pub use goal::{Backend, Distribution, MuxGoal, Pool, Service};
pub use status::{MuxStatus, Traffic};
