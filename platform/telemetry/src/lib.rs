//! How does a node say what it is doing? Logs and metrics, set up once per process.
//!
//! [`init_logging`] first; then [`Metrics::install`], and [`Metrics::serve`] for Prometheus. Every role records through its
//! [`RoleMetrics`]: what all roles have is named and recorded here, once; what only one has is documented in its crate.
//! [`rendered`] and [`differences`] hold such a table against what is exported. This crate knows no role.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod logging;
mod node;
mod serve;
mod table;

pub use logging::{LogFormat, LoggingError, init_logging};
pub use node::{InterfaceFacts, NodeFacts, RoleMetrics};
pub use serve::{Metrics, MetricsError};
pub use table::{Metric, Row, differences, rendered};
