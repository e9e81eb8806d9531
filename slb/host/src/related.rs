//! ICMP errors about packets that were translated. What virtual addresses have sent comes back by a mux, by the packet that the error
//! quotes (RFC 1191, RFC 8201: without them no path MTU is discovered across direct return), and what a container complains about it
//! has got by its own address. Either side is to see the packet as it knows it (RFC 5508 section 4).

use crate::ROUTER_MAC;
use crate::decide::Decision;
use crate::keys::zone;
use crate::policy::{LocalPort, Nat, Network};
use penstock_engine::{Resolution, Why};
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, DropReason, FlowKey, Packet, PortId, Protocol, TenantId};
use penstock_policy::AclDirection;
use penstock_wire::checksum::update;
use penstock_wire::rewrite::{Rewrite, decrement_ttl, rewrite};
use penstock_wire::{Fragment, Headers};

/// The beginning of the packet that an error is about, where it stands in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) src: Addr16,
    pub(crate) dst: Addr16,
    pub(crate) protocol: Protocol,
    /// Of an echo its identifier, in both.
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    l3: usize,
    l4: usize,
}

impl Quote {
    /// The flow of packets that answer the quoted one.
    pub(crate) fn answers(&self, zone: TenantId) -> FlowKey {
        FlowKey::new(zone, self.dst, self.src, self.protocol, self.dst_port, self.src_port)
    }

    fn is_echo(&self) -> bool {
        matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6)
    }

    /// The same packet in a frame without the first `bytes`.
    fn without(mut self, bytes: usize) -> Self {
        (self.l3, self.l4) = (self.l3 - bytes, self.l4 - bytes);
        self
    }
}

/// Which end of the quoted packet is to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
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

impl<W: Why> Decision<'_, W> {
    /// An ICMP error about what a virtual address of the port has sent: let in if the flow that it is about would be. `known`: what is
    /// remembered of answers to what it quotes.
    pub(crate) fn related(
        &mut self,
        frame: &[u8],
        h: &Headers,
        known: Option<&Transposition>,
    ) -> Result<(Nat, Quote), DropReason> {
        let quote = quote(frame, h).ok_or(DropReason::NoReverseMapping)?;
        let nat = translated_by(self.port, self.network, h, &quote, known)?;
        self.why.because("icmp", || {
            format!(
                "an error about what {:?}:{} sent, which is {:?}:{} here",
                nat.vip, nat.vip_port, nat.dip, nat.dip_port
            )
        });
        let mut flow = quote.answers(zone(self.port.id));
        (flow.dst, flow.dst_port) = (nat.dip, nat.dip_port);
        let is_permitted = match known.is_some_and(|t| t.flags.has(Flags::REPLY)) {
            true => self.permits(self.port, AclDirection::Outbound, &flow.reversed()),
            false => self.permits(self.port, AclDirection::Inbound, &flow),
        };
        if is_permitted { Ok((nat, quote)) } else { Err(DropReason::AclDenied) }
    }

    /// An error about nothing that was translated goes the way of any packet, and is no flow.
    pub(crate) fn like_any_packet(
        &mut self,
        key: &FlowKey,
        h: &Headers,
        is_inbound: bool,
    ) -> Result<Transposition, DropReason> {
        match if is_inbound { self.inbound(key, h, None) } else { self.outbound(key, h, None) } {
            Resolution::Install { value, .. } | Resolution::Once(value) => Ok(value.0),
            Resolution::Drop(DropReason::NoRoute) | Resolution::Claim { .. } | Resolution::Instead(_) => {
                Err(DropReason::NoReverseMapping)
            }
            Resolution::Drop(reason) => Err(reason),
        }
    }

    /// An ICMP error of the container about what came to it by a virtual address: let out if an answer would be. `known`: what is
    /// remembered of such answers; without it the packet would be a way to send to anybody unasked.
    pub(crate) fn complaint(
        &mut self,
        frame: &[u8],
        h: &Headers,
        known: Option<&Transposition>,
    ) -> Result<(Transposition, Quote), DropReason> {
        let quote = quote(frame, h).ok_or(DropReason::NoReverseMapping)?;
        let by = answers_leave_by(h, &quote, known)?;
        self.why.because("icmp", || {
            format!("an error about what came by {:?}:{} to {:?}:{}", by.src, by.src_port, quote.dst, quote.dst_port)
        });
        let mut flow = quote.answers(zone(self.port.id));
        flow.src = if self.port.owns(flow.src) { flow.src } else { self.port.own_like(flow.src).unwrap_or(flow.src) };
        let is_permitted = match by.flags.has(Flags::REPLY) {
            true => self.permits(self.port, AclDirection::Inbound, &flow.reversed()),
            false => self.permits(self.port, AclDirection::Outbound, &flow),
        };
        if is_permitted { Ok((by, quote)) } else { Err(DropReason::AclDenied) }
    }
}

