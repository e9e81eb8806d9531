//! What the host answers itself: ARP, neighbour discovery, and echo requests to a subnet's gateway.

use crate::ROUTER_MAC;
use crate::classify::is_neighbour_discovery;
use crate::fabric::is_probe_source;
use crate::policy::{LocalPort, Network};
use penstock_model::{Addr16, DropReason, Mac, Packet, Verdict};
use penstock_wire::{Headers, arp, ethertype, icmp, nd};
use std::net::IpAddr;

/// Rewrites `packet` into its answer and sends it back, or says what becomes of it.
pub(crate) fn answer(network: &Network, port: &LocalPort, packet: &mut Packet<'_>, h: &Headers) -> Verdict {
    let done = if h.ethertype == ethertype::ARP {
        answer_arp(network, port, packet, h)
    } else if is_neighbour_discovery(h) {
        answer_solicitation(network, port, packet, h)
    } else if icmp::is_echo_request(h) {
        icmp::echo_reply(packet.frame_mut(), h).map(|()| true)
    } else {
        Err(DropReason::NoServiceOnPort)
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

/// RFC 826, with the probes of RFC 5227 (sender 0.0.0.0).
fn answer_arp(network: &Network, port: &LocalPort, packet: &mut Packet<'_>, h: &Headers) -> Result<bool, DropReason> {
    let request = arp::parse(packet.frame(), h)?;
    let is_own = request.sender.is_unspecified() || port.owns(Addr16::from_v4(request.sender.octets()));
    if request.sender_mac != port.mac || !is_own {
        return Err(DropReason::SpoofedSource);
    }
    if request.operation != arp::Operation::Request {
        return Ok(false);
    }
    match owner(network, port, IpAddr::V4(request.target)) {
        Some(mac) => replace(packet, &request.reply(mac).to_frame()),
        None => Ok(false),
    }
}

/// RFC 4861 section 7.2: solicitations are answered; the rest of neighbour discovery ends here.
fn answer_solicitation(
    network: &Network,
    port: &LocalPort,
    packet: &mut Packet<'_>,
    h: &Headers,
) -> Result<bool, DropReason> {
    if !nd::is_solicitation(h) {
        return Ok(false);
    }
    let request = nd::parse_solicitation(packet.frame(), h)?;
    if request.sender_mac != port.mac {
        return Err(DropReason::SpoofedSource);
    }
    match owner(network, port, IpAddr::V6(request.target)) {
        Some(mac) => replace(packet, &request.answer(mac)),
        None => Ok(false),
    }
}

fn replace(packet: &mut Packet<'_>, frame: &[u8]) -> Result<bool, DropReason> {
    if packet.replace(frame) { Ok(true) } else { Err(DropReason::NoBuffer) }
}
