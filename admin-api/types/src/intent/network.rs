use super::reader::{Node, Reader};
use crate::{ResourcePath, Said, value};
use ipnetwork::IpNetwork;
use penstock_model::{TenantId, Vni};
use std::collections::BTreeMap;

/// A virtual network: a tenant with its address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub path: ResourcePath,
    pub tenant: TenantId,
    pub vni: Vni,
    pub prefixes: Vec<IpNetwork>,
    pub subnets: BTreeMap<ResourcePath, Subnet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub prefix: IpNetwork,
    pub acl: Option<ResourcePath>,
    pub route_table: Option<ResourcePath>,
}

pub(crate) fn read(r: &mut Reader<'_>) -> BTreeMap<ResourcePath, Network> {
    let mut out = BTreeMap::new();
    let mut vnis: BTreeMap<u32, ResourcePath> = BTreeMap::new();
    for node in r.all("virtualNetworks") {
        let allocated = node.allocated();
        let said = value::get_int(node.properties(), "encapsulationId").and_then(|n| u32::try_from(n).ok());
        let vni = said.unwrap_or_else(|| allocated.number("vni"));
        if vni != 0
            && let Some(other) = vnis.insert(vni, node.path.clone())
        {
            r.problem(
                &node,
                node.at("encapsulationId"),
                "InvalidParameterValue",
                Said::naming(format!("VNI {vni} is that of '{other}' already"), &[&other]),
            );
        }
        let prefixes = prefixes(r, &node);
        let subnets = subnets(r, &node, &prefixes);
        out.insert(
            node.path.clone(),
            Network {
                path: node.path.clone(),
                tenant: TenantId(allocated.number("tenant")),
                vni: Vni::new(vni).unwrap_or_default(),
                prefixes,
                subnets,
            },
        );
    }
    out
}

fn prefixes(r: &mut Reader<'_>, node: &Node<'_>) -> Vec<IpNetwork> {
    let space = value::get(node.properties(), "addressSpace").unwrap_or(&serde_json::Value::Null);
    let mut out: Vec<IpNetwork> = Vec::new();
    for (i, text) in value::list(space, "addressPrefixes").iter().enumerate() {
        let Some(prefix) = text.as_str().and_then(|s| s.trim().parse::<IpNetwork>().ok()) else { continue };
        if let Some(other) = out.iter().find(|o| overlap(o, &prefix)) {
            let message = format!("{prefix} overlaps {other} of the same address space");
            r.problem(node, node.at(&format!("addressSpace/addressPrefixes/{i}")), "VnetAddressSpacesOverlap", message);
        }
        out.push(masked(prefix));
    }
    if out.is_empty() && !unreadable(node) {
        r.problem(
            node,
            node.at("addressSpace/addressPrefixes"),
            "RequiredParamMissing",
            "an address space has at least one prefix".to_owned(),
        );
    }
    out
}

fn subnets(r: &mut Reader<'_>, network: &Node<'_>, space: &[IpNetwork]) -> BTreeMap<ResourcePath, Subnet> {
    let mut out: BTreeMap<ResourcePath, Subnet> = BTreeMap::new();
    for node in network.children("subnets") {
        let Some(prefix) = value::get_text(node.properties(), "addressPrefix").and_then(|s| s.parse().ok()).map(masked)
        else {
            continue;
        };
        if !space.iter().any(|s| within(&prefix, s)) && !unreadable(network) {
            let message =
                format!("'{prefix}' of subnet '{}' is not in the address space of the virtual network", node.path.id());
            r.problem(&node, node.at("addressPrefix"), "InvalidSubnet", message);
        }
        if let Some((other, s)) = out.iter().find(|(_, s)| overlap(&s.prefix, &prefix)) {
            let message = format!("'{prefix}' overlaps {} of '{}'", s.prefix, other.id());
            r.problem(&node, node.at("addressPrefix"), "InvalidSubnet", message);
        }
        if node.reference("serviceInsertion").is_some() {
            let message = "serviceInsertion is stored; it has no function in this version";
            r.warn(&node.path, "NotImplemented", message);
        }
        let (acl, route_table) = (node.reference("accessControlList"), node.reference("routeTable"));
        out.insert(node.path.clone(), Subnet { prefix, acl, route_table });
    }
    out
}

/// Whether the address space has a prefix that is wrong: what follows from it is not said as well.
fn unreadable(network: &Node<'_>) -> bool {
    let space = value::get(network.properties(), "addressSpace").unwrap_or(&serde_json::Value::Null);
    value::list(space, "addressPrefixes").iter().any(serde_json::Value::is_null)
}

pub(crate) fn masked(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

pub(crate) fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    within(a, b) || within(b, a)
}

/// Whether all of `inner` is in `outer`.
pub(crate) fn within(inner: &IpNetwork, outer: &IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() >= outer.prefix() && outer.contains(inner.network())
}
