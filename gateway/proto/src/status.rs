use penstock_model::{LedgerReport, Revision, TunnelId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a gateway tells the controller of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GatewayStatus {
    pub applied: Revision,
    pub packet_io: Vec<String>,
    pub ledger: LedgerReport,
    pub flows: u64,
    pub tunnels: Vec<TunnelStatus>,
    /// Why the newest goal was refused; `applied` is then an older one.
    #[serde(default)]
    pub goal_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelState {
    Connecting,
    Connected,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    pub id: TunnelId,
    pub name: String,
    pub state: TunnelState,
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake.
    pub handshake_age_seconds: Option<u64>,
    pub received_bytes: u64,
    pub transmitted_bytes: u64,
}
