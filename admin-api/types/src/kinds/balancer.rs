//! Load balancers, what serves them and what they serve with ([MS-NCNBI] 3.1.5.5 to 3.1.5.7, 3.1.5.14).
use super::*;

pub(super) const LOAD_BALANCERS: Kind = kind(
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
                opt("rateLimit", Object(RATE_LIMIT)),
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
                opt("allBackendsDown", OneOf(&["Drop", "KeepLast", "ForwardToAll"])),
            ],
            &[],
        ),
        kind(
            "inboundNatRules",
            Compiled,
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
            Compiled,
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
                req("protocol", OneOf(&["Tcp", "TCP", "Http", "HTTP", "Https", "HTTPS"])),
                req("port", Int(1, 65535)),
                opt("intervalInSeconds", Int(1, 65535)),
                opt("numberOfProbes", Int(1, 65535)),
                opt("numberOfSuccesses", Int(1, 65535)),
                opt("holdDownInSeconds", Int(0, 65535)),
                opt("requestPath", Text),
                ro("loadBalancingRules", BackRefs("loadBalancers/loadBalancingRules")),
            ],
            &[],
        ),
    ],
);

/// Own: what the address may take of each mux. 0: no limit, whatever the site's is.
const RATE_LIMIT: &[Property] = &[opt("packetsPerSecond", RATE), opt("newFlowsPerSecond", RATE)];
const RATE: Type = Int(0, 100_000_000);

pub(super) const LOAD_BALANCER_MANAGER: Kind = single(
    "loadBalancerManager",
    "config",
    Compiled,
    &[
        opt("loadBalancerManagerIPAddress", Ip),
        opt("outboundNatIPExemptions", TEXTS),
        opt("vipIpPools", List(&Ref(&["logicalNetworks/subnets/ipPools"]))),
        opt("loadBalancerMuxMode", OneOf(&["BgpPeering", "L2Forwarding"])),
    ],
);

const ASN: Type = Int(0, u32::MAX as i64);

/// The specification's, with 4-byte numbers in either place; `tcpMd5Key` and, of a peer, what stands behind `id` are own
/// extensions.
const ROUTER: &[Property] = &[
    opt("localASN", ASN),
    opt("localASN4", ASN),
    secret("tcpMd5Key", Text),
    opt("peerRouterConfigurations", List(&Object(PEER_ROUTER))),
];

const PEER_ROUTER: &[Property] = &[
    opt("routerName", Text),
    req("routerIPAddress", Ip),
    opt("peerASN", ASN),
    opt("peerASN4", ASN),
    opt("localIPAddress", Ip),
    opt("id", Text),
    opt("holdTimeInSeconds", Int(3, 65535)),
    opt("maximumHops", Int(1, 255)),
    opt("bfd", Object(&[opt("intervalInMilliseconds", Int(10, 10_000)), opt("detectMultiplier", Int(1, 255))])),
];

pub(super) const LOAD_BALANCER_MUXES: Kind = kind(
    "loadBalancerMuxes",
    Compiled,
    &[
        opt("routerConfiguration", Object(ROUTER)),
        opt("virtualServer", Ref(&["virtualServers"])),
        DRAINING,
        CONNECTIONS,
        NODE_INTERFACES,
        UNDERLAY,
        ro("activityState", Text),
    ],
    &[],
);

pub(super) const PUBLIC_IP_ADDRESSES: Kind = kind(
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
);
