//! Which container does this packet for a virtual IP go to?
//!
//! The mux's decisions: VIP lookup, slot, affinity, encapsulation. Sans-IO: driven by `penstock-engine`.
//! [`MuxGoal`] is what the controller tells a mux; `mux/server` turns it and the state of the underlay into a [`Policy`].
//! It knows no socket, no clock, and not why the controller chose its tables.
//!
//! Order of calls: [`Policy::build`] from a goal, [`Policy::succeed`] the one in force, publish it; each worker drives a
//! [`MuxResolver`], which takes the newest policy once a batch. [`explain`] says what a policy does to a frame and why;
//! [`Policy::replay_image`] what the kernel program needs of it, to do the same to packets that need no flow table.
//!
//! Stateless first. A packet hashes to a slot and the slot has an owner: that is all, and equal on all muxes, while the slot
//! never changed hands. In a slot that did, the flow table is asked first. What it does not know goes
//!
//! | packet | while changes settle (`previous` given) | afterwards |
//! | --- | --- | --- |
//! | TCP SYN | current owner, remembered | current owner |
//! | other TCP | the newest previous owner that is healthy, with a second chance, remembered; else current | current owner |
//! | UDP | as other TCP: a datagram does not say whether it is the first | current owner |
//! | to a port that is leased for outbound NAT | the container that has it, by the goal alone | the same |
//! | ICMP error | as the packet that it is about, without a second chance, not remembered | current owner |
//! | later fragment | as its first, whose ports are noted for 5 s; without it, where ports do not choose, by addresses | the same |
//!
//! *Second chance*: the encapsulation (Geneve) names the older owners and last the current one. A host that has no flow for the
//! packet passes it to the first that is named, so that it arrives at the one who knows it, whichever mux it came by.
//!
//! A virtual IP with a limit ([`VipLimit`]) that is sent more keeps its connections: beyond the rate of new flows these leave no
//! entry, beyond twice the rate some TCP SYNs are dropped; of its packets SYNs are the first that find no room.
//!
//! An entry holds while its backends are healthy members of the pool, also over later changes of the table.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod chance;
mod decide;
mod echo;
mod error;
mod explain;
mod express;
mod goal;
mod guard;
mod hash;
mod key;
mod places;
mod policy;
mod quote;
mod replay;
mod resolver;
mod slots;
mod status;
mod validate;
mod vips;

#[cfg(test)]
mod tests;

pub use error::GoalError;
pub use explain::explain;
pub use goal::{ALL_PORTS, Backend, Distribution, MAX_PREVIOUS, MuxGoal, Pool, Service, SnatBlock, VipLimit, VipRate};
pub use guard::LimitCounts;
pub use key::MuxKey;
pub use policy::{Idle, MAX_BACKEND, MAX_SERVICE, MUX_MAC, NextHopInfo, Policy};
pub use resolver::{Foreign, MuxResolver};
pub use status::{MuxStatus, Traffic, VipLimited};
