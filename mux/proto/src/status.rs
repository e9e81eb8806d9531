use crate::LimitCounts;
use penstock_model::{BackendId, Fallback, LedgerReport, Revision, ServiceId};
use penstock_routing_proto::RouterStatus;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a mux tells the controller of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct MuxStatus {
    /// The revision of the goal that the data plane forwards by.
    pub applied: Revision,
    /// How packets are read, per interface: `af_xdp zero-copy`, `af_xdp copy`, `af_packet`.
    pub packet_io: Vec<String>,
    #[serde(default)]
    pub fallbacks: Vec<Fallback>,
    pub ledger: LedgerReport,
    /// Packets that the kernel's program forwarded by itself; the ledger counts them too.
    #[serde(default)]
    pub replayed: u64,
    /// Entries in the flow tables of all workers.
    pub flows: u64,
    pub services: Vec<Traffic<ServiceId>>,
    pub backends: Vec<Traffic<BackendId>>,
    /// Of virtual IPs whose limit has done anything.
    #[serde(default)]
    pub limited: Vec<VipLimited>,
    /// Why the newest goal was refused; `applied` is then an older one.
    #[serde(default)]
    pub goal_error: Option<String>,
    /// Of the routers that virtual IPs are announced to.
    #[serde(default)]
    pub router: Option<Box<RouterStatus>>,
}

/// What the limit of a virtual IP has done since start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipLimited {
    pub vip: IpAddr,
    pub counts: LimitCounts,
}

/// Packets and bytes since start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic<Id> {
    pub id: Id,
    pub packets: u64,
    pub bytes: u64,
}
