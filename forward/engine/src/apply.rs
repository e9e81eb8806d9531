use crate::EncapTemplate;
use penstock_flow::{Flags, Transposition};
use penstock_model::{DropReason, Gso, Offload, Packet, PortId, TunnelId, Verdict};
use penstock_wire::Headers;
use penstock_wire::rewrite::{Rewrite, complete_checksum, complete_partial_checksum, decrement_ttl, rewrite};

/// Replays a decision on a packet: pop, rewrite, TTL, Ethernet, push or strip. Meters and counters are the caller's.
///
/// `headers` describe the packet that the decision is about: with `DECAP` the inner one. `encap` is the template that the
/// transposition names; it is needed with `ENCAP` only. A frame that is to be segmented (`offload.gso`) cannot be
/// encapsulated or tunnelled: segment it first (`penstock_wire::gso`).
///
/// # Errors
/// Why the packet is dropped. Its bytes may have been changed in part then.
pub fn apply(
    t: &Transposition,
    packet: &mut Packet<'_>,
    headers: &Headers,
    hash: u64,
    encap: Option<&EncapTemplate>,
) -> Result<Verdict, DropReason> {
    apply_in_place(t, packet, &mut { *headers }, hash, encap)
}

/// [`apply`] with the caller's headers, which follow the packet.
#[inline(always)]
pub(crate) fn apply_in_place(
    t: &Transposition,
    packet: &mut Packet<'_>,
    h: &mut Headers,
    hash: u64,
    encap: Option<&EncapTemplate>,
) -> Result<Verdict, DropReason> {
    if is_usual(t, packet, h)
        && let Some(template) = encap
    {
        return push_usual(t, packet, h, hash, template);
    }
    apply_any(t, packet, h, hash, encap)
}

#[inline(never)]
fn apply_any(
    t: &Transposition,
    packet: &mut Packet<'_>,
    h: &mut Headers,
    hash: u64,
    encap: Option<&EncapTemplate>,
) -> Result<Verdict, DropReason> {
    let flags = t.flags;
    if let Some(reason) = t.drop_reason() {
        return Err(reason);
    }
    if flags.has(Flags::DECAP) {
        decapsulate(packet, h)?;
    }
    let leaves_frame = flags.has(Flags::ENCAP | Flags::TUNNEL);
    if leaves_frame && packet.offload.gso != Gso::None {
        return Err(DropReason::BadOffload);
    }
    let partial = packet.offload.partial_checksum;
    let is_whole = packet.offload.gso == Gso::None;
    if flags.has(Flags::SRC | Flags::DST | Flags::SRC_PORT | Flags::DST_PORT) {
        // It is told by the addresses that are about to change.
        if flags.has(Flags::COMPLETE_CHECKSUM) && is_whole && !partial {
            complete_partial_checksum(packet.frame_mut(), h);
        }
        let change = Rewrite {
            src: flags.has(Flags::SRC).then_some(t.src),
            dst: flags.has(Flags::DST).then_some(t.dst),
            src_port: flags.has(Flags::SRC_PORT).then_some(t.src_port),
            dst_port: flags.has(Flags::DST_PORT).then_some(t.dst_port),
        };
        rewrite(packet.frame_mut(), h, &change, partial)?;
    }
    if flags.has(Flags::DEC_TTL) {
        decrement_ttl(packet.frame_mut(), h)?;
    }
    if flags.has(Flags::ETH)
        && let Some(eth) = packet.frame_mut().get_mut(h.l2 as usize..).and_then(|f| f.first_chunk_mut::<12>())
    {
        eth[..6].copy_from_slice(&t.eth_dst.0);
        eth[6..].copy_from_slice(&t.eth_src.0);
    }
    if partial && is_whole && (leaves_frame || flags.has(Flags::COMPLETE_CHECKSUM)) {
        complete_checksum(packet.frame_mut(), h);
        packet.offload = Offload::default();
    } else if flags.has(Flags::COMPLETE_CHECKSUM) && is_whole {
        complete_partial_checksum(packet.frame_mut(), h);
    }
    if flags.has(Flags::ENCAP) {
        let template = encap.ok_or(DropReason::NextHopUnresolved)?;
        encapsulate(packet, h, hash, template)?;
        return Ok(Verdict::Transmit(template.out));
    }
    if flags.has(Flags::TUNNEL) {
        strip(packet, h)?;
        return Ok(Verdict::Tunnel(TunnelId(t.encap)));
    }
    Ok(Verdict::Transmit(PortId(t.out)))
}

/// What [`push_usual`] does.
const USUAL: u16 = Flags::ENCAP | Flags::ETH | Flags::DEC_TTL | Flags::COMPLETE_CHECKSUM | Flags::REPLY;

