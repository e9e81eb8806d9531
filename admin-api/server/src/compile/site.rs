//! What is the site's own, and what outbound NAT leaves alone besides.
//!
//! A container that reaches the outside by a virtual IP is there as the site: networks, routers, nodes and controllers would
//! take it for one of their own.
use penstock_admin_types::{Documents, Intent, ResourcePath, node_at, value};
use penstock_slb_host::{AddressRange, Ranges};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Kinds whose documents describe a node: every address in them is the node's, or its routers'.
const NODES: [&str; 4] = ["servers", "virtualServers", "loadBalancerMuxes", "gateways"];

/// As goals of hosts say it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Site {
    pub own: Vec<AddressRange>,
    pub exemptions: Vec<AddressRange>,
}

impl Site {
    /// `from`: the address that this controller speaks to a node from.
    pub(super) fn new(documents: &Documents, intent: &Intent, from: impl Fn(IpAddr) -> Option<IpAddr>) -> Self {
        let of = |kinds: &'static [&'static str]| {
            documents.iter().filter(move |(path, _)| kinds.contains(&path.kind_path())).map(|(_, document)| &**document)
        };
        let subnets = of(&["logicalNetworks"]).flat_map(|network| value::list(value::properties(network), "subnets"));
        let prefixes: Ranges = subnets.clone().flat_map(prefix_of).map(AddressRange::from).collect();
        // Virtual IPs are the tenants' door to the world, wherever their addresses come from.
        let balancers = || of(&["loadBalancerManager"]).map(value::properties);
        let pools = balancers().flat_map(|b| value::list(b, "vipIpPools")).filter_map(|pool| pool_of(documents, pool));
        let vips = intent.services.iter().map(|s| s.vip).chain(intent.outbound.iter().flat_map(|o| o.vips.clone()));
        let doors: Ranges = pools.chain(vips.map(AddressRange::from)).collect();

        let mut nodes = BTreeSet::new();
        of(&NODES).for_each(|node| addresses_in(node, &mut nodes));
        let controllers: Vec<IpAddr> = nodes.iter().filter_map(|node| from(*node)).collect();
        nodes.extend(controllers);
        let gateways = subnets.flat_map(|s| value::list(value::properties(s), "defaultGateways"));
        gateways.for_each(|gateway| addresses_in(gateway, &mut nodes));
        let manager = balancers().filter_map(|b| value::get(b, "loadBalancerManagerIPAddress"));
        manager.for_each(|address| addresses_in(address, &mut nodes));

        let exempt = balancers().flat_map(|b| value::list(b, "outboundNatIPExemptions"));
        let exempt = exempt.filter_map(|e| e.as_str()?.trim().parse::<ipnetwork::IpNetwork>().ok());
        let own = prefixes.without(&doors);
        Self {
            own: own.iter().chain(nodes.into_iter().map(AddressRange::from)).collect::<Ranges>().iter().collect(),
            exemptions: exempt.map(AddressRange::from).collect::<Ranges>().iter().collect(),
        }
    }
}

fn prefix_of(subnet: &Value) -> Option<ipnetwork::IpNetwork> {
    value::get_text(value::properties(subnet), "addressPrefix")?.parse().ok()
}

fn pool_of(documents: &Documents, reference: &Value) -> Option<AddressRange> {
    let path = ResourcePath::parse(value::reference(reference)?).ok()?;
    let pool = value::properties(node_at(documents.get(&path.document())?, &path)?);
    let end = |name| value::get_text(pool, name)?.parse().ok();
    Some(AddressRange { first: end("startIpAddress")?, last: end("endIpAddress")? })
}

fn addresses_in(said: &Value, out: &mut BTreeSet<IpAddr>) {
    match said {
        Value::String(text) => out.extend(text.trim().parse::<ipnetwork::IpNetwork>().map(|n| n.ip())),
        Value::Array(list) => list.iter().for_each(|v| addresses_in(v, out)),
        Value::Object(members) => members.values().for_each(|v| addresses_in(v, out)),
        _ => {}
    }
}

