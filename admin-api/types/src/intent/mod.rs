//! Documents, validated into what compilers work from. All problems of all documents at once.
mod acl;
mod draining;
mod gateway;
mod interface;
mod load_balancer;
mod nat;
mod network;
mod node;
mod policy_map;
mod reader;
mod route_table;
mod router;
mod site_router;

pub use acl::{AccessList, Tag};
pub use gateway::{Connection, ConnectionKind, GatewayPool, kept_choice};
pub use interface::reserved;
pub use interface::{Interface, IpConfiguration};
pub use load_balancer::{ALL_PORTS, AllDown, Distribution, Outbound, Probe, ProbeKind, RateLimit, Service};
pub use nat::ConnectionNat;
pub use network::{Network, Subnet};
pub use node::Node;
pub use policy_map::{PolicyEntry, PolicyMap, PolicySet};
pub use reader::{Allocated, Misplaced, Warning, dangling};
pub use router::{Bfd, PeerRouter, Router};
pub use site_router::{SitePeer, SiteRouter};

use crate::{Documents, ReferenceIndex, ResourcePath};
use penstock_policy::UserRoute;
use reader::Reader;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What operators want, found free of contradictions.
#[derive(Debug, Default)]
pub struct Intent {
    pub networks: BTreeMap<ResourcePath, Network>,
    pub acls: BTreeMap<ResourcePath, AccessList>,
    /// Routes by their table.
    pub route_tables: BTreeMap<ResourcePath, Vec<UserRoute>>,
    pub interfaces: BTreeMap<ResourcePath, Interface>,
    /// Backend address pools; interfaces name those that they are in.
    pub pools: BTreeSet<ResourcePath>,
    /// Load balancing rules and inbound NAT rules.
    pub services: Vec<Service>,
    /// Of the virtual IPs of all frontends.
    pub rate_limits: BTreeMap<IpAddr, RateLimit>,
    pub outbound: Vec<Outbound>,
    pub servers: BTreeMap<ResourcePath, Node>,
    pub muxes: BTreeMap<ResourcePath, Node>,
    pub gateways: BTreeMap<ResourcePath, Node>,
    pub gateway_pools: BTreeMap<ResourcePath, GatewayPool>,
    pub connections: Vec<Connection>,
    pub site_routers: Vec<SiteRouter>,
    /// What was accepted but has no effect, and why: shown in `configurationState`.
    pub warnings: BTreeMap<ResourcePath, Vec<Warning>>,
}

impl Intent {
    /// # Errors
    /// Every problem, with the document in which it stands.
    pub fn build(documents: &Documents, index: &ReferenceIndex) -> Result<Self, Vec<Misplaced>> {
        let mut r = Reader::new(documents, index);
        r.dangling();
        let mut intent = Self::default();
        node::read(&mut r, &mut intent);
        intent.acls = acl::read(&mut r);
        intent.route_tables = route_table::read(&mut r);
        intent.networks = network::read(&mut r);
        intent.interfaces = interface::read(&mut r, &intent);
        route_table::warn(&mut r, &intent);
        load_balancer::read(&mut r, &mut intent);
        intent.gateway_pools = gateway::pools(&r, &intent);
        intent.connections = gateway::read(&mut r, &intent);
        intent.site_routers = site_router::read(&mut r, &intent);
        let (problems, warnings) = r.finish();
        if !problems.is_empty() {
            return Err(problems);
        }
        intent.warnings = warnings;
        Ok(intent)
    }
}