/// Whether the packet is untagged and only to be encapsulated, as most are that a mux and a gateway send into the fabric.
#[inline(always)]
fn is_usual(t: &Transposition, packet: &Packet<'_>, h: &Headers) -> bool {
    const NEEDED: u16 = Flags::ENCAP | Flags::ETH | Flags::DEC_TTL;
    t.flags.0 & !USUAL == 0
        && t.flags.0 & NEEDED == NEEDED
        && (h.l2, h.l3) == (0, 14)
        && !packet.offload.partial_checksum
        && packet.offload.gso == Gso::None
}

/// The steps of [`apply_in_place`] for a packet that [`is_usual`], with its bounds found once and each line written once.
#[inline(always)]
fn push_usual(
    t: &Transposition,
    packet: &mut Packet<'_>,
    h: &mut Headers,
    hash: u64,
    template: &EncapTemplate,
) -> Result<Verdict, DropReason> {
    let end = h.end as usize;
    if h.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let push = template.bytes().len();
    let (Ok(ip_len), Ok(udp_len)) = (u16::try_from(end + push - 14), u16::try_from(end + template.udp_overhead()))
    else {
        return Err(DropReason::TooLarge);
    };
    if !packet.set_len(end) {
        return Err(DropReason::TruncatedEthernet);
    }
    let (outer, inner) = packet.push_front(push).ok_or(DropReason::TooLarge)?.split_at_mut(push);
    if let Some(eth) = inner.first_chunk_mut::<12>() {
        eth[..6].copy_from_slice(&t.eth_dst.0);
        eth[6..].copy_from_slice(&t.eth_src.0);
    }
    decrement_ttl(inner, h)?;
    if t.flags.has(Flags::COMPLETE_CHECKSUM) {
        complete_partial_checksum(inner, h);
    }
    template.write(outer, ip_len, udp_len, h.tos, hash);
    packet.offload = Offload::default();
    Ok(Verdict::Transmit(template.out))
}

/// Takes off everything in front of the inner frame, and the padding behind it.
fn decapsulate(packet: &mut Packet<'_>, h: &mut Headers) -> Result<(), DropReason> {
    let base = h.l2;
    if !packet.set_len(h.end as usize) || !packet.pop_front(usize::from(base)) {
        return Err(DropReason::TruncatedTunnel);
    }
    h.l2 = 0;
    h.l3 -= base;
    h.l4 -= base;
    h.payload -= base;
    h.end -= u32::from(base);
    // What was in front of a packet without an Ethernet header of its own (GRE) has another type, or is none.
    if h.l3 == 14
        && let Some(kind) = packet.frame_mut().get_mut(12..14)
    {
        kind.copy_from_slice(&h.ethertype.to_be_bytes());
    }
    let offload = &mut packet.offload;
    match offload.checksum_start.checked_sub(base) {
        Some(start) if start >= h.l3 => offload.checksum_start = start,
        _ => *offload = Offload::default(),
    }
    Ok(())
}

/// Leaves the bare IP packet.
fn strip(packet: &mut Packet<'_>, h: &Headers) -> Result<(), DropReason> {
    if !packet.set_len(h.end as usize) || !packet.pop_front(usize::from(h.l3)) {
        return Err(DropReason::TruncatedEthernet);
    }
    packet.offload = Offload::default();
    Ok(())
}

/// Takes out the VLAN tags: an inner frame carries none (RFC 7348 section 6.1).
#[cold]
fn untag(packet: &mut Packet<'_>, tags: usize) -> Result<(), DropReason> {
    let frame = packet.frame_mut();
    if frame.len() < 14 + tags {
        return Err(DropReason::TruncatedEthernet);
    }
    frame.copy_within(0..12, tags);
    if packet.pop_front(tags) { Ok(()) } else { Err(DropReason::TruncatedEthernet) }
}

/// Pushes the template and writes the fields that depend on the packet.
#[inline]
fn encapsulate(packet: &mut Packet<'_>, h: &Headers, hash: u64, template: &EncapTemplate) -> Result<(), DropReason> {
    // What lies behind the IP packet is padding of the Ethernet it came by.
    if !packet.set_len(h.end as usize) || !packet.pop_front(usize::from(h.l2)) {
        return Err(DropReason::TruncatedEthernet);
    }
    let tags = usize::from(h.l3 - h.l2).saturating_sub(14);
    if tags > 0 {
        untag(packet, tags)?;
    }
    let push = template.bytes().len();
    let ip_len = packet.len() + push - 14;
    let udp_len = packet.len() + template.udp_overhead();
    let (Ok(ip_len), Ok(udp_len)) = (u16::try_from(ip_len), u16::try_from(udp_len)) else {
        return Err(DropReason::TooLarge);
    };
    let frame = packet.push_front(push).ok_or(DropReason::TooLarge)?;
    template.write(frame, ip_len, udp_len, h.tos, hash);
    packet.offload = Offload::default();
    Ok(())
}
