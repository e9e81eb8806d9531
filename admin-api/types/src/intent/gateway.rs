use super::Intent;
use super::nat::{self, ConnectionNat};
use super::network::{masked, overlap};
use super::reader::{Node, Reader};
use crate::{ALLOCATED, ResourcePath, Said, value};
use ipnetwork::IpNetwork;
use penstock_model::TunnelId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A site-to-site connection of a virtual gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub id: TunnelId,
    pub path: ResourcePath,
    /// The tenant's network, that of the gateway's subnets.
    pub network: ResourcePath,
    /// The table of the gateway's subnet: what comes from the site goes by it.
    pub route_table: Option<ResourcePath>,
    /// The gateway that ends it: the active one of its pool.
    pub gateway: ResourcePath,
    /// Routes to the site, and what it may send from, as the tenant knows it.
    pub prefixes: Vec<IpNetwork>,
    pub kind: ConnectionKind,
    /// Bits a second that may come from the site, and go to it.
    pub received_cap: Option<u64>,
    pub transmitted_cap: Option<u64>,
    pub nat: ConnectionNat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionKind {
    WireGuard {
        /// Sealed, as they stand in the store.
        private_key: Value,
        preshared_key: Option<Value>,
        peer_public_key: [u8; 32],
        listen_port: u16,
        endpoint: Option<SocketAddr>,
        persistent_keepalive_seconds: Option<u16>,
    },
    Gre {
        peer: IpAddr,
        key: Option<u32>,
        checksum: bool,
    },
}

/// Gateways of which one is active: all connections of the pool are on it, and the others stand by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayPool {
    /// Those that have an address, in the order in which they take over.
    pub gateways: Vec<ResourcePath>,
    /// The one that the controller has chosen since; else the first is active.
    pub chosen: Option<ResourcePath>,
    /// Where peers were last seen whose place nobody has said, when it was chosen: sites whose gateway has another address now do not
    /// know where to look for it.
    pub seen: BTreeMap<TunnelId, SocketAddr>,
}

impl GatewayPool {
    #[must_use]
    pub fn active(&self) -> Option<&ResourcePath> {
        self.chosen.as_ref().or(self.gateways.first())
    }
}

/// How a choice is kept in the pool's document.
#[must_use]
pub fn kept_choice(gateway: &ResourcePath, seen: &BTreeMap<TunnelId, SocketAddr>) -> Value {
    let seen: BTreeMap<String, String> = seen.iter().map(|(id, at)| (id.0.to_string(), at.to_string())).collect();
    serde_json::json!({ "active": gateway.id(), "seen": seen })
}

pub(super) fn pools(r: &Reader<'_>, intent: &Intent) -> BTreeMap<ResourcePath, GatewayPool> {
    let pool = |node: Node<'_>| {
        let is_in = |g: &&super::Node| g.address.is_some() && g.pool.as_ref() == Some(&node.path);
        let gateways: Vec<ResourcePath> = intent.gateways.values().filter(is_in).map(|g| g.path.clone()).collect();
        let id = node.allocated().parsed::<String>("active");
        let chosen = gateways.iter().find(|g| Some(g.id()) == id.as_deref()).cloned();
        let seen = node.allocated().0.get("seen").and_then(Value::as_object).filter(|_| chosen.is_some());
        let entry = |(id, at): (&String, &Value)| Some((TunnelId(id.parse().ok()?), at.as_str()?.parse().ok()?));
        let seen = seen.into_iter().flatten().filter_map(entry).collect();
        (node.path, GatewayPool { gateways, chosen, seen })
    };
    r.all("GatewayPools").into_iter().map(pool).collect()
}

/// A gateway's UDP port, with the key that answers there: tunnels of one key may share a port.
type Ports = BTreeMap<(ResourcePath, u16), (String, ResourcePath)>;

