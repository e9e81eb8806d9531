//! What does not fit a tunnel: smaller TCP segments by agreement, and an ICMP error for the rest.
use penstock_model::Protocol;
use penstock_wire::{Fragment, Headers, TcpFlags, checksum, parse_ip};
use std::net::IpAddr;

/// Lowers the maximum segment size that a TCP SYN offers to what fits `mtu` (RFC 9293 section 3.7.1; the practice is
/// described in RFC 4459 section 3.2). `packet` is an IP packet. Returns whether it was changed.
pub fn clamp_mss(packet: &mut [u8], mtu: usize) -> bool {
    const END_OF_OPTIONS: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    if !may_be_syn(packet) {
        return false;
    }
    let Ok(h) = parse_ip(packet) else { return false };
    if h.protocol != Protocol::TCP || !h.tcp_flags.has(TcpFlags::SYN) || h.fragment == Fragment::Later {
        return false;
    }
    let ip_and_tcp = if h.is_v4() { 20 + 20 } else { 40 + 20 };
    let Some(limit) = mtu.checked_sub(ip_and_tcp).and_then(|l| u16::try_from(l).ok()) else { return false };
    let (tcp, end) = (usize::from(h.l4), usize::from(h.payload));
    let mut at = tcp + 20;
    while at + 1 < end {
        let (Some(&kind), Some(&len)) = (packet.get(at), packet.get(at + 1)) else { return false };
        match kind {
            END_OF_OPTIONS => return false,
            NOP => at += 1,
            MSS if len == 4 && at + 4 <= end => return lower(packet, tcp, at + 2, limit),
            _ if len < 2 => return false,
            _ => at += usize::from(len),
        }
    }
    false
}

/// A quick look that spares nearly all packets the parser: IPv6 with extension headers is always parsed.
#[inline]
fn may_be_syn(packet: &[u8]) -> bool {
    let flags = match packet.first().map(|b| (b >> 4, b & 0x0f)) {
        Some((4, words)) if packet.get(9) == Some(&Protocol::TCP.0) => packet.get(usize::from(words) * 4 + 13),
        Some((6, _)) if packet.get(6) == Some(&Protocol::TCP.0) => packet.get(53),
        Some((6, _)) => return packet.get(6).is_some_and(|p| matches!(p, 0 | 43 | 44 | 51 | 60)),
        _ => None,
    };
    flags.is_some_and(|f| TcpFlags(*f).has(TcpFlags::SYN))
}

/// Writes `limit` at `at` if what stands there is more, and mends the TCP checksum.
fn lower(packet: &mut [u8], tcp: usize, at: usize, limit: u16) -> bool {
    let Some(old) = packet.get(at..at + 2).and_then(|b| b.first_chunk::<2>()).copied() else { return false };
    if u16::from_be_bytes(old) <= limit {
        return false;
    }
    let new = limit.to_be_bytes();
    let Some(field) = packet.get(tcp + 16..tcp + 18).and_then(|b| b.first_chunk::<2>()).copied() else { return false };
    // An option at an odd place takes part in the sum with its bytes exchanged (RFC 1071 section 2, byte order independence).
    let (old, new) = if (at - tcp).is_multiple_of(2) { (old, new) } else { ([old[1], old[0]], [new[1], new[0]]) };
    let sum = checksum::update(u16::from_be_bytes(field), &old, &new).to_be_bytes();
    if let Some(b) = packet.get_mut(tcp + 16..tcp + 18) {
        b.copy_from_slice(&sum);
    }
    if let Some(b) = packet.get_mut(at..at + 2) {
        b.copy_from_slice(&limit.to_be_bytes());
    }
    true
}

/// What is to be done about an IP packet that is longer than the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooBig {
    /// Tell the source: this many bytes of `answer` are an Ethernet frame (addresses zero) with the ICMP error.
    Answer(usize),
    /// The source lets the network fragment it (RFC 791): its pieces go in, each a packet that fits (`penstock_wire::fragment`).
    MayFragment,
    /// Nobody is told: no error about an error, or about a fragment that is not the first (RFC 1122 section 3.2.2).
    Silent,
}

/// Writes the error "fragmentation needed" (RFC 792, RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2) about
/// `packet` into `answer`, from `router` to the packet's source.
pub fn too_big(packet: &[u8], mtu: usize, router: IpAddr, answer: &mut [u8]) -> TooBig {
    let Ok(h) = parse_ip(packet) else { return TooBig::Silent };
    if h.is_v4() && !dont_fragment(packet) {
        return TooBig::MayFragment;
    }
    let is_error = match h.protocol {
        Protocol::ICMP => !matches!(h.icmp_type, 0 | 8 | 13 | 14),
        Protocol::ICMPV6 => h.icmp_type < 128,
        _ => false,
    };
    if h.fragment == Fragment::Later || is_error {
        return TooBig::Silent;
    }
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let written = match (h.is_v4(), router) {
        (true, IpAddr::V4(router)) => {
            // RFC 1812 section 4.3.2.3: as much of the packet as fits 576 bytes.
            let quoted = packet.get(..packet.len().min(548)).unwrap_or_default();
            frag_needed(&h, mtu, router.octets(), quoted, answer)
        }
        (false, IpAddr::V6(router)) => {
            // RFC 4443 section 3.2: as much as fits the minimum IPv6 MTU.
            let quoted = packet.get(..packet.len().min(1280 - 48)).unwrap_or_default();
            packet_too_big(&h, mtu, router.octets(), quoted, answer)
        }
        _ => None,
    };
    written.map_or(TooBig::Silent, TooBig::Answer)
}

fn dont_fragment(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|b| b & 0x40 != 0)
}

fn frag_needed(h: &Headers, mtu: u16, router: [u8; 4], quoted: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = 14 + 20 + 8 + quoted.len();
    let out = out.get_mut(..len)?;
    out.fill(0);
    out.get_mut(12..14)?.copy_from_slice(&[0x08, 0x00]);
    let total = u16::try_from(len - 14).ok()?.to_be_bytes();
    let ip = out.get_mut(14..34)?;
    ip[..4].copy_from_slice(&[0x45, 0xc0, total[0], total[1]]); // RFC 1812 section 4.3.2.5: precedence 6
    ip[8] = 64;
    ip[9] = Protocol::ICMP.0;
    ip[12..16].copy_from_slice(&router);
    ip[16..20].copy_from_slice(&h.src.v4_bytes());
    let sum = checksum::finish(checksum::sum(ip, 0)).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let icmp = out.get_mut(34..)?;
    icmp[0] = 3;
    icmp[1] = 4;
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let sum = checksum::finish(checksum::sum(icmp, 0)).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    Some(len)
}

fn packet_too_big(h: &Headers, mtu: u16, router: [u8; 16], quoted: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = 14 + 40 + 8 + quoted.len();
    let out = out.get_mut(..len)?;
    out.fill(0);
    out.get_mut(12..14)?.copy_from_slice(&[0x86, 0xdd]);
    let payload = u16::try_from(len - 54).ok()?;
    let ip = out.get_mut(14..54)?;
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[6] = Protocol::ICMPV6.0;
    ip[7] = 64;
    ip[8..24].copy_from_slice(&router);
    ip[24..40].copy_from_slice(&h.src.0);
    // RFC 8200 section 8.1: the pseudo-header is the two addresses, the length and the protocol.
    let pseudo = checksum::sum(&ip[8..40], u64::from(payload) + u64::from(Protocol::ICMPV6.0));
    let icmp = out.get_mut(54..)?;
    icmp[0] = 2;
    icmp[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let sum = checksum::finish(checksum::sum(icmp, pseudo)).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    Some(len)
}
