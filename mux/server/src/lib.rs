//! How does a mux get its packets, and who tells it what to do?
//!
//! The effects around `penstock-mux-proto`: opens the interfaces (AF_XDP behind the steering program, or AF_PACKET), runs one
//! worker thread a queue, joins goal states with the kernel's routes and neighbours into policies, reports. It decides
//! nothing about packets and keeps nothing on disk: killed and started again, it forwards as soon as it has a goal.
//!
//! [`run`] is all of it; [`MuxConfig`] the `[mux]` table of the configuration; [`METRICS`] what it exports.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod announcer;
mod config;
mod control;
mod error;
#[cfg(test)]
mod fixture;
mod metrics;
mod ports;
mod program;
mod run;
mod segments;
mod stats;
mod steering;
mod threads;
mod worker;

pub use config::{BgpConfig, MuxConfig, PacketIoMode};
pub use error::Error;
pub use metrics::METRICS;
pub use run::run;