/// What the quoted packet was translated by when it left: the flow that it was of (`known`, what is remembered of its answers), else
/// a rule that explains it.
///
/// # Errors
/// Neither does, or an address of the tenant's own network is claimed from outside.
pub(crate) fn translated_by(
    port: &LocalPort,
    network: &Network,
    h: &Headers,
    q: &Quote,
    known: Option<&Transposition>,
) -> Result<Nat, DropReason> {
    if q.src != h.dst {
        return Err(DropReason::NoReverseMapping);
    }
    if [h.src, q.dst].iter().any(|a| network.compiled.contains(a.to_ip())) {
        return Err(DropReason::SpoofedSource);
    }
    let flow = known.filter(|t| t.flags.has(Flags::DST)).map(|t| Nat {
        service: penstock_model::ServiceId(0),
        protocol: q.protocol,
        vip: q.src,
        vip_port: q.src_port,
        dip: if t.dst == q.src { port.own_like(t.dst).unwrap_or(t.dst) } else { t.dst },
        dip_port: t.dst_port,
        is_floating: t.dst == q.src,
        idle_seconds: 0,
    });
    flow.or_else(|| port.nat_in(q.src, q.protocol, q.src_port)).ok_or(DropReason::NoReverseMapping)
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
    let q = q.without(usize::from(base));
    let frame = packet.frame_mut();
    let dst = nat.delivered();
    translate(frame, &h, &q, End::Source, dst, nat.dip_port).ok_or(DropReason::TruncatedTransport)?;
    rewrite(frame, &mut h, &Rewrite { dst: Some(dst), ..Rewrite::default() }, false)?;
    write_ethernet(frame, port.mac.0, ROUTER_MAC.0)?;
    Ok(port.id)
}

/// What becomes of packets of the container that answer the quoted one, as they are of a translated flow (`known`).
///
/// # Errors
/// They are not, or the error is not the container's own to send.
pub(crate) fn answers_leave_by(
    h: &Headers,
    q: &Quote,
    known: Option<&Transposition>,
) -> Result<Transposition, DropReason> {
    let is_own = q.src == h.dst && q.dst == h.src;
    match known {
        Some(t) if is_own && t.flags.has(Flags::SRC) => t.drop_reason().map_or(Ok(*t), Err),
        _ => Err(DropReason::NoReverseMapping),
    }
}

/// Writes the virtual address and port wherever the container's own stand, and the way out of its answers.
///
/// # Errors
/// The frame is not what its headers say, or its hop limit is used up.
pub(crate) fn send(packet: &mut Packet<'_>, h: &Headers, q: &Quote, by: &Transposition) -> Result<PortId, DropReason> {
    let mut h = *h;
    if !packet.set_len(h.end as usize) {
        return Err(DropReason::TruncatedTransport);
    }
    let frame = packet.frame_mut();
    translate(frame, &h, q, End::Destination, by.src, by.src_port).ok_or(DropReason::TruncatedTransport)?;
    rewrite(frame, &mut h, &Rewrite { src: Some(by.src), ..Rewrite::default() }, false)?;
    decrement_ttl(frame, &mut h)?;
    write_ethernet(frame, by.eth_dst.0, by.eth_src.0)?;
    Ok(PortId(by.out))
}

fn write_ethernet(frame: &mut [u8], dst: [u8; 6], src: [u8; 6]) -> Result<(), DropReason> {
    let eth = frame.first_chunk_mut::<12>().ok_or(DropReason::TruncatedEthernet)?;
    eth[..6].copy_from_slice(&dst);
    eth[6..].copy_from_slice(&src);
    Ok(())
}

/// Address and port of one end of the quoted packet, with all checksums that cover them as far as they are quoted: its IP header's,
/// its transport's, and the error's own.
fn translate(frame: &mut [u8], h: &Headers, q: &Quote, end: End, address: Addr16, port: u16) -> Option<()> {
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
