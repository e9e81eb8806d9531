//! Explicit congestion notification across a tunnel: RFC 6040.
use crate::checksum;

/// The two ECN bits of the type of service (RFC 3168 section 5).
pub const ECN: u8 = 0b11;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// What the ECN field of `packet`, an IP packet, becomes when an outer header with `outer_tos` is taken off (RFC 6040 section
/// 4.2, figure 4).
///
/// Returns false if the packet has to be dropped: congestion was marked on a packet whose sender does not know ECN.
#[must_use]
pub fn combine(outer_tos: u8, packet: &mut [u8]) -> bool {
    if outer_tos & ECN != CE {
        return true;
    }
    match packet.first().map(|b| b >> 4) {
        Some(4) => mark_v4(packet),
        Some(6) => mark_v6(packet),
        _ => true,
    }
}

fn mark_v4(packet: &mut [u8]) -> bool {
    let Some(ip) = packet.first_chunk_mut::<20>() else { return true };
    if ip[1] & ECN == 0 {
        return false;
    }
    let old = [ip[0], ip[1]];
    ip[1] |= CE;
    let sum = checksum::update(u16::from_be_bytes([ip[10], ip[11]]), &old, &[ip[0], ip[1]]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

fn mark_v6(packet: &mut [u8]) -> bool {
    let Some(ip) = packet.first_chunk_mut::<2>() else { return true };
    if (ip[1] >> 4) & ECN == 0 {
        return false;
    }
    ip[1] |= CE << 4;
    true
}

/// Type of service or traffic class of an IP packet: DSCP and ECN.
#[must_use]
pub fn tos(packet: &[u8]) -> u8 {
    match packet.first_chunk::<2>() {
        Some([first, second]) if first >> 4 == 6 => (first << 4) | (second >> 4),
        Some([_, second]) => *second,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_crosses_the_tunnel_and_is_never_hidden() {
        let mut ip = vec![0x45, 0b10, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = checksum::finish(checksum::sum(&ip, 0)).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        assert!(combine(0b11, &mut ip));
        assert_eq!(tos(&ip) & ECN, CE);
        assert_eq!(checksum::fold(checksum::sum(&ip, 0)), 0xffff);
        ip[1] = 0;
        assert!(!combine(0b11, &mut ip), "RFC 6040: a packet that is not ECN-capable is dropped");
        assert!(combine(0b01, &mut ip));
    }

    #[test]
    fn the_traffic_class_of_ipv6_is_marked_like_the_type_of_service_of_ipv4() {
        let mut ip = [0x6b, 0x90, 0, 0]; // DSCP 46, ECT(1)
        assert_eq!(tos(&ip), 46 << 2 | 1);
        assert!(combine(CE, &mut ip));
        assert_eq!(tos(&ip), 46 << 2 | CE);
        assert!(!combine(CE, &mut [0x60, 0x00]));
    }
}
