//! ICMP messages that a gateway sends itself: "too big" and the answer to an echo.

use crate::checksum::{finish, sum, update};
use crate::rewrite::pseudo_header_sum;
use crate::{Fragment, Headers, ethertype};
use penstock_model::{Addr16, DropReason, Protocol};
use std::net::IpAddr;

/// The longest message that [`too_big`] writes, with Ethernet header.
pub const MAX_ERROR_FRAME: usize = 14 + 1280;

/// RFC 1812 section 4.3.2.3: not longer than 576 bytes.
const MAX_V4_ERROR: usize = 576;
/// RFC 4443 section 2.4 (c): not longer than the least MTU.
const MAX_V6_ERROR: usize = 1280;

/// Whether an error may be sent about the packet: not about an error, a later fragment, or anything that was sent to or by
/// more than one (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)).
#[must_use]
pub fn may_be_reported(frame: &[u8], headers: &Headers) -> bool {
    let is_error = match headers.protocol {
        Protocol::ICMP => !matches!(headers.icmp_type, 0 | 8 | 13 | 14),
        Protocol::ICMPV6 => headers.icmp_type < 128,
        _ => false,
    };
    let is_one_receiver = match headers.dst.to_ip() {
        IpAddr::V4(a) => !a.is_broadcast() && !a.is_multicast(),
        // A "too big" may answer multicast, so that path MTU discovery works for it.
        IpAddr::V6(_) => true,
    };
    let is_link_unicast = frame.get(usize::from(headers.l2)).is_some_and(|b| b & 1 == 0);
    headers.is_ip()
        && headers.fragment != Fragment::Later
        && !is_error
        && is_one_host(headers.src.to_ip())
        && is_one_receiver
        && (is_link_unicast || headers.is_v6())
}

/// Writes to `out` the frame that tells the sender of `frame` that its packet is too large: ICMP destination unreachable,
/// fragmentation needed (RFC 1191 section 4) or ICMPv6 packet too big (RFC 4443 section 3.2). It goes back the way that the
/// packet came, from `from`, and quotes as much as is allowed. Returns its length.
///
/// # Errors
/// `Unsupported` if no error may be sent about this packet or `from` is of the other family, `NoBuffer` if `out` is short.
pub fn too_big(frame: &[u8], headers: &Headers, from: IpAddr, mtu: u32, out: &mut [u8]) -> Result<usize, DropReason> {
    let from = Addr16::from(from);
    if !may_be_reported(frame, headers) || from.is_v4() != headers.is_v4() {
        return Err(DropReason::Unsupported);
    }
    let is_v4 = headers.is_v4();
    let (ip_len, limit) = if is_v4 { (20, MAX_V4_ERROR) } else { (40, MAX_V6_ERROR) };
    let offending = frame.get(usize::from(headers.l3)..headers.end as usize).ok_or(DropReason::TruncatedEthernet)?;
    let quote = &offending[..offending.len().min(limit - ip_len - 8)];
    let len = 14 + ip_len + 8 + quote.len();
    let f = out.get_mut(..len).ok_or(DropReason::NoBuffer)?;
    f.fill(0);
    let eth = frame
        .get(usize::from(headers.l2)..)
        .and_then(|e| e.first_chunk::<12>())
        .ok_or(DropReason::TruncatedEthernet)?;
    f[..6].copy_from_slice(&eth[6..]);
    f[6..12].copy_from_slice(&eth[..6]);
    let l4 = 14 + ip_len;
    f[l4 + 8..].copy_from_slice(quote);
    let reply = Headers {
        src: from,
        dst: headers.src,
        protocol: if is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 },
        ethertype: if is_v4 { ethertype::IPV4 } else { ethertype::IPV6 },
        ..Headers::default()
    };
    write_ip(f, &reply);
    if is_v4 {
        f[l4..l4 + 2].copy_from_slice(&[3, 4]);
        f[l4 + 6..l4 + 8].copy_from_slice(&u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
    } else {
        f[l4..l4 + 2].copy_from_slice(&[2, 0]);
        f[l4 + 4..l4 + 8].copy_from_slice(&mtu.to_be_bytes());
    }
    let seed = if is_v4 { 0 } else { pseudo_header_sum(&reply, len - l4) };
    let checksum = finish(sum(&f[l4..], seed));
    f[l4 + 2..l4 + 4].copy_from_slice(&checksum.to_be_bytes());
    Ok(len)
}

