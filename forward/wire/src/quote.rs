//! The packet that an ICMP error quotes: which flow it was of, and its ends written anew (RFC 5508 section 4).

use crate::checksum::update;
use crate::{Fragment, Headers};
use penstock_model::{Addr16, FlowKey, Protocol, TenantId};

/// The beginning of the packet that an error is about, where it stands in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    pub src: Addr16,
    pub dst: Addr16,
    pub protocol: Protocol,
    /// Of an echo its identifier, in both.
    pub src_port: u16,
    pub dst_port: u16,
    l3: usize,
    l4: usize,
}

impl Quote {
    /// The flow of packets that answer the quoted one.
    #[must_use]
    pub fn answers(&self, zone: TenantId) -> FlowKey {
        FlowKey::new(zone, self.dst, self.src, self.protocol, self.dst_port, self.src_port)
    }

    fn is_echo(&self) -> bool {
        matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6)
    }

    /// The same packet in a frame without the first `bytes`.
    #[must_use]
    pub fn without(mut self, bytes: usize) -> Self {
        (self.l3, self.l4) = (self.l3.saturating_sub(bytes), self.l4.saturating_sub(bytes));
        self
    }
}

/// Which end of the quoted packet is to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// Whether the packet quotes another (RFC 792, RFC 4443 section 2.1). Redirects are for a router's own neighbours.
#[must_use]
pub fn is_error(h: &Headers) -> bool {
    let is_error = match h.protocol {
        Protocol::ICMP if h.is_v4() => matches!(h.icmp_type, 3 | 4 | 11 | 12),
        Protocol::ICMPV6 if h.is_v6() => h.icmp_type < 128,
        _ => false,
    };
    is_error && h.fragment == Fragment::No
}

/// Eight bytes behind the quoted IP header are enough (RFC 792); extension headers in it are not followed.
#[must_use]
pub fn quote(frame: &[u8], h: &Headers) -> Option<Quote> {
    let l3 = usize::from(h.payload);
    let quoted = frame.get(l3..h.end as usize)?;
    let (src, dst, protocol, len) = match quoted.first()? >> 4 {
        4 if h.is_v4() => {
            let ip = quoted.first_chunk::<20>()?;
            let len = usize::from(ip[0] & 0x0f) * 4;
            if len < 20 || u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
                return None;
            }
            let src = Addr16::from_v4([ip[12], ip[13], ip[14], ip[15]]);
            (src, Addr16::from_v4([ip[16], ip[17], ip[18], ip[19]]), ip[9], len)
        }
        6 if h.is_v6() => {
            let ip = quoted.first_chunk::<40>()?;
            let (mut src, mut dst) = (Addr16::default(), Addr16::default());
            src.0.copy_from_slice(&ip[8..24]);
            dst.0.copy_from_slice(&ip[24..40]);
            (src, dst, ip[6], 40)
        }
        _ => return None,
    };
    let [a, b, c, d, e, f, ..] = *quoted.get(len..)?.first_chunk::<8>()?;
    let (src_port, dst_port) = match (Protocol(protocol), a) {
        (Protocol::ICMP, 0 | 8) | (Protocol::ICMPV6, 128 | 129) => ([e, f], [e, f]),
        (Protocol::ICMP | Protocol::ICMPV6, _) => return None,
        _ => ([a, b], [c, d]),
    };
    Some(Quote {
        src,
        dst,
        protocol: Protocol(protocol),
        src_port: u16::from_be_bytes(src_port),
        dst_port: u16::from_be_bytes(dst_port),
        l3,
        l4: l3 + len,
    })
}

/// Address and port of one end of the quoted packet, with all checksums that cover them as far as they are quoted: its IP header's,
/// its transport's, and the error's own. `None`: the quote is not
/// where `h` and `q` say.
pub fn translate(frame: &mut [u8], h: &Headers, q: &Quote, end: End, address: Addr16, port: u16) -> Option<()> {
    let (v4, v6) = (address.v4_bytes(), address.0);
    let (address, at): (&[u8], usize) = if h.is_v4() { (&v4, q.l3 + 12) } else { (&v6, q.l3 + 8) };
    let at = if end == End::Destination { at + address.len() } else { at };
    let port_at = match end {
        _ if q.is_echo() => q.l4 + 4,
        End::Source => q.l4,
        End::Destination => q.l4 + 2,
    };
    let port = port.to_be_bytes();
    let mut kept = [0; 16];
    let old_address = kept.get_mut(..address.len())?;
    old_address.copy_from_slice(frame.get(at..at + address.len())?);
    let sum_at = match q.protocol {
        Protocol::TCP => Some(q.l4 + 16),
        // RFC 768: zero is no checksum.
        Protocol::UDP if frame.get(q.l4 + 6..q.l4 + 8)? != [0, 0] => Some(q.l4 + 6),
        Protocol::ICMP | Protocol::ICMPV6 => Some(q.l4 + 2),
        _ => None,
    };
    write(frame, h, at, address)?;
    let old_port = write(frame, h, port_at, &port)?.to_be_bytes();
    if h.is_v4() {
        let sum = write(frame, h, q.l3 + 10, &[0, 0])?;
        write(frame, h, q.l3 + 10, &update(sum, old_address, address).to_be_bytes())?;
    }
    if let Some(at) = sum_at.filter(|at| at + 2 <= h.end as usize) {
        let sum = write(frame, h, at, &[0, 0])?;
        // ICMP for IPv4 alone has no pseudo-header.
        let sum = if q.protocol == Protocol::ICMP { sum } else { update(sum, old_address, address) };
        let sum = update(sum, &old_port, &port);
        write(frame, h, at, &if q.protocol == Protocol::UDP && sum == 0 { 0xffff } else { sum }.to_be_bytes())?;
    }
    Some(())
}

/// Overwrites bytes of the quote, and keeps the error's own checksum right. Returns the first two of what was there.
fn write(frame: &mut [u8], h: &Headers, at: usize, new: &[u8]) -> Option<u16> {
    let own = usize::from(h.l4) + 2;
    let (mut sum, mut kept) = ([0; 2], [0; 16]);
    let old = kept.get_mut(..new.len())?;
    let field = frame.get_mut(at..at + new.len())?;
    old.copy_from_slice(field);
    field.copy_from_slice(new);
    sum.copy_from_slice(frame.get(own..own + 2)?);
    let sum = update(u16::from_be_bytes(sum), old, new).to_be_bytes();
    frame.get_mut(own..own + 2)?.copy_from_slice(&sum);
    Some(u16::from_be_bytes([*old.first()?, *old.get(1)?]))
}
