//! ICMP errors where addresses are translated: each side is told of the packet as it knows it (RFC 5508 section 4).
use crate::input::TunnelInput;
use crate::key::{GatewayKey, Way};
use crate::nat::{source_of_error, translated};
use crate::policy::Policy;
use crate::resolver::GatewayResolver;
use penstock_engine::{Class, Resolver, Why, apply};
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, DropReason, FlowKey, Nanos, Packet, TunnelId, Verdict};
use penstock_wire::quote::{End, Quote, is_error, quote, translate};
use penstock_wire::rewrite::{Rewrite, rewrite};
use penstock_wire::{Headers, parse, parse_ip};

impl<T: TunnelInput> GatewayResolver<T> {
    /// The flow of answers to the packet that an error quotes, if the error is a tenant's whose addresses are translated.
    pub(crate) fn related_to(&self, packet: &Packet<'_>, headers: &Headers) -> Option<GatewayKey> {
        if !is_error(headers) {
            return None;
        }
        let (came, _, h) = self.came(packet)?;
        Some(answers(&came, &quote(packet.frame(), &h)?))
    }

    /// The key that the packet itself has, its hash, and its headers.
    fn came(&self, packet: &Packet<'_>) -> Option<(GatewayKey, u64, Headers)> {
        let mut h = parse(packet.frame()).ok()?;
        match self.arrive(packet, &mut h) {
            Class::Flow { key, hash, .. } if is_error(&h) => Some((key, hash, h)),
            _ => None,
        }
    }

    /// Sends an error the way of the flow that it is about, in the words of who gets it. `known`: what is remembered of answers to
    /// the packet that it quotes. About a flow that is not known it says something only where nothing is translated.
    pub(crate) fn bring_error(
        &mut self,
        packet: &mut Packet<'_>,
        known: Option<&Transposition>,
        now: Nanos,
        why: &mut impl Why,
    ) -> Result<Verdict, DropReason> {
        let (came, hash, mut h) = self.came(packet).ok_or(DropReason::NoReverseMapping)?;
        let quoted = quote(packet.frame(), &h).ok_or(DropReason::NoReverseMapping)?;
        let about = answers(&came, &quoted);
        let key = if known.is_some() { about } else { came };
        let (decision, _) = self.decide(&key, known, now, why)?;
        let mut t = decision.value;
        if known.is_some() {
            if quoted.src != h.dst {
                return Err(DropReason::NoReverseMapping);
            }
            let flow = translated(&about.flow, &t);
            let src = source_of_error(self.policy(), &about, &t, h.src);
            self.check_source(&about, h.src, src)?;
            why.because("icmp", || format!("an error about {:?}, which is {flow:?} there", about.flow));
            turn_quote(packet.frame_mut(), &h, &quoted, &flow)?;
            t = with_addresses(t, &h, src, flow.dst);
        } else if t.flags.has(Flags::SRC | Flags::DST) {
            return Err(DropReason::NoReverseMapping);
        }
        self.prepare(&came, packet, &mut h)?;
        let encap = if t.flags.has(Flags::ENCAP) { Some(self.encap(t.encap)?) } else { None };
        apply(&t, packet, &h, hash, encap)
    }

    /// A router on the way may tell of an error, but not as somebody who is not on this side.
    fn check_source(&self, about: &GatewayKey, src: Addr16, translated: Addr16) -> Result<(), DropReason> {
        if src == about.flow.src {
            return Ok(());
        }
        match about.way() {
            Some(Way::Tunnel(id)) => {
                let (site, tenant) = self.policy().tunnel(id).ok_or(DropReason::UnknownPeer)?;
                let is_there = site.may_send_from(translated) && tenant.network_of(translated).is_none();
                if is_there { Ok(()) } else { Err(DropReason::NotInAllowedPrefixes) }
            }
            Some(Way::Overlay(vni)) => {
                let network = self.policy().tenant_of(vni).and_then(|t| t.first());
                network.and_then(|n| n.endpoint(src)).map(|_| ()).ok_or(DropReason::SpoofedSource)
            }
            Some(Way::Own(_)) | None => Err(DropReason::SpoofedSource),
        }
    }

    /// The flow of answers to a packet that is bound for `tunnel`, if its addresses may have been translated on the way here.
    #[must_use]
    pub fn answers_to(&self, tunnel: TunnelId, packet: &[u8]) -> Option<GatewayKey> {
        let (site, _) = self.policy().tunnel(tunnel)?;
        if !self.policy().is_translated(site.tenant) {
            return None;
        }
        let h = parse_ip(packet).ok()?;
        Some(GatewayKey::new(Way::Tunnel(tunnel), h.flow_key(site.tenant).reversed()))
    }
}

impl Policy {
    /// Makes an error about a packet on its way out one about the packet as its sender knows it. `frame`: the error with its Ethernet
    /// header; `answers`: the flow of answers to the packet, and what is remembered of it.
    #[must_use]
    pub fn turn_error_back(frame: &mut [u8], answers: &GatewayKey, known: &Transposition) -> bool {
        let flow = translated(&answers.flow, known);
        let Ok(mut h) = parse(frame) else { return false };
        let Some(quoted) = quote(frame, &h) else { return false };
        let change = Rewrite { dst: (h.dst != flow.dst).then_some(flow.dst), ..Rewrite::default() };
        turn_quote(frame, &h, &quoted, &flow).is_ok() && rewrite(frame, &mut h, &change, false).is_ok()
    }

    /// Who sent the packet, answers to which are the flow `answers` of which `known` is remembered.
    #[must_use]
    pub fn sender(answers: &GatewayKey, known: &Transposition) -> std::net::IpAddr {
        translated(&answers.flow, known).dst.to_ip()
    }
}

/// The flow of answers to the quoted packet, by the way that the error came.
fn answers(came: &GatewayKey, quoted: &Quote) -> GatewayKey {
    came.with_flow(quoted.answers(came.flow.tenant()))
}

/// Makes the quoted packet one to which `answers` are the answers.
fn turn_quote(frame: &mut [u8], h: &Headers, quoted: &Quote, answers: &FlowKey) -> Result<(), DropReason> {
    let source = translate(frame, h, quoted, End::Source, answers.dst, answers.dst_port);
    let destination = translate(frame, h, quoted, End::Destination, answers.src, answers.src_port);
    source.and(destination).ok_or(DropReason::TruncatedTransport)
}

/// The way that a decision says, between other addresses; an error has no ports.
fn with_addresses(mut t: Transposition, h: &Headers, src: Addr16, dst: Addr16) -> Transposition {
    t.flags.0 &= !(Flags::SRC | Flags::DST | Flags::SRC_PORT | Flags::DST_PORT);
    if src != h.src {
        t = t.with_src(src);
    }
    if dst != h.dst { t.with_dst(dst) } else { t }
}
