use penstock_model::{Fallback, LedgerReport, Overlay, Revision};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a host agent tells the controller of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct HostStatus {
    pub applied: Revision,
    pub packet_io: Vec<String>,
    #[serde(default)]
    pub fallbacks: Vec<Fallback>,
    pub ledger: LedgerReport,
    pub flows: u64,
    pub ports: Vec<PortStatus>,
    pub probes: Vec<ProbeStatus>,
    #[serde(default)]
    pub snat: Vec<SnatUse>,
}

/// How an address that has leased ports gets on with them, since the host's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatUse {
    pub network_interface: String,
    pub dip: Overlay<IpAddr>,
    pub ports: u32,
    /// Flows that asked for a port.
    pub claims: u64,
    /// Of these, those that found one only after several that were taken: more than half of the ports are in use.
    pub strained: u64,
    /// Of these, those that found none and were dropped.
    pub exhausted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortStatus {
    pub network_interface: String,
    /// The local device, if it is there.
    pub device: Option<String>,
    pub from_container_packets: u64,
    pub from_container_bytes: u64,
    pub to_container_packets: u64,
    pub to_container_bytes: u64,
    /// Established flows, each direction counted.
    #[serde(default)]
    pub flows: u64,
}

/// The outcome of one probe of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    pub name: String,
    pub network_interface: String,
    pub dip: Overlay<IpAddr>,
    pub healthy: bool,
    /// What the last probe saw: `200 OK`, `connection refused`, `no answer within 1 s`.
    pub detail: String,
    /// How often `healthy` has changed.
    pub changes: u64,
}
