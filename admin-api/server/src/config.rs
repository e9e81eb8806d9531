use penstock_admin_store::{ETCD_LIMITS, ETCD_QUOTA};
use penstock_mux_proto::VipRate;
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
    /// Several controllers: the store that they share, instead of one of its own.
    #[serde(default)]
    pub etcd: Option<EtcdTable>,
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
    /// Seconds after which the connections of a gateway that is not connected go to another one of its pool, if one is connected.
    #[serde(default = "default_gateway_hold_off")]
    pub gateway_hold_off: u32,
    /// What a virtual IP may take of each mux whose frontends say nothing about it.
    #[serde(default)]
    pub vip_limit: VipLimitTable,
}

/// `[controller.vip_limit]`; what is left out is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipLimitTable {
    #[serde(default)]
    pub packets_per_second: Option<VipRate>,
    #[serde(default)]
    pub new_flows_per_second: Option<VipRate>,
}

/// `[controller.etcd]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTable {
    /// `https://host:2379` of each member.
    pub endpoints: Vec<String>,
    /// Before all keys.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// PEM: etcd's authority, and this controller's certificate and key for it.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub cert: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// etcd's `--max-txn-ops`: what one change may write.
    #[serde(default = "default_max_operations")]
    pub max_operations: usize,
    /// Somewhat less than etcd's `--max-request-bytes`.
    #[serde(default = "default_max_request_bytes")]
    pub max_request_bytes: usize,
    /// Seconds in which a leader that is gone is noticed.
    #[serde(default = "default_leader_ttl")]
    pub leader_ttl: u32,
    /// etcd's `--quota-backend-bytes`.
    #[serde(default = "default_quota_bytes")]
    pub quota_bytes: u64,
    /// `https://host[:port]` of this controller's northbound interface, where others send what the leader alone can answer.
    pub advertise: String,
    /// The same of its `token_listen`: there others send who came with a token. Without it they are told that it cannot be answered here.
    #[serde(default)]
    pub advertise_tokens: Option<String>,
}

fn default_prefix() -> String {
    "/penstock-site".to_owned()
}

fn default_max_operations() -> usize {
    ETCD_LIMITS.operations
}

fn default_max_request_bytes() -> usize {
    ETCD_LIMITS.bytes
}

fn default_quota_bytes() -> u64 {
    ETCD_QUOTA
}

fn default_leader_ttl() -> u32 {
    4
}

/// Twice what the southbound link takes to notice that a host is silent.
pub const DEFAULT_HOST_HOLD_OFF: u32 = 10;
/// Of [`ControllerConfig::gateway_hold_off`]: until its link is restored after a restart of its process, a gateway still forwards.
pub const DEFAULT_GATEWAY_HOLD_OFF: u32 = 3;

pub const DEFAULT_REQUESTS_PER_SECOND: u32 = 1000;

fn default_requests_per_second() -> u32 {
    DEFAULT_REQUESTS_PER_SECOND
}

fn default_gateway_hold_off() -> u32 {
    DEFAULT_GATEWAY_HOLD_OFF
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
