use super::Intent;
use super::reader::{Node as Reading, Reader};
use super::router::{self, Router};
use crate::{ResourcePath, Said, value};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A server (host), mux or gateway. Its `resourceId` is its name on the southbound link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: ResourcePath,
    pub name: String,
    /// Where tunnels of the fabric end on it: `underlayAddress`, else the first management address that is one, else that
    /// of its `virtualServer`.
    pub address: Option<IpAddr>,
    /// Gateways: the pool.
    pub pool: Option<ResourcePath>,
    /// Muxes: whom virtual IPs are announced to.
    pub router: Option<Router>,
    /// Muxes: it is taken out of service, and should be by then; seconds of Unix time.
    pub drain_until: Option<u64>,
}

pub(crate) fn read(r: &mut Reader<'_>, intent: &mut Intent) {
    intent.servers = nodes(r, "servers");
    intent.muxes = nodes(r, "loadBalancerMuxes");
    intent.gateways = nodes(r, "gateways");
}

fn nodes(r: &mut Reader<'_>, collection: &str) -> BTreeMap<ResourcePath, Node> {
    let mut out = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, ResourcePath> = BTreeMap::new();
    for node in r.all(collection) {
        let address = address(r, &node);
        match address {
            None => r.warn(
                &node.path,
                "PolicyConfigurationFailure",
                "no underlay address: give underlayAddress, or an address in connections[].managementAddresses",
            ),
            Some(address) => {
                if let Some(other) = owners.insert(address, node.path.clone()) {
                    let message = format!("{address} is the underlay address of '{other}' already");
                    let message = Said::naming(message, &[&other]);
                    r.problem(&node, node.at("underlayAddress"), "PrivateIPAddressInUse", message);
                }
            }
        }
        let pool = node.reference("pool");
        let router = router::read(r, &node);
        let name = node.path.id().to_owned();
        let drain_until = super::draining::read(r, &node);
        out.insert(node.path.clone(), Node { path: node.path, name, address, pool, router, drain_until });
    }
    out
}

fn address(r: &Reader<'_>, node: &Reading<'_>) -> Option<IpAddr> {
    node.address("underlayAddress").or_else(|| management_address(node.properties())).or_else(|| {
        let server = node.reference("virtualServer")?;
        management_address(value::properties(r.node(&server)?))
    })
}

fn management_address(properties: &serde_json::Value) -> Option<IpAddr> {
    value::list(properties, "connections")
        .iter()
        .flat_map(|c| value::list(c, "managementAddresses"))
        .find_map(|a| a.as_str()?.trim().parse().ok())
}
