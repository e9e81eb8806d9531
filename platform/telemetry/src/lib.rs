//! How does a node say what it is doing? Logs and metrics, set up once per process.
//!
//! [`init_logging`] first; then [`Metrics::install`], and [`Metrics::serve`] for Prometheus. What a metric means is
//! documented where it is recorded (`metrics.rs` of each product); this crate knows none of them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod logging;
mod serve;

pub use logging::{LogFormat, LoggingError, init_logging};
pub use serve::{Metrics, MetricsError};
