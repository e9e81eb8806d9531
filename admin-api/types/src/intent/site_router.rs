//! `bgpRouters`, `bgpPeers` and `policyMaps` of virtual gateways ([MS-NCNBI] 3.1.5.17.2, 3.1.5.17.3): who exchanges routes with
//! sites, inside their connections.
use super::gateway::Connection;
use super::policy_map::{self, PolicyMap};
use super::reader::{Node, Reader};
use super::{Intent, Network};
use crate::{ResourcePath, Said, value};
use ipnetwork::IpNetwork;
use penstock_model::{TunnelId, is_host};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Routes of a peer, where its operator says nothing: more end the session for a while.
const PREFIXES: u32 = 1000;
/// Seconds until a peer that is not heard counts as gone: a tunnel says nothing when it fails.
const HOLD: u16 = 30;

/// A tenant's BGP speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRouter {
    pub path: ResourcePath,
    /// The virtual network that is told of, and that learned routes are of.
    pub network: ResourcePath,
    /// The gateway that it runs on.
    pub gateway: ResourcePath,
    pub local_as: u32,
    pub id: Option<Ipv4Addr>,
    pub cluster_id: Option<Ipv4Addr>,
    pub peers: Vec<SitePeer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePeer {
    pub path: ResourcePath,
    pub address: IpAddr,
    /// The router's address towards it, and that of the other family if there is one.
    pub own_address: IpAddr,
    pub other_address: Option<IpAddr>,
    pub remote_as: u32,
    /// The connection that it is behind.
    pub tunnel: TunnelId,
    pub hold_seconds: u16,
    pub max_prefixes: u32,
    pub is_passive: bool,
    pub is_reflector_client: bool,
    /// None: nothing is taken (RFC 8212).
    pub import: Option<PolicyMap>,
    /// None: the virtual network is told, and nothing else.
    pub export: Option<PolicyMap>,
}

impl SitePeer {
    /// The prefixes that it may tell, as far as its policy map says them.
    pub fn learnable(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        let families = [Some(self.own_address), self.other_address];
        let has = move |p: &IpNetwork| families.iter().flatten().any(|a| a.is_ipv4() == p.is_ipv4());
        self.import.iter().flat_map(PolicyMap::permitted).filter(has)
    }
}

pub(super) fn read(r: &mut Reader<'_>, intent: &Intent) -> Vec<SiteRouter> {
    let mut out = Vec::new();
    for virtual_gateway in r.all("VirtualGateways") {
        let maps = policy_map::read(r, &virtual_gateway);
        for node in virtual_gateway.children("bgpRouters") {
            if value::get_bool(node.properties(), "isEnabled") == Some(false) {
                continue;
            }
            let Some(local_as) = asn(&node) else {
                r.warn(&node.path, "RequiredParamMissing", "no extAsNumber: the router speaks for no AS");
                continue;
            };
            let own: Vec<&Connection> =
                intent.connections.iter().filter(|c| c.path.parent().as_ref() == Some(&virtual_gateway.path)).collect();
            let Some(first) = own.first() else {
                r.warn(&node.path, "HostUnreachable", "the virtual gateway has no connection that works");
                continue;
            };
            let (network, gateway) = (first.network.clone(), first.gateway.clone());
            let addresses = addresses(r, &node, intent, &network);
            let mut seen = BTreeSet::new();
            let mut peers = Vec::new();
            for peer in node.children("bgpPeers") {
                peers.extend(site_peer(r, &peer, local_as, &addresses, &own, &maps, &mut seen));
            }
            let cluster_id = ipv4(&node, "clusterId");
            out.push(SiteRouter {
                id: ipv4(&node, "routerId"),
                local_as,
                cluster_id,
                network,
                gateway,
                peers,
                path: node.path,
            });
        }
    }
    out
}

fn ipv4(node: &Node<'_>, property: &str) -> Option<Ipv4Addr> {
    match node.address(property)? {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// `extAsNumber` as two halves or one number, or `asNumber`.
fn asn(node: &Node<'_>) -> Option<u32> {
    let said = value::get_text(node.properties(), "extAsNumber");
    let ext = said.and_then(|text| match text.split_once('.') {
        Some((high, low)) => Some(u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?)),
        None => text.parse().ok(),
    });
    let plain = || value::get_int(node.properties(), "asNumber").and_then(|n| u32::try_from(n).ok());
    ext.or_else(plain).filter(|n| *n != 0)
}

/// The router's addresses: nobody else's in the network.
fn addresses(r: &mut Reader<'_>, node: &Node<'_>, intent: &Intent, network: &ResourcePath) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for (i, said) in value::list(node.properties(), "routerIP").iter().enumerate() {
        let Some(address) = value::text(said).and_then(|s| s.parse::<IpAddr>().ok()) else { continue };
        if !is_host(address) {
            let message = format!("{address} is no address of one host");
            r.problem(node, node.at(&format!("routerIP/{i}")), "InvalidIPAddress", message);
            continue;
        }
        let mut of_network = intent.interfaces.values().filter(|n| n.network == *network);
        let holder = of_network.find(|n| n.ip_configurations.iter().any(|c| c.address == address));
        if let Some(holder) = holder {
            let message = Said::naming(format!("{address} is the address of '{}'", holder.path), &[&holder.path]);
            r.problem(node, node.at(&format!("routerIP/{i}")), "InvalidIPAddress", message);
            continue;
        }
        out.push(address);
    }
    out
}

