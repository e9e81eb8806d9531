//! Who keeps the gateway's tunnels, reads and writes its packets, and tells how it is?
//!
//! [`run`] is the gateway role: it follows the goal and the underlay, compiles them into the policy of
//! `penstock-gateway-proto`, and drives one worker thread that decides (engine), decrypts and encrypts (`wireguard`). It
//! knows no API: the goal comes through a channel, the status goes into one.
//!
//! The way of a packet can be read in `worker.rs`: `Worker::round` polls the underlay; the engine decides; what is for
//! a tunnel is encrypted or encapsulated (`outlet.rs`), what was decrypted goes through the engine once more; then everything leaves.
//!
//! Routers of tenants (`bgp/`) exchange routes with sites inside the tunnels; what they learn becomes policy like a goal does.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bgp;
mod capped;
mod config;
mod control;
mod data_path;
mod error;
mod metrics;
mod outlet;
mod pace;
mod ports;
mod run;
mod stats;
mod thread;
mod wireguard;
mod worker;

pub use config::{BgpConfig, GatewayConfig, PacketIoMode};
pub use data_path::DataPath;
pub use error::Error;
pub use metrics::METRICS;
pub use run::run;
