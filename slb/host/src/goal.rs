use crate::AddressRange;
use ipnetwork::IpNetwork;
use penstock_model::{Mac, Overlay, Protocol, Revision, ServiceId, TenantId, Underlay, Vni};
use penstock_policy::{Acl, AclId, VirtualNetwork};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Everything that a host should be doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct HostGoal {
    pub revision: Revision,
    /// Underlay addresses that may send overlay packets to this host: muxes, gateways, hosts.
    pub vteps: Vec<Underlay<IpAddr>>,
    pub networks: Vec<VirtualNetwork>,
    pub acls: Vec<Acl>,
    pub ports: Vec<Port>,
    pub nat_rules: Vec<NatRule>,
    #[serde(default)]
    pub snat: Vec<SnatLease>,
    /// What is the site's own: its networks, its routers, every address of its nodes and controllers. No client of a service and no
    /// destination of outbound NAT.
    #[serde(default)]
    pub site: Vec<AddressRange>,
    /// What is reached without translation or not at all: outbound NAT never goes there.
    #[serde(default)]
    pub nat_exemptions: Vec<AddressRange>,
    pub probes: Vec<Probe>,
}

/// A container port of this host. The local configuration says which device it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `resourceId` of the network interface.
    pub network_interface: String,
    pub tenant: TenantId,
    pub vni: Vni,
    pub mac: Mac,
    /// Addresses with the prefix of their subnet.
    pub addresses: Vec<IpNetwork>,
    pub acl: Option<AclId>,
    /// An appliance: it may send from addresses that are not its own, and gets what is not for it.
    #[serde(default)]
    pub forwards: bool,
}

/// VIP:port to DIP:port for one port of this host (Ananta section 3.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRule {
    pub service: ServiceId,
    pub network_interface: String,
    pub vip: IpAddr,
    pub protocol: Protocol,
    /// [`ALL_PORTS`]: each that no other rule of the virtual IP is for.
    pub vip_port: u16,
    pub dip: Overlay<IpAddr>,
    /// With [`ALL_PORTS`] the port that the packet is for.
    pub dip_port: u16,
    /// Floating IP: the container has the virtual IP itself, and packets come to it as the client sent them.
    #[serde(default)]
    pub floating: bool,
    /// How long an established TCP connection may be silent; `None`: 30 minutes.
    #[serde(default)]
    pub idle_seconds: Option<u16>,
}

/// The port of a rule that is for all ports.
pub const ALL_PORTS: u16 = 0;

/// Ports of a virtual IP by which a container reaches the outside: `first..first + count`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatLease {
    pub network_interface: String,
    pub dip: Overlay<IpAddr>,
    pub vip: IpAddr,
    pub first: u16,
    pub count: u16,
    /// `None`: TCP, UDP and ICMP echo.
    pub protocol: Option<Protocol>,
}

/// A health probe of one container, run beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `loadBalancers/<lb>/probes/<probe>`.
    pub name: String,
    pub network_interface: String,
    pub dip: Overlay<IpAddr>,
    pub port: u16,
    pub kind: ProbeKind,
    /// Seconds between the starts of two probes; also the time within which an answer counts. At least 1.
    pub interval_seconds: u16,
    /// Failures in a row that take the backend out. At least 1.
    pub count: u16,
    /// Successes in a row that bring it back; 0 is 1.
    #[serde(default)]
    pub rise: u16,
    /// A backend that was taken out stays out for at least so long.
    #[serde(default)]
    pub hold_down_seconds: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// The connection is accepted.
    Tcp,
    /// `GET path` answers 200.
    Http { path: String },
    /// The same over TLS, whoever has signed the certificate.
    Https { path: String },
}
