//! What happens to a batch of packets? Decide once, replay after.
//!
//! [`Port::process`] runs stages over the whole batch: parse, classify and prefetch, look up, resolve misses, apply. What a
//! packet means is the product's business: it implements [`Resolver`]. The engine knows no product, reads no clock,
//! takes no lock and allocates nothing in the loop.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apply;
mod encap;
mod explain;
mod fragments;
mod port;
mod resolver;
mod stats;
mod super_frame;
mod tcp;
mod trace;

pub use apply::apply;
pub use encap::EncapTemplate;
pub use explain::{Ending, Explanation, Step, Why};
pub use fragments::{FragmentCounts, Fragments};
pub use port::Port;
pub use resolver::{Account, Class, Expressed, Prior, Resolution, Resolver};
pub use stats::Counter;
pub use tcp::TcpIdle;
