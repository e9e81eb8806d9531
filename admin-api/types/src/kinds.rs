//! The table of kinds ([MS-NCNBI] 3.1.5). Required is what nothing can be done without; the specification's own schemas
//! demand more in places, and its examples contradict them.
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
const CONNECTIONS: Property =
    opt("connections", List(&Object(&[opt("managementAddresses", TEXTS), opt("credential", Ref(&["credentials"]))])));
const NODE_INTERFACES: Property =
    opt("networkInterfaces", Object(&[opt("externalNetworkInterface", NIC), opt("internalNetworkInterface", NIC)]));

pub static KINDS: &[Kind] = &[
    kind(
        "accessControlLists",
        Compiled,
        &[
            opt("inboundDefaultAction", OneOf(&["Permit", "Deny"])),
            opt("outboundDefaultAction", OneOf(&["Permit", "Deny"])),
            ro("ipConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
            ro("subnets", BackRefs("virtualNetworks/subnets")),
        ],
        &[kind(
            "aclRules",
            Compiled,
            &[
                req("protocol", ACL_PROTOCOL),
                opt("sourcePortRange", PortRange),
                opt("destinationPortRange", PortRange),
                req("action", OneOf(&["Allow", "Deny"])),
                opt("sourceAddressPrefix", AddressPattern),
                opt("destinationAddressPrefix", AddressPattern),
                req("priority", IntText(1, 65500)),
                req("type", OneOf(&["Inbound", "Outbound"])),
                opt("logging", OneOf(&["Enabled", "Disabled"])),
                opt("description", Text),
            ],
            &[],
        )],
    ),
    kind(
        "credentials",
        Stored,
        &[
            req(
                "type",
                OneOf(&[
                    "usernamePassword",
                    "X509Certificate",
                    "SnmpCommunityString",
                    "GroupManagedServiceAccount",
                    "X509CertificateSubjectName",
                ]),
            ),
            opt("userName", Text),
            secret("value", Text),
        ],
        &[],
    ),
    kind(
        "GatewayPools",
        Compiled,
        &[
            opt("type", Text),
            opt(
                "ipConfiguration",
                Object(&[opt("greVipSubnets", List(&LNET_SUBNET)), opt("publicIPAddresses", List(&PUBLIC_IP))]),
            ),
            opt("redundantGatewayCount", Int(0, 1024)),
            opt("gatewayCapacityKiloBitsPerSecond", Int(0, i64::MAX)),
            opt("RadiusServer", Text),
            secret("RadiusSecret", Text),
            ro("gateways", BackRefs("gateways")),
            ro("VirtualGateways", BackRefs("VirtualGateways")),
        ],
        &[],
    ),
    kind(
        "gateways",
        Compiled,
        &[
            opt("pool", Ref(&["GatewayPools"])),
            opt("virtualServer", Ref(&["virtualServers"])),
            NODE_INTERFACES,
            opt("types", TEXTS),
            CONNECTIONS,
            UNDERLAY,
            ro("state", Text),
            ro("healthState", Text),
        ],
        &[],
    ),
    kind(
        "loadBalancers",
        Compiled,
        &[opt("updateBackendAddressPools", Bool)],
        &[
            kind(
                "frontendIPConfigurations",
                Compiled,
                &[
                    opt("publicIPAddress", PUBLIC_IP),
                    opt("subnet", ANY_SUBNET),
                    opt("privateIPAddress", Ip),
                    opt("privateIPAllocationMethod", OneOf(&["Static", "Dynamic"])),
                    ro("loadBalancingRules", BackRefs("loadBalancers/loadBalancingRules")),
                    ro("inboundNatRules", BackRefs("loadBalancers/inboundNatRules")),
                    ro("outboundNatRules", BackRefs("loadBalancers/outboundNatRules")),
                ],
                &[],
            ),
            kind(
                "backendAddressPools",
                Compiled,
                &[
                    ro("backendIPConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
                    ro("loadBalancingRules", BackRefs("loadBalancers/loadBalancingRules")),
                    ro("outboundNatRules", BackRefs("loadBalancers/outboundNatRules")),
                ],
                &[],
            ),
            kind(
                "loadBalancingRules",
                Compiled,
                &[
                    req("frontendIPConfigurations", FRONTENDS),
                    req("protocol", PROTOCOL),
                    opt("frontendPort", PORT),
                    opt("backendPort", PORT),
                    opt("backendAddressPool", POOL),
                    opt("probe", Ref(&["loadBalancers/probes"])),
                    opt("enableFloatingIP", Bool),
                    opt("idleTimeoutInMinutes", IDLE),
                    opt("loadDistribution", OneOf(&["Default", "SourceIP", "SourceIPProtocol"])),
                    opt("enableTcpReset", Bool),
                ],
                &[],
            ),
            kind(
                "inboundNatRules",
                Stored,
                &[
                    req("frontendIPConfigurations", FRONTENDS),
                    req("protocol", PROTOCOL),
                    opt("frontendPort", PORT),
                    opt("backendPort", PORT),
                    opt("enableFloatingIP", Bool),
                    opt("idleTimeoutInMinutes", IDLE),
                    opt("enableTcpReset", Bool),
                    ro("backendIPConfiguration", BackRef("networkInterfaces/ipConfigurations")),
                ],
                &[],
            ),
            kind(
                "outboundNatRules",
                Stored,
                &[
                    req("frontendIPConfigurations", FRONTENDS),
                    req("backendAddressPool", POOL),
                    req("protocol", PROTOCOL),
                    opt("idleTimeoutInMinutes", IDLE),
                    opt("enableTcpReset", Bool),
                ],
                &[],
            ),
            kind(
                "probes",
                Compiled,
                &[
                    req("protocol", OneOf(&["Tcp", "TCP", "Http", "HTTP"])),
                    req("port", Int(1, 65535)),
                    opt("intervalInSeconds", Int(1, 65535)),
                    opt("numberOfProbes", Int(1, 65535)),
                    opt("requestPath", Text),
                    ro("loadBalancingRules", BackRefs("loadBalancers/loadBalancingRules")),
                ],
                &[],
            ),
        ],
    ),
    single(
        "loadBalancerManager",
        "config",
        Compiled,
        &[
            opt("loadBalancerManagerIPAddress", Ip),
            opt("outboundNatIPExemptions", TEXTS),
            opt("vipIpPools", List(&Ref(&["logicalNetworks/subnets/ipPools"]))),
            opt("loadBalancerMuxMode", OneOf(&["BgpPeering", "L2Forwarding"])),
        ],
    ),
    kind(
        "loadBalancerMuxes",
        Compiled,
        &[
            opt("routerConfiguration", Object(&[])),
            opt("virtualServer", Ref(&["virtualServers"])),
            CONNECTIONS,
            NODE_INTERFACES,
            UNDERLAY,
            ro("activityState", Text),
        ],
        &[],
    ),
    kind(
        "logicalNetworks",
        Compiled,
        &[
            opt("networkVirtualizationEnabled", BoolText("False", "True")),
            ro("virtualNetworks", BackRefs("virtualNetworks")),
        ],
        &[kind(
            "subnets",
            Compiled,
            &[
                opt("addressPrefix", Prefix),
                opt("vlanId", IntText(0, 4095)),
                opt("dnsServers", TEXTS),
                opt("defaultGateways", IPS),
                opt("isPublic", Bool),
                ro("ipConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
                ro("networkInterfaces", BackRefs("servers/networkInterfaces")),
                ro("GatewayPools", BackRefs("GatewayPools")),
                ro("networkConnections", BackRefs("VirtualGateways/networkConnections")),
            ],
            &[
                kind("ipPools", Compiled, &[req("startIpAddress", Ip), req("endIpAddress", Ip), ro("usage", Any)], &[]),
                kind("routes", Stored, &[req("destination", Prefix), req("nextHop", Ip)], &[]),
            ],
        )],
    ),
    kind("macPools", Stored, &[req("startMacAddress", Mac), req("endMacAddress", Mac)], &[]),
    kind(
        "networkInterfaces",
        Compiled,
        &[
            opt("privateMacAddress", Mac),
            opt("privateMacAllocationMethod", OneOf(&["Static", "Dynamic"])),
            opt("dnsSettings", Object(&[])),
            opt("isHostVirtualNetworkInterface", Bool),
            opt("isPrimary", Bool),
            opt("isMultitenantStack", Bool),
            opt("internalDnsNameLabel", Text),
            opt("portSettings", Object(&[])),
            // Read-only in the specification, where the host sets it. Here the operator says where the container runs.
            opt("server", Ref(&["servers"])),
            ro("serviceInsertionElements", BackRefs("serviceInsertions")),
        ],
        &[kind(
            "ipConfigurations",
            Compiled,
            &[
                opt("privateIPAddress", Ip),
                opt("privateIPAllocationMethod", OneOf(&["Static", "Dynamic", "Unmanaged"])),
                opt("subnet", ANY_SUBNET),
                opt("accessControlList", ACL),
                opt("publicIPAddress", PUBLIC_IP),
                opt("loadBalancerBackendAddressPools", List(&POOL)),
                opt("loadBalancerInboundNatRules", List(&Ref(&["loadBalancers/inboundNatRules"]))),
                opt("serviceInsertion", Ref(&["serviceInsertions"])),
                opt("isPrimary", Bool),
            ],
            &[],
        )],
    ),
    kind(
        "publicIPAddresses",
        Compiled,
        &[
            opt("ipAddress", Ip),
            opt("publicIPAllocationMethod", OneOf(&["Static", "Dynamic"])),
            opt("publicIPAddressVersion", OneOf(&["IPv4", "IPv6"])),
            opt("idleTimeoutInMinutes", IDLE),
            opt("dnsSettings", Object(&[])),
            ro("ipConfiguration", BackRef("networkInterfaces/ipConfigurations|loadBalancers/frontendIPConfigurations")),
        ],
        &[],
    ),
    kind(
        "routeTables",
        Stored,
        &[ro("subnets", BackRefs("virtualNetworks/subnets"))],
        &[kind(
            "routes",
            Stored,
            &[
                req("addressPrefix", Prefix),
                req(
                    "nextHopType",
                    OneOf(&["VirtualAppliance", "VnetLocal", "VirtualNetworkGateway", "Internet", "None"]),
                ),
                opt("nextHopIpAddress", Ip),
            ],
            &[],
        )],
    ),
    kind(
        "servers",
        Compiled,
        &[
            CONNECTIONS,
            UNDERLAY,
            opt("certificate", Text),
            ro("virtualNetworkInterfaces", BackRefs("networkInterfaces")),
        ],
        &[kind(
            "networkInterfaces",
            Stored,
            &[
                opt("interfaceIndex", IntText(0, i64::MAX)),
                opt("isBMC", BoolText("false", "true")),
                opt("logicalSubnets", List(&LNET_SUBNET)),
            ],
            &[],
        )],
    ),
    kind(
        "serviceInsertions",
        Stored,
        &[
            req("serviceInsertionRules", List(&Object(&[]))),
            req("serviceInsertionElements", List(&Object(&[]))),
            req("priority", Int(0, i64::MAX)),
            ro("subnets", BackRefs("virtualNetworks/subnets")),
            ro("ipConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
        ],
        &[],
    ),
    kind(
        "virtualNetworks",
        Compiled,
        &[
            req("addressSpace", Object(&[req("addressPrefixes", List(&Prefix))])),
            opt("logicalNetwork", Ref(&["logicalNetworks"])),
            opt("dhcpOptions", Object(&[])),
            opt("encryptionCredential", Ref(&["credentials"])),
            // Own extension: the VNI. Allocated when absent, always returned.
            opt("encapsulationId", Int(1, 0x00ff_ffff)),
        ],
        &[
            kind(
                "subnets",
                Compiled,
                &[
                    req("addressPrefix", Prefix),
                    opt("accessControlList", ACL),
                    opt("routeTable", Ref(&["routeTables"])),
                    opt("serviceInsertion", Ref(&["serviceInsertions"])),
                    opt("encryptionEnabled", Any),
                    ro("ipConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
                    ro("VirtualSubnetId", Int(1, 0x00ff_ffff)),
                    ro("BilledEgressBytes", Any),
                    ro("UnbilledEgressBytes", Any),
                ],
                &[],
            ),
            kind(
                "virtualNetworkPeerings",
                Stored,
                &[
                    req("remoteVirtualNetwork", Ref(&["virtualNetworks"])),
                    opt("allowVirtualNetworkAccess", Bool),
                    opt("allowForwardedTraffic", Bool),
                    opt("allowGatewayTransit", Bool),
                    opt("useRemoteGateways", Bool),
                    ro("peeringState", Text),
                ],
                &[],
            ),
        ],
    ),
    kind(
        "VirtualGateways",
        Compiled,
        &[
            opt("GatewayPools", List(&Ref(&["GatewayPools"]))),
            opt("gatewaySubnets", List(&Ref(&["virtualNetworks/subnets"]))),
            opt("routingType", Text),
        ],
        &[
            kind(
                "networkConnections",
                Compiled,
                &[
                    req("connectionType", OneOf(&["IPSec", "GRE", "L3", "WireGuard"])),
                    opt("outboundKiloBitsPerSecond", Int(0, i64::MAX)),
                    opt("inboundKiloBitsPerSecond", Int(0, i64::MAX)),
                    opt("ipSecConfiguration", Object(&[secret("sharedSecret", Text)])),
                    opt("greConfiguration", Object(&[opt("greKey", IntText(0, u32::MAX as i64))])),
                    opt("l3Configuration", Object(&[opt("vlanSubnet", LNET_SUBNET)])),
                    // Own extension.
                    opt(
                        "wireGuardConfiguration",
                        Object(&[
                            req("peerPublicKey", Key),
                            secret("privateKey", Key),
                            secret("presharedKey", Key),
                            opt("listenPort", Int(1, 65535)),
                            opt("endpoint", Text),
                            opt("persistentKeepalive", Int(0, 65535)),
                            ro("publicKey", Key),
                        ]),
                    ),
                    opt("ipAddresses", List(&Object(&[]))),
                    opt("peerIPAddresses", IPS),
                    opt("sourceIPAddress", Ip),
                    opt("destinationIPAddress", Ip),
                    // The prefix itself is checked where it has a function: one published IPsec example has a broken one.
                    opt(
                        "routes",
                        List(&Object(&[
                            req("destinationPrefix", Text),
                            opt("nextHop", Ip),
                            opt("metric", Int(0, i64::MAX)),
                        ])),
                    ),
                    opt("connectionStatus", OneOf(&["Enabled", "Disabled"])),
                    ro("connectionState", Text),
                    ro("connectionUpTime", Any),
                    ro("connectionErrorReason", Text),
                    ro("unreachabilityReason", Text),
                    ro("gateway", Ref(&["gateways"])),
                    ro("statistics", Any),
                ],
                &[],
            ),
            kind(
                "bgpRouters",
                Stored,
                &[opt("isEnabled", Bool), opt("extAsNumber", Text), opt("routerId", Ip), opt("routerIP", IPS)],
                &[kind(
                    "bgpPeers",
                    Stored,
                    &[
                        opt("asNumber", IntText(0, u32::MAX as i64)),
                        opt("extAsNumber", Text),
                        opt("peerIpAddress", Ip),
                        opt("policyMapIn", Ref(&["VirtualGateways/policyMaps"])),
                        opt("policyMapOut", Ref(&["VirtualGateways/policyMaps"])),
                        ro("connectionState", Text),
                        ro("statistics", Any),
                    ],
                    &[],
                )],
            ),
            kind(
                "policyMaps",
                Stored,
                &[
                    opt("policyMapEntryList", List(&Object(&[]))),
                    ro("bgpPeersWithPolicyMapIn", BackRefs("VirtualGateways/bgpRouters/bgpPeers#policyMapIn")),
                    ro("bgpPeersWithPolicyMapOut", BackRefs("VirtualGateways/bgpRouters/bgpPeers#policyMapOut")),
                ],
                &[],
            ),
        ],
    ),
    single(
        "virtualNetworkManager",
        "configuration",
        Stored,
        &[
            opt("distributedRouterState", Text),
            opt("networkVirtualizationProtocol", OneOf(&["VXLAN", "NVGRE"])),
            opt(
                "virtualSubnetIdRange",
                Object(&[opt("startId", Int(4096, 0x00ff_ffff)), opt("endId", Int(4096, 0x00ff_ffff))]),
            ),
        ],
    ),
    kind(
        "virtualServers",
        Stored,
        &[
            CONNECTIONS,
            opt("certificate", Text),
            opt("vmGuid", Text),
            ro("gateway", BackRef("gateways")),
            ro("loadBalancerMuxes", BackRefs("loadBalancerMuxes")),
        ],
        &[],
    ),
    single("virtualSwitchManager", "configuration", Stored, &[opt("qosSettings", Object(&[]))]),
    single("iDnsServer", "configuration", Stored, &[CONNECTIONS, opt("zone", Text)]),
    single("auditingSettings", "configuration", Stored, &[opt("outputDirectory", Text)]),
    kind("securityTags", Stored, &[opt("type", Text), opt("accessControlList", ACL)], &[]),
    kind(
        "learnedIPAddresses",
        Stored,
        &[opt("ipAddress", Ip), opt("virtualSubnet", Ref(&["virtualNetworks/subnets"]))],
        &[],
    ),
    single("multisite", "configuration", Stored, &[]),
    single("multisitePrimary", "configuration", Stored, &[opt("force", Bool)]),
    single("SubnetEgressReset", "", Stored, &[opt("virtualSubnetResourceReference", Text)]),
    kind("diagnostics", Stored, &[], &[]),
    kind("networkControllerBackup", Stored, &[opt("backupPath", Text), opt("credential", Ref(&["credentials"]))], &[]),
    kind(
        "networkControllerRestore",
        Stored,
        &[opt("restorePath", Text), opt("credential", Ref(&["credentials"]))],
        &[],
    ),
];
