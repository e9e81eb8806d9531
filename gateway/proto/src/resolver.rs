use crate::decide::{self, Asked, Decision, Means};
use crate::input::{Datagram, TunnelInput};
use crate::key::{GatewayKey, Way};
use crate::mtu::clamp_mss;
use crate::nat::{self, Translator};
use crate::policy::{Policy, Source};
use crate::routers::RouterPacket;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use penstock_engine::{Account, Class, EncapTemplate, Fragments, Prior, Resolution, Resolver, Step, TcpIdle, Why};
use penstock_flow::{Flags, FlowHasher, Mappings, Transposition};
use penstock_model::{DropReason, Gso, Nanos, Offload, Packet, Protocol, TenantId, TunnelId, Verdict};
use penstock_wire::ecn;
use penstock_wire::quote::is_error;
use penstock_wire::rewrite::complete_partial_checksum;
use penstock_wire::{Fragment, Headers, TcpFlags, VXLAN_PORT, parse_gre, parse_vxlan};
use std::net::SocketAddr;
use std::sync::Arc;

/// RFC 4787 section 4.3 recommends five minutes.
const OTHER_IDLE_SECONDS: u16 = 300;

/// Mappings of translated addresses, unless [`GatewayResolver::with_mappings`] says otherwise.
const MAPPINGS: usize = 4096;
/// Mappings that are looked at in one round.
const MAINTAINED: usize = 64;

/// Length of an Ethernet header without tags.
const ETHERNET: u16 = 14;

/// What is remembered for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Remembered(Transposition);

/// An empty slot: were it ever replayed, it would drop.
impl Default for Remembered {
    fn default() -> Self {
        Self(Transposition::drop(DropReason::NoPolicy))
    }
}

/// The gateway's decisions for one worker.
#[derive(Debug)]
pub struct GatewayResolver<T> {
    published: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    policy: Arc<Policy>,
    hasher: FlowHasher,
    tunnels: T,
    /// Of the last packet that was put into GRE: fragments of one packet belong together by it (RFC 6864).
    identification: u16,
    mappings: Mappings,
    /// Of packets of translated tenants that come in pieces, which ports their first had.
    fragments: Fragments,
    /// Of the present batch.
    now: Nanos,
}

impl<T: TunnelInput> GatewayResolver<T> {
    /// Reads policy from `published`; `hasher` holds the secret of this boot.
    #[must_use]
    pub fn new(published: Arc<ArcSwap<Policy>>, hasher: FlowHasher, tunnels: T) -> Self {
        let policy = published.load_full();
        Self {
            published: Cache::new(published),
            policy,
            hasher,
            tunnels,
            identification: 0,
            mappings: Mappings::new(hasher, MAPPINGS, MAPPINGS),
            fragments: Fragments::new(hasher),
            now: Nanos(0),
        }
    }

    /// Room for `capacity` mappings of translated addresses, of which one tenant may have `of_tenant`. They are all gone.
    #[must_use]
    pub fn with_mappings(mut self, capacity: usize, of_tenant: usize) -> Self {
        self.mappings = Mappings::new(self.hasher, capacity, of_tenant);
        self
    }

