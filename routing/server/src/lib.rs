//! How does a speaker reach its neighbours, and how soon does it notice that one is gone?
//!
//! The sockets around `penstock-routing-proto`: TCP with keys (RFC 2385) and a least TTL (RFC 5082) for BGP, UDP and threads
//! of their own for BFD, so that nothing that is computed elsewhere makes a living neighbour look dead. It decides nothing
//! about routes.
//!
//! Collectors of BMP (RFC 7854) see what peers tell, over connections that nothing else waits for.
//!
//! Whoever may connect to a socket in the file system gets the table as an MRT file (RFC 6396).
//!
//! [`run`] is all of it: goal and own prefixes come in, status goes out; told to stop it drains, withdraws and says goodbye.
//! [`run_over`] does the same over a [`Transport`] that is not the kernel's.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bfd;
mod collector;
mod connection;
mod dumps;
mod metrics;
mod router;
mod sockets;
mod transport;

pub use collector::CollectorConfig;
pub use metrics::ROWS;
pub use router::{Inputs, Outputs, ServerConfig, run, run_over};
pub use transport::{Duplex, Stream, Transport};
