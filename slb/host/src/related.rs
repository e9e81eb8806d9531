//! ICMP errors about packets that were translated. What virtual addresses have sent comes back by a mux, by the packet that the error
//! quotes (RFC 1191, RFC 8201: without them no path MTU is discovered across direct return), and what a container complains about it
//! has got by its own address. Either side is to see the packet as it knows it (RFC 5508 section 4).

use crate::ROUTER_MAC;
use crate::decide::Decision;
use crate::keys::zone;
use crate::policy::{LocalPort, Nat, Network};
use penstock_engine::{Resolution, Why};
use penstock_flow::{Flags, Transposition};
use penstock_model::{DropReason, FlowKey, Packet, PortId};
use penstock_policy::AclDirection;
use penstock_wire::Headers;
use penstock_wire::quote::{End, Quote, quote, translate};
use penstock_wire::rewrite::{Rewrite, decrement_ttl, rewrite};

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
