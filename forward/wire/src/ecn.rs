//! Explicit congestion notification across a tunnel: RFC 6040.
use crate::checksum;

/// The two ECN bits of the type of service (RFC 3168 section 5).
pub const ECN: u8 = 0b11;
/// Congestion experienced.
pub const CE: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;

/// What the type of service of a packet becomes when an outer header with `outer_tos` is taken off (RFC 6040 section 4.2,
/// figure 4): the ECN field tells of what happened on the way, DSCP stays (RFC 2983 section 3.1).
///
/// `None` if the packet has to be dropped: congestion was marked on a packet whose sender does not know ECN.
#[must_use]
#[inline]
pub const fn decapsulated(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    match (inner_tos & ECN, outer_tos & ECN) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(inner_tos | CE),
        // The weaker of two levels of congestion that a network may mark.
        (ECT_0, ECT_1) => Some(inner_tos & !ECN | ECT_1),
        _ => Some(inner_tos),
    }
}

/// [`decapsulated`] of `packet`, an IP packet, in place. Returns false if it has to be dropped.
#[must_use]
pub fn combine(outer_tos: u8, packet: &mut [u8]) -> bool {
    let inner = tos(packet);
    match decapsulated(outer_tos, inner) {
        Some(tos) if tos != inner => mark(packet, tos),
        Some(_) => {}
        None => return false,
    }
    true
}

/// Writes the ECN field of `tos` into an IP packet.
pub fn mark(packet: &mut [u8], tos: u8) {
    match packet.first().map(|b| b >> 4) {
        Some(4) => mark_v4(packet, tos & ECN),
        Some(6) => mark_v6(packet, tos & ECN),
        _ => {}
    }
}

fn mark_v4(packet: &mut [u8], ecn: u8) {
    let Some(ip) = packet.first_chunk_mut::<20>() else { return };
    let old = [ip[0], ip[1]];
    ip[1] = ip[1] & !ECN | ecn;
    let sum = checksum::update(u16::from_be_bytes([ip[10], ip[11]]), &old, &[ip[0], ip[1]]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn mark_v6(packet: &mut [u8], ecn: u8) {
    if let Some(ip) = packet.first_chunk_mut::<2>() {
        ip[1] = ip[1] & !(ECN << 4) | ecn << 4;
    }
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

    /// What figure 4 of RFC 6040 has for each inner field, by outer field: Not-ECT, ECT(0), ECT(1), CE.
    const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    const DSCP: u8 = 46 << 2;

    fn each_of_figure_4(mut check: impl FnMut(u8, u8, Option<u8>)) {
        for (inner, row) in FIGURE_4 {
            for (outer, becomes) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                check(outer, DSCP | inner, becomes.map(|ecn| DSCP | ecn));
            }
        }
    }

    #[test]
    fn every_pair_of_fields_becomes_what_figure_4_of_rfc_6040_says_in_ipv4() {
        each_of_figure_4(|outer, inner, becomes| {
            let mut ip = vec![0x45, inner, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            let sum = checksum::finish(checksum::sum(&ip, 0)).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
            // Of another service class outside: that is not taken over.
            let kept = combine(outer | 10 << 2, &mut ip);
            assert_eq!(kept.then(|| tos(&ip)), becomes, "inner {inner:#b}, outer {outer:#b}");
            assert_eq!(checksum::fold(checksum::sum(&ip, 0)), 0xffff);
        });
    }

    #[test]
    fn every_pair_of_fields_becomes_what_figure_4_of_rfc_6040_says_in_ipv6() {
        each_of_figure_4(|outer, inner, becomes| {
            let mut ip = [0x60 | inner >> 4, inner << 4 | 0x0a, 1, 2];
            assert_eq!(tos(&ip), inner);
            let kept = combine(outer, &mut ip);
            assert_eq!(kept.then(|| tos(&ip)), becomes, "inner {inner:#b}, outer {outer:#b}");
            assert_eq!((ip[0] >> 4, ip[1] & 0x0f, ip[2], ip[3]), (6, 0x0a, 1, 2), "the flow label stays");
        });
    }
}
