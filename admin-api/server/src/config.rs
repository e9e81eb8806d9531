use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[controller]` of a node's TOML.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerConfig {
    /// Northbound: HTTPS with client certificates of the role `operator`.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Northbound for programs that have a token and no certificate; none: tokens are of no use.
    #[serde(default)]
    pub token_listen: Option<SocketAddr>,
    /// Requests of one operator in a second; of one tenant's token a tenth.
    #[serde(default = "default_requests_per_second")]
    pub requests_per_second: u32,
    /// Southbound: QUIC, for nodes.
    #[serde(default = "default_southbound_listen")]
    pub southbound_listen: SocketAddr,
    /// Holds the store (`store.db`) and the key of its secrets (`secrets.key`).
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// PEM: the deployment's authority, this controller's certificate (role `controller`) and key.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Seconds after which a host that is not connected has its probed backends counted as failed, if another host is connected.
    #[serde(default = "default_host_hold_off")]
    pub host_hold_off: u32,
}

/// Twice what the southbound link takes to notice that a host is silent.
pub const DEFAULT_HOST_HOLD_OFF: u32 = 10;

pub const DEFAULT_REQUESTS_PER_SECOND: u32 = 1000;

fn default_requests_per_second() -> u32 {
    DEFAULT_REQUESTS_PER_SECOND
}

fn default_host_hold_off() -> u32 {
    DEFAULT_HOST_HOLD_OFF
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 8443))
}

fn default_southbound_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 8444))
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/penstock")
}