    /// Mappings of translated addresses that there are.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// The policy of the batch that was processed last.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    pub fn tunnels_mut(&mut self) -> &mut T {
        &mut self.tunnels
    }

    #[must_use]
    pub fn tunnels(&self) -> &T {
        &self.tunnels
    }

    fn flow(&self, way: Way, tenant: TenantId, headers: &Headers, epoch: penstock_model::Epoch) -> Class<GatewayKey> {
        let flow = headers.flow_key(tenant);
        let key = GatewayKey::new(way, flow);
        Class::Flow { key, hash: key.mix(self.hasher.hash(&flow)), epoch }
    }

    fn classify_underlay(&self, packet: &Packet<'_>, headers: &mut Headers) -> Class<GatewayKey> {
        let policy = &*self.policy;
        if !headers.is_ip() {
            return Class::Pass;
        }
        if !policy.is_own(headers.dst) {
            return Class::Drop(DropReason::NotOurs);
        }
        let is_gre = headers.protocol == Protocol::GRE && policy.takes_gre();
        // A later fragment has no ports and may be anybody's: the kernel's then.
        let is_udp = headers.protocol == Protocol::UDP && headers.fragment != Fragment::Later;
        let is_overlay = is_udp && headers.dst_port == VXLAN_PORT;
        let is_ours = is_gre || is_overlay || is_udp && policy.listens_on(headers.dst_port);
        if !is_ours {
            return Class::Pass;
        }
        // Nobody here puts the pieces of an encapsulated packet together (RFC 7348 section 4.3 allows that), and where steering
        // has taken it from the kernel nobody else does.
        if headers.fragment != Fragment::No {
            return Class::Drop(DropReason::FragmentUnsupported);
        }
        if is_gre {
            self.gre_packet(packet, headers).unwrap_or_else(Class::Drop)
        } else if is_overlay {
            self.overlay_packet(packet, headers).unwrap_or_else(Class::Drop)
        } else {
            Class::Local
        }
    }

    /// From a site by GRE: the peer's address and the key name the connection, and so the tenant.
    fn gre_packet(&self, packet: &Packet<'_>, headers: &mut Headers) -> Result<Class<GatewayKey>, DropReason> {
        let policy = &*self.policy;
        let (gre, inner) = parse_gre(packet.frame(), headers)?;
        let id = policy.gre().find(headers.src, gre.key).ok_or(DropReason::UnknownPeer)?;
        if inner.protocol == Protocol::GRE && inner.src == headers.dst && inner.dst == headers.src {
            return Ok(Class::Local);
        }
        let (site, tenant) = policy.tunnel(id).ok_or(DropReason::UnknownPeer)?;
        if site.is_for_router(inner.dst) {
            return Ok(Class::Local);
        }
        let network = tenant.first().ok_or(DropReason::NoPolicy)?;
        *headers = Headers { outer_tos: headers.tos, ..inner };
        Ok(self.flow(Way::Tunnel(id), site.tenant, headers, network.epoch()))
    }

    /// A packet for a router of the tenant, if it is one: out of GRE, or decrypted.
    fn router_packet(&mut self, packet: &mut Packet<'_>, headers: &Headers) -> Option<Verdict> {
        let policy = &*self.policy;
        let (site, inner) = match policy.source(packet.port) {
            Ok(Source::Tunnel(_, site)) => (site, *headers),
            Ok(Source::Underlay) if headers.protocol == Protocol::GRE => {
                let (gre, inner) = parse_gre(packet.frame(), headers).ok()?;
                (policy.tunnel(policy.gre().find(headers.src, gre.key)?)?.0, inner)
            }
            _ => return None,
        };
        if !site.is_for_router(inner.dst) {
            return None;
        }
        let tunnel = site.id;
        // Its sender may have left the checksum to an interface that the packet did not leave by.
        complete_partial_checksum(packet.frame_mut(), &inner);
        let bytes = packet.frame().get(usize::from(inner.l3)..inner.end as usize);
        let Some(bytes) = bytes else { return Some(Verdict::Drop(DropReason::TruncatedTunnel)) };
        let (from, to) = (inner.src.to_ip(), inner.dst.to_ip());
        Some(self.tunnels.handle_router_packet(&RouterPacket { tunnel, from, to, bytes }))
    }

    /// A router asks whether the connection works by sending a packet to itself through it: it is sent on as it is. (The
    /// keepalives of IOS: a GRE packet of protocol 0 inside, from the gateway to the peer.)
    fn answer_keepalive(&self, packet: &mut Packet<'_>, headers: &Headers) -> Result<Verdict, DropReason> {
        let policy = &*self.policy;
        let (gre, inner) = parse_gre(packet.frame(), headers)?;
        let id = policy.gre().find(headers.src, gre.key).ok_or(DropReason::UnknownPeer)?;
        let inside =
            packet.frame().get(usize::from(inner.l4)..inner.end as usize).ok_or(DropReason::TruncatedTunnel)?;
        let asked = penstock_wire::gre::parse(inside)?;
        if asked.protocol != 0 || asked.key != gre.key {
            return Err(DropReason::NotOurs);
        }
        let hop = policy.gre().hop(id).ok_or(DropReason::NextHopUnresolved)?;
        let kind = inner.ethertype.to_be_bytes();
        if !packet.set_len(inner.end as usize) || !packet.pop_front(usize::from(inner.l2)) {
            return Err(DropReason::TruncatedTunnel);
        }
        let ethernet = packet.frame_mut().first_chunk_mut::<14>().ok_or(DropReason::TruncatedTunnel)?;
        ethernet[..12].copy_from_slice(&hop);
        ethernet[12..].copy_from_slice(&kind);
        packet.offload = Offload::default();
        Ok(Verdict::Transmit(policy.underlay_port()))
    }

    /// Puts a packet whose verdict is `tunnel` into GRE, ready to leave by the underlay; `None` if the tunnel is of another kind.
    pub fn encapsulate(&mut self, tunnel: TunnelId, packet: &mut Packet<'_>) -> Option<Result<(), DropReason>> {
        self.identification = self.identification.wrapping_add(1);
        self.policy.gre().encapsulate(tunnel, packet, self.identification)
    }

    /// From a trusted host: the VNI names the network, and so the tenant.
    fn overlay_packet(&self, packet: &Packet<'_>, headers: &mut Headers) -> Result<Class<GatewayKey>, DropReason> {
        let policy = &*self.policy;
        if !policy.is_vtep(headers.src) {
            return Err(DropReason::UntrustedUnderlaySource);
        }
        let outer = Headers { end: datagram_end(packet, headers)?, ..*headers };
        let (vni, inner) = parse_vxlan(packet.frame(), &outer)?;
        let network = policy.tenant_of(vni).and_then(|t| t.first()).ok_or(DropReason::UnknownVni)?;
        // RFC 7348 section 6.1: a frame with a VLAN tag inside is discarded.
        if inner.l3 != inner.l2 + ETHERNET {
            return Err(DropReason::VlanTagged);
        }
        if !inner.is_ip() {
            return Err(DropReason::NotOurs);
        }
        *headers = Headers { outer_tos: headers.tos, ..inner };
        Ok(self.flow(Way::Overlay(vni), network.tenant(), headers, network.epoch()))
    }

    /// The decision for a flow, saying why; the second value is whether to remember it.
    ///
    /// A later fragment has ports 0: rules that name ports do not match it, so it passes only where addresses and protocol
    /// alone allow it.
    pub(crate) fn decide(
        &mut self,
        key: &GatewayKey,
        prior: Option<&Transposition>,
        now: Nanos,
        why: &mut impl Why,
    ) -> Result<(Decision, bool), DropReason> {
        let policy = &*self.policy;
        let translator = Translator { mappings: &mut self.mappings, now: now.coarse() };
        let mut means = Means { policy, translator };
        let asked = Asked::new(key.flow, prior);
        match key.way().ok_or(DropReason::UnknownPort)? {
            Way::Tunnel(id) => {
                let (site, tenant) = policy.tunnel(id).ok_or(DropReason::UnknownPort)?;
                Ok((decide::from_tunnel(&mut means, tenant, site, asked, why)?, true))
            }
            Way::Overlay(vni) => {
                let network = policy.tenant_of(vni).and_then(|t| t.first()).ok_or(DropReason::UnknownVni)?;
                Ok((decide::from_overlay(&mut means, network, asked, why)?, true))
            }
            Way::Own(vni) => {
                let network = policy.tenant_of(vni).and_then(|t| t.first()).ok_or(DropReason::UnknownVni)?;
                Ok((Decision { value: decide::own(policy, network, key.flow.dst, why)?, peer: None }, false))
            }
        }
    }

    /// Whose a packet is, before it is looked at more closely: [`Class::Flow`] if it is a tenant's.
    pub(crate) fn arrive(&self, packet: &Packet<'_>, headers: &mut Headers) -> Class<GatewayKey> {
        match self.policy.source(packet.port) {
            Ok(Source::Underlay) => self.classify_underlay(packet, headers),
            Ok(Source::Tunnel(_, site)) if site.is_for_router(headers.dst) => Class::Local,
            Ok(Source::Tunnel(tenant, site)) => match tenant.first() {
                Some(network) => self.flow(Way::Tunnel(site.id), site.tenant, headers, network.epoch()),
                None => Class::Drop(DropReason::NoPolicy),
            },
            Ok(Source::Own(tenant)) => match tenant.first() {
                Some(network) => self.flow(Way::Own(network.vni()), network.tenant(), headers, network.epoch()),
                None => Class::Drop(DropReason::NoPolicy),
            },
            Err(reason) => Class::Drop(reason),
        }
    }

    /// A piece of a packet, or an error about one, where addresses are translated: the one is of the flow of its first piece, the
    /// other is translated by the flow that it is about.
    #[cold]
    fn look_closer(
        &mut self,
        packet: &Packet<'_>,
        headers: &mut Headers,
        class: Class<GatewayKey>,
    ) -> Class<GatewayKey> {
        let Class::Flow { key, epoch, .. } = class else { return class };
        let tenant = key.flow.tenant();
        let (Some(way), true) = (key.way(), self.policy.is_translated(tenant)) else { return class };
        if matches!(way, Way::Own(_)) {
            return class;
        }
        if is_error(headers) {
            return Class::Local;
        }
        self.fragments.name(packet.frame(), headers, zone(way), self.now);
        self.flow(way, tenant, headers, epoch)
    }
}

