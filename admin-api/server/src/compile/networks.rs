//! Virtual networks with their endpoints and access lists, as hosts and gateways need them.
use super::tags;
use ipnetwork::IpNetwork;
use penstock_admin_types::intent::{Connection, Network, Tag};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::{Epoch, Mac, Overlay, Underlay};
use penstock_policy::{Acl, AclId, Endpoint, NextHop, Route, RouteTable, VirtualNetwork};
use penstock_slb_host::{PROBE_V4, PROBE_V6};
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The Ethernet address of the fabric's routers: inner destination of what goes to a gateway.
pub(super) const ROUTER_MAC: Mac = Mac([0x02, 0x50, 0x53, 0x54, 0x00, 0x01]);

/// What all nodes share of the networks.
pub(super) struct Networks<'a> {
    intent: &'a Intent,
    /// Endpoints by network, without access lists, whose numbers are each goal's own.
    endpoints: BTreeMap<&'a ResourcePath, Vec<(Endpoint, Option<&'a ResourcePath>)>>,
    connections: BTreeMap<&'a ResourcePath, Vec<&'a Connection>>,
}

/// Access lists of one goal, numbered in the order of their use. One that has tags stands there once for each network.
#[derive(Default)]
pub(super) struct Lists<'a> {
    ids: BTreeMap<(&'a ResourcePath, Option<&'a ResourcePath>), AclId>,
    pub acls: Vec<Acl>,
}

impl<'a> Networks<'a> {
    pub(super) fn new(intent: &'a Intent) -> Self {
        let mut endpoints: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for interface in intent.interfaces.values() {
            let server = interface.server.as_ref().and_then(|s| intent.servers.get(s));
            let Some(host) = server.and_then(|s| s.address) else { continue };
            for c in &interface.ip_configurations {
                let endpoint = Endpoint {
                    addr: Overlay(c.address),
                    mac: interface.mac,
                    host: Underlay(host),
                    acl: None,
                    network_interface: interface.path.id().to_owned(),
                };
                endpoints.entry(&interface.network).or_default().push((endpoint, interface.acl.as_ref()));
            }
        }
        let mut connections: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for c in &intent.connections {
            connections.entry(&c.network).or_default().push(c);
        }
        Self { intent, endpoints, connections }
    }

    /// One network as the node sees it: at a gateway that ends a connection, its prefixes lead into the tunnel; everywhere
    /// else to that gateway.
    pub(super) fn network(
        &self,
        network: &'a Network,
        at_gateway: Option<&ResourcePath>,
        lists: &mut Lists<'a>,
    ) -> VirtualNetwork {
        let endpoints = self.endpoints.get(&network.path).map_or(&[][..], Vec::as_slice);
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .map(|(e, acl)| Endpoint { acl: acl.and_then(|a| lists.id(self, a, &network.path)), ..e.clone() })
            .collect();
        let mut out = VirtualNetwork {
            name: network.path.id().to_owned(),
            tenant: network.tenant,
            vni: network.vni,
            epoch: Epoch(0),
            prefixes: network.prefixes.clone(),
            subnets: network.subnets.values().map(|s| s.prefix).collect(),
            endpoints,
            routes: self.routes(network, at_gateway),
            tables: self.tables(network),
        };
        out.epoch = epoch(&out, lists);
        out
    }

    /// The addresses that a tag stands for in a network.
    fn meaning(&self, tag: &Tag, network: &ResourcePath) -> Vec<IpNetwork> {
        let Some(of) = self.intent.networks.get(network) else { return Vec::new() };
        match tag {
            Tag::VirtualNetwork => self.connected(of),
            Tag::Internet => tags::all_but(&self.connected(of)),
            Tag::LoadBalancer => [IpAddr::V4(PROBE_V4), IpAddr::V6(PROBE_V6)].map(IpNetwork::from).into(),
            Tag::Named(tag) => {
                let of_network = self.intent.interfaces.values().filter(|i| &i.network == network);
                let addresses = of_network.flat_map(|i| &i.ip_configurations).filter(|c| c.tags.contains(tag));
                addresses.map(|c| IpNetwork::from(c.address)).collect()
            }
        }
    }

