use zerocopy::{Immutable, IntoBytes};

/// Virtual IPs that one node can own: ten thousand by design, with room. 65,536 x 96 bytes of kernel memory at most; the
/// map allocates as it fills.
pub const VIP_CAPACITY: u32 = 65_536;
/// Own tunnel endpoints (address and UDP port, or IP protocol).
pub const ENDPOINT_CAPACITY: u32 = 4_096;
/// Receive queues of one interface.
pub const QUEUES: u32 = 64;
/// Slots of a pool's table.
pub const POOL_SLOTS: usize = 4096;
/// The owner of a slot that the kernel program does not know: its packets go to user space.
pub const ASK: u32 = u32::MAX;
/// Places that the kernel program looks at for a service. One that did not get any of them is user space's.
pub const PROBES: u32 = 8;
/// An encapsulation over IPv4 with the inner Ethernet header: 50 and 14 bytes.
pub const HEADERS_V4: u32 = 64;
/// An encapsulation over IPv6 with the inner Ethernet header: 70 and 14 bytes.
pub const HEADERS_V6: u32 = 84;
/// What frames are marked with that a host's program leaves to the host agent: its sockets take these alone.
pub const MARK: u32 = 0x7073_7401;
/// A flow that no packet was replayed of for this long is user space's again, where its own idle time counts. Shorter than any
/// of those that flows have which are replayed.
pub const FLOW_IDLE_SECONDS: u32 = 20;
/// Set in the place of a flow whose packets a container sends: the rest is the index of its device.
pub const CONTAINER: u32 = 1 << 31;
/// A flow is dropped and counted.
pub const FLOW_DROP: u32 = 1;
/// A flow's TTL or hop limit is decremented.
pub const FLOW_TTL: u32 = 2;
/// Addresses or ports of a flow are translated.
pub const FLOW_NAT: u32 = 4;

/// A structure in both languages: name in C and its fields with their offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CStruct {
    pub name: &'static str,
    pub doc: &'static str,
    pub size: usize,
    pub fields: &'static [CField],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CField {
    /// The C declaration without its semicolon.
    pub declaration: &'static str,
    pub offset: usize,
    pub size: usize,
}

