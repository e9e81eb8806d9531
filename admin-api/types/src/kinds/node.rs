//! Hosts, machines and their interfaces ([MS-NCNBI] 3.1.5.11, 3.1.5.15, 3.1.5.21, 3.1.5.26).
use super::*;

pub(super) const NETWORK_INTERFACES: Kind = kind(
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
        // Own: an appliance, which passes on what is not for it.
        opt("ipForwarding", Bool),
        // Read-only in the specification, where the host sets it. Here the operator says where the container runs.
        opt("server", Ref(&["servers"])),
        DRAINING,
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
            opt("securityTags", List(&super::acl::SECURITY_TAG)),
            opt("serviceInsertion", Ref(&["serviceInsertions"])),
            opt("isPrimary", Bool),
        ],
        &[],
    )],
);

pub(super) const SERVERS: Kind = kind(
    "servers",
    Compiled,
    &[CONNECTIONS, UNDERLAY, opt("certificate", Text), ro("virtualNetworkInterfaces", BackRefs("networkInterfaces"))],
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
);

pub(super) const VIRTUAL_SERVERS: Kind = kind(
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
);

pub(super) const VIRTUAL_SWITCH_MANAGER: Kind =
    single("virtualSwitchManager", "configuration", Stored, &[opt("qosSettings", Object(&[]))]);
