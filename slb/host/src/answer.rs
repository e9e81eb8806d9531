//! What the host answers itself: ARP, neighbour discovery, and echo requests to a subnet's gateway.

use crate::ROUTER_MAC;
use crate::classify::{is_neighbour_discovery, mac_at};
use crate::fabric::is_probe_source;
use crate::policy::{LocalPort, Network};
use penstock_model::{Addr16, DropReason, Mac, Packet, Protocol, Verdict};
use penstock_wire::{Headers, checksum, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const HOP_LIMIT: u8 = 64;

/// Rewrites `packet` into its answer and sends it back, or says what becomes of it.
pub(crate) fn answer(network: &Network, port: &LocalPort, packet: &mut Packet<'_>, h: &Headers) -> Verdict {
    let done = if h.ethertype == ethertype::ARP {
        arp(network, port, packet)
    } else if is_neighbour_discovery(h) {
        neighbour_discovery(network, port, packet, h)
    } else {
        echo(packet, h)
    };
    match done {
        Ok(true) => Verdict::Transmit(port.id),
        Ok(false) => Verdict::Consumed,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Whose Ethernet address `target` has, as containers are told: the router's for gateways and the probes' source, its own
/// for another endpoint of the network. Nobody is told of himself.
fn owner(network: &Network, port: &LocalPort, target: IpAddr) -> Option<Mac> {
    if is_probe_source(target) || network.is_gateway(target) {
        return Some(ROUTER_MAC);
    }
    let addr = Addr16::from(target);
    if port.owns(addr) {
        return None;
    }
    network.endpoint(addr).map(|(e, _)| e.mac)
}

/// RFC 826, with RFC 5227 probes (sender 0.0.0.0).
fn arp(network: &Network, port: &LocalPort, packet: &mut Packet<'_>) -> Result<bool, DropReason> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let request = packet.frame().get(14..42).and_then(|f| f.first_chunk::<28>()).copied().ok_or(DropReason::TruncatedEthernet)?;
    let [.., op_high, op_low] = *request.first_chunk::<8>().ok_or(DropReason::TruncatedEthernet)?;
    if request[..6] != ETHERNET_IPV4 || [op_high, op_low] != [0, 1] {
        return Ok(false);
    }
    let sender = Ipv4Addr::new(request[14], request[15], request[16], request[17]);
    let is_own = sender.is_unspecified() || port.owns(Addr16::from_v4(sender.octets()));
    if request[8..14] != port.mac.0 || !is_own {
        return Err(DropReason::SpoofedSource);
    }
    let target = Ipv4Addr::new(request[24], request[25], request[26], request[27]);
    let Some(mac) = owner(network, port, IpAddr::V4(target)) else { return Ok(false) };
    let mut reply = [0u8; 42];
    reply[..6].copy_from_slice(&port.mac.0);
    reply[6..12].copy_from_slice(&ROUTER_MAC.0);
    reply[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
    reply[14..20].copy_from_slice(&ETHERNET_IPV4);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&mac.0);
    reply[28..32].copy_from_slice(&target.octets());
    reply[32..38].copy_from_slice(&port.mac.0);
    reply[38..42].copy_from_slice(&sender.octets());
    if packet.replace(&reply) { Ok(true) } else { Err(DropReason::NoBuffer) }
}

/// RFC 4861 section 7.2: solicitations are answered; the rest of neighbour discovery ends here.
fn neighbour_discovery(network: &Network, port: &LocalPort, packet: &mut Packet<'_>, h: &Headers) -> Result<bool, DropReason> {
    if h.icmp_type != NEIGHBOUR_SOLICITATION {
        return Ok(false);
    }
    // Section 7.1.1: hop limit 255 proves that it was not routed.
    let at = usize::from(h.l4);
    let target = packet.frame().get(at + 8..).and_then(|f| f.first_chunk::<16>()).copied().ok_or(DropReason::TruncatedTransport)?;
    if h.ttl != 255 {
        return Err(DropReason::BadIpv6Header);
    }
    let asker = h.src;
    let is_probing = asker == Addr16::default();
    let target = Ipv6Addr::from(target);
    let Some(mac) = owner(network, port, IpAddr::V6(target)) else { return Ok(false) };
    let dst = if is_probing { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets() } else { asker.0 };
    let reply = advertisement(port.mac, target, mac, dst, !is_probing);
    if packet.replace(&reply) { Ok(true) } else { Err(DropReason::NoBuffer) }
}

/// RFC 4861 section 4.4, with the target link-layer address option.
fn advertisement(to: Mac, target: Ipv6Addr, mac: Mac, dst: [u8; 16], solicited: bool) -> [u8; 86] {
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let mut f = [0u8; 86];
    f[..6].copy_from_slice(&to.0);
    f[6..12].copy_from_slice(&ROUTER_MAC.0);
    f[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    f[14] = 0x60;
    f[19] = 32;
    f[20] = Protocol::ICMPV6.0;
    f[21] = 255;
    f[22..38].copy_from_slice(&target.octets());
    f[38..54].copy_from_slice(&dst);
    f[54] = NEIGHBOUR_ADVERTISEMENT;
    f[58] = OVERRIDE | if solicited { SOLICITED } else { 0 };
    f[62..78].copy_from_slice(&target.octets());
    f[78] = 2;
    f[79] = 1;
    f[80..86].copy_from_slice(&mac.0);
    let pseudo = checksum::sum(&f[22..54], 32 + u64::from(Protocol::ICMPV6.0));
    let field = checksum::finish(checksum::sum(&f[54..86], pseudo));
    f[56..58].copy_from_slice(&field.to_be_bytes());
    f
}

/// RFC 792 and RFC 4443 section 4.2: the request comes back with its addresses exchanged. Other packets to this node have
/// no service here.
fn echo(packet: &mut Packet<'_>, h: &Headers) -> Result<bool, DropReason> {
    let (reply, ttl_at) = match (h.protocol, h.icmp_type) {
        (Protocol::ICMP, ECHO_REQUEST_V4) => (0, 8),
        (Protocol::ICMPV6, ECHO_REQUEST_V6) => (ECHO_REPLY_V6, 7),
        _ => return Err(DropReason::NoServiceOnPort),
    };
    let back = mac_at(packet.frame(), 6).ok_or(DropReason::TruncatedEthernet)?;
    let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
    let frame = packet.frame_mut();
    let (src_at, len) = if h.is_v4() { (l3 + 12, 4) } else { (l3 + 8, 16) };
    let both = frame.get_mut(src_at..src_at + 2 * len).ok_or(DropReason::TruncatedTransport)?;
    both.rotate_left(len);
    put(frame, 0, &back.0);
    put(frame, 6, &ROUTER_MAC.0);
    put(frame, l3 + ttl_at, &[HOP_LIMIT]);
    if h.is_v4() {
        put(frame, l3 + 10, &[0, 0]);
        let sum = checksum::finish(checksum::sum(frame.get(l3..l4).unwrap_or_default(), 0));
        put(frame, l3 + 10, &sum.to_be_bytes());
    }
    let old = frame.get(l4 + 2..).and_then(|f| f.first_chunk::<2>()).copied().unwrap_or_default();
    let field = checksum::update(u16::from_be_bytes(old), &[h.icmp_type, h.icmp_code], &[reply, h.icmp_code]);
    put(frame, l4, &[reply]);
    put(frame, l4 + 2, &field.to_be_bytes());
    Ok(true)
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
