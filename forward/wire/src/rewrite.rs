//! Addresses, ports and hop limits changed in place, with the checksums that cover them.
//!
//! Checksums are updated incrementally (RFC 1624 equation 3), so a checksum that was wrong stays wrong and the receiver
//! notices.

use crate::checksum::{fold, update};
use crate::{Fragment, Headers};
use penstock_model::{Addr16, DropReason, Protocol};

/// What to change. `None` leaves a field as it is. For ICMP echo either port is the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrite {
    pub src: Option<Addr16>,
    pub dst: Option<Addr16>,
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
}

/// Writes new addresses and ports and updates `headers` to match. `partial_checksum`: the transport checksum field holds the
/// folded, not inverted, sum of the pseudo-header (addresses, protocol, length) alone; ports are not part of it.
///
/// A later fragment has no ports, so those of its flow are left alone.
///
/// # Errors
/// `Unsupported` if an address is of the other family than the packet or a port is to change where there is none;
/// `TruncatedTransport` if `headers` were not parsed from `frame`. Nothing has been changed then.
#[inline]
pub fn rewrite(
    frame: &mut [u8],
    headers: &mut Headers,
    change: &Rewrite,
    partial_checksum: bool,
) -> Result<(), DropReason> {
    if headers.fragment == Fragment::Later && (change.src_port.is_some() || change.dst_port.is_some()) {
        let addresses = Rewrite { src_port: None, dst_port: None, ..*change };
        return rewrite(frame, headers, &addresses, partial_checksum);
    }
    check(frame, headers, change)?;
    let l3 = usize::from(headers.l3);
    if let Some(src) = change.src {
        write_address(frame, headers, l3 + if headers.is_v4() { 12 } else { 8 }, headers.src, src, partial_checksum);
        headers.src = src;
    }
    if let Some(dst) = change.dst {
        write_address(frame, headers, l3 + if headers.is_v4() { 16 } else { 24 }, headers.dst, dst, partial_checksum);
        headers.dst = dst;
    }
    let l4 = usize::from(headers.l4);
    if let Some(port) = change.src_port {
        write_port(frame, headers, l4 + port_offset(headers, 0), port, partial_checksum);
        headers.src_port = port;
    }
    if let Some(port) = change.dst_port {
        write_port(frame, headers, l4 + port_offset(headers, 2), port, partial_checksum);
        headers.dst_port = port;
    }
    if is_icmp(headers)
        && let Some(id) = change.dst_port.or(change.src_port)
    {
        (headers.src_port, headers.dst_port) = (id, id);
    }
    Ok(())
}

fn is_icmp(headers: &Headers) -> bool {
    matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// An echo's identifier stands where TCP and UDP have nothing of the kind.
fn port_offset(headers: &Headers, offset: usize) -> usize {
    if is_icmp(headers) { 4 } else { offset }
}

fn is_echo(headers: &Headers) -> bool {
    match headers.protocol {
        Protocol::ICMP => matches!(headers.icmp_type, 0 | 8),
        Protocol::ICMPV6 => matches!(headers.icmp_type, 128 | 129),
        _ => false,
    }
}

#[inline]
fn check(frame: &[u8], headers: &Headers, change: &Rewrite) -> Result<(), DropReason> {
    let wrong_family = |a: Option<Addr16>| a.is_some_and(|a| a.is_v4() != headers.is_v4());
    if !headers.is_ip() || wrong_family(change.src) || wrong_family(change.dst) {
        return Err(DropReason::Unsupported);
    }
    let header_end = usize::from(headers.l3) + if headers.is_v4() { 20 } else { 40 };
    if header_end > frame.len() || usize::from(headers.payload) > frame.len() || headers.l4 > headers.payload {
        return Err(DropReason::TruncatedTransport);
    }
    let has_ports = headers.fragment != Fragment::Later
        && (matches!(headers.protocol, Protocol::TCP | Protocol::UDP) || is_echo(headers));
    if !has_ports && (change.src_port.is_some() || change.dst_port.is_some()) {
        return Err(DropReason::Unsupported);
    }
    let l4_len = usize::from(headers.payload - headers.l4);
    if has_ports && l4_len < if headers.protocol == Protocol::TCP { 20 } else { 8 } {
        return Err(DropReason::TruncatedTransport);
    }
    Ok(())
}

#[inline]
fn write_address(frame: &mut [u8], headers: &Headers, at: usize, old: Addr16, new: Addr16, partial: bool) {
    if headers.is_v4() {
        let (old, new) = (old.v4_bytes(), new.v4_bytes());
        put(frame, at, &new);
        patch_checksum(frame, usize::from(headers.l3) + 10, |field| update(field, &old, &new));
        if headers.protocol != Protocol::ICMP {
            patch_transport(frame, headers, &old, &new, partial);
        }
    } else {
        put(frame, at, &new.0);
        patch_transport(frame, headers, &old.0, &new.0, partial);
    }
}

#[inline]
fn write_port(frame: &mut [u8], headers: &Headers, at: usize, new: u16, partial: bool) {
    let Some(old) = frame.get(at..).and_then(|f| f.first_chunk::<2>()).copied() else { return };
    let new = new.to_be_bytes();
    put(frame, at, &new);
    if !partial {
        patch_transport(frame, headers, &old, &new, false);
    }
}

/// Accounts in the transport checksum for bytes that it covers. A UDP checksum of 0 means "none" and stays; one that comes
/// out as 0 is sent as 0xffff (RFC 768).
#[inline]
fn patch_transport(frame: &mut [u8], headers: &Headers, old: &[u8], new: &[u8], partial: bool) {
    let Some(at) = headers.checksum_at() else { return };
    let is_udp = headers.protocol == Protocol::UDP;
    patch_checksum(frame, at, |field| match (partial, is_udp, field) {
        (true, ..) => !update(!field, old, new),
        (false, true, 0) => 0,
        (false, true, _) => match update(field, old, new) {
            0 => 0xffff,
            sum => sum,
        },
        _ => update(field, old, new),
    });
}

#[inline]
fn patch_checksum(frame: &mut [u8], at: usize, new: impl FnOnce(u16) -> u16) {
    if let Some(field) = frame.get_mut(at..).and_then(|f| f.first_chunk_mut::<2>()) {
        *field = new(u16::from_be_bytes(*field)).to_be_bytes();
    }
}

#[inline]
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Decrements TTL or hop limit (RFC 1812 section 5.3.1, RFC 8200 section 3).
///
/// # Errors
/// `TtlExceeded` if the packet arrived with 1 or less; nothing has been changed then.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], headers: &mut Headers) -> Result<(), DropReason> {
    if headers.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let l3 = usize::from(headers.l3);
    headers.ttl -= 1;
    if headers.is_v4() {
        let Some(ip) = frame.get_mut(l3..).and_then(|f| f.first_chunk_mut::<20>()) else {
            return Err(DropReason::TruncatedIpv4);
        };
        ip[8] = headers.ttl;
        // RFC 1624 equation 3 for a word that gets smaller by 0x0100: ~m + m' is always 0xfeff.
        let sum = u32::from(!u16::from_be_bytes([ip[10], ip[11]])) + 0xfeff;
        [ip[10], ip[11]] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
    } else if let Some(ip) = frame.get_mut(l3..).and_then(|f| f.first_chunk_mut::<40>()) {
        ip[7] = headers.ttl;
    }
    Ok(())
}

