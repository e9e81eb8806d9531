//! Which routes does a speaker take from its neighbours, which does it tell them, and is a neighbour still there?
//!
//! BGP-4 and BFD without a socket, clock or die: bytes, connections and time are arguments. It does not know what routes are
//! used for: whoever owns a [`Speaker`] says which prefixes are its own and reads the [`Rib`] for the others'.
//!
//! [`Speaker`]: `apply` a [`RouterGoal`], `announce` own prefixes, then `handle_*` what happens; after each call
//! `poll_output` until `None`, `fill` for peers whose output has room, and come back at `poll_timeout`. To end: `drain`,
//! `announce` nothing, `shut_down`.
//!
//! [`BfdSession`] stands beside it, so that it can live in a thread of its own.
//!
//! | RFC | |
//! | --- | --- |
//! | 4271, 4760, 6793, 8950 | sessions with collision, IPv4 and IPv6, four-byte AS, IPv6 next hops for IPv4 |
//! | 7606, 7607, 9774 | a wrong attribute costs its routes, not the session |
//! | 8212, 4486 | without a policy nothing is exchanged with another AS; bounded numbers of prefixes |
//! | 4724, 8538 | routes of a peer that restarts are kept |
//! | 8326, 9003, 9384, 9687 | leaving gracefully, with words; BFD's and send hold timer's endings |
//! | 2918, 4456, 7911 | refresh, reflection, several paths |
//! | 7854 | collectors watch what peers tell ([`bmp`], [`Speaker::watch`]) |
//! | 6396, 8050 | the table as an MRT file ([`Dump`]) |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod bfd;
pub mod bmp;
mod goal;
mod mrt;
mod policy;
mod prefix;
pub mod rib;
pub mod session;
mod speaker;
mod status;
#[cfg(test)]
mod tests;
pub mod wire;

pub use bfd::{BfdSession, BfdState};
pub use goal::{AddPathGoal, BfdGoal, GoalError, PeerGoal, RouterGoal, SecretText};
pub use mrt::Dump;
pub use policy::{CommunityText, Match, Outcome, Policy, PrefixRange, Rule, Set};
pub use prefix::{Family, Prefix};
pub use rib::{PeerId, Rib};
pub use session::{SessionState, Way};
pub use speaker::{CollectorId, Ends, Filled, Output, Speaker, Views};
pub use status::{BfdStatus, Chosen, CollectorStatus, PathStatus, PeerStatus, RouteStatus, RouterStatus, Withheld};
