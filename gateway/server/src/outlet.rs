//! What the engine gave to a tunnel leaves: made to fit, then encrypted or encapsulated.
use crate::ports::UNDERLAY;
use crate::stats::TunnelDrops;
use crate::wireguard::TunnelTable;
use penstock_engine::{Port, Resolver};
use penstock_flow::Transposition;
use penstock_gateway_proto::{GatewayKey, GatewayResolver, Policy, TooBig, clamp_mss, too_big};
use penstock_model::{DropReason, HEADROOM, Nanos, Packet, TunnelId, Verdict};
use penstock_wire::fragment::fragments;

/// Bytes that a fragment is put together in: as long as the longest way is wide.
const PIECE: usize = 1500;

/// The tunnels' side of the data path.
pub(crate) struct Outlet<'a> {
    pub(crate) engine: &'a mut Port<GatewayResolver<TunnelTable>>,
    pub(crate) drops: &'a mut TunnelDrops,
    pub(crate) now: Nanos,
}

impl Outlet<'_> {
    /// Takes a packet whose verdict is `tunnel`. A datagram of WireGuard's lies in `outward` then; a packet in GRE is still
    /// this one, whose verdict becomes to leave by the underlay.
    pub(crate) fn take(&mut self, packet: &mut Packet<'_>, tunnel: TunnelId) {
        if let Err(reason) = self.put(packet, tunnel) {
            packet.verdict = Verdict::Drop(reason);
            self.drops.count(reason);
        }
    }

    fn put(&mut self, packet: &mut Packet<'_>, tunnel: TunnelId) -> Result<(), DropReason> {
        let mtu = self.engine.resolver().policy().tunnel_mtu(tunnel);
        clamp_mss(packet.frame_mut(), mtu);
        if packet.len() <= mtu {
            return self.put_whole(packet, tunnel, mtu);
        }
        match self.answer(packet, tunnel, mtu) {
            Some(TooBig::MayFragment) => self.put_in_pieces(packet, tunnel, mtu),
            _ => Err(DropReason::TooLarge),
        }
    }

    fn put_whole(&mut self, packet: &mut Packet<'_>, tunnel: TunnelId, mtu: usize) -> Result<(), DropReason> {
        let resolver = self.engine.resolver_mut();
        if let Some(done) = resolver.encapsulate(tunnel, packet) {
            packet.verdict = Verdict::Transmit(UNDERLAY);
            return done;
        }
        pad(packet, mtu);
        resolver.tunnels_mut().encrypt(tunnel, packet.frame(), self.now)
    }

    /// Fragments before it goes in, so that the site's end does not have to put outer datagrams together (RFC 4459 section 3.4).
    fn put_in_pieces(&mut self, packet: &Packet<'_>, tunnel: TunnelId, mtu: usize) -> Result<(), DropReason> {
        let mut room = [0; HEADROOM + PIECE];
        for (header, payload) in fragments(packet.frame(), mtu)? {
            let (start, len) = (HEADROOM, header.len() + payload.len());
            let piece = room.get_mut(start..start + len).ok_or(DropReason::TooLarge)?;
            let (front, back) = piece.split_at_mut_checked(header.len()).ok_or(DropReason::TooLarge)?;
            front.copy_from_slice(&header);
            back.copy_from_slice(payload);
            let mut piece = Packet::new(&mut room, start, len, packet.port).ok_or(DropReason::TooLarge)?;
            self.put_whole(&mut piece, tunnel, mtu)?;
            if piece.verdict == Verdict::Transmit(UNDERLAY) {
                self.engine.resolver_mut().tunnels_mut().outward.push(piece.frame())?;
            }
        }
        Ok(())
    }

    /// Tells the source of a packet what size fits: the message enters the engine like a decrypted packet, by a port that the
    /// policy keeps for it.
    fn answer(&mut self, packet: &Packet<'_>, tunnel: TunnelId, mtu: usize) -> Option<TooBig> {
        // Where addresses are translated the source is to be told of what it has sent.
        let sent = self.as_sent(packet, tunnel);
        let source = match &sent {
            Some((answers, known)) => Policy::sender(answers, known),
            None => penstock_wire::parse_ip(packet.frame()).ok()?.src.to_ip(),
        };
        let (port, router) = self.engine.resolver().policy().answer_port(tunnel, source)?;
        let inward = &mut self.engine.resolver_mut().tunnels_mut().inward;
        let buffer = inward.buffer().ok()?.get_mut(HEADROOM..)?;
        let outcome = too_big(packet.frame(), mtu, router, buffer);
        if let TooBig::Answer(len) = outcome {
            let is_right = match (&sent, buffer.get_mut(..len)) {
                (Some((answers, known)), Some(error)) => Policy::turn_error_back(error, answers, known),
                _ => true,
            };
            if is_right {
                inward.commit(HEADROOM, len, port);
            }
        }
        Some(outcome)
    }

    /// The flow of answers to the packet and what is remembered of it, if its addresses may be others than when it came.
    fn as_sent(&self, packet: &Packet<'_>, tunnel: TunnelId) -> Option<(GatewayKey, Transposition)> {
        let resolver = self.engine.resolver();
        let answers = resolver.answers_to(tunnel, packet.frame())?;
        let known = self.engine.flow_table().peek(&answers, resolver.hash(&answers), self.now.coarse())?;
        Some((answers, *resolver.transposition(&known.value)))
    }
}

/// Pads to 16 bytes as far as the tunnel carries (WireGuard whitepaper section 5.4.6): lengths tell less. The receiver cuts by the
/// IP header.
fn pad(packet: &mut Packet<'_>, mtu: usize) {
    let len = packet.len();
    let padded = len.next_multiple_of(16).min(mtu);
    if padded > len && packet.set_len(padded) {
        packet.frame_mut().iter_mut().skip(len).for_each(|b| *b = 0);
    }
}