/// The sum over the pseudo-header of the transport protocol (RFC 9293 section 3.1, RFC 8200 section 8.1), not folded.
#[must_use]
#[inline]
pub fn pseudo_header_sum(headers: &Headers, transport_len: usize) -> u64 {
    let seed = u64::from(headers.protocol.0) + transport_len as u64;
    if headers.is_v4() {
        let word = |a: &Addr16| u64::from(u32::from_be_bytes(a.v4_bytes()));
        seed + word(&headers.src) + word(&headers.dst)
    } else {
        seed + words(&headers.src) + words(&headers.dst)
    }
}

/// The sum of an address of either family.
#[inline]
fn words(address: &Addr16) -> u64 {
    let value = u128::from_be_bytes(address.0);
    let (sum, carry) = (value as u64).overflowing_add((value >> 64) as u64);
    (sum & 0xffff_ffff) + (sum >> 32) + u64::from(carry)
}

/// Completes a TCP or UDP checksum that holds only the pseudo-header sum, as a sender leaves it that has handed the rest to
/// its interface. Such a field is told by its value; a finished checksum has that value once in 65,536 packets, and
/// completing it again gives the right checksum then too if the packet is intact. Returns whether the field was completed.
#[inline(always)]
pub fn complete_partial_checksum(frame: &mut [u8], headers: &Headers) -> bool {
    if headers.fragment != Fragment::No {
        return false;
    }
    let at = match headers.protocol {
        Protocol::TCP => usize::from(headers.l4) + 16,
        Protocol::UDP => usize::from(headers.l4) + 6,
        _ => return false,
    };
    let Some(len) = (headers.end as usize).checked_sub(usize::from(headers.l4)) else { return false };
    let Some(field) = frame.get(at..).and_then(|f| f.first_chunk::<2>()).map(|f| u16::from_be_bytes(*f)) else {
        return false;
    };
    // A pseudo-header never sums to 0, so "no checksum" of UDP is not mistaken for one.
    if field != fold(pseudo_header_sum(headers, len)) {
        return false;
    }
    complete_checksum(frame, headers);
    true
}

/// Computes the transport checksum of a packet that is known to need it, whatever the field holds.
pub fn complete_checksum(frame: &mut [u8], headers: &Headers) {
    let Some(at) = headers.checksum_at() else { return };
    patch_checksum(frame, at, |_| 0);
    let Some(segment) = frame.get(usize::from(headers.l4)..headers.end as usize) else { return };
    let pseudo = if headers.protocol == Protocol::ICMP { 0 } else { pseudo_header_sum(headers, segment.len()) };
    let checksum = match crate::checksum::finish(crate::checksum::sum(segment, pseudo)) {
        0 if headers.protocol == Protocol::UDP => 0xffff,
        checksum => checksum,
    };
    patch_checksum(frame, at, |_| checksum);
}
