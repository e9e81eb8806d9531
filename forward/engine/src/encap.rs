use penstock_model::{Mac, Underlay, Vni};
use penstock_wire::VXLAN_PORT;
use std::net::IpAddr;

/// Length of the longest template: Ethernet, IPv6, UDP, VXLAN.
const MAX_LEN: usize = 14 + 40 + 8 + 8;

/// The bytes of an encapsulation with every field that does not depend on the packet already written.
///
/// VXLAN (RFC 7348): outer Ethernet, IPv4 with DF set or IPv6, UDP, VXLAN. The engine patches total length,
/// IPv4 checksum (incrementally), UDP length and source port, and copies DSCP and ECN from the inner header (RFC 6040
/// normal mode). The UDP checksum is zero, as RFC 7348 section 4.1 and RFC 6935 allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncapTemplate {
    bytes: [u8; MAX_LEN],
    len: u8,
    /// The port of the underlay interface to send by.
    pub out: penstock_model::PortId,
}

impl EncapTemplate {
    /// A VXLAN template. Both addresses must be of one family; `None` otherwise.
    #[must_use]
    pub fn vxlan(
        src: Underlay<IpAddr>,
        dst: Underlay<IpAddr>,
        vni: Vni,
        eth_src: Mac,
        eth_dst: Mac,
        out: penstock_model::PortId,
    ) -> Option<Self> {
        const TTL: u8 = 64;
        let mut bytes = [0u8; MAX_LEN];
        bytes[..6].copy_from_slice(&eth_dst.0);
        bytes[6..12].copy_from_slice(&eth_src.0);
        let udp = match (src.0, dst.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                bytes[14] = 0x45;
                bytes[20] = 0x40; // DF: an overlay packet is never fragmented by the underlay (RFC 7348 section 4.3)
                bytes[22] = TTL;
                bytes[23] = 17;
                bytes[26..30].copy_from_slice(&s.octets());
                bytes[30..34].copy_from_slice(&d.octets());
                34
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
                bytes[14] = 0x60;
                bytes[20] = 17;
                bytes[21] = TTL;
                bytes[22..38].copy_from_slice(&s.octets());
                bytes[38..54].copy_from_slice(&d.octets());
                54
            }
            _ => return None,
        };
        bytes[udp + 2..udp + 4].copy_from_slice(&VXLAN_PORT.to_be_bytes());
        bytes[udp + 8] = 0x08;
        bytes[udp + 12..udp + 15].copy_from_slice(&vni.to_be_bytes());
        if udp == 34 {
            let c = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&bytes[14..34], 0));
            bytes[24..26].copy_from_slice(&c.to_be_bytes());
        }
        Some(Self { bytes, len: (udp + 16) as u8, out })
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Writes the template to the front of `frame` with the fields that depend on the packet: lengths, DSCP and ECN of the
    /// inner header (RFC 6040 section 4.1: in normal mode the ECN field is copied), the IPv4 header checksum, and a source
    /// port from the hash (RFC 7348 section 5: in the dynamic range, so that the underlay spreads flows).
    #[inline]
    pub(crate) fn write(&self, frame: &mut [u8], ip_len: u16, udp_len: u16, tos: u8, hash: u64) {
        let port = (0xc000 | hash as u16).to_be_bytes();
        let udp_len = udp_len.to_be_bytes();
        if self.is_v4() {
            let (Some(to), Some(from)) = (frame.first_chunk_mut::<50>(), self.bytes.first_chunk::<50>()) else {
                return;
            };
            *to = *from;
            to[15] = tos;
            [to[16], to[17]] = ip_len.to_be_bytes();
            // The template's checksum is that of length 0 and type of service 0 (RFC 1624 equation 3).
            let sum = u32::from(!u16::from_be_bytes([from[24], from[25]])) + u32::from(ip_len) + u32::from(tos);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            [to[24], to[25]] = (!(sum as u16)).to_be_bytes();
            [to[34], to[35]] = port;
            [to[38], to[39]] = udp_len;
        } else {
            let (Some(to), Some(from)) = (frame.first_chunk_mut::<70>(), self.bytes.first_chunk::<70>()) else {
                return;
            };
            *to = *from;
            to[14] |= tos >> 4;
            to[15] |= tos << 4;
            // The payload length counts what follows the 40 bytes of the header.
            [to[18], to[19]] = udp_len;
            [to[54], to[55]] = port;
            [to[58], to[59]] = udp_len;
        }
    }

    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.len == 50
    }
}