pub(crate) fn read(r: &mut Reader<'_>, intent: &Intent) -> Vec<Connection> {
    let mut out: Vec<Connection> = Vec::new();
    let mut ports = Ports::new();
    for virtual_gateway in r.all("VirtualGateways") {
        let network = network(r, &virtual_gateway);
        let pool = pool(&virtual_gateway, intent);
        let gateway = pool.and_then(GatewayPool::active);
        for node in virtual_gateway.children("networkConnections") {
            let kind = match node.word("connectionType").as_str() {
                "wireguard" => wireguard(r, &node),
                "gre" => gre(r, &node),
                kind => {
                    let message =
                        format!("connection type {kind} is stored; WireGuard and GRE have a function in this version");
                    r.warn(&node.path, "NotImplemented", message);
                    warn_bad_prefixes(r, &node);
                    continue;
                }
            };
            let prefixes = prefixes(r, &node);
            let nat = nat::read(r, &node, &prefixes);
            let Some(mut kind) = kind else { continue };
            if node.word("connectionStatus") == "disabled" {
                continue;
            }
            if prefixes.is_empty() {
                // A gateway has no use for a tunnel that can carry nothing.
                r.warn(&node.path, "NoRoutes", "no routes: nothing leads to the site, and nothing may come from it");
                continue;
            }
            let Some(network) = network.clone() else {
                r.warn(
                    &node.path,
                    "SubnetIsRequired",
                    "the virtual gateway has no gatewaySubnets: no tenant to connect",
                );
                continue;
            };
            let Some(gateway) = gateway.cloned() else {
                r.warn(
                    &node.path,
                    "HostUnreachable",
                    "no gateway in the virtual gateway's GatewayPools has an underlay address",
                );
                continue;
            };
            match &kind {
                ConnectionKind::WireGuard { listen_port, .. } => {
                    check_port(r, &node, *listen_port, &gateway, &mut ports);
                }
                ConnectionKind::Gre { peer, key, .. } => check_peer(r, &node, (*peer, *key), &gateway, &out, intent),
            }
            check_overlap(r, &node, &prefixes, &network, &out, intent);
            let id = TunnelId(node.allocated().number("tunnel"));
            if let ConnectionKind::WireGuard { endpoint: endpoint @ None, .. } = &mut kind {
                *endpoint = pool.and_then(|p| p.seen.get(&id)).copied();
            }
            let received_cap = cap(&node, "inboundKiloBitsPerSecond");
            let transmitted_cap = cap(&node, "outboundKiloBitsPerSecond");
            out.push(Connection {
                id,
                path: node.path,
                route_table: route_table(&virtual_gateway, &network, intent),
                network,
                gateway,
                prefixes,
                kind,
                received_cap,
                transmitted_cap,
                nat,
            });
        }
    }
    out
}

fn network(r: &mut Reader<'_>, node: &Node<'_>) -> Option<ResourcePath> {
    let subnets = node.references("gatewaySubnets");
    let network = subnets.first()?.parent();
    for (i, subnet) in subnets.iter().enumerate() {
        if subnet.parent() != network {
            let message = "gatewaySubnets are all in one virtual network".to_owned();
            r.problem(node, node.at(&format!("gatewaySubnets/{i}/resourceRef")), "VirtualNetworkMismatch", message);
        }
    }
    network
}

fn route_table(virtual_gateway: &Node<'_>, network: &ResourcePath, intent: &Intent) -> Option<ResourcePath> {
    let subnets = &intent.networks.get(network)?.subnets;
    let tables = virtual_gateway.references("gatewaySubnets");
    tables.iter().find_map(|subnet| subnets.get(subnet)?.route_table.clone())
}

/// The first that has a gateway.
fn pool<'a>(node: &Node<'_>, intent: &'a Intent) -> Option<&'a GatewayPool> {
    let pools = node.references("GatewayPools");
    pools.iter().filter_map(|path| intent.gateway_pools.get(path)).find(|pool| !pool.gateways.is_empty())
}

fn routes<'a>(node: &Node<'a>) -> impl Iterator<Item = (usize, String)> + 'a {
    let texts = |(i, route): (usize, &Value)| Some((i, value::get_text(route, "destinationPrefix")?));
    value::list(node.properties(), "routes").iter().enumerate().filter_map(texts)
}

fn prefixes(r: &mut Reader<'_>, node: &Node<'_>) -> Vec<IpNetwork> {
    let mut out: Vec<IpNetwork> = Vec::new();
    for (i, text) in routes(node) {
        let at = node.at(&format!("routes/{i}/destinationPrefix"));
        match text.parse::<IpNetwork>().map(masked) {
            Ok(prefix) if out.contains(&prefix) => {
                r.problem(node, at, "RouteConflict", format!("{prefix} stands twice"))
            }
            Ok(prefix) => out.push(prefix),
            Err(_) => r.problem(node, at, "InvalidIPPrefix", format!("'{text}' is not an address prefix")),
        }
    }
    out
}

fn warn_bad_prefixes(r: &mut Reader<'_>, node: &Node<'_>) {
    for (i, text) in routes(node) {
        if text.parse::<IpNetwork>().is_err() {
            r.warn(&node.path, "InvalidIPPrefix", format!("routes/{i}: '{text}' is not an address prefix"));
        }
    }
}

