//! `struct virtio_net_hdr`, legacy form of 10 bytes (VIRTIO 1.2 section 5.1.6), and what it means as an [`Offload`].
use penstock_model::{Gso, Offload};

pub(crate) const VNET_HDR_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// UDP segmentation that keeps datagram boundaries; the older `VIRTIO_NET_HDR_GSO_UDP` (3) meant IP fragmentation.
const GSO_UDP_L4: u8 = 5;
/// The first segment carries CWR; the kernel clears it on the later ones by itself (RFC 3168 section 6.1.2).
const GSO_ECN: u8 = 0x80;

pub(crate) type VnetHdr = [u8; VNET_HDR_LEN];

/// `None` for a kind of segmentation that cannot be expressed.
pub(crate) fn to_offload(h: &VnetHdr) -> Option<Offload> {
    let [flags, gso_type, l0, l1, s0, s1, c0, c1, o0, o1] = *h;
    let gso = match gso_type & !GSO_ECN {
        GSO_NONE => Gso::None,
        GSO_TCPV4 => Gso::Tcp4,
        GSO_TCPV6 => Gso::Tcp6,
        GSO_UDP_L4 => Gso::Udp,
        _ => return None,
    };
    let partial_checksum = flags & NEEDS_CSUM != 0;
    let segmented = gso != Gso::None;
    Some(Offload {
        partial_checksum,
        checksum_valid: flags & DATA_VALID != 0,
        checksum_start: if partial_checksum { u16::from_le_bytes([c0, c1]) } else { 0 },
        checksum_offset: if partial_checksum { u16::from_le_bytes([o0, o1]) } else { 0 },
        gso,
        gso_size: if segmented { u16::from_le_bytes([s0, s1]) } else { 0 },
        header_len: if segmented { u16::from_le_bytes([l0, l1]) } else { 0 },
    })
}

pub(crate) fn from_offload(offload: &Offload, frame_len: usize) -> VnetHdr {
    let mut h = [0; VNET_HDR_LEN];
    if offload.partial_checksum {
        h[0] = NEEDS_CSUM;
        [h[6], h[7]] = offload.checksum_start.to_le_bytes();
        [h[8], h[9]] = offload.checksum_offset.to_le_bytes();
    }
    h[1] = match offload.gso {
        Gso::None => return h,
        Gso::Tcp4 => GSO_TCPV4,
        Gso::Tcp6 => GSO_TCPV6,
        Gso::Udp => GSO_UDP_L4,
    };
    // The kernel refuses a header length beyond the frame.
    let header = usize::from(offload.header_len).min(frame_len) as u16;
    [h[2], h[3]] = header.to_le_bytes();
    [h[4], h[5]] = offload.gso_size.to_le_bytes();
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_checksum_with_segmentation_survives_the_round_trip() {
        for gso in [Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            let offload = Offload {
                partial_checksum: true,
                checksum_valid: false,
                checksum_start: 34,
                checksum_offset: 16,
                gso,
                gso_size: 1448,
                header_len: 66,
            };
            assert_eq!(to_offload(&from_offload(&offload, 60_000)), Some(offload));
        }
    }

    #[test]
    fn a_verified_checksum_is_reported_and_not_sent_on() {
        let offload = to_offload(&[DATA_VALID, 0, 9, 9, 9, 9, 9, 9, 9, 9]).unwrap();
        assert_eq!(offload, Offload { checksum_valid: true, ..Offload::default() });
        assert_eq!(from_offload(&offload, 60), [0; VNET_HDR_LEN]);
    }

    #[test]
    fn ip_fragmentation_offload_is_not_taken_for_segmentation() {
        assert_eq!(to_offload(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_header_length_beyond_the_frame_is_cut() {
        let offload = Offload { gso: Gso::Tcp4, gso_size: 1, header_len: 900, ..Offload::default() };
        assert_eq!(from_offload(&offload, 60)[2..4], 60u16.to_le_bytes());
    }
}
