//! The packets that most are: untagged, IPv4 without options or IPv6 without extensions, TCP or UDP, not a fragment.
//!
//! All offsets are constants, so one length check covers all reads. Whatever is in any way unusual, or wrong, is left to the
//! general parser, which also knows the reason; a test holds the two to the same answers.

use crate::{Fragment, Headers, TcpFlags, checksum, ethertype};
use penstock_model::{Addr16, Protocol};

/// Where IP begins.
const L3: usize = 14;

/// What the two transports have in common, read at a fixed offset.
struct Transport {
    src_port: u16,
    dst_port: u16,
    payload: u16,
    flags: TcpFlags,
}

/// Fills in the headers of a usual packet. False, with `h` of no use, if it is not one.
#[inline]
pub(crate) fn parse(frame: &[u8], h: &mut Headers) -> bool {
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, 0x45, ..] => parse_v4(frame, h),
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => parse_v6(frame, h),
        _ => false,
    }
}

#[inline]
fn parse_v4(frame: &[u8], h: &mut Headers) -> bool {
    const L4: usize = L3 + 20;
    let Some(f) = frame.first_chunk::<{ L4 + 8 }>() else { return false };
    let Some(ip) = f[L3..].first_chunk::<20>() else { return false };
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let end = L3 + total;
    if end > frame.len() || end < L4 + 8 || is_fragment || !checksum::is_valid_ipv4(ip) {
        return false;
    }
    let (src, dst) = ([ip[12], ip[13], ip[14], ip[15]], [ip[16], ip[17], ip[18], ip[19]]);
    if !is_usual_v4(src[0], dst[0]) {
        return false;
    }
    let protocol = Protocol(ip[9]);
    let Some(t) = transport::<L4>(frame, protocol, end) else { return false };
    *h = Headers {
        src: Addr16::from_v4(src),
        dst: Addr16::from_v4(dst),
        l2: 0,
        l3: L3 as u16,
        l4: L4 as u16,
        payload: t.payload,
        end: end as u32,
        src_port: t.src_port,
        dst_port: t.dst_port,
        ethertype: ethertype::IPV4,
        protocol,
        tos: ip[1],
        outer_tos: 0,
        ttl: ip[8],
        tcp_flags: t.flags,
        icmp_type: 0,
        icmp_code: 0,
        fragment: Fragment::No,
    };
    true
}

/// By the first bytes of source and destination; as `check_v4_addresses`.
#[inline(always)]
fn is_usual_v4(src: u8, dst: u8) -> bool {
    src != 127 && src < 224 && dst != 127 && dst != 0
}

#[inline]
fn parse_v6(frame: &[u8], h: &mut Headers) -> bool {
    const L4: usize = L3 + 40;
    let Some(f) = frame.first_chunk::<{ L4 + 8 }>() else { return false };
    let Some(ip) = f[L3..].first_chunk::<40>() else { return false };
    let end = L4 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if ip[0] >> 4 != 6 || end > frame.len() || end < L4 + 8 {
        return false;
    }
    let (Some(src), Some(dst)) = (ip[8..].first_chunk::<16>(), ip[24..].first_chunk::<16>()) else { return false };
    // Every address that must not be seen here begins with one of these bytes (loopback, mapped, unspecified, multicast).
    if matches!(src[0], 0 | 0xff) || dst[0] == 0 {
        return false;
    }
    let (src, dst) = (Addr16(*src), Addr16(*dst));
    let protocol = Protocol(ip[6]);
    let Some(t) = transport::<L4>(frame, protocol, end) else { return false };
    *h = Headers {
        src,
        dst,
        l2: 0,
        l3: L3 as u16,
        l4: L4 as u16,
        payload: t.payload,
        end: end as u32,
        src_port: t.src_port,
        dst_port: t.dst_port,
        ethertype: ethertype::IPV6,
        protocol,
        tos: (ip[0] << 4) | (ip[1] >> 4),
        outer_tos: 0,
        ttl: ip[7],
        tcp_flags: t.flags,
        icmp_type: 0,
        icmp_code: 0,
        fragment: Fragment::No,
    };
    true
}

/// TCP or UDP at `L4` of a packet that ends at `end`, which is inside the frame.
#[inline]
fn transport<const L4: usize>(frame: &[u8], protocol: Protocol, end: usize) -> Option<Transport> {
    let t = frame.get(L4..end)?;
    let u = t.first_chunk::<8>()?;
    let (src_port, dst_port) = (u16::from_be_bytes([u[0], u[1]]), u16::from_be_bytes([u[2], u[3]]));
    match protocol {
        Protocol::TCP => {
            let t = t.first_chunk::<20>()?;
            let len = usize::from(t[12] >> 4) * 4;
            let is_right = len >= 20 && L4 + len <= end;
            is_right.then_some(Transport { src_port, dst_port, payload: (L4 + len) as u16, flags: TcpFlags(t[13]) })
        }
        Protocol::UDP => {
            let len = usize::from(u16::from_be_bytes([u[4], u[5]]));
            let is_right = len >= 8 && L4 + len <= end;
            is_right.then_some(Transport { src_port, dst_port, payload: L4 as u16 + 8, flags: TcpFlags(0) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FrameBuilder;
    use crate::damage::damaged;
    use crate::headers::parse_any;
    use proptest::prelude::*;

    fn seeds() -> Vec<Vec<u8>> {
        vec![
            FrameBuilder::tcp("10.0.0.1:1", "10.0.0.2:80").tcp_options(&[1; 8]).payload(b"abc").build(),
            FrameBuilder::udp("10.0.0.1:1", "10.0.0.2:80").payload(b"abc").padded().build(),
            FrameBuilder::tcp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(b"abc").build(),
            FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(b"abc").build(),
        ]
    }

    #[test]
    fn usual_packets_do_not_go_the_long_way() {
        for frame in seeds() {
            assert!(parse(&frame, &mut Headers::default()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_short_way_gives_what_the_long_way_gives(
            seed in prop::sample::select(seeds()),
            damage in prop::collection::vec((12usize..64, any::<u8>()), 0..4),
            cut in prop::option::weighted(0.2, 0usize..80),
            is_repaired in prop::bool::weighted(0.7),
        ) {
            let frame = damaged(seed, damage, is_repaired, cut);
            let (mut short, mut long) = (Headers::default(), Headers::default());
            if parse(&frame, &mut short) {
                prop_assert_eq!(parse_any(&frame, &mut long), Ok(()));
                prop_assert_eq!(short, long);
            }
        }
    }
}