/// Where identifications of packets are told apart: by the way in, as networks and sites may have the same addresses.
fn zone(way: Way) -> TenantId {
    const LAST: u32 = (1 << 24) - 1;
    match way {
        Way::Overlay(vni) | Way::Own(vni) => TenantId(vni.get()),
        Way::Tunnel(id) => TenantId(LAST - id.0.min(LAST)),
    }
}

impl<T: TunnelInput> Resolver for GatewayResolver<T> {
    type Key = GatewayKey;
    type Value = Remembered;

    const PREPARES: bool = true;

    const WALKS: bool = true;

    fn refresh(&mut self, now: Nanos) {
        self.now = now;
        let newest = self.published.load();
        if !Arc::ptr_eq(newest, &self.policy) {
            self.policy = Arc::clone(newest);
        }
    }

    #[inline]
    fn classify(&mut self, packet: &Packet<'_>, headers: &mut Headers) -> Class<GatewayKey> {
        let class = self.arrive(packet, headers);
        if headers.fragment == Fragment::No && !is_error(headers) {
            return class;
        }
        self.look_closer(packet, headers, class)
    }

    fn explain_classify(&mut self, packet: &Packet<'_>, headers: &mut Headers, _: &mut Vec<Step>) -> Class<GatewayKey> {
        self.fragments.look_only(true);
        let class = self.classify(packet, headers);
        self.fragments.look_only(false);
        class
    }

