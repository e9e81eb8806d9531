use crate::{Addr16, TenantId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An IP protocol number (IANA).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const GRE: Protocol = Protocol(47);
    pub const ESP: Protocol = Protocol(50);
    pub const ICMPV6: Protocol = Protocol(58);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::GRE => f.write_str("gre"),
            Self::ESP => f.write_str("esp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self(other) => write!(f, "proto{other}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What identifies a flow: the 5-tuple within one tenant. 40 bytes, no padding.
///
/// `zone` holds the tenant, so two tenants with the same addresses never share a flow. Ports are in host order; for ICMP
/// echo both hold the identifier, for other protocols without ports they are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(8))]
pub struct FlowKey {
    pub src: Addr16,
    pub dst: Addr16,
    pub src_port: u16,
    pub dst_port: u16,
    zone_protocol: [u8; 4],
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    #[must_use]
    #[inline]
    pub fn new(tenant: TenantId, src: Addr16, dst: Addr16, protocol: Protocol, src_port: u16, dst_port: u16) -> Self {
        debug_assert!(tenant.0 < 1 << 24, "tenant ids have 24 bits");
        let [_, a, b, c] = tenant.0.to_be_bytes();
        Self { src, dst, src_port, dst_port, zone_protocol: [a, b, c, protocol.0] }
    }

    #[must_use]
    #[inline]
    pub fn tenant(&self) -> TenantId {
        let [a, b, c, _] = self.zone_protocol;
        TenantId(u32::from_be_bytes([0, a, b, c]))
    }

    #[must_use]
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.zone_protocol[3])
    }

    /// The key of the opposite direction.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..*self }
    }

    /// The key as five 64-bit words, for hashing.
    #[must_use]
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let w = |b: &[u8; 16], i: usize| {
            u64::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7]])
        };
        let [a, b, c, d] = self.zone_protocol;
        let [s0, s1] = self.src_port.to_le_bytes();
        let [d0, d1] = self.dst_port.to_le_bytes();
        [
            w(&self.src.0, 0),
            w(&self.src.0, 8),
            w(&self.dst.0, 0),
            w(&self.dst.0, 8),
            u64::from_le_bytes([s0, s1, d0, d1, a, b, c, d]),
        ]
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {} {:?}:{} > {:?}:{}",
            self.tenant(),
            self.protocol(),
            self.src,
            self.src_port,
            self.dst,
            self.dst_port
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: u32) -> FlowKey {
        FlowKey::new(
            TenantId(tenant),
            Addr16::from_v4([10, 0, 0, 1]),
            Addr16::from_v4([10, 0, 0, 2]),
            Protocol::TCP,
            4000,
            80,
        )
    }

    #[test]
    fn same_addresses_of_two_tenants_are_two_flows() {
        assert_ne!(key(1), key(2));
        assert_ne!(key(1).words(), key(2).words());
        assert_eq!(key(2).tenant(), TenantId(2));
    }

    #[test]
    fn reversing_twice_is_the_identity() {
        let k = key(7);
        assert_eq!(k.reversed().reversed(), k);
        assert_eq!(k.reversed().src_port, 80);
        assert_eq!(k.reversed().tenant(), TenantId(7));
        assert_eq!(k.reversed().protocol(), Protocol::TCP);
    }
}
