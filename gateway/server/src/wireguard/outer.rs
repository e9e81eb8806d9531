//! The outside of a tunnel datagram: Ethernet, IP, UDP.
use penstock_gateway_proto::UnderlayHop;
use penstock_wire::checksum;
use penstock_wire::ecn::ECN;
use std::net::{IpAddr, SocketAddr};

const TTL: u8 = 64;

/// Where a datagram goes and what its headers say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outer {
    pub(crate) from: IpAddr,
    pub(crate) from_port: u16,
    pub(crate) to: SocketAddr,
    pub(crate) hop: UnderlayHop,
    /// ECN bits of the inner packet: copied (RFC 6040 section 4.1, normal mode). The DSCP is not: it would tell the provider's
    /// network what the tenant's packet is.
    pub(crate) tos: u8,
    /// Makes fragments of one datagram belong together (RFC 6864): the don't-fragment bit is not set.
    pub(crate) identification: u16,
}

/// Writes the headers before the `len` bytes of payload at `at`; returns where the frame begins. `None` if the addresses are of
/// two families, or something does not fit.
pub(crate) fn write(buffer: &mut [u8], at: usize, len: usize, outer: &Outer) -> Option<usize> {
    let udp_len = u16::try_from(len + 8).ok()?;
    let (udp, pseudo) = (at.checked_sub(8)?, u64::from(udp_len) + 17);
    let start = match (outer.from, outer.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let start = udp.checked_sub(34)?;
            let total = udp_len.checked_add(20)?.to_be_bytes();
            let id = outer.identification.to_be_bytes();
            let ip = buffer.get_mut(start + 14..udp)?;
            ip[..12].copy_from_slice(&[0x45, outer.tos & ECN, total[0], total[1], id[0], id[1], 0, 0, TTL, 17, 0, 0]);
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            let sum = checksum::finish(checksum::sum(ip, 0)).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
            buffer.get_mut(start + 12..start + 14)?.copy_from_slice(&[0x08, 0x00]);
            start
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let start = udp.checked_sub(54)?;
            let len = udp_len.to_be_bytes();
            let class = outer.tos & ECN;
            let ip = buffer.get_mut(start + 14..udp)?;
            ip[..8].copy_from_slice(&[0x60 | (class >> 4), class << 4, 0, 0, len[0], len[1], 17, TTL]);
            ip[8..24].copy_from_slice(&from.octets());
            ip[24..40].copy_from_slice(&to.octets());
            buffer.get_mut(start + 12..start + 14)?.copy_from_slice(&[0x86, 0xdd]);
            start
        }
        _ => return None,
    };
    buffer.get_mut(start..start + 6)?.copy_from_slice(&outer.hop.eth_dst.0);
    buffer.get_mut(start + 6..start + 12)?.copy_from_slice(&outer.hop.eth_src.0);
    write_udp(buffer, udp, at + len, udp_len, outer, pseudo)?;
    Some(start)
}

fn write_udp(buffer: &mut [u8], udp: usize, end: usize, len: u16, outer: &Outer, pseudo: u64) -> Option<()> {
    let addresses = match outer.to.ip() {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 32,
    };
    let header = buffer.get_mut(udp..udp + 8)?;
    header[..2].copy_from_slice(&outer.from_port.to_be_bytes());
    header[2..4].copy_from_slice(&outer.to.port().to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6..8].fill(0);
    // The addresses of the pseudo-header (RFC 768, RFC 8200 section 8.1) stand right before the UDP header in both families.
    let sum = checksum::sum(buffer.get(udp.checked_sub(addresses)?..end)?, pseudo);
    let field = match checksum::finish(sum) {
        0 => 0xffff, // RFC 768: zero means that there is no checksum
        sum => sum,
    };
    buffer.get_mut(udp + 6..udp + 8)?.copy_from_slice(&field.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::{Mac, Protocol};

    fn outer(from: &str, to: &str) -> Outer {
        Outer {
            from: from.parse().unwrap(),
            from_port: 51820,
            to: to.parse().unwrap(),
            hop: UnderlayHop { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]) },
            tos: 0b10,
            identification: 7,
        }
    }

    #[test]
    fn the_frame_parses_and_its_checksums_are_right() {
        for (from, to, addresses) in [("192.0.2.1", "198.51.100.2:700", 8), ("2001:db8::1", "[2001:db8::2]:700", 32)] {
            let mut buffer = [0x5a; 512];
            let start = write(&mut buffer, 64, 101, &outer(from, to)).unwrap();
            let frame = &buffer[start..64 + 101];
            let h = penstock_wire::parse(frame).unwrap();
            assert_eq!((h.protocol, h.src_port, h.dst_port, h.tos), (Protocol::UDP, 51820, 700, 0b10));
            assert_eq!(h.end as usize, frame.len());
            let udp = usize::from(h.l4);
            let sum = checksum::sum(&frame[udp - addresses..], 17 + (frame.len() - udp) as u64);
            assert_eq!(checksum::fold(sum), 0xffff);
        }
    }
}
