//! Networks of operators and tenants, and how they are routed ([MS-NCNBI] 3.1.5.8 to 3.1.5.10, 3.1.5.16, 3.1.5.18, 3.1.5.19).
use super::*;

pub(super) const LOGICAL_NETWORKS: Kind = kind(
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
);

pub(super) const VIRTUAL_NETWORKS: Kind = kind(
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
);

pub(super) const VIRTUAL_NETWORK_MANAGER: Kind = single(
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
);

pub(super) const ROUTE_TABLES: Kind = kind(
    "routeTables",
    Compiled,
    &[ro("subnets", BackRefs("virtualNetworks/subnets"))],
    &[kind(
        "routes",
        Compiled,
        &[
            req("addressPrefix", Prefix),
            req("nextHopType", OneOf(&["VirtualAppliance", "VnetLocal", "VirtualNetworkGateway", "Internet", "None"])),
            opt("nextHopIpAddress", Ip),
        ],
        &[],
    )],
);

pub(super) const SERVICE_INSERTIONS: Kind = kind(
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
);

pub(super) const MAC_POOLS: Kind =
    kind("macPools", Stored, &[req("startMacAddress", Mac), req("endMacAddress", Mac)], &[]);

pub(super) const LEARNED_IP_ADDRESSES: Kind = kind(
    "learnedIPAddresses",
    Stored,
    &[opt("ipAddress", Ip), opt("virtualSubnet", Ref(&["virtualNetworks/subnets"]))],
    &[],
);

pub(super) const SUBNET_EGRESS_RESET: Kind =
    single("SubnetEgressReset", "", Stored, &[opt("virtualSubnetResourceReference", Text)]);
