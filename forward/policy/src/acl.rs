use ipnetwork::IpNetwork;
use penstock_model::Protocol;
use serde::{Deserialize, Serialize};

/// Index of an access control list in a goal state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AclId(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclAction {
    Allow,
    Deny,
}

/// Seen from the container: `Inbound` is towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclDirection {
    Inbound,
    Outbound,
}

/// Ports `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub const ANY: PortRange = PortRange { first: 0, last: u16::MAX };

    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the rule does not look at this port: `0-65535`, or `1-65535` as the specification's prose writes it.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.first <= 1 && self.last == u16::MAX
    }
}

/// One rule. Lower `priority` values are looked at first; the first match decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclRule {
    /// The name that operators gave it: shown by `trace`.
    pub name: String,
    pub priority: u16,
    pub action: AclAction,
    pub direction: AclDirection,
    /// `None`: all protocols.
    pub protocol: Option<Protocol>,
    /// Empty: any address.
    pub src: Vec<IpNetwork>,
    pub dst: Vec<IpNetwork>,
    pub src_ports: PortRange,
    pub dst_ports: PortRange,
    pub log: bool,
}

/// An access control list: stateful, the reply of an allowed flow is allowed.
///
/// What no rule matches is denied inbound from outside the virtual network and allowed otherwise, as the vSwitch of the
/// Network Controller does. When the list is empty everything is allowed. (The specification's later
/// `inboundDefaultAction` and `outboundDefaultAction` are, where an operator sets them, a last rule for everything.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    pub name: String,
    pub rules: Vec<AclRule>,
}