fn wireguard(r: &mut Reader<'_>, node: &Node<'_>) -> Option<ConnectionKind> {
    let Some(said) = value::get(node.properties(), "wireGuardConfiguration") else {
        let message = "a WireGuard connection has a wireGuardConfiguration".to_owned();
        r.problem(node, node.at("wireGuardConfiguration"), "RequiredParamMissing", message);
        return None;
    };
    let allocated = node.value.get(ALLOCATED).unwrap_or(&Value::Null);
    let number = |name: &str| value::get_int(said, name).and_then(|n| u16::try_from(n).ok());
    let endpoint = match value::get_text(said, "endpoint").map(|s| s.parse::<SocketAddr>().map_err(|_| s)) {
        Some(Err(s)) => {
            let message = format!("'{s}' is not address:port, with brackets around an IPv6 address");
            r.problem(node, node.at("wireGuardConfiguration/endpoint"), "InvalidParameterValue", message);
            None
        }
        Some(Ok(endpoint)) => Some(endpoint),
        None => None,
    };
    Some(ConnectionKind::WireGuard {
        private_key: value::get(said, "privateKey").or_else(|| value::get(allocated, "privateKey"))?.clone(),
        preshared_key: value::get(said, "presharedKey").cloned(),
        peer_public_key: value::get_text(said, "peerPublicKey").and_then(|s| crate::check::key(&s))?,
        listen_port: number("listenPort").or_else(|| u16::try_from(node.allocated().number("port")).ok())?,
        endpoint,
        persistent_keepalive_seconds: number("persistentKeepalive").filter(|n| *n != 0),
    })
}

/// Bits a second; 0 says that there is no cap.
fn cap(node: &Node<'_>, property: &str) -> Option<u64> {
    let kilobits = value::get_int(node.properties(), property).and_then(|n| u64::try_from(n).ok());
    kilobits.filter(|n| *n != 0).map(|n| n.saturating_mul(1000))
}

fn gre(r: &mut Reader<'_>, node: &Node<'_>) -> Option<ConnectionKind> {
    let Some(peer) = node.address("destinationIPAddress") else {
        let message = "a GRE connection has a destinationIPAddress".to_owned();
        r.problem(node, node.at("destinationIPAddress"), "RequiredParamMissing", message);
        return None;
    };
    let said = value::get(node.properties(), "greConfiguration").unwrap_or(&Value::Null);
    let key = value::get_int(said, "greKey").and_then(|n| u32::try_from(n).ok());
    Some(ConnectionKind::Gre { peer, key, checksum: value::get_bool(said, "checksum").unwrap_or(false) })
}

/// A peer has to be in reach, and different connections to one differ by their keys, whosever they are.
fn check_peer(
    r: &mut Reader<'_>,
    node: &Node<'_>,
    (peer, key): (IpAddr, Option<u32>),
    gateway: &ResourcePath,
    others: &[Connection],
    intent: &Intent,
) {
    let own = intent.gateways.get(gateway).and_then(|g| g.address);
    if own.is_some_and(|own| own.is_ipv4() != peer.is_ipv4() || own == peer) {
        let message = format!("{peer} cannot be the peer of '{gateway}', whose address is {own:?}");
        let message = Said::naming(message, &[gateway]);
        r.problem(node, node.at("destinationIPAddress"), "InvalidParameterValue", message);
    }
    let is_same = |c: &&Connection| matches!(c.kind, ConnectionKind::Gre { peer: p, key: k, .. } if c.gateway == *gateway && (p, k) == (peer, key));
    if let Some(other) = others.iter().find(is_same) {
        let message = Said::naming(format!("'{}' has the same peer and the same key", other.path), &[&other.path]);
        r.problem(node, node.at("greConfiguration/greKey"), "InvalidParameterValue", message);
    }
}

fn check_port(r: &mut Reader<'_>, node: &Node<'_>, listen_port: u16, gateway: &ResourcePath, ports: &mut Ports) {
    let key = node.allocated().parsed::<String>("publicKey").unwrap_or_default();
    let (first_key, first) = ports.entry((gateway.clone(), listen_port)).or_insert((key.clone(), node.path.clone()));
    if *first_key != key {
        let message =
            format!("UDP port {listen_port} of '{gateway}' is that of '{first}', which has another private key");
        let message = Said::naming(message, &[gateway, first]);
        r.problem(node, node.at("wireGuardConfiguration/listenPort"), "InvalidParameterValue", message);
    }
}

fn check_overlap(
    r: &mut Reader<'_>,
    node: &Node<'_>,
    prefixes: &[IpNetwork],
    network: &ResourcePath,
    others: &[Connection],
    intent: &Intent,
) {
    let space = intent.networks.get(network).map_or(&[][..], |n| n.prefixes.as_slice());
    for (i, text) in routes(node) {
        let Ok(prefix) = text.parse::<IpNetwork>().map(masked) else { continue };
        if !prefixes.contains(&prefix) {
            continue;
        }
        let at = node.at(&format!("routes/{i}/destinationPrefix"));
        if let Some(own) = space.iter().find(|s| overlap(s, &prefix) && prefix.prefix() >= s.prefix()) {
            r.problem(
                node,
                at.clone(),
                "RouteConflict",
                format!("{prefix} is within {own} of the virtual network itself"),
            );
        }
        if let Some(other) = others.iter().find(|o| o.network == *network && o.prefixes.contains(&prefix)) {
            let message = Said::naming(format!("{prefix} leads to '{}' already", other.path), &[&other.path]);
            r.problem(node, at, "RouteConflict", message);
        }
    }
}