    fn resolve(
        &mut self,
        key: &GatewayKey,
        _hash: u64,
        _packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        now: Nanos,
    ) -> Resolution<GatewayKey, Remembered> {
        match self.decide(key, prior.map(|p| p.transposition), now, &mut ()) {
            Ok((decision, true)) => Resolution::Install {
                value: Remembered(decision.value),
                peer: decision.peer.map(|(key, value)| (key, Remembered(value))),
                idle_seconds: match headers.protocol {
                    Protocol::TCP => TcpIdle::DEFAULT.established,
                    _ => OTHER_IDLE_SECONDS,
                },
            },
            Ok((decision, false)) => Resolution::Once(Remembered(decision.value)),
            Err(reason) => Resolution::Drop(reason),
        }
    }

    /// Explained with mappings of its own, which nobody sees afterwards.
    fn explain_resolve(
        &mut self,
        key: &GatewayKey,
        hash: u64,
        packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        now: Nanos,
        why: &mut Vec<Step>,
    ) -> Resolution<GatewayKey, Remembered> {
        let kept = self.mappings.clone();
        let explained = self.decide(key, prior.map(|p| p.transposition), now, why);
        self.mappings = kept;
        let _ = (hash, packet, headers);
        explained.map_or_else(Resolution::Drop, |(decision, _)| Resolution::Once(Remembered(decision.value)))
    }

    #[inline]
    fn transposition<'a>(&'a self, value: &'a Remembered) -> &'a Transposition {
        &value.0
    }

    fn hash(&self, key: &GatewayKey) -> u64 {
        key.mix(self.hasher.hash(&key.flow))
    }

    /// As the decisions make it: what leaves by a tunnel is answered from there, what leaves for an endpoint from its network.
    fn peer_of(&self, key: &GatewayKey, value: &Remembered) -> Option<GatewayKey> {
        let flow = nat::translated(&key.flow, &value.0);
        let way = match key.way()? {
            _ if value.0.flags.has(Flags::TUNNEL) => Way::Tunnel(TunnelId(value.0.encap)),
            Way::Tunnel(id) => {
                let (_, tenant) = self.policy.tunnel(id)?;
                Way::Overlay(tenant.network_of(flow.dst)?.1.vni())
            }
            Way::Overlay(_) | Way::Own(_) => return None,
        };
        Some(GatewayKey::new(way, flow.reversed()))
    }

    fn lives(&mut self, key: &GatewayKey, value: &Remembered) {
        nat::touch(&self.policy, &mut self.mappings, key, &value.0);
    }

