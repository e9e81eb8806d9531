use crate::bfd::BfdState;
use crate::prefix::Prefix;
use crate::session::SessionState;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What a speaker tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RouterStatus {
    pub local_as: u32,
    pub id: Option<Ipv4Addr>,
    /// About to stop: peers are asked to prefer others.
    #[serde(default)]
    pub draining: bool,
    pub peers: Vec<PeerStatus>,
    /// Prefixes in the table, from peers and own.
    pub prefixes: u64,
    pub paths: u64,
    /// Own prefixes that are announced.
    pub announced: u64,
    /// Some of the table, own prefixes first.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
    /// Own prefixes that are not announced, and why: some of them.
    #[serde(default)]
    pub withheld: Vec<Withheld>,
    /// Who watches the speaker from afar.
    #[serde(default)]
    pub collectors: Vec<CollectorStatus>,
    /// Why the speaker does less than it was told.
    #[serde(default)]
    pub error: Option<String>,
}

/// A collector of the BGP monitoring protocol (RFC 7854).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    pub address: SocketAddr,
    pub connected: bool,
    /// Sent on all its connections.
    pub messages: u64,
    /// How often it took so little that it was cut off.
    pub cut_off: u64,
    /// Why it is not connected, or was not.
    #[serde(default)]
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub name: String,
    pub address: IpAddr,
    pub remote_as: u32,
    pub state: SessionState,
    /// Since the session is established.
    #[serde(default)]
    pub up_seconds: Option<u64>,
    /// The peer's identifier and the hold time, once they are known.
    #[serde(default)]
    pub id: Option<Ipv4Addr>,
    #[serde(default)]
    pub hold_seconds: Option<u64>,
    /// Paths that the peer told.
    pub received: u64,
    pub advertised: u64,
    /// How often the session was established.
    pub established: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// Messages whose routes counted as withdrawn (RFC 7606).
    pub malformed: u64,
    /// Why it is down, or was.
    #[serde(default)]
    pub last_error: Option<String>,
    #[serde(default)]
    pub bfd: Option<BfdStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdStatus {
    pub state: BfdState,
    /// The peer counts as gone after so long without a packet.
    pub detection_ms: u64,
    pub received: u64,
    pub sent: u64,
    /// How often it was up and went down.
    pub downs: u64,
    /// Why it went down last (RFC 5880, 4.1).
    #[serde(default)]
    pub diagnostic: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    pub prefix: Prefix,
    pub paths: Vec<PathStatus>,
    /// Peers that are told of it.
    pub advertised_to: Vec<String>,
    /// Those that are not, and why.
    #[serde(default)]
    pub not_advertised: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Own if there is none.
    pub peer: Option<String>,
    pub best: bool,
    #[serde(default)]
    pub why_not: Option<String>,
    pub next_hop: IpAddr,
    pub as_path: String,
    #[serde(default)]
    pub communities: Vec<String>,
    #[serde(default)]
    pub local_pref: Option<u32>,
    #[serde(default)]
    pub med: Option<u32>,
    #[serde(default)]
    pub stale: bool,
}

/// An address that is ours and is not announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    pub prefix: Prefix,
    pub reason: String,
}

/// A prefix that is reached by peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub prefix: Prefix,
    /// The names of those whose paths can be used: first the one that is.
    pub peers: Vec<Arc<str>>,
}
