use crate::PortRange;
use ipnetwork::IpNetwork;
use penstock_model::Protocol;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A rule by which who is *inside* has other addresses for who is *outside*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslationRule {
    pub name: String,
    pub kind: NatKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatKind {
    /// Each address of `inside` is the one of `outside` with the same host bits, in both directions.
    Static { inside: IpNetwork, outside: IpNetwork },
    /// Flows that begin inside leave by an address and port of the pool: an address and port inside has the same one towards
    /// every destination (endpoint-independent mapping, RFC 4787 REQ-1).
    Pool {
        inside: Vec<IpNetwork>,
        outside: Vec<IpNetwork>,
        ports: PortRange,
        /// Whether anybody may send to what was given out (endpoint-independent filtering, RFC 4787 section 5); else only who was
        /// sent to.
        is_open: bool,
    },
    /// Flows from outside to one port of an address go to a port inside.
    Forward { protocol: Protocol, outside: IpAddr, outside_port: u16, inside: IpAddr, inside_port: u16 },
}