fn site_peer(
    r: &mut Reader<'_>,
    node: &Node<'_>,
    local_as: u32,
    addresses: &[IpAddr],
    connections: &[&Connection],
    maps: &[PolicyMap],
    seen: &mut BTreeSet<IpAddr>,
) -> Option<SitePeer> {
    let Some(address) = node.address("peerIpAddress") else {
        r.warn(&node.path, "RequiredParamMissing", "no peerIpAddress: there is nobody to speak to");
        return None;
    };
    if !is_host(address) {
        let message = format!("{address} is no address of one host");
        r.problem(node, node.at("peerIpAddress"), "InvalidIPAddress", message);
        return None;
    }
    let Some(remote_as) = asn(node) else {
        r.warn(&node.path, "RequiredParamMissing", "no extAsNumber and no asNumber: the peer's AS is not known");
        return None;
    };
    let of_family = addresses.iter().copied().filter(|a| a.is_ipv4() == address.is_ipv4());
    let Some(own_address) = of_family.max_by_key(|a| common_bits(*a, address)) else {
        r.warn(&node.path, "RequiredParamMissing", format!("the router has no routerIP of the family of {address}"));
        return None;
    };
    let Some(connection) = towards(connections, address) else {
        let message = format!("no connection that works has a route to {address}: give one {address} in its routes");
        r.warn(&node.path, "NoRoutes", message);
        return None;
    };
    if address == own_address || !seen.insert(address) {
        let message = format!("{address} is the router's own address, or another peer's");
        r.problem(node, node.at("peerIpAddress"), "InvalidIPAddress", message);
        return None;
    }
    let map = |property: &str| {
        let wanted = node.reference(property)?;
        maps.iter().find(|m| m.path == wanted).cloned()
    };
    let (import, export) = (map("policyMapIn"), map("policyMapOut"));
    if import.is_none() {
        r.warn(&node.path, "PolicyMapMissing", "no policyMapIn: no route is taken from the peer (RFC 8212)");
    }
    for (property, map) in [("policyMapIn", &import), ("policyMapOut", &export)] {
        if map.as_ref().is_some_and(|m| m.entries.iter().any(|e| e.set.prepend.iter().any(|asn| *asn != local_as))) {
            let message = format!("As-Path may put the router's own AS {local_as} in front, and no other");
            r.problem(node, node.at(property), "InvalidParameterValue", message);
        }
    }
    let number = |property: &str| value::get_int(node.properties(), property);
    Some(SitePeer {
        path: node.path.clone(),
        address,
        own_address,
        other_address: addresses.iter().copied().find(|a| a.is_ipv4() != address.is_ipv4()),
        remote_as,
        tunnel: connection.id,
        hold_seconds: number("holdTimeInSeconds").and_then(|n| u16::try_from(n).ok()).unwrap_or(HOLD),
        max_prefixes: number("maximumPrefixes").and_then(|n| u32::try_from(n).ok()).unwrap_or(PREFIXES),
        is_passive: value::get_bool(node.properties(), "isPassive").unwrap_or(false),
        is_reflector_client: value::get_bool(node.properties(), "isRouteReflectorClient").unwrap_or(false),
        import,
        export,
    })
}

/// The connection whose routes lead to the address: of several, by the longest prefix.
fn towards<'a>(connections: &[&'a Connection], address: IpAddr) -> Option<&'a Connection> {
    let longest = |c: &Connection| c.prefixes.iter().filter(|p| p.contains(address)).map(IpNetwork::prefix).max();
    connections.iter().filter_map(|c| Some((longest(c)?, *c))).max_by_key(|(bits, _)| *bits).map(|(_, c)| c)
}

fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    }
}

impl Network {
    /// Prefixes that sites may tell by BGP, and the gateway that they tell: hosts send there whatever has been told so far.
    pub fn learnable<'a>(&'a self, routers: &'a [SiteRouter]) -> impl Iterator<Item = (IpNetwork, &'a ResourcePath)> {
        let here =
            |p: &IpNetwork| self.prefixes.iter().any(|own| own.prefix() <= p.prefix() && own.contains(p.network()));
        let told = |r: &'a SiteRouter| r.peers.iter().flat_map(SitePeer::learnable).map(|p| (p, &r.gateway));
        routers.iter().filter(|r| r.network == self.path).flat_map(told).filter(move |(p, _)| !here(p))
    }
}
