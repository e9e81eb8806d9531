//! How does a host carry its containers' packets, and are the containers well?
//!
//! The host agent: one packet worker that owns the underlay port and the containers' ports (AF_PACKET with virtio-net header,
//! so that large frames and partial checksums pass as they are), and the health probes, which run beside the containers in a
//! TCP/IP stack of their own. What a packet means is decided by `penstock-slb-host`; this crate makes it happen.
//!
//! Main entry: [`run`] with a [`HostConfig`]. Devices of containers may come and go at any time.
//!
//! | file | is |
//! | --- | --- |
//! | `agent` | goal states and the kernel's tables in, policies and ports out |
//! | `worker` | the packet loop |
//! | `probes`, `probe_stack` | health probes and their TCP/IP stack |
//! | `replay` | flows that the kernel replays |
//! | `device` | what is changed on interfaces that Penstock owns |
//! | `report` | the status for the controller |
//! | `metrics` | what Prometheus is served, and the table of it: [`METRICS`] |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod agent;
mod config;
mod device;
mod error;
mod fib;
mod metrics;
mod probe_stack;
mod probe_tls;
mod probes;
mod replay;
mod report;
mod worker;

pub use config::{HostConfig, PortConfig};
pub use error::Error;
pub use metrics::METRICS;

use penstock_netlink::Watcher;
use penstock_slb_host::{HostGoal, HostStatus};
use std::sync::Arc;
use tokio::sync::watch;

/// Runs a host agent in the network namespace of the calling thread until `shutdown` becomes true.
///
/// # Errors
/// It cannot start (the error names the setting), or its packet worker has failed.
pub async fn run(
    config: HostConfig,
    goal: watch::Receiver<Option<Arc<HostGoal>>>,
    status: watch::Sender<HostStatus>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    config.validate().map_err(Error::Config)?;
    METRICS.describe();
    let watcher = Watcher::start().await?;
    let (mut agent, ears) = agent::Agent::start(config, watcher)?;
    agent.run(ears, goal, &status, shutdown).await
}
