//! What an address means in a network, and what is refused.
use crate::{
    Acl, AclAction, AclDirection, AclId, AclRule, CompiledNetwork, Endpoint, NextHop, PortRange, Route, Target,
    VirtualNetwork, gateway_of,
};
use ipnetwork::IpNetwork;
use penstock_model::{Epoch, FlowKey, Mac, Overlay, Protocol, TenantId, TunnelId, Underlay, Vni};
use std::net::IpAddr;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(addr: &str, mac: u8) -> Endpoint {
    Endpoint {
        addr: Overlay(ip(addr)),
        mac: Mac([2, 0, 0, 0, 0, mac]),
        host: Underlay(ip("172.16.0.1")),
        acl: None,
        network_interface: format!("nic{mac}"),
    }
}

fn red() -> VirtualNetwork {
    VirtualNetwork {
        name: "red".into(),
        tenant: TenantId(1),
        vni: Vni::new(5001).unwrap(),
        epoch: Epoch(1),
        prefixes: vec![net("10.0.0.0/16"), net("fd00:1::/48")],
        subnets: vec![net("10.0.1.0/24"), net("10.0.2.0/24"), net("fd00:1::/64")],
        endpoints: vec![endpoint("10.0.1.4", 1), endpoint("10.0.2.4", 2), endpoint("fd00:1::4", 1)],
        routes: vec![
            Route { prefix: net("0.0.0.0/0"), next_hop: NextHop::Tunnel(TunnelId(0)) },
            Route { prefix: net("10.0.9.0/24"), next_hop: NextHop::Discard },
        ],
        tables: Vec::new(),
    }
}

/// Compiles `red` after `change` and gives the error.
fn refused(change: impl FnOnce(&mut VirtualNetwork)) -> String {
    let mut network = red();
    change(&mut network);
    CompiledNetwork::compile(&network, &[]).unwrap_err().to_string()
}

#[test]
fn an_address_is_an_endpoint_a_gateway_a_route_or_nothing() {
    let network = CompiledNetwork::compile(&red(), &[]).unwrap();
    let index = |addr| match network.lookup(ip(addr)) {
        Target::Endpoint { index, endpoint } => {
            assert_eq!(endpoint.addr.0, ip(addr));
            Some(index)
        }
        _ => None,
    };
    assert_eq!(index("10.0.2.4"), Some(1));
    assert_eq!(index("fd00:1::4"), Some(2));
    assert_eq!(network.lookup(ip("10.0.2.1")), Target::Gateway { subnet: net("10.0.2.0/24") });
    assert_eq!(network.lookup(ip("fd00:1::1")), Target::Gateway { subnet: net("fd00:1::/64") });
    let routes = network.network().routes.clone();
    assert_eq!(network.lookup(ip("192.0.2.1")), Target::Route { index: 0, route: &routes[0] });
    assert_eq!(network.lookup(ip("10.0.9.1")), Target::Route { index: 1, route: &routes[1] });
    assert_eq!(network.lookup(ip("2001:db8::1")), Target::NoRoute, "no IPv6 route");
}

#[test]
fn a_default_route_does_not_swallow_addresses_that_nobody_has() {
    let network = CompiledNetwork::compile(&red(), &[]).unwrap();
    assert_eq!(network.lookup(ip("10.0.1.77")), Target::NoRoute);
}

#[test]
fn the_first_address_of_a_subnet_is_its_gateway() {
    for (subnet, gateway) in [
        ("10.0.1.0/24", "10.0.1.1"),
        ("10.0.1.8/31", "10.0.1.9"),
        ("10.0.1.8/32", "10.0.1.8"),
        ("fd00::/64", "fd00::1"),
        ("fd00::7/128", "fd00::7"),
    ] {
        assert_eq!(gateway_of(&net(subnet)), ip(gateway));
    }
}

#[test]
fn each_mistake_names_its_field() {
    assert_eq!(
        refused(|n| n.endpoints.push(endpoint("10.0.1.4", 9))),
        "red.endpoints[3].addr: 10.0.1.4 stands here and in endpoints[0].addr"
    );
    assert_eq!(
        refused(|n| n.endpoints.push(Endpoint { network_interface: "other".into(), ..endpoint("10.0.1.5", 1) })),
        "red.endpoints[3].mac: 02:00:00:00:00:01 stands here and in endpoints[0].mac"
    );
    assert_eq!(
        refused(|n| n.endpoints.push(endpoint("10.0.3.4", 9))),
        "red.endpoints[3].addr: 10.0.3.4 is not inside any of the network's subnets"
    );
    assert_eq!(
        refused(|n| n.endpoints.push(endpoint("10.0.1.1", 9))),
        "red.endpoints[3].addr: 10.0.1.1 is reserved for the gateway of the subnet 10.0.1.0/24"
    );
    assert_eq!(
        refused(|n| n.endpoints.push(endpoint("10.0.1.255", 9))),
        "red.endpoints[3].addr: 10.0.1.255 cannot be the address of an endpoint"
    );
    assert_eq!(
        refused(|n| n.endpoints[0].acl = Some(AclId(0))),
        "red.endpoints[0].acl: index 0 points past the list of 0"
    );
    assert_eq!(
        refused(|n| n.subnets.push(net("10.0.1.128/25"))),
        "red.subnets[3]: 10.0.1.128/25 and 10.0.1.0/24 in subnets[0] overlap"
    );
    assert_eq!(
        refused(|n| n.subnets.push(net("10.1.0.0/24"))),
        "red.subnets[3]: 10.1.0.0/24 is not inside any of the network's prefixes"
    );
    assert_eq!(
        refused(|n| n.routes.push(Route { prefix: net("10.0.9.7/24"), next_hop: NextHop::Discard })),
        "red.routes[2].prefix: 10.0.9.0/24 stands here and in routes[1]"
    );
    assert_eq!(
        refused(|n| n.prefixes.push(net("10.0.0.0/8"))),
        "red.prefixes[0]: 10.0.0.0/16 and 10.0.0.0/8 in prefixes[2] overlap"
    );
}

#[test]
fn an_endpoint_is_guarded_by_the_list_that_it_names() {
    let deny = AclRule {
        name: "deny-all".into(),
        priority: 100,
        action: AclAction::Deny,
        direction: AclDirection::Inbound,
        protocol: None,
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: PortRange::ANY,
        log: false,
    };
    let acls = [Acl { name: "open".into(), rules: vec![] }, Acl { name: "shut".into(), rules: vec![deny] }];
    let mut network = red();
    network.endpoints[1].acl = Some(AclId(1));
    let compiled = CompiledNetwork::compile(&network, &acls).unwrap();
    let allows = |addr| {
        let (_, endpoint) = compiled.endpoint(ip(addr)).unwrap();
        let key = FlowKey::new(TenantId(1), ip("10.0.1.9").into(), ip(addr).into(), Protocol::TCP, 1, 80);
        compiled.acl_of(endpoint).evaluate(AclDirection::Inbound, &key).allows()
    };
    assert!(allows("10.0.1.4"));
    assert!(!allows("10.0.2.4"));
}
