//! One sentence for each kind, and for the members whose name does not say it: for `explain` and the API's document.

/// What a kind (`loadBalancers/probes`) or a member of it (`loadBalancers/probes.port`) is for.
#[must_use]
pub fn about(name: &str) -> Option<&'static str> {
    ABOUT.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

const ABOUT: &[(&str, &str)] = &[
    ("accessControlLists", "Which traffic an interface may send and receive. Stateful: answers pass."),
    ("accessControlLists.inboundDefaultAction", "What becomes of inbound traffic that no rule matches."),
    ("accessControlLists.outboundDefaultAction", "What becomes of outbound traffic that no rule matches."),
    ("accessControlLists/aclRules", "A rule. Of those that match, the one with the lowest priority decides."),
    ("accessControlLists/aclRules.priority", "Lower numbers are looked at first."),
    ("accessControlLists/aclRules.type", "Whether the interface receives (Inbound) or sends (Outbound)."),
    (
        "accessControlLists/aclRules.sourceAddressPrefix",
        "Who sends. VirtualNetwork: the network and its sites; Internet: all others; LoadBalancer: who probes containers.",
    ),
    ("accessControlLists/aclRules.sourceSecurityTags", "In place of addresses: the interfaces that have one of these."),
    ("accessControlLists/aclRules.logging", "Whether each decision of the rule is written to the log."),
    ("credentials", "What the controller shows to others. The value is never returned."),
    ("GatewayPools", "Gateways that can stand in for each other."),
    ("GatewayPools.redundantGatewayCount", "Gateways of the pool that stand by."),
    ("GatewayPools.gatewayCapacityKiloBitsPerSecond", "What one gateway of the pool carries."),
    ("gateways", "A node of the role gateway. Its resourceId is the name in its certificate."),
    ("gateways.underlayAddress", "Where tunnels of the fabric end on it."),
    ("VirtualGateways", "A tenant's gateway: the connections of its network to its sites."),
    ("VirtualGateways.gatewaySubnets", "Subnets of the tenant's network: they say which tenant it is."),
    ("VirtualGateways.GatewayPools", "Pools whose gateways may end the connections."),
    ("VirtualGateways/networkConnections", "A connection to a site."),
    ("VirtualGateways/networkConnections.connectionType", "How packets travel to the site."),
    (
        "VirtualGateways/networkConnections.connectionStatus",
        "Disabled takes the connection down and keeps its settings.",
    ),
    (
        "VirtualGateways/networkConnections.routes",
        "Prefixes at the site: what is routed there and may come from there.",
    ),
    ("VirtualGateways/networkConnections.inboundKiloBitsPerSecond", "Most traffic from the site."),
    ("VirtualGateways/networkConnections.outboundKiloBitsPerSecond", "Most traffic to the site."),
    (
        "VirtualGateways/networkConnections.natRules",
        "Other addresses: IngressSnat, the site's for the tenant; EgressSnat, the tenant's for the site.",
    ),
    ("VirtualGateways/bgpRouters", "The tenant's BGP speaker."),
    ("VirtualGateways/bgpRouters.extAsNumber", "Its autonomous system, as two halves: 0.64512."),
    (
        "VirtualGateways/bgpRouters.routerIP",
        "Its addresses inside the connections: of the tenant's, and nobody's interface.",
    ),
    (
        "VirtualGateways/bgpRouters.clusterId",
        "By which it knows routes that it has reflected; its routerId if left out.",
    ),
    (
        "VirtualGateways/bgpRouters.learnedRoutes",
        "Some of its routes: which path is used, why not the others, which peers are told, and why not the others.",
    ),
    ("VirtualGateways/bgpRouters/bgpPeers", "A neighbour of the tenant's BGP speaker."),
    ("VirtualGateways/bgpRouters/bgpPeers.peerIpAddress", "Must be in the routes of a connection, which leads to it."),
    ("VirtualGateways/bgpRouters/bgpPeers.policyMapIn", "What may be learned of the peer; nothing without one."),
    (
        "VirtualGateways/bgpRouters/bgpPeers.policyMapOut",
        "What the peer is told; without one the virtual network's prefixes, and nothing else.",
    ),
    ("VirtualGateways/bgpRouters/bgpPeers.holdTimeInSeconds", "Silence after which the peer counts as gone."),
    ("VirtualGateways/bgpRouters/bgpPeers.maximumPrefixes", "More routes of the peer end the session for a while."),
    ("VirtualGateways/bgpRouters/bgpPeers.isPassive", "The peer is waited for, and not connected to."),
    (
        "VirtualGateways/bgpRouters/bgpPeers.isRouteReflectorClient",
        "Routes of internal peers are passed on to and from it (RFC 4456).",
    ),
    ("VirtualGateways/policyMaps", "Which routes are taken or told, and with what attributes."),
    (
        "VirtualGateways/policyMaps.policyMapEntryList",
        "The first entry that matches decides; what none matches does not pass. MatchPrefix means prefixes within, too.",
    ),
    ("loadBalancers", "Virtual addresses (VIP) and what stands behind them."),
    ("loadBalancers/frontendIPConfigurations", "A virtual address: a public address, or a private one in a subnet."),
    ("loadBalancers/backendAddressPools", "Interfaces that share the work. Which they are is said at the interfaces."),
    ("loadBalancers/loadBalancingRules", "Traffic of a virtual address, protocol and port goes to a pool."),
    (
        "loadBalancers/loadBalancingRules.loadDistribution",
        "What keeps packets together: the connection, or the client's address.",
    ),
    (
        "loadBalancers/loadBalancingRules.enableFloatingIP",
        "The backend owns the virtual address: nothing is translated.",
    ),
    ("loadBalancers/loadBalancingRules.enableTcpReset", "Idle connections are reset rather than forgotten."),
    ("loadBalancers/inboundNatRules", "A port of a virtual address leads to one interface."),
    ("loadBalancers/outboundNatRules", "Interfaces of a pool reach the outside by a virtual address."),
    ("loadBalancers/probes", "How it is found out whether a backend is well."),
    ("loadBalancers/probes.numberOfProbes", "Failures in a row after which a backend is out."),
    ("loadBalancers/probes.requestPath", "For HTTP: what must be answered with 200."),
    ("loadBalancerManager", "What all load balancers of the site share."),
    ("loadBalancerManager.vipIpPools", "Where virtual addresses come from. None: any address will do."),
    ("loadBalancerManager.outboundNatIPExemptions", "Prefixes that are reached without translation."),
    ("loadBalancerMuxes", "A node of the role mux. Its resourceId is the name in its certificate."),
    ("loadBalancerMuxes.routerConfiguration", "Whom it announces virtual addresses to."),
    ("logicalNetworks", "A network of the site itself."),
    ("logicalNetworks/subnets", "A subnet of the site, with its VLAN."),
    ("logicalNetworks/subnets/ipPools", "A range of addresses to allocate from."),
    ("macPools", "Ethernet addresses to allocate from."),
    ("networkInterfaces", "The interface of a container or a virtual machine."),
    ("networkInterfaces.server", "The host that the container runs on."),
    ("networkInterfaces.ipForwarding", "It may pass on what is not for it: it is a VirtualAppliance of routes."),
    ("networkInterfaces.portSettings", "Quality of service and protections of its port."),
    ("networkInterfaces/ipConfigurations", "An address of the interface, in a subnet."),
    ("networkInterfaces/ipConfigurations.loadBalancerBackendAddressPools", "Pools that the address serves in."),
    ("publicIPAddresses", "An address that the world reaches."),
    ("publicIPAddresses.ipAddress", "Allocated from the VIP pools when absent."),
    ("routeTables", "Routes that a tenant sets beside those of its network."),
    ("routeTables/routes", "Where a prefix is sent. It comes before the network's own routes that are no longer."),
    ("routeTables/routes.nextHopIpAddress", "The VirtualAppliance. Several routes of one prefix share its traffic."),
    ("servers", "A node of the role host. Its resourceId is the name in its certificate."),
    ("serviceInsertions", "Traffic that is mirrored or led through an appliance."),
    ("virtualNetworks", "A tenant's network. Addresses of two networks may be equal."),
    ("virtualNetworks.encapsulationId", "The VXLAN network id. Allocated when absent."),
    ("virtualNetworks/subnets", "A subnet of the tenant. Its first address is the gateway's."),
    ("virtualNetworks/virtualNetworkPeerings", "Two tenants' networks, joined. Both sides have to say so."),
    ("virtualNetworkManager", "How networks of tenants are carried."),
    ("virtualServers", "A virtual machine that carries a node."),
    ("virtualSwitchManager", "What the switches of all hosts share."),
    ("securityTags", "A name that rules can match instead of addresses."),
    ("diagnostics", "Questions to the fabric. A ConnectivityCheck is answered by the nodes' own decision code."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KINDS, Kind};

    fn names(kind: &'static Kind, path: &str, out: &mut Vec<String>) {
        out.push(path.to_owned());
        out.extend(kind.properties.iter().map(|p| format!("{path}.{}", p.name)));
        for child in kind.children {
            names(child, &format!("{path}/{}", child.collection), out);
        }
    }

    #[test]
    fn what_is_explained_exists() {
        let mut all = Vec::new();
        for kind in KINDS {
            names(kind, kind.collection, &mut all);
        }
        for (name, text) in ABOUT {
            assert!(all.iter().any(|n| n == name), "{name}");
            assert!(text.ends_with('.'), "{text}");
        }
    }
}