/// Ether type and IP header of a message that fills the frame.
fn write_ip(f: &mut [u8], h: &Headers) {
    const HOPS: u8 = 64;
    let len = f.len() as u16;
    if h.is_v4() {
        f[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0xc0]); // precedence 6 (RFC 1812 section 4.3.2.5)
        f[16..18].copy_from_slice(&(len - 14).to_be_bytes());
        f[22] = HOPS;
        f[23] = h.protocol.0;
        f[26..30].copy_from_slice(&h.src.v4_bytes());
        f[30..34].copy_from_slice(&h.dst.v4_bytes());
        let checksum = finish(sum(&f[14..34], 0));
        f[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        f[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        f[18..20].copy_from_slice(&(len - 54).to_be_bytes());
        f[20] = h.protocol.0;
        f[21] = HOPS;
        f[22..38].copy_from_slice(&h.src.0);
        f[38..54].copy_from_slice(&h.dst.0);
    }
}

/// Whether the packet is an echo request.
#[must_use]
pub fn is_echo_request(headers: &Headers) -> bool {
    headers.fragment == Fragment::No
        && matches!((headers.protocol, headers.icmp_type), (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128))
}

/// Turns an echo request into its reply, in place: addresses exchanged on both layers, hop limit 64.
///
/// # Errors
/// `Unsupported` if it is no echo request or is not for one receiver.
pub fn echo_reply(frame: &mut [u8], headers: &Headers) -> Result<(), DropReason> {
    let are_hosts = is_one_host(headers.src.to_ip()) && is_one_host(headers.dst.to_ip());
    if !is_echo_request(headers) || !are_hosts || usize::from(headers.payload) > frame.len() {
        return Err(DropReason::Unsupported);
    }
    let (l2, l3, l4) = (usize::from(headers.l2), usize::from(headers.l3), usize::from(headers.l4));
    if l3 >= l2 + 12 {
        let (to, from) = frame[l2..l2 + 12].split_at_mut(6);
        to.swap_with_slice(from);
    }
    // Exchanging the addresses changes no sum; type and hop limit do.
    let (addresses, len, hops) = if headers.is_v4() { (l3 + 12, 4, l3 + 8) } else { (l3 + 8, 16, l3 + 7) };
    let (src, dst) = frame[addresses..addresses + 2 * len].split_at_mut(len);
    src.swap_with_slice(dst);
    let old_hops = [frame[hops], 0];
    frame[hops] = 64;
    if headers.is_v4() {
        patch(frame, l3 + 10, old_hops, [64, 0]);
    }
    let reply = if headers.is_v4() { 0 } else { 129 };
    let old = [frame[l4], frame[l4 + 1]];
    frame[l4] = reply;
    patch(frame, l4 + 2, old, [reply, old[1]]);
    Ok(())
}

/// Whether an answer can be sent to the address: it stands for one host (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5).
fn is_one_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.octets()[0] != 0 && !a.is_broadcast() && !a.is_multicast() && !a.is_loopback(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_loopback(),
    }
}

fn patch(frame: &mut [u8], at: usize, old: [u8; 2], new: [u8; 2]) {
    let field = update(u16::from_be_bytes([frame[at], frame[at + 1]]), &old, &new);
    frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{FrameBuilder, has_right_checksums};
    use crate::parse;

    #[test]
    fn a_packet_that_is_too_large_is_answered_with_the_mtu_and_its_own_beginning() {
        for (src, dst, router, limit) in [
            ("192.0.2.1:1000", "198.51.100.1:80", "203.0.113.1", 14 + 576),
            ("[2001:db8::1]:1000", "[2001:db8::2]:80", "2001:db8::f", 14 + 1280),
        ] {
            let frame = FrameBuilder::tcp(src, dst).payload(&[7; 1400]).build();
            let mut out = [0xff; MAX_ERROR_FRAME];
            let h = parse(&frame).unwrap();
            let n = too_big(&frame, &h, router.parse().unwrap(), 1400, &mut out).unwrap();
            assert_eq!(n, limit);
            let error = &out[..n];
            let e = parse(error).unwrap();
            assert!(has_right_checksums(error, &e));
            assert_eq!((e.dst, e.src.to_ip()), (h.src, router.parse().unwrap()));
            assert_eq!(error[..6], frame[6..12]);
            let l4 = usize::from(e.l4);
            assert_eq!(error[l4 + 6..l4 + 8], 1400u16.to_be_bytes());
            let quoted = &error[l4 + 8..];
            assert_eq!(quoted, &frame[14..14 + quoted.len()]);
            let mut again = [0; MAX_ERROR_FRAME];
            assert_eq!(
                too_big(error, &e, router.parse().unwrap(), 1400, &mut again),
                Err(DropReason::Unsupported),
                "no error about an error"
            );
        }
    }

    #[test]
    fn an_echo_comes_back_with_the_same_identifier_and_payload() {
        for (src, dst) in [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8::2")] {
            let request = FrameBuilder::echo(src, dst, 77).payload(b"hello!!").ttl(3).build();
            let h = parse(&request).unwrap();
            let mut reply = request.clone();
            echo_reply(&mut reply, &h).unwrap();
            let r = parse(&reply).unwrap();
            assert!(has_right_checksums(&reply, &r));
            assert_eq!((r.src, r.dst, r.src_port, r.ttl), (h.dst, h.src, 77, 64));
            assert_eq!(reply[usize::from(r.payload)..], request[usize::from(h.payload)..]);
            assert_eq!(echo_reply(&mut reply, &r), Err(DropReason::Unsupported));
        }
    }
}