macro_rules! shared {
    ($($doc:literal struct $name:ident as $c:literal { $($fdoc:literal $field:ident: $ty:ty as $decl:literal,)* })*) => {
        $(
            #[doc = $doc]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoBytes, Immutable)]
            #[repr(C)]
            pub struct $name { $(#[doc = $fdoc] pub $field: $ty,)* }
        )*
        /// All structures that the C header declares.
        pub const STRUCTS: &[CStruct] = &[$(CStruct {
            name: $c,
            doc: $doc,
            size: size_of::<$name>(),
            fields: &[$(CField {
                declaration: $decl,
                offset: core::mem::offset_of!($name, $field),
                size: size_of::<$ty>(),
            },)*],
        },)*];
    };
}

shared! {
    "A virtual IP: the whole address belongs to the node, whatever the protocol."
    struct OwnedAddress as "penstock_address" {
        "IPv6, or IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2)."
        bytes: [u8; 16] as "__u8 bytes[16]",
    }
    "A tunnel endpoint: an address of the node itself, and an IP protocol or a UDP port on it."
    struct OwnedEndpoint as "penstock_endpoint" {
        "As in penstock_address."
        address: OwnedAddress as "struct penstock_address address",
        "Network byte order; zero if the protocol is not UDP."
        port: [u8; 2] as "__u8 port[2]",
        "As in the IP header."
        protocol: u8 as "__u8 protocol",
        "Zero."
        pad: u8 as "__u8 pad",
    }
    "What the mux's program is compiled with: constants to the kernel's verifier."
    struct ReplayConfig as "penstock_replay" {
        "Of the slot hash."
        keys: [u64; 5] as "__u64 keys[5]",
        "The number of services' places less one; they are a power of two."
        mask: u32 as "__u32 mask",
        "Bytes of the longest IP packet that the interface sends."
        mtu: u32 as "__u32 mtu",
        "Bytes of the headers in penstock_backend: PENSTOCK_HEADERS_V4 or PENSTOCK_HEADERS_V6."
        headers: u32 as "__u32 headers",
        "The interface to redirect frames to; 0 to answer with XDP_TX."
        out: u32 as "__u32 out",
        "Takes of a hash of 64 bits as many as number the places."
        shift: u32 as "__u32 shift",
        "Zero."
        pad: u32 as "__u32 pad",
    }
    "A virtual IP, protocol and port, and what becomes of packets for it. A cache line."
    struct ReplayService as "penstock_service" {
        "IPv6, or IPv4 mapped into IPv6, as two words of the machine."
        vip: [u64; 2] as "__u64 vip[2]",
        "The part of the slot hash that follows from the virtual IP."
        vip_hash: u64 as "__u64 vip_hash",
        "Port and protocol; 0 if the place is vacant."
        tail: u32 as "__u32 tail",
        "Index into the pools."
        pool: u32 as "__u32 pool",
        "Index into the services' traffic."
        service: u32 as "__u32 service",
        "Which fields choose the slot: PENSTOCK_FIVE_TUPLE and the like."
        distribution: u32 as "__u32 distribution",
        "Zero."
        pad: [u64; 3] as "__u64 pad[3]",
    }
    "The slot table of a pool: indices into the backends, or PENSTOCK_ASK."
    struct ReplayPool as "penstock_pool" {
        "By slot."
        owner: [u32; POOL_SLOTS] as "__u32 owner[4096]",
    }
    "What is put before the IP packet for a backend: the encapsulation, then the inner Ethernet header. Two cache lines."
    struct ReplayBackend as "penstock_backend" {
        "As on the wire, with zero in what depends on the packet."
        headers: [u64; 16] as "__u64 headers[16]",
    }
    "What the program has sent, per CPU."
    struct ReplayTraffic as "penstock_traffic" {
        "Frames."
        packets: u64 as "__u64 packets",
        "Bytes of the frames as they came in."
        bytes: u64 as "__u64 bytes",
        "Bytes of the frames as they went out."
        sent: u64 as "__u64 sent",
    }
    "What a host's programs are compiled with."
    struct ReplayHost as "penstock_host" {
        "The host's underlay address, as in penstock_flow_key."
        own: [u64; 2] as "__u64 own[2]",
    }
    "What a packet says of its flow."
    struct ReplayFlowKey as "penstock_flow_key" {
        "IPv6, or IPv4 mapped into IPv6, as two words of the machine."
        src: [u64; 2] as "__u64 src[2]",
        "Likewise."
        dst: [u64; 2] as "__u64 dst[2]",
        "Source and destination as on the wire."
        ports: [u8; 4] as "__u8 ports[4]",
        "Where it comes from: a VXLAN network id, or PENSTOCK_CONTAINER and the index of a container's device."
        place: u32 as "__u32 place",
        "TCP or UDP."
        protocol: u32 as "__u32 protocol",
        "Of IP."
        version: u32 as "__u32 version",
    }
    "What was decided for a flow: only packets are meant that come as the first one came."
    struct ReplayFlow as "penstock_flow" {
        "The source from now on."
        src: [u64; 2] as "__u64 src[2]",
        "The destination from now on."
        dst: [u64; 2] as "__u64 dst[2]",
        "Underlay source of the encapsulation; zero from a container."
        outer: [u64; 2] as "__u64 outer[2]",
        "When a packet was replayed, by the kernel's monotonic clock."
        seen: u64 as "__u64 seen",
        "What the sum of the addresses grows by, as the machine reads 16-bit words."
        address_sum: u32 as "__u32 address_sum",
        "The same of what the checksum of an IPv4 header covers."
        header_sum: u32 as "__u32 header_sum",
        "The same of the ports."
        port_sum: u32 as "__u32 port_sum",
        "The ports from now on, as on the wire."
        ports: [u8; 4] as "__u8 ports[4]",
        "Of the policy."
        generation: u32 as "__u32 generation",
        "Index of the device to send by."
        out: u32 as "__u32 out",
        "Bits: PENSTOCK_FLOW_DROP and the like."
        flags: u32 as "__u32 flags",
        "Whose flow it is, for user space."
        zone: u32 as "__u32 zone",
        "The port that it comes by."
        from: u16 as "__u16 from",
        "The port that it leaves by."
        to: u16 as "__u16 to",
        "Ethernet addresses that it leaves with: destination, source."
        eth: [u8; 12] as "__u8 eth[12]",
        "The Ethernet address that it has to come with: its destination, or its source if a container sends it."
        mac: [u8; 6] as "__u8 mac[6]",
        "Bytes of `headers`; 0 if it is not encapsulated: PENSTOCK_HEADERS_V4 or PENSTOCK_HEADERS_V6."
        headers_length: u16 as "__u16 headers_length",
        "An encapsulation and the inner Ethernet header, with zero in what depends on the packet."
        headers: [u8; 84] as "__u8 headers[84]",
        "Zero."
        pad: [u8; 4] as "__u8 pad[4]",
    }
    "What became of frames at a port, per CPU."
    struct ReplayTally as "penstock_tally" {
        "Frames that came by it and were replayed."
        received: u64 as "__u64 received",
        "Their bytes."
        received_bytes: u64 as "__u64 received_bytes",
        "Frames that left by it."
        sent: u64 as "__u64 sent",
        "Their bytes."
        sent_bytes: u64 as "__u64 sent_bytes",
        "Of those received, such that an access control list denies."
        denied: u64 as "__u64 denied",
        "Of those received, such that were lost because their headers could not be written."
        failed: u64 as "__u64 failed",
    }
}

const _: () = assert!(size_of::<OwnedAddress>() == 16);
const _: () = assert!(size_of::<ReplayService>() == 64);
const _: () = assert!(size_of::<ReplayBackend>() == 128);
const _: () = assert!(size_of::<OwnedEndpoint>() == 20);

impl OwnedAddress {
    #[must_use]
    pub fn new(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self { bytes: v4.to_ipv6_mapped().octets() },
            core::net::IpAddr::V6(v6) => Self { bytes: v6.octets() },
        }
    }
}

impl OwnedEndpoint {
    #[must_use]
    pub fn udp(address: core::net::IpAddr, port: u16) -> Self {
        const UDP: u8 = 17;
        Self { address: OwnedAddress::new(address), port: port.to_be_bytes(), protocol: UDP, pad: 0 }
    }

    /// Everything of an IP protocol that has no ports, such as GRE.
    #[must_use]
    pub fn protocol(address: core::net::IpAddr, protocol: u8) -> Self {
        Self { address: OwnedAddress::new(address), port: [0; 2], protocol, pad: 0 }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident = $c:literal, $name:literal;)*) => {
        /// What the steering program counts, per CPU.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum SteerCounter { $($(#[doc = $doc])* $variant,)* }

        impl SteerCounter {
            pub const ALL: &'static [SteerCounter] = &[$(SteerCounter::$variant,)*];

            /// The metric label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The name in C.
            #[must_use]
            pub const fn c_name(self) -> &'static str {
                match self { $(Self::$variant => $c,)* }
            }
        }
    };
}

