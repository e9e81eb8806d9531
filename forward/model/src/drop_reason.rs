use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $sentence:literal,)*) => {
        /// Every way in which a packet can end without being forwarded, for all products.
        ///
        /// Each has a name (metric label), a sentence (CLI, `explain`) and a counter ([`crate::Ledger`]).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label: snake case, stable.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

reasons! {
    // Bytes that are not a packet.
    TruncatedEthernet = "truncated_ethernet": "The frame is shorter than its Ethernet or VLAN header.",
    UnknownEtherType = "unknown_ether_type": "The frame carries neither IPv4, IPv6 nor ARP.",
    TruncatedIpv4 = "truncated_ipv4": "The frame ends inside the IPv4 header or before the length that it states.",
    BadIpv4Header = "bad_ipv4_header": "The IPv4 version or header length is wrong.",
    BadIpv4Checksum = "bad_ipv4_checksum": "The IPv4 header checksum is wrong.",
    TruncatedIpv6 = "truncated_ipv6": "The frame ends inside the IPv6 header or before the length that it states.",
    BadIpv6Header = "bad_ipv6_header": "The IPv6 version or an extension header is malformed.",
    TooManyExtensionHeaders = "too_many_extension_headers": "The IPv6 packet carries more extension headers than are followed.",
    TruncatedTransport = "truncated_transport": "The packet ends inside its TCP, UDP or ICMP header.",
    BadTcpHeader = "bad_tcp_header": "The TCP data offset points outside the segment.",
    BadUdpLength = "bad_udp_length": "The UDP length contradicts the IP length.",
    TruncatedTunnel = "truncated_tunnel": "The packet ends inside its encapsulation header.",
    BadTunnelHeader = "bad_tunnel_header": "The encapsulation header has invalid flags or an unsupported version.",
    BadTunnelChecksum = "bad_tunnel_checksum": "The checksum of the encapsulation header is wrong.",
    MartianSource = "martian_source": "The source address cannot be the source of a packet (loopback, multicast, IPv4-mapped).",
    MartianDestination = "martian_destination": "The destination address cannot be routed (loopback, unspecified, IPv4-mapped).",
    TooLarge = "too_large": "The packet is larger than the buffer or the MTU of the way out.",
    BadOffload = "bad_offload": "The offload metadata of the frame contradicts its headers.",

    // Packets that are not ours.
    NotOurs = "not_ours": "No virtual IP, tunnel or port of this node owns the packet.",
    UnknownVni = "unknown_vni": "The overlay network id is not known on this node.",
    UnknownPort = "unknown_port": "The packet came from, or is for, a port that is not configured.",
    VlanTagged = "vlan_tagged": "A container's or an encapsulated frame carries a VLAN tag, which overlays do not (RFC 7348 section 6.1).",
    UntrustedUnderlaySource = "untrusted_underlay_source": "An overlay packet came from an underlay address that is no node of this fabric.",
    SpoofedSource = "spoofed_source": "A container sent with an address that is not its own.",

    // Load balancer.
    NoServiceOnPort = "no_service_on_port": "The virtual IP has no rule for this protocol and port.",
    NoHealthyBackend = "no_healthy_backend": "The pool has no healthy backend.",
    VipPacketLimit = "vip_packet_limit": "The virtual IP is sent more packets than its limit.",
    VipFlowLimit = "vip_flow_limit": "The virtual IP is sent more than twice the new flows of its limit, and this is one of those that were too many.",
    FragmentUnsupported = "fragment_unsupported": "A fragment cannot be assigned to a backend without its ports, nor be taken out of its tunnel.",
    SnatPortsExhausted = "snat_ports_exhausted": "Every leased port of outbound NAT is in use towards this destination.",
    NoReverseMapping = "no_reverse_mapping": "No rule or flow explains this translated packet.",
    NatExhausted = "nat_exhausted": "No port of the translation is free, or the tenant has as many mappings as it may.",

    // Policy.
    AclDenied = "acl_denied": "An access control rule denies the packet.",
    NoRoute = "no_route": "The tenant has no route to the destination.",
    RouteDiscard = "route_discard": "The route to the destination says discard.",
    MeterExceeded = "meter_exceeded": "The bandwidth cap is exceeded.",
    TtlExceeded = "ttl_exceeded": "The hop limit reached zero.",
    NextHopUnresolved = "next_hop_unresolved": "The Ethernet address of the underlay next hop is not known yet.",
    FlowTableFull = "flow_table_full": "The flow table or the tenant's share of it is full.",
    NoPolicy = "no_policy": "No policy has been published for this tenant yet.",

    // Tunnels.
    UnknownPeer = "unknown_peer": "No tunnel peer matches the packet.",
    TunnelAuthFailed = "tunnel_auth_failed": "The tunnel packet did not authenticate.",
    TunnelReplay = "tunnel_replay": "The tunnel packet was seen before or is too old.",
    TunnelNotReady = "tunnel_not_ready": "The tunnel has no session yet.",
    TunnelLimited = "tunnel_limited": "The tunnel handshake exceeds the rate that is allowed for its source.",
    NotInAllowedPrefixes = "not_in_allowed_prefixes": "A tunnel packet's inner source is outside the prefixes of its peer.",

    CongestionHidden = "congestion_hidden": "A tunnel packet was marked for congestion, which its inner packet cannot say (RFC 6040).",

    // Resources.
    NoBuffer = "no_buffer": "No transmit buffer was free.",
    HandoffFull = "handoff_full": "The ring to the worker that owns the packet was full.",
    TransmitFailed = "transmit_failed": "The interface refused the packet.",
    Unsupported = "unsupported": "The packet needs a function that this node does not have.",
}

impl fmt::Debug for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_name_and_a_sentence_of_its_own() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        let sentences: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.sentence()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        assert_eq!(sentences.len(), DropReason::COUNT);
        assert!(sentences.iter().all(|s| s.ends_with('.')));
    }

    #[test]
    fn the_index_of_a_reason_is_its_place_in_all() {
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
        }
    }
}
