//! ICMP errors about what a virtual address has sent. A mux brings them by the packet that they quote (RFC 1191, RFC 8201: without
//! them no path MTU is discovered across direct return), and the container only knows that packet by its own address.

use crate::ROUTER_MAC;
use crate::policy::{LocalPort, Nat, Network};
use penstock_model::{Addr16, DropReason, Packet, PortId, Protocol};
use penstock_wire::checksum::update;
use penstock_wire::rewrite::{Rewrite, rewrite};
use penstock_wire::{Fragment, Headers};

/// The beginning of the packet that an error is about, where it stands in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) src: Addr16,
    pub(crate) dst: Addr16,
    pub(crate) protocol: Protocol,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    l3: usize,
    l4: usize,
}

/// Whether the packet quotes another (RFC 792, RFC 4443 section 2.1). Redirects are for a router's own neighbours.
pub(crate) fn is_error(h: &Headers) -> bool {
    let is_error = match h.protocol {
        Protocol::ICMP if h.is_v4() => matches!(h.icmp_type, 3 | 4 | 11 | 12),
        Protocol::ICMPV6 if h.is_v6() => h.icmp_type < 128,
        _ => false,
    };
    is_error && h.fragment == Fragment::No
}

/// Eight bytes behind the quoted IP header are enough (RFC 792); extension headers in it are not followed.
pub(crate) fn quote(frame: &[u8], h: &Headers) -> Option<Quote> {
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
    let ports = quoted.get(len..)?.first_chunk::<8>()?;
    Some(Quote {
        src,
        dst,
        protocol: Protocol(protocol),
        src_port: u16::from_be_bytes([ports[0], ports[1]]),
        dst_port: u16::from_be_bytes([ports[2], ports[3]]),
        l3,
        l4: l3 + len,
    })
}

/// The rule that the quoted packet left by.
///
/// # Errors
/// No rule explains it, or an address of the tenant's own network is claimed from outside.
pub(crate) fn rule_of(port: &LocalPort, network: &Network, h: &Headers, q: &Quote) -> Result<Nat, DropReason> {
    if q.src != h.dst {
        return Err(DropReason::NoReverseMapping);
    }
    if [h.src, q.dst].iter().any(|a| network.compiled.contains(a.to_ip())) {
        return Err(DropReason::SpoofedSource);
    }
    port.nat_in(q.src, q.protocol, q.src_port).ok_or(DropReason::NoReverseMapping)
}

/// Opens the encapsulation and writes the container's address and port wherever the virtual ones stand.
///
/// # Errors
/// The frame is not what its headers say.
pub(crate) fn deliver(
    port: &LocalPort,
    nat: &Nat,
    packet: &mut Packet<'_>,
    h: &Headers,
    q: &Quote,
) -> Result<PortId, DropReason> {
    let base = h.l2;
    let mut h = *h;
    if !packet.set_len(h.end as usize) || !packet.pop_front(usize::from(base)) {
        return Err(DropReason::TruncatedTunnel);
    }
    packet.offload = penstock_model::Offload::default();
    (h.l2, h.l3, h.l4, h.payload, h.end) = (0, h.l3 - base, h.l4 - base, h.payload - base, h.end - u32::from(base));
    let (l3, l4) = (q.l3 - usize::from(base), q.l4 - usize::from(base));
    let frame = packet.frame_mut();
    translate_quote(frame, &h, q.protocol, (l3, l4), nat).ok_or(DropReason::TruncatedTransport)?;
    rewrite(frame, &mut h, &Rewrite { dst: Some(nat.delivered()), ..Rewrite::default() }, false)?;
    let eth = frame.first_chunk_mut::<12>().ok_or(DropReason::TruncatedEthernet)?;
    eth[..6].copy_from_slice(&port.mac.0);
    eth[6..].copy_from_slice(&ROUTER_MAC.0);
    Ok(port.id)
}

/// Source address and port of the quoted packet, with all checksums that cover them as far as they are quoted: its IP header's, its
/// transport's, and the error's own.
fn translate_quote(
    frame: &mut [u8],
    h: &Headers,
    protocol: Protocol,
    (l3, l4): (usize, usize),
    nat: &Nat,
) -> Option<()> {
    let end = h.end as usize;
    let own = usize::from(h.l4) + 2;
    let dip = nat.delivered();
    let (v4, v6) = (dip.v4_bytes(), dip.0);
    let (address, at): (&[u8], usize) = if h.is_v4() { (&v4, l3 + 12) } else { (&v6, l3 + 8) };
    let port = nat.dip_port.to_be_bytes();
    let mut kept = [0; 16];
    let old_address = kept.get_mut(..address.len())?;
    old_address.copy_from_slice(frame.get(at..at + address.len())?);
    let transport_sum = match protocol {
        Protocol::TCP => Some(l4 + 16),
        // RFC 768: zero is no checksum.
        Protocol::UDP if frame.get(l4 + 6..l4 + 8)? != [0, 0] => Some(l4 + 6),
        _ => None,
    };
    let mut write = |at: usize, new: &[u8]| {
        let mut sum = [0; 2];
        let mut kept = [0; 16];
        let old = kept.get_mut(..new.len())?;
        let field = frame.get_mut(at..at + new.len())?;
        old.copy_from_slice(field);
        field.copy_from_slice(new);
        sum.copy_from_slice(frame.get(own..own + 2)?);
        let sum = update(u16::from_be_bytes(sum), old, new).to_be_bytes();
        frame.get_mut(own..own + 2)?.copy_from_slice(&sum);
        Some(u16::from_be_bytes([*old.first()?, *old.get(1)?]))
    };
    write(at, address)?;
    let old_port = write(l4, &port)?;
    if h.is_v4() {
        let sum = write(l3 + 10, &[0, 0])?;
        write(l3 + 10, &update(sum, old_address, address).to_be_bytes())?;
    }
    if let Some(at) = transport_sum.filter(|at| at + 2 <= end) {
        let sum = write(at, &[0, 0])?;
        let sum = update(update(sum, old_address, address), &old_port.to_be_bytes(), &port);
        write(at, &if protocol == Protocol::UDP && sum == 0 { 0xffff } else { sum }.to_be_bytes())?;
    }
    Some(())
}