    /// The address space of a network, and that of its sites, with what they may tell by BGP; a site that leads to everywhere is
    /// no part of it.
    fn connected(&self, network: &Network) -> Vec<IpNetwork> {
        let connections = self.connections.get(&network.path).into_iter().flatten();
        let told = network.learnable(&self.intent.site_routers).map(|(prefix, _)| prefix);
        let of_sites = connections.flat_map(|c| &c.prefixes).copied().chain(told).filter(|prefix| prefix.prefix() > 0);
        let all: BTreeSet<IpNetwork> = network.prefixes.iter().copied().chain(of_sites).collect();
        all.into_iter().collect()
    }

    fn tables(&self, network: &Network) -> Vec<RouteTable> {
        let connections = self.connections.get(&network.path).map_or(&[][..], Vec::as_slice);
        let mut by_table: BTreeMap<&ResourcePath, Vec<IpNetwork>> = BTreeMap::new();
        for subnet in network.subnets.values() {
            if let Some(table) = &subnet.route_table {
                by_table.entry(table).or_default().push(subnet.prefix);
            }
        }
        let table = |(path, subnets): (&ResourcePath, Vec<IpNetwork>)| {
            let from_sites = connections.iter().any(|c| c.route_table.as_ref() == Some(path));
            let routes = self.intent.route_tables.get(path)?.clone();
            Some(RouteTable { name: path.id().to_owned(), subnets, from_sites, routes })
        };
        by_table.into_iter().filter_map(table).collect()
    }

    fn routes(&self, network: &Network, at_gateway: Option<&ResourcePath>) -> Vec<Route> {
        let mut out = Vec::new();
        for c in self.connections.get(&network.path).into_iter().flatten() {
            let next_hop = if at_gateway == Some(&c.gateway) {
                NextHop::Tunnel(c.id)
            } else {
                let Some(next_hop) = self.gateway(&c.gateway) else { continue };
                next_hop
            };
            out.extend(c.prefixes.iter().map(|prefix| Route { prefix: *prefix, next_hop }));
        }
        // Gateways learn by themselves which of them there are, and send nothing to each other.
        if at_gateway.is_some() {
            return out;
        }
        let mut known: BTreeSet<IpNetwork> = out.iter().map(|r| r.prefix).collect();
        for (prefix, gateway) in network.learnable(&self.intent.site_routers) {
            if let Some(next_hop) = self.gateway(gateway)
                && known.insert(prefix)
            {
                out.push(Route { prefix, next_hop });
            }
        }
        out
    }

    fn gateway(&self, path: &ResourcePath) -> Option<NextHop> {
        let address = self.intent.gateways.get(path)?.address?;
        Some(NextHop::Vtep { addr: Underlay(address), mac: ROUTER_MAC })
    }
}

impl<'a> Lists<'a> {
    /// The list `path` as an interface in `network` has it.
    pub(super) fn id(
        &mut self,
        networks: &Networks<'a>,
        path: &'a ResourcePath,
        network: &'a ResourcePath,
    ) -> Option<AclId> {
        let list = networks.intent.acls.get(path)?;
        let key = (path, (!list.is_plain()).then_some(network));
        if let Some(id) = self.ids.get(&key) {
            return Some(*id);
        }
        let id = AclId(u32::try_from(self.acls.len()).ok()?);
        self.acls.push(list.resolve(|tag| networks.meaning(tag, network)));
        self.ids.insert(key, id);
        Some(id)
    }
}

/// The generation of a network's policy, from its content and that of its access lists: it changes when and only when they do
/// (but for one chance in four billion), and a controller that starts again gives the same.
fn epoch(network: &VirtualNetwork, lists: &Lists<'_>) -> Epoch {
    // By name and content: the numbers of lists are the goal's, and another tenant may shift them.
    let mut used: BTreeMap<&str, &Acl> = BTreeMap::new();
    let mut guarded: Vec<(&str, &str)> = Vec::new();
    let mut plain = network.clone();
    for (e, plain) in network.endpoints.iter().zip(&mut plain.endpoints) {
        if let Some(acl) = plain.acl.take().and_then(|id| lists.acls.get(id.0 as usize)) {
            used.insert(&acl.name, acl);
            guarded.push((&e.network_interface, &acl.name));
        }
    }
    let bytes = serde_json::to_vec(&(&plain, guarded, used)).unwrap_or_default();
    let hash = digest(&SHA256, &bytes);
    let mut first = [0; 4];
    first.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    Epoch(u32::from_be_bytes(first))
}
