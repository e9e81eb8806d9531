use penstock_model::{Fallback, LedgerReport, Revision, TunnelId};
use penstock_routing_proto::RouterStatus;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What a gateway tells the controller of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GatewayStatus {
    pub applied: Revision,
    pub packet_io: Vec<String>,
    #[serde(default)]
    pub fallbacks: Vec<Fallback>,
    pub ledger: LedgerReport,
    pub flows: u64,
    pub tunnels: Vec<TunnelStatus>,
    #[serde(default)]
    pub routers: Vec<TenantRouterStatus>,
    /// Why the newest goal was refused; `applied` is then an older one.
    #[serde(default)]
    pub goal_error: Option<String>,
}

/// What a tenant's router tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRouterStatus {
    pub name: String,
    pub status: RouterStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelState {
    Connecting,
    Connected,
    Failed,
}

/// With a port where the protocol has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeerAddress {
    Socket(SocketAddr),
    Address(IpAddr),
}

impl PeerAddress {
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Socket(socket) => socket.ip(),
            Self::Address(ip) => *ip,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    pub id: TunnelId,
    pub name: String,
    pub state: TunnelState,
    /// Where the peer is, as far as is known.
    pub endpoint: Option<PeerAddress>,
    /// Seconds since the last handshake.
    pub handshake_age_seconds: Option<u64>,
    pub received_bytes: u64,
    pub transmitted_bytes: u64,
}
