//! GRE headers: RFC 2784, with the key and the sequence number of RFC 2890.
use crate::{checksum, ethertype};
use penstock_model::DropReason;

/// Length of the longest header that is written: flags and type, checksum, key.
pub const GRE_MAX_LEN: usize = 12;

const CHECKSUM: u8 = 0x80;
const KEY: u8 = 0x20;
const SEQUENCE: u8 = 0x10;
/// Of bits 1 to 5, which make a packet one of RFC 1701's, those that RFC 2890 has given no meaning since: routing, strict source
/// route, recursion. Bits 6 to 12 mean nothing yet and are ignored (RFC 2784 section 2.3).
const UNKNOWN: u8 = 0x4c;
const VERSION: u8 = 0x07;

/// What a GRE header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gre {
    /// Ethernet type of the payload; 0 in the keepalives that some routers send.
    pub protocol: u16,
    pub key: Option<u32>,
    /// Bytes of the header.
    pub len: usize,
}

impl Gre {
    #[must_use]
    pub const fn is_ip(&self) -> bool {
        matches!(self.protocol, ethertype::IPV4 | ethertype::IPV6)
    }
}

/// Reads the header at the start of `packet`, which ends where the outer IP packet ends. A checksum is verified if there is one
/// (RFC 2784 section 2.5); a sequence number is passed over: its receiver "may" drop what is out of order (RFC 2890 section
/// 2.2), and the gateway leaves order to whom the packets are for.
///
/// # Errors
/// The header is cut off, of another version or of RFC 1701's kind (RFC 2784 section 2.3 says discard), or the checksum
/// is wrong.
#[inline]
pub fn parse(packet: &[u8]) -> Result<Gre, DropReason> {
    let first = packet.first_chunk::<4>().ok_or(DropReason::TruncatedTunnel)?;
    if first[0] & UNKNOWN != 0 || first[1] & VERSION != 0 {
        return Err(DropReason::BadTunnelHeader);
    }
    let has = |flag: u8| first[0] & flag != 0;
    let key_at = if has(CHECKSUM) { 8 } else { 4 };
    let key_end = key_at + if has(KEY) { 4 } else { 0 };
    let len = key_end + if has(SEQUENCE) { 4 } else { 0 };
    if packet.len() < len {
        return Err(DropReason::TruncatedTunnel);
    }
    if has(CHECKSUM) && checksum::fold(checksum::sum(packet, 0)) != 0xffff {
        return Err(DropReason::BadTunnelChecksum);
    }
    let key = if has(KEY) { packet.get(key_at..).and_then(|p| p.first_chunk::<4>()) } else { None };
    Ok(Gre { protocol: u16::from_be_bytes([first[2], first[3]]), key: key.map(|k| u32::from_be_bytes(*k)), len })
}

/// What the headers of one tunnel carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GreOptions {
    pub key: Option<u32>,
    pub checksum: bool,
}

impl GreOptions {
    /// Bytes of the header.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        4 + if self.checksum { 4 } else { 0 } + if self.key.is_some() { 4 } else { 0 }
    }

    /// Writes the header to the front of `packet`, the rest of which is the payload already. False, and nothing is
    /// written, if there is no room.
    #[must_use]
    #[inline]
    pub fn write(&self, packet: &mut [u8], protocol: u16) -> bool {
        let len = self.header_len();
        let Some(header) = packet.get_mut(..len) else { return false };
        let flags = if self.checksum { CHECKSUM } else { 0 } | if self.key.is_some() { KEY } else { 0 };
        let [hi, lo] = protocol.to_be_bytes();
        header.fill(0);
        header[..4].copy_from_slice(&[flags, 0, hi, lo]);
        if let (Some(key), Some(last)) = (self.key, header.last_chunk_mut::<4>()) {
            *last = key.to_be_bytes();
        }
        if self.checksum {
            let sum = checksum::finish(checksum::sum(packet, 0)).to_be_bytes();
            if let Some(field) = packet.get_mut(4..6) {
                field.copy_from_slice(&sum);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_of_rfc_2784_and_2890_are_read_whole() {
        let gre = |bytes: &[u8]| parse(bytes).unwrap();
        assert_eq!(gre(&[0, 0, 8, 0]), Gre { protocol: ethertype::IPV4, key: None, len: 4 });
        assert_eq!(gre(&[0x20, 0, 0x86, 0xdd, 0, 0, 4, 0xd2]), Gre { protocol: 0x86dd, key: Some(1234), len: 8 });
        assert_eq!(
            gre(&[0x30, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
            Gre { protocol: 0x800, key: Some(0), len: 12 },
            "key 0 is a key, and a sequence number is passed over"
        );
    }

    #[test]
    fn source_routes_other_versions_and_cut_headers_are_refused() {
        for first in [0x40, 0x08, 0x04] {
            assert_eq!(parse(&[first, 0, 8, 0]), Err(DropReason::BadTunnelHeader), "{first:#x}");
        }
        assert_eq!(parse(&[0x30, 1, 0x88, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::BadTunnelHeader), "PPTP");
        for bytes in [&[0u8, 0, 8][..], &[0x20, 0, 8, 0, 1, 2, 3], &[0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(parse(bytes), Err(DropReason::TruncatedTunnel), "{bytes:?}");
        }
    }

    #[test]
    fn bits_6_to_12_are_ignored() {
        let plain = parse(&[0, 0, 8, 0]).unwrap();
        for [first, second] in
            [[0x02, 0], [0x01, 0], [0, 0x80], [0, 0x40], [0, 0x20], [0, 0x10], [0, 0x08], [0x03, 0xf8]]
        {
            assert_eq!(parse(&[first, second, 8, 0]), Ok(plain), "{first:#x} {second:#x}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_one_wrong_bit_breaks_the_checksum(
            key in prop::option::of(any::<u32>()),
            checksum: bool,
            payload in prop::collection::vec(any::<u8>(), 1..100),
            wrong in any::<usize>(),
        ) {
            let options = GreOptions { key, checksum };
            let mut packet = vec![0xa5; options.header_len()];
            packet.extend(&payload);
            prop_assert!(options.write(&mut packet, ethertype::IPV6));
            let read = Gre { protocol: ethertype::IPV6, key, len: options.header_len() };
            prop_assert_eq!(parse(&packet), Ok(read));
            prop_assert_eq!(&packet[read.len..], &payload[..]);
            if checksum {
                let at = read.len + wrong % payload.len();
                packet[at] ^= 1;
                prop_assert_eq!(parse(&packet), Err(DropReason::BadTunnelChecksum));
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic_or_point_outside(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(gre) = parse(&bytes) {
                prop_assert!(gre.len <= bytes.len());
            }
        }
    }
}
