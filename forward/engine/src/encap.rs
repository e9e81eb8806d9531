use penstock_model::{HEADROOM, Mac, Underlay, Vni};
use penstock_wire::VXLAN_PORT;
use penstock_wire::checksum::finish;
use penstock_wire::geneve::{GENEVE_PORT, MAX_GENEVE_LEN, NextOwners, write_header};
use std::net::IpAddr;

/// Length of the longest template: Ethernet, IPv6, UDP, Geneve with its option.
const MAX_LEN: usize = 14 + 40 + 8 + MAX_GENEVE_LEN;
const _: () = assert!(MAX_LEN <= HEADROOM);

const VXLAN_V4_LEN: usize = 50;
const VXLAN_V6_LEN: usize = 70;

/// The bytes of an encapsulation with every field that does not depend on the packet already written.
///
/// VXLAN (RFC 7348): outer Ethernet, IPv4 with DF set or IPv6, UDP, VXLAN. The engine patches total length,
/// IPv4 checksum (incrementally), UDP length and source port, and copies DSCP and ECN from the inner header (RFC 6040
/// normal mode). The UDP checksum is zero, as RFC 7348 section 4.1 and RFC 6935 allow. [`EncapTemplate::naming`] makes the
/// same way into Geneve (RFC 8926), which can say more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct EncapTemplate {
    /// The port of the underlay interface to send by.
    pub out: penstock_model::PortId,
    len: u8,
    /// With IPv4 all that is read lies in the first cache line.
    bytes: [u8; MAX_LEN],
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

    /// The same way by Geneve, naming to whom the host is to pass packets that it has no flow for.
    #[must_use]
    pub fn naming(&self, next: &NextOwners) -> Self {
        let mut naming = self.clone();
        let udp = self.udp_at();
        let (head, geneve) = naming.bytes.split_at_mut(udp + 8);
        head[udp + 2..udp + 4].copy_from_slice(&GENEVE_PORT.to_be_bytes());
        let vni = Vni::from_be_bytes([geneve[4], geneve[5], geneve[6]]);
        // It fits: `geneve` is at least as long as the longest header.
        let len = write_header(geneve, vni, next).unwrap_or_default();
        naming.len = (udp + 8 + len) as u8;
        naming
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The source port of the encapsulation of a flow with this hash, as on the wire.
    #[must_use]
    pub fn source_port(&self, hash: u64) -> [u8; 2] {
        source_port(hash)
    }

    /// Where the UDP header stands.
    #[inline]
    fn udp_at(&self) -> usize {
        if self.is_v4() { 34 } else { 54 }
    }

    /// Bytes of the UDP header and of what stands between it and the inner frame.
    #[inline]
    #[must_use]
    pub fn udp_overhead(&self) -> usize {
        usize::from(self.len) - self.udp_at()
    }

    /// Writes the template to the front of `frame` with the fields that depend on the packet: lengths, DSCP and ECN of the
    /// inner header (RFC 6040 section 4.1: in normal mode the ECN field is copied), the IPv4 header checksum, and a source
    /// port from the hash (RFC 7348 section 5: in the dynamic range, so that the underlay spreads flows).
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], ip_len: u16, udp_len: u16, tos: u8, hash: u64) {
        // Lengths that are known when this is compiled make each copy a few moves.
        match (self.is_v4(), usize::from(self.len)) {
            (true, VXLAN_V4_LEN) => self.write_v4::<VXLAN_V4_LEN>(frame, ip_len, udp_len, tos, hash),
            (false, VXLAN_V6_LEN) => self.write_v6::<VXLAN_V6_LEN>(frame, udp_len, tos, hash),
            _ => self.write_long(frame, ip_len, udp_len, tos, hash),
        }
    }

    /// Any length.
    #[inline(never)]
    fn write_long(&self, frame: &mut [u8], ip_len: u16, udp_len: u16, tos: u8, hash: u64) {
        let (at, len) = (self.udp_at(), usize::from(self.len));
        if let (Some(to), Some(from)) = (frame.get_mut(at..len), self.bytes.get(at..len)) {
            to.copy_from_slice(from);
        }
        if self.is_v4() {
            self.write_v4::<42>(frame, ip_len, udp_len, tos, hash);
        } else {
            self.write_v6::<62>(frame, udp_len, tos, hash);
        }
    }

    /// The first `N` bytes.
    #[inline]
    fn write_v4<const N: usize>(&self, frame: &mut [u8], ip_len: u16, udp_len: u16, tos: u8, hash: u64) {
        let (Some(to), Some(from)) = (frame.first_chunk_mut::<N>(), self.bytes.first_chunk::<N>()) else { return };
        *to = *from;
        to[15] = tos;
        [to[16], to[17]] = ip_len.to_be_bytes();
        // The template's checksum is that of length 0 and type of service 0 (RFC 1624 equation 3).
        let sum = u32::from(!u16::from_be_bytes([from[24], from[25]])) + u32::from(ip_len) + u32::from(tos);
        [to[24], to[25]] = finish(sum.into()).to_be_bytes();
        [to[34], to[35]] = source_port(hash);
        [to[38], to[39]] = udp_len.to_be_bytes();
    }

    /// The first `N` bytes.
    #[inline]
    fn write_v6<const N: usize>(&self, frame: &mut [u8], udp_len: u16, tos: u8, hash: u64) {
        let (Some(to), Some(from)) = (frame.first_chunk_mut::<N>(), self.bytes.first_chunk::<N>()) else { return };
        *to = *from;
        to[14] |= tos >> 4;
        to[15] |= tos << 4;
        // The payload length counts what follows the 40 bytes of the header.
        [to[18], to[19]] = udp_len.to_be_bytes();
        [to[54], to[55]] = source_port(hash);
        [to[58], to[59]] = udp_len.to_be_bytes();
    }

    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.bytes[12] == 0x08
    }
}

#[inline]
fn source_port(hash: u64) -> [u8; 2] {
    (0xc000 | hash as u16).to_be_bytes()
}
