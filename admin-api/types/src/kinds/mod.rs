//! The table of kinds ([MS-NCNBI] 3.1.5). Required is what nothing can be done without; the specification's own schemas
//! demand more in places, and its examples contradict them.
mod acl;
mod balancer;
mod gateway;
mod network;
mod node;
mod site;

use crate::kind::{Function, Kind, Property, Rule, Shape, Type};
use Type::{
    AddressPattern, Any, BackRef, BackRefs, Bool, BoolText, Int, IntText, Ip, Key, List, Mac, Object, OneOf, PortRange,
    Prefix, Ref, Text,
};

/// Version tokens of the URL, oldest first. One model serves all.
pub const VERSIONS: &[&str] = &["v1", "v2", "v3", "v3.1", "v3.2", "v4", "v4.2", "v5", "v6", "v6.1", "v7", "v7.1"];

const fn req(name: &'static str, of: Type) -> Property {
    Property { name, of, rule: Rule::Required }
}
const fn opt(name: &'static str, of: Type) -> Property {
    Property { name, of, rule: Rule::Optional }
}
const fn ro(name: &'static str, of: Type) -> Property {
    Property { name, of, rule: Rule::ReadOnly }
}
const fn secret(name: &'static str, of: Type) -> Property {
    Property { name, of, rule: Rule::WriteOnly }
}
const fn kind(
    collection: &'static str,
    function: Function,
    properties: &'static [Property],
    children: &'static [Kind],
) -> Kind {
    Kind { collection, shape: Shape::Collection, children, properties, function }
}
const fn single(
    collection: &'static str,
    id: &'static str,
    function: Function,
    properties: &'static [Property],
) -> Kind {
    Kind { collection, shape: Shape::Singleton(id), children: &[], properties, function }
}

use Function::{Compiled, Stored};

const IPS: Type = List(&Ip);
const TEXTS: Type = List(&Text);
const LNET_SUBNET: Type = Ref(&["logicalNetworks/subnets"]);
const ANY_SUBNET: Type = Ref(&["virtualNetworks/subnets", "logicalNetworks/subnets"]);
const ACL: Type = Ref(&["accessControlLists"]);
const NIC: Type = Ref(&["networkInterfaces"]);
const PUBLIC_IP: Type = Ref(&["publicIPAddresses"]);
const FRONTENDS: Type = List(&Ref(&["loadBalancers/frontendIPConfigurations"]));
const POOL: Type = Ref(&["loadBalancers/backendAddressPools"]);
/// As the examples write them, and as the tables do.
const PROTOCOL: Type = OneOf(&["Tcp", "TCP", "Udp", "UDP", "Gre", "GRE", "Esp", "ESP", "All", "ALL"]);
const ACL_PROTOCOL: Type =
    OneOf(&["Tcp", "TCP", "Udp", "UDP", "Http", "HTTP", "Icmp", "ICMP", "ICMPv4", "ICMPv6", "All", "ALL", "*"]);
const IDLE: Type = Int(4, 30);
const PORT: Type = Int(0, 65535);
/// Own extension: the provider address of a node, where tunnels of the fabric end.
const UNDERLAY: Property = opt("underlayAddress", Ip);
/// Own extension: taken out of service, and until when it keeps what it has; RFC 3339.
const DRAINING: Property = opt("draining", Object(&[req("deadline", Text)]));
const CONNECTIONS: Property =
    opt("connections", List(&Object(&[opt("managementAddresses", TEXTS), opt("credential", Ref(&["credentials"]))])));
const NODE_INTERFACES: Property =
    opt("networkInterfaces", Object(&[opt("externalNetworkInterface", NIC), opt("internalNetworkInterface", NIC)]));

pub static KINDS: &[Kind] = &[
    acl::ACCESS_CONTROL_LISTS,
    site::CREDENTIALS,
    gateway::GATEWAY_POOLS,
    gateway::GATEWAYS,
    balancer::LOAD_BALANCERS,
    balancer::LOAD_BALANCER_MANAGER,
    balancer::LOAD_BALANCER_MUXES,
    network::LOGICAL_NETWORKS,
    network::MAC_POOLS,
    node::NETWORK_INTERFACES,
    balancer::PUBLIC_IP_ADDRESSES,
    network::ROUTE_TABLES,
    node::SERVERS,
    network::SERVICE_INSERTIONS,
    network::VIRTUAL_NETWORKS,
    gateway::VIRTUAL_GATEWAYS,
    network::VIRTUAL_NETWORK_MANAGER,
    node::VIRTUAL_SERVERS,
    node::VIRTUAL_SWITCH_MANAGER,
    site::I_DNS_SERVER,
    site::AUDITING_SETTINGS,
    acl::SECURITY_TAGS,
    network::LEARNED_IP_ADDRESSES,
    site::MULTISITE,
    site::MULTISITE_PRIMARY,
    network::SUBNET_EGRESS_RESET,
    site::DIAGNOSTICS,
    site::NETWORK_CONTROLLER_BACKUP,
    site::NETWORK_CONTROLLER_RESTORE,
];
