//! What an ICMP error quotes: the beginning of the packet that it is about.

use penstock_model::{Addr16, Protocol};
use penstock_wire::Headers;

/// The quoted packet, which the virtual IP sent to the client: its source is the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) vip: Addr16,
    pub(crate) client: Addr16,
    pub(crate) protocol: Protocol,
    pub(crate) vip_port: u16,
    pub(crate) client_port: u16,
}

/// Whether the packet is an ICMP error: it quotes a packet (RFC 792, RFC 4443 section 2.1).
pub(crate) fn is_icmp_error(h: &Headers) -> bool {
    match h.protocol {
        Protocol::ICMP => matches!(h.icmp_type, 3 | 4 | 5 | 11 | 12),
        Protocol::ICMPV6 => h.icmp_type < 128,
        _ => false,
    }
}

/// Reads the quote of an ICMP error. Eight bytes behind the quoted IP header are enough (RFC 792); IPv6 extension headers
/// in the quote are not followed.
pub(crate) fn read_quote(frame: &[u8], h: &Headers) -> Option<Quote> {
    let quote = frame.get(usize::from(h.payload)..h.end as usize)?;
    let (src, dst, protocol, l4) = match quote.first()? >> 4 {
        4 if h.is_v4() => {
            let ip = quote.first_chunk::<20>()?;
            let first = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff == 0;
            let at = usize::from(ip[0] & 0x0f) * 4;
            if !first || at < 20 {
                return None;
            }
            let src = Addr16::from_v4([ip[12], ip[13], ip[14], ip[15]]);
            (src, Addr16::from_v4([ip[16], ip[17], ip[18], ip[19]]), ip[9], at)
        }
        6 if h.is_v6() => {
            let ip = quote.first_chunk::<40>()?;
            let (mut src, mut dst) = (Addr16::default(), Addr16::default());
            src.0.copy_from_slice(&ip[8..24]);
            dst.0.copy_from_slice(&ip[24..40]);
            (src, dst, ip[6], 40)
        }
        _ => return None,
    };
    let ports = quote.get(l4..)?.first_chunk::<8>()?;
    let is_echo = matches!((protocol, ports[0]), (1, 8 | 0) | (58, 128 | 129));
    // An echo has one identifier for both.
    let (first, second) = if is_echo {
        ([ports[4], ports[5]], [ports[4], ports[5]])
    } else {
        ([ports[0], ports[1]], [ports[2], ports[3]])
    };
    // An error about a packet that the VIP sent comes back to the VIP; anything else was not provoked by us.
    (src == h.dst).then(|| Quote {
        vip: src,
        client: dst,
        protocol: Protocol(protocol),
        vip_port: u16::from_be_bytes(first),
        client_port: u16::from_be_bytes(second),
    })
}
