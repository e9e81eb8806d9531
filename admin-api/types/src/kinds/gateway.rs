//! Gateways, their pools, and the connections of tenants ([MS-NCNBI] 3.1.5.3, 3.1.5.4, 3.1.5.17).
use super::*;

pub(super) const GATEWAY_POOLS: Kind = kind(
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
);

pub(super) const GATEWAYS: Kind = kind(
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
);

const NAT_MAPPING: Type = Object(&[req("addressSpace", Prefix), opt("portRange", PortRange)]);

pub(super) const VIRTUAL_GATEWAYS: Kind = kind(
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
                // `checksum` is an own extension.
                opt("greConfiguration", Object(&[opt("greKey", IntText(0, u32::MAX as i64)), opt("checksum", Bool)])),
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
                // Own extension, in the words of Azure's VPN gateways.
                opt(
                    "natRules",
                    List(&Object(&[
                        opt("name", Text),
                        req("type", OneOf(&["Static", "Dynamic"])),
                        req("mode", OneOf(&["IngressSnat", "EgressSnat"])),
                        req("internalMappings", List(&NAT_MAPPING)),
                        req("externalMappings", List(&NAT_MAPPING)),
                        opt("protocol", OneOf(&["Tcp", "Udp"])),
                        opt("filtering", OneOf(&["AddressAndPortDependent", "EndpointIndependent"])),
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
            Compiled,
            &[
                opt("isEnabled", Bool),
                opt("extAsNumber", Text),
                opt("routerId", Ip),
                opt("routerIP", IPS),
                // Own extensions.
                opt("clusterId", Ip),
                ro("learnedRoutes", Any),
            ],
            &[kind(
                "bgpPeers",
                Compiled,
                &[
                    opt("asNumber", IntText(0, u32::MAX as i64)),
                    opt("extAsNumber", Text),
                    opt("peerIpAddress", Ip),
                    opt("policyMapIn", Ref(&["VirtualGateways/policyMaps"])),
                    opt("policyMapOut", Ref(&["VirtualGateways/policyMaps"])),
                    // Own extensions.
                    opt("holdTimeInSeconds", Int(3, 65535)),
                    opt("maximumPrefixes", Int(1, 100_000)),
                    opt("isPassive", Bool),
                    opt("isRouteReflectorClient", Bool),
                    ro("connectionState", Text),
                    ro("statistics", Any),
                ],
                &[],
            )],
        ),
        kind(
            "policyMaps",
            Compiled,
            &[
                opt(
                    "policyMapEntryList",
                    List(&Object(&[
                        req("action", OneOf(&["Permit", "Allow", "ModifyAttribute", "Deny"])),
                        opt("matchCriteria", List(&Object(&[req("property", Text), opt("value", Any)]))),
                        opt("setActions", List(&Object(&[req("property", Text), opt("value", Any)]))),
                    ])),
                ),
                ro("bgpPeersWithPolicyMapIn", BackRefs("VirtualGateways/bgpRouters/bgpPeers#policyMapIn")),
                ro("bgpPeersWithPolicyMapOut", BackRefs("VirtualGateways/bgpRouters/bgpPeers#policyMapOut")),
            ],
            &[],
        ),
    ],
);