    fn maintain(&mut self, is_round: bool, now: Nanos) {
        if is_round {
            self.mappings.handle_round();
        }
        self.mappings.maintain(now.coarse(), MAINTAINED);
    }

    fn about(&self, packet: &Packet<'_>, headers: &Headers) -> Option<GatewayKey> {
        self.related_to(packet, headers)
    }

    fn local_about(
        &mut self,
        packet: &mut Packet<'_>,
        _: &Headers,
        known: Option<&Transposition>,
        now: Nanos,
    ) -> Verdict {
        self.bring_error(packet, known, now, &mut ()).unwrap_or_else(Verdict::Drop)
    }

    #[inline]
    fn encap(&self, id: u32) -> Result<&EncapTemplate, DropReason> {
        self.policy.encaps().template(id).ok_or(DropReason::NextHopUnresolved)
    }

    /// What comes by the underlay is still in its encapsulation: congestion that the outer header tells of is marked inside (RFC
    /// 6040 section 4.2), and what a site offers by GRE is lowered to what fits back. Other tunnels hand in packets that were
    /// taken out, and so prepared, before.
    #[inline]
    fn prepare(&self, key: &GatewayKey, packet: &mut Packet<'_>, headers: &mut Headers) -> Result<(), DropReason> {
        if headers.l2 == 0 {
            return Ok(());
        }
        let inner = packet.frame_mut().get_mut(usize::from(headers.l3)..headers.end as usize);
        let inner = inner.ok_or(DropReason::TruncatedTunnel)?;
        let tos = ecn::decapsulated(headers.outer_tos, headers.tos).ok_or(DropReason::CongestionHidden)?;
        if tos != headers.tos {
            ecn::mark(inner, tos);
            headers.tos = tos;
        }
        if headers.tcp_flags.has(TcpFlags::SYN)
            && let Some(Way::Tunnel(id)) = key.way()
        {
            clamp_mss(inner, self.policy.tunnel_mtu(id));
        }
        Ok(())
    }

    /// From one site to another both connections are used: the decision names the second one's way out.
    #[inline]
    fn account(&self, key: &GatewayKey, t: &Transposition) -> Option<Account> {
        match key.way() {
            Some(Way::Tunnel(id)) if t.flags.has(Flags::TUNNEL) => {
                Some(Account { meter: self.policy.caps().of_received(id), counter: Policy::counters_of(id).0 })
            }
            _ => None,
        }
    }

    fn local(&mut self, packet: &mut Packet<'_>, headers: &Headers, now: Nanos) -> Verdict {
        if let Some(verdict) = self.router_packet(packet, headers) {
            return verdict;
        }
        if headers.protocol == Protocol::GRE {
            return self.answer_keepalive(packet, headers).unwrap_or_else(Verdict::Drop);
        }
        let end = match datagram_end(packet, headers) {
            Ok(end) => end as usize,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Some(payload) = packet.frame().get(usize::from(headers.payload)..end) else {
            return Verdict::Drop(DropReason::TruncatedTransport);
        };
        let from = SocketAddr::new(headers.src.to_ip(), headers.src_port);
        // The sender may have left it to its interface to cut one large datagram into many (UDP_SEGMENT).
        let each = match packet.offload.gso {
            Gso::Udp => usize::from(packet.offload.gso_size).max(1),
            _ => payload.len().max(1),
        };
        let mut verdict = Verdict::Drop(DropReason::BadTunnelHeader);
        for payload in payload.chunks(each) {
            let datagram = Datagram { from, port: headers.dst_port, tos: headers.tos, payload };
            let one = self.tunnels.handle_datagram(&datagram, now);
            if verdict != Verdict::Consumed {
                verdict = one;
            }
        }
        verdict
    }
}

/// Where a datagram ends: where its UDP length says, which may be before the end of the IP packet (RFC 768; what lies
/// behind is no payload).
fn datagram_end(packet: &Packet<'_>, h: &Headers) -> Result<u32, DropReason> {
    // One large datagram that the interface is to cut may be longer than the field can say.
    if packet.offload.gso != Gso::None {
        return Ok(h.end);
    }
    let at = usize::from(h.l4) + 4;
    let length = packet.frame().get(at..).and_then(|f| f.first_chunk::<2>()).ok_or(DropReason::TruncatedTransport)?;
    let end = u32::from(h.l4) + u32::from(u16::from_be_bytes(*length));
    if end < u32::from(h.payload) || end > h.end {
        return Err(DropReason::BadUdpLength);
    }
    Ok(end)
}
