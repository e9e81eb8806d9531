use crate::{AclId, RouteTable};
use ipnetwork::IpNetwork;
use penstock_model::{Epoch, Mac, Overlay, TenantId, TunnelId, Underlay, Vni};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A container's (or VM's) address in a virtual network and the host that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub addr: Overlay<IpAddr>,
    pub mac: Mac,
    pub host: Underlay<IpAddr>,
    pub acl: Option<AclId>,
    /// `resourceId` of the network interface: shown by `trace`.
    pub network_interface: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHop {
    /// Another tunnel endpoint of the fabric (a gateway), by VXLAN. `mac` goes into the inner Ethernet header.
    Vtep {
        addr: Underlay<IpAddr>,
        mac: Mac,
    },
    /// A tunnel of this gateway.
    Tunnel(TunnelId),
    Discard,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: IpNetwork,
    pub next_hop: NextHop,
}

/// One virtual network, as host and gateway need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualNetwork {
    /// `resourceId` of the virtual network.
    pub name: String,
    pub tenant: TenantId,
    pub vni: Vni,
    /// Changes whenever anything of this tenant changes: flows of older epochs are resolved again.
    pub epoch: Epoch,
    pub prefixes: Vec<IpNetwork>,
    /// Subnet prefixes; the first address of each is its gateway, answered by the host.
    pub subnets: Vec<IpNetwork>,
    pub endpoints: Vec<Endpoint>,
    pub routes: Vec<Route>,
    /// What operators set beside these.
    #[serde(default)]
    pub tables: Vec<RouteTable>,
}
