use super::Intent;
use super::network::masked;
use super::reader::{Node, Reader};
use crate::{ResourcePath, value};
use ipnetwork::IpNetwork;
use penstock_model::Overlay;
use penstock_policy::{UserHop, UserRoute};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(crate) fn read(r: &mut Reader<'_>) -> BTreeMap<ResourcePath, Vec<UserRoute>> {
    let tables = r.all("routeTables");
    tables.into_iter().map(|node| (node.path.clone(), routes(r, &node))).collect()
}

fn routes(r: &mut Reader<'_>, table: &Node<'_>) -> Vec<UserRoute> {
    let mut out: BTreeMap<IpNetwork, UserRoute> = BTreeMap::new();
    for node in table.children("routes") {
        let Some(route) = route(r, &node) else { continue };
        match out.get_mut(&route.prefix) {
            None => {
                out.insert(route.prefix, route);
            }
            // Several appliances for one prefix share its traffic.
            Some(UserRoute { next_hop: UserHop::Appliances(all), .. })
                if let UserHop::Appliances(more) = &route.next_hop =>
            {
                all.extend(more.iter().filter(|a| !all.contains(a)).copied().collect::<Vec<_>>());
            }
            Some(other) => {
                let message = format!("{} is the prefix of route '{}' already", route.prefix, other.name);
                r.problem(&node, node.at("addressPrefix"), "DuplicateRoute", message);
            }
        }
    }
    out.into_values().collect()
}

fn route(r: &mut Reader<'_>, node: &Node<'_>) -> Option<UserRoute> {
    let prefix = masked(value::get_text(node.properties(), "addressPrefix")?.parse().ok()?);
    let address = node.address("nextHopIpAddress");
    let kind = node.word("nextHopType");
    if address.is_some() && kind != "virtualappliance" {
        let message = "only a VirtualAppliance is reached by a nextHopIpAddress".to_owned();
        r.problem(node, node.at("nextHopIpAddress"), "InvalidNextHop", message);
    }
    let next_hop = match kind.as_str() {
        "virtualappliance" => UserHop::Appliances(vec![Overlay(appliance(r, node, prefix, address)?)]),
        "vnetlocal" => UserHop::Network,
        "virtualnetworkgateway" => UserHop::Gateway,
        "internet" => UserHop::Internet,
        _ => UserHop::Discard,
    };
    Some(UserRoute { name: node.path.id().to_owned(), prefix, next_hop })
}

fn appliance(r: &mut Reader<'_>, node: &Node<'_>, prefix: IpNetwork, address: Option<IpAddr>) -> Option<IpAddr> {
    let problem = match address {
        None => "a VirtualAppliance needs a nextHopIpAddress".to_owned(),
        Some(address) if address.is_ipv4() != prefix.is_ipv4() => {
            format!("{address} and {prefix} are of two families")
        }
        Some(address) => return Some(address),
    };
    r.problem(node, node.at("nextHopIpAddress"), "InvalidNextHop", problem);
    None
}

/// What leads nowhere as things stand: an appliance that is not there, or that does not forward.
pub(crate) fn warn(r: &mut Reader<'_>, intent: &Intent) {
    for (path, network) in &intent.networks {
        for (subnet, of_subnet) in &network.subnets {
            let table = of_subnet.route_table.as_ref().and_then(|table| intent.route_tables.get(table));
            let hops = table.into_iter().flatten().filter_map(|route| match &route.next_hop {
                UserHop::Appliances(all) => Some((route, all)),
                _ => None,
            });
            for (route, address) in hops.flat_map(|(route, all)| all.iter().map(move |address| (route, address.0))) {
                let interface = intent
                    .interfaces
                    .values()
                    .find(|i| &i.network == path && i.ip_configurations.iter().any(|c| c.address == address));
                let problem = match interface {
                    Some(interface) if interface.forwards => continue,
                    Some(interface) => format!("'{}' has no ipForwarding", interface.path.id()),
                    None => format!("no interface of the network has {address}"),
                };
                r.warn(subnet, "NextHopUnreachable", format!("route '{}' leads nowhere: {problem}", route.name));
            }
        }
    }
}