counters! {
    /// Packets for a virtual IP, handed to the socket of their queue.
    Vip = "PENSTOCK_VIP", "vip";
    /// Packets for a tunnel endpoint, handed to the socket of their queue.
    Endpoint = "PENSTOCK_ENDPOINT", "endpoint";
    /// Packets that the node does not own, given to the kernel.
    Passed = "PENSTOCK_PASSED", "passed";
    /// Packets that the node owns, given to the kernel because their queue has no socket.
    NoSocket = "PENSTOCK_NO_SOCKET", "no_socket";
}

/// Which fields choose the slot of a packet, for the kernel program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReplayDistribution {
    /// Addresses, protocol and ports.
    FiveTuple = 0,
    /// Addresses.
    Addresses = 1,
    /// Addresses and protocol.
    AddressesProtocol = 2,
}

/// Number of counters.
pub const COUNTERS: u32 = SteerCounter::ALL.len() as u32;

/// The constants that the C header defines.
pub const CONSTANTS: &[(&str, u32)] = &[
    ("PENSTOCK_VIP_CAPACITY", VIP_CAPACITY),
    ("PENSTOCK_ENDPOINT_CAPACITY", ENDPOINT_CAPACITY),
    ("PENSTOCK_QUEUES", QUEUES),
    ("PENSTOCK_COUNTERS", COUNTERS),
    ("PENSTOCK_ASK", ASK),
    ("PENSTOCK_PROBES", PROBES),
    ("PENSTOCK_HEADERS_V4", HEADERS_V4),
    ("PENSTOCK_HEADERS_V6", HEADERS_V6),
    ("PENSTOCK_FIVE_TUPLE", ReplayDistribution::FiveTuple as u32),
    ("PENSTOCK_ADDRESSES", ReplayDistribution::Addresses as u32),
    ("PENSTOCK_ADDRESSES_PROTOCOL", ReplayDistribution::AddressesProtocol as u32),
    ("PENSTOCK_MARK", MARK),
    ("PENSTOCK_FLOW_IDLE_SECONDS", FLOW_IDLE_SECONDS),
    ("PENSTOCK_CONTAINER", CONTAINER),
    ("PENSTOCK_FLOW_DROP", FLOW_DROP),
    ("PENSTOCK_FLOW_TTL", FLOW_TTL),
    ("PENSTOCK_FLOW_NAT", FLOW_NAT),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/penstock_maps.h");

    fn render() -> String {
        let mut h = String::from(
            "/* SPDX-License-Identifier: Apache-2.0 */\n\
             /* Written from forward/maps/src/layout.rs; a test of that crate keeps the two equal. */\n\
             #ifndef PENSTOCK_MAPS_H\n#define PENSTOCK_MAPS_H\n\n#include <linux/types.h>\n\n",
        );
        for (name, value) in CONSTANTS {
            writeln!(h, "#define {name} {value}").unwrap();
        }
        h.push_str("\nenum penstock_counter {\n");
        for counter in SteerCounter::ALL {
            writeln!(h, "\t{} = {},", counter.c_name(), *counter as u32).unwrap();
        }
        h.push_str("};\n");
        for s in STRUCTS {
            writeln!(h, "\n/* {} */\nstruct {} {{", s.doc, s.name).unwrap();
            for f in s.fields {
                writeln!(h, "\t{};", f.declaration).unwrap();
            }
            h.push_str("};\n");
            writeln!(h, "_Static_assert(sizeof(struct {}) == {}, \"layout\");", s.name, s.size).unwrap();
            for f in s.fields {
                let field = f.declaration.rsplit(' ').next().unwrap().split('[').next().unwrap();
                writeln!(
                    h,
                    "_Static_assert(__builtin_offsetof(struct {}, {field}) == {}, \"layout\");",
                    s.name, f.offset
                )
                .unwrap();
            }
        }
        h.push_str("\n#endif\n");
        h
    }

    #[test]
    fn the_c_header_says_what_the_layouts_say() {
        let wanted = render();
        if std::env::var_os("PENSTOCK_BLESS").is_some() {
            std::fs::write(HEADER, &wanted).unwrap();
        }
        assert_eq!(std::fs::read_to_string(HEADER).unwrap(), wanted, "run this test with PENSTOCK_BLESS=1");
    }

    #[test]
    fn fields_leave_no_hole_that_the_kernel_would_hash() {
        for s in STRUCTS {
            let mut end = 0;
            for f in s.fields {
                assert_eq!(f.offset, end, "{} {}", s.name, f.declaration);
                end += f.size;
            }
            assert_eq!(end, s.size, "{}", s.name);
        }
    }

    #[test]
    fn ipv4_is_mapped_and_ports_are_in_network_order() {
        let e = OwnedEndpoint::udp("192.0.2.1".parse().unwrap(), 4789);
        assert_eq!(e.as_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1, 0x12, 0xb5, 17, 0]);
        let six = OwnedAddress::new("2001:db8::1".parse().unwrap());
        assert_eq!(six.as_bytes()[..4], [0x20, 0x01, 0x0d, 0xb8]);
    }
}
