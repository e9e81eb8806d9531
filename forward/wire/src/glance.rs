//! The few fields that decide about most packets, read in a handful of loads: for a loop that has no time for [`crate::Headers`].

use crate::TcpFlags;
use crate::checksum::fold;

/// Where IP begins.
const L3: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of a frame beyond which it is none of most.
const LONGEST: usize = 9_600;

/// A whole TCP or UDP packet that is untagged, of IPv4 without options or IPv6 without extensions, and may be forwarded.
///
/// Addresses are two words each, as little-endian numbers, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Glance {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub src_port: u16,
    pub dst_port: u16,
    /// Where the IP packet ends, from the start of the frame.
    pub end: u16,
    /// Of the IPv4 header, as it is in the frame; 0 with IPv6.
    pub header_checksum: u16,
    pub protocol: u8,
    /// TTL or hop limit: more than 1.
    pub ttl: u8,
    pub tos: u8,
    /// 0 with UDP.
    pub tcp_flags: TcpFlags,
    pub is_v6: bool,
    /// The transport's checksum has the value that a sender leaves who wants it completed; see
    /// [`crate::rewrite::complete_partial_checksum`].
    pub is_partial: bool,
}

impl Glance {
    /// Bytes that [`Glance::of_v4`] and [`Glance::of_v6`] want to see.
    pub const V4: usize = L3 + 20 + 20;
    pub const V6: usize = L3 + 40 + 20;

    /// Of a frame of `len` bytes that begins with `f`. False, with `self` of no use, if it is anything but such a packet: then
    /// it may be whatever, and [`crate::parse`] knows.
    #[inline(always)]
    pub fn of_v4(&mut self, f: &[u8; Self::V4], len: usize) -> bool {
        const L4: usize = L3 + 20;
        let (a, b) = (word(f, L3), word(f, L3 + 8));
        let (src, dst) = ((b >> 32) as u32, half(f, L3 + 16));
        let end = L3 + usize::from(((a >> 16) as u16).swap_bytes());
        let header = low(a) + (a >> 32) + low(b) + (b >> 32) + u64::from(dst);
        let protocol = (b >> 8) as u8;
        let is_whole = half(f, 12) & 0x00ff_ffff == 0x0045_0008 && (a >> 48) as u16 & 0xff3f == 0;
        let is_right = fold(header) == 0xffff && end <= len && end <= LONGEST && b as u8 > 1;
        let (first, to) = (src as u8, dst as u8);
        let is_usual = first != 127 && first < 224 && to != 127 && to != 0;
        if !(is_whole & is_right & is_usual) {
            return false;
        }
        self.src = [0, mapped(src)];
        self.dst = [0, mapped(dst)];
        self.end = end as u16;
        self.header_checksum = ((b >> 16) as u16).swap_bytes();
        self.protocol = protocol;
        self.ttl = b as u8;
        self.tos = (a >> 8) as u8;
        self.is_v6 = false;
        self.transport(f, L4, end, u64::from(src) + u64::from(dst))
    }

    /// As [`Glance::of_v4`].
    #[inline(always)]
    pub fn of_v6(&mut self, f: &[u8; Self::V6], len: usize) -> bool {
        const L4: usize = L3 + 40;
        let start = word(f, L3);
        let end = L4 + usize::from(((start >> 32) as u16).swap_bytes());
        let (src, dst) = ([word(f, L3 + 8), word(f, L3 + 16)], [word(f, L3 + 24), word(f, L3 + 32)]);
        let is_v6 = half(f, 12) & 0x00f0_ffff == 0x0060_dd86;
        let (first, to) = (src[0] as u8, dst[0] as u8);
        let is_usual = first != 0 && first != 0xff && to != 0;
        if !(is_v6 & is_usual) || end > len || end > LONGEST || (start >> 56) as u8 <= 1 {
            return false;
        }
        self.src = src;
        self.dst = dst;
        self.end = end as u16;
        self.header_checksum = 0;
        self.protocol = (start >> 48) as u8;
        self.ttl = (start >> 56) as u8;
        self.tos = (start as u8) << 4 | ((start >> 8) as u8) >> 4;
        self.is_v6 = true;
        let pseudo = [src, dst].into_iter().flatten().map(|w| low(w) + (w >> 32)).sum();
        self.transport(f, L4, end, pseudo)
    }