/// The address that this machine speaks to `node` from. The kernel says so when a socket is connected; nothing is sent.
pub(super) fn address_towards(node: IpAddr) -> Option<IpAddr> {
    const DISCARD: u16 = 9;
    let any = if node.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((node, DISCARD)).ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use serde_json::json;
    use std::sync::Arc;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn site(documents: &[(&str, Value)]) -> Site {
        let document = |(path, properties): &(&str, Value)| {
            let path = ResourcePath::parse(path).unwrap();
            let value = json!({"resourceId": path.id(), "properties": properties});
            (path, Arc::new(value))
        };
        let state = State::new(1, documents.iter().map(document).collect()).unwrap_or_else(|p| panic!("{p:?}"));
        let from = |node: IpAddr| (node == ip("10.1.11.2")).then_some(ip("10.7.0.2"));
        Site::new(&state.documents, &state.intent, from)
    }

    fn is_own(site: &Site, address: &str) -> bool {
        site.own.iter().copied().collect::<Ranges>().contains(ip(address).into())
    }

    #[test]
    fn provider_networks_routers_nodes_and_controllers_are_the_sites_own_and_virtual_ips_are_not() {
        let pool =
            json!({"resourceId": "vips", "properties": {"startIpAddress": "10.1.9.16", "endIpAddress": "10.1.9.31"}});
        let provider = json!({"networkVirtualizationEnabled": "True", "subnets": [
            {"resourceId": "v4", "properties": {"addressPrefix": "10.1.0.0/16", "vlanId": "1", "ipPools": [pool]}},
            {"resourceId": "v6", "properties": {"addressPrefix": "fd00:1::/48", "defaultGateways": ["fd00:2::1"]}}
        ]});
        let reference = "/logicalNetworks/provider/subnets/v4/ipPools/vips";
        let manager = json!({
            "loadBalancerManagerIPAddress": "10.1.9.20", "outboundNatIPExemptions": ["172.16.0.0/12", "192.0.2.7", "none"],
            "vipIpPools": [{"resourceRef": reference}]
        });
        let host = json!({"underlayAddress": "10.1.11.2", "connections": [
            {"managementAddresses": ["192.0.2.11", "2001:db8:1::11"]}]});
        let mux = json!({"underlayAddress": "10.1.1.2", "routerConfiguration": {"localASN": 1, "peerRouterConfigurations": [
            {"routerIPAddress": "198.51.100.1", "localIPAddress": "198.51.100.2", "peerASN": 2}]}});
        let site = site(&[
            ("/logicalNetworks/provider", provider),
            ("/loadBalancerManager/config", manager),
            ("/servers/host1", host),
            ("/loadBalancerMuxes/mux1", mux),
        ]);
        for (what, address) in [
            ("a router in the provider network", "10.1.11.1"),
            ("one in its IPv6 subnet", "fd00:1:0:11::1"),
            ("a gateway of a subnet", "fd00:2::1"),
            ("a node", "10.1.11.2"),
            ("its other address", "192.0.2.11"),
            ("its address of the other family", "2001:db8:1::11"),
            ("a mux's router", "198.51.100.1"),
            ("a mux's address towards it", "198.51.100.2"),
            ("the controller", "10.7.0.2"),
            ("the manager among the virtual IPs", "10.1.9.20"),
            ("next to the virtual IPs", "10.1.9.15"),
        ] {
            assert!(is_own(&site, address), "{what}: {address}");
        }
        for outside in ["10.1.9.16", "10.1.9.31", "198.51.100.3", "10.2.0.0", "2001:db8:1::12", "172.16.0.1"] {
            assert!(!is_own(&site, outside), "{outside}");
        }
        let exempt: Vec<_> = site.exemptions.iter().map(|r| (r.first, r.last)).collect();
        let expected = [("172.16.0.0", "172.31.255.255"), ("192.0.2.7", "192.0.2.7")].map(|(a, b)| (ip(a), ip(b)));
        assert_eq!(exempt, expected);
    }

    #[test]
    fn the_kernel_says_by_which_address_a_node_is_reached() {
        assert_eq!(address_towards(ip("127.0.0.1")), Some(ip("127.0.0.1")));
        assert_eq!(address_towards(ip("255.255.255.255")), None);
    }
}
