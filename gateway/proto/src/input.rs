use crate::routers::RouterPacket;
use penstock_model::{DropReason, Nanos, Verdict};
use std::net::SocketAddr;

/// A UDP datagram for one of the gateway's tunnel ports.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    pub from: SocketAddr,
    /// The UDP port that it was sent to.
    pub port: u16,
    /// Outer type of service, for the ECN field (RFC 6040).
    pub tos: u8,
    pub payload: &'a [u8],
}

/// Where datagrams of tunnels go: the server decrypts, this crate does not.
pub trait TunnelInput {
    /// Takes the datagram: `Consumed`, or `Drop` with the reason. What it decrypts comes back as packets of the tunnel's port.
    fn handle_datagram(&mut self, datagram: &Datagram<'_>, now: Nanos) -> Verdict;

    /// Takes a packet for a router of the tunnel's tenant.
    fn handle_router_packet(&mut self, packet: &RouterPacket<'_>) -> Verdict;
}

/// No tunnels: for tests and explanations of packets that are not tunnel datagrams.
impl TunnelInput for () {
    fn handle_datagram(&mut self, _datagram: &Datagram<'_>, _now: Nanos) -> Verdict {
        Verdict::Drop(DropReason::UnknownPeer)
    }

    fn handle_router_packet(&mut self, _packet: &RouterPacket<'_>) -> Verdict {
        Verdict::Consumed
    }
}