    /// The transport's header at `l4`; `addresses` is what they add to the pseudo-header.
    #[inline(always)]
    fn transport<const N: usize>(&mut self, f: &[u8; N], l4: usize, end: usize, addresses: u64) -> bool {
        let ports = half(f, l4);
        let Some(length) = end.checked_sub(l4) else { return false };
        let checksum = if self.protocol == TCP {
            let header = usize::from(byte(f, l4 + 12) >> 4) * 4;
            if header < 20 || header > length {
                return false;
            }
            self.tcp_flags = TcpFlags(byte(f, l4 + 13));
            half(f, l4 + 16) as u16
        } else {
            let stated = usize::from((half(f, l4 + 4) as u16).swap_bytes());
            if self.protocol != UDP || stated < 8 || stated > length {
                return false;
            }
            self.tcp_flags = TcpFlags(0);
            (half(f, l4 + 4) >> 16) as u16
        };
        self.src_port = (ports as u16).swap_bytes();
        self.dst_port = ((ports >> 16) as u16).swap_bytes();
        let rest = u16::from(self.protocol).swap_bytes();
        self.is_partial = fold(addresses + u64::from(rest) + u64::from((length as u16).swap_bytes())) == checksum;
        true
    }
}

#[inline(always)]
fn low(word: u64) -> u64 {
    word & 0xffff_ffff
}

#[inline(always)]
fn mapped(address: u32) -> u64 {
    u64::from(address) << 32 | 0xffff_0000
}

/// Little-endian. `at` is known when this is compiled, and inside.
#[inline(always)]
fn word<const N: usize>(f: &[u8; N], at: usize) -> u64 {
    f.get(at..).and_then(|f| f.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

#[inline(always)]
fn half<const N: usize>(f: &[u8; N], at: usize) -> u32 {
    f.get(at..).and_then(|f| f.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

#[inline(always)]
fn byte<const N: usize>(f: &[u8; N], at: usize) -> u8 {
    f.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FrameBuilder;
    use crate::damage::damaged;
    use crate::rewrite::complete_partial_checksum;
    use crate::{Fragment, Headers, parse};
    use penstock_model::{Addr16, Protocol};
    use proptest::prelude::*;

    fn glance(frame: &[u8]) -> Option<Glance> {
        let mut g = Glance::default();
        let v4 = frame.first_chunk().is_some_and(|f| g.of_v4(f, frame.len()));
        let v6 = !v4 && frame.first_chunk().is_some_and(|f| g.of_v6(f, frame.len()));
        (v4 || v6).then_some(g)
    }

    fn words(a: &Addr16) -> [u64; 2] {
        [0, 8].map(|at| u64::from_le_bytes(a.0[at..at + 8].try_into().unwrap()))
    }

    fn seeds() -> Vec<Vec<u8>> {
        let [mut partial, mut partial_udp] = [
            FrameBuilder::tcp("10.0.0.1:1", "10.0.0.2:80").payload(b"abc").build(),
            FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(&[7; 40]).build(),
        ];
        for (frame, at) in [(&mut partial, 50), (&mut partial_udp, 60)] {
            let h = parse(frame).unwrap();
            let sum = crate::rewrite::pseudo_header_sum(&h, h.end as usize - usize::from(h.l4));
            frame[at..at + 2].copy_from_slice(&fold(sum).to_be_bytes());
        }
        vec![
            partial,
            partial_udp,
            FrameBuilder::tcp("10.0.0.1:1", "10.0.0.2:80").tcp_options(&[1; 8]).payload(b"abc").build(),
            FrameBuilder::udp("10.0.0.1:1", "10.0.0.2:80").payload(b"abc").padded().build(),
            FrameBuilder::tcp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(b"abc").build(),
            FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(&[7; 40]).build(),
        ]
    }

    #[test]
    fn most_packets_are_known_at_a_glance() {
        let partial: Vec<bool> = seeds().iter().map(|frame| glance(frame).unwrap().is_partial).collect();
        assert_eq!(partial, [true, true, false, false, false, false]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_seen_at_a_glance_is_what_parsing_says(
            seed in prop::sample::select(seeds()),
            damage in prop::collection::vec((12usize..64, any::<u8>()), 0..4),
            cut in prop::option::weighted(0.2, 0usize..80),
            is_repaired in prop::bool::weighted(0.7),
        ) {
            let mut frame = damaged(seed, damage, is_repaired, cut);
            let Some(g) = glance(&frame) else { return Ok(()) };
            let h: Headers = parse(&frame).unwrap();
            prop_assert_eq!((h.l2, h.l3, h.fragment), (0, 14, Fragment::No));
            prop_assert_eq!((words(&h.src), words(&h.dst), h.src_port, h.dst_port), (g.src, g.dst, g.src_port, g.dst_port));
            prop_assert_eq!((h.end, h.protocol, h.ttl, h.tos), (u32::from(g.end), Protocol(g.protocol), g.ttl, g.tos));
            prop_assert_eq!((h.is_v6(), h.tcp_flags), (g.is_v6, g.tcp_flags));
            prop_assert_eq!(usize::from(h.l4), if g.is_v6 { 54 } else { 34 });
            if h.is_v4() {
                prop_assert_eq!(g.header_checksum.to_be_bytes(), [frame[24], frame[25]]);
            }
            prop_assert!(g.ttl > 1);
            prop_assert_eq!(g.is_partial, complete_partial_checksum(&mut frame, &h));
        }
    }
}
