//! Access lists and the tags that they may name ([MS-NCNBI] 3.1.5.1, 3.1.5.31).
use super::*;

pub(super) const ACCESS_CONTROL_LISTS: Kind = kind(
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
            opt("sourceSecurityTags", List(&SECURITY_TAG)),
            opt("destinationSecurityTags", List(&SECURITY_TAG)),
            req("priority", IntText(1, 65500)),
            req("type", OneOf(&["Inbound", "Outbound"])),
            opt("logging", OneOf(&["Enabled", "Disabled"])),
            opt("description", Text),
        ],
        &[],
    )],
);

pub(super) const SECURITY_TAG: Type = Ref(&["securityTags"]);

pub(super) const SECURITY_TAGS: Kind = kind(
    "securityTags",
    Compiled,
    &[
        opt("type", Text),
        opt("accessControlList", ACL),
        ro("ipConfigurations", BackRefs("networkInterfaces/ipConfigurations")),
    ],
    &[],
);
