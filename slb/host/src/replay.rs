//! What the kernel's programs may replay of a decision, as their maps want it.
//!
//! Everything that user space looks at in each packet either follows from what the programs compare (where it comes from, by whom,
//! addresses, ports) or is left to user space by them (fragments, options, ends of connections).

use crate::classify::mac_at;
use crate::keys::port_of;
use crate::policy::Policy;
use penstock_engine::EncapTemplate;
use penstock_flow::{Flags, Transposition};
use penstock_maps::{CONTAINER, FLOW_DROP, FLOW_NAT, FLOW_TTL, HEADERS_V4, HEADERS_V6, ReplayFlow, ReplayFlowKey};
use penstock_model::{Addr16, DropReason, EncapId, FlowKey, Mac, Packet, PortId, Protocol};
use penstock_wire::checksum::fold;
use penstock_wire::{Fragment, Headers, VXLAN_PORT, ethertype};

/// What whoever replays flows is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    Settled(Replayed),
    Unsettled(Place),
}

/// A flow as the kernel knows it by the packets that come in, but for the index of a container's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    key: ReplayFlowKey,
    /// The port whose container sends it; `None`: it comes encapsulated.
    container: Option<PortId>,
}

/// A decision that may be replayed for every packet of a flow that the kernel's programs know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    place: Place,
    flow: ReplayFlow,
}

impl Place {
    /// The key; `index` tells the device of a port. `None`: it has none.
    #[must_use]
    pub fn key(&self, index: impl Fn(PortId) -> Option<u32>) -> Option<ReplayFlowKey> {
        let place = match self.container {
            Some(port) => CONTAINER | index(port)?,
            None => self.key.place,
        };
        Some(ReplayFlowKey { place, ..self.key })
    }
}

impl Replayed {
    /// Key and value under a generation of the policy; `index` as for [`Place::key`].
    #[must_use]
    pub fn entry(&self, generation: u32, index: impl Fn(PortId) -> Option<u32>) -> Option<(ReplayFlowKey, ReplayFlow)> {
        let key = self.place.key(&index)?;
        let is_dropped = self.flow.flags & FLOW_DROP != 0;
        let out = if is_dropped { 0 } else { index(PortId(self.flow.to))? };
        Some((key, ReplayFlow { generation, out, ..self.flow }))
    }
}

/// The flow that an entry of the kernel's map is of.
#[must_use]
pub fn flow_of(key: &ReplayFlowKey, flow: &ReplayFlow) -> FlowKey {
    let [a, b, c, d] = key.ports;
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let zone = penstock_model::TenantId(flow.zone & 0x00ff_ffff);
    FlowKey::new(zone, address(key.src), address(key.dst), Protocol(key.protocol as u8), source, destination)
}

/// Where packets of a flow come from.
pub(crate) fn place(policy: &Policy, key: &FlowKey) -> Option<Place> {
    let port = policy.port(port_of(key))?;
    let container = port.sends_as(key.src).then_some(port.id);
    let vni = policy.network_of(port)?.vni.to_be_bytes();
    let vni = u32::from_be_bytes([0, vni[0], vni[1], vni[2]]);
    let ([a, b], [c, d]) = (key.src_port.to_be_bytes(), key.dst_port.to_be_bytes());
    let key = ReplayFlowKey {
        src: words(key.src),
        dst: words(key.dst),
        ports: [a, b, c, d],
        place: if container.is_some() { 0 } else { vni },
        protocol: key.protocol().0.into(),
        version: if key.src.is_v4() { 4 } else { 6 },
    };
    Some(Place { key, container })
}

/// What is replayed of `t`, the decision for the flow `key` that `packet` is of. `None`: not this one, or not from there.
pub(crate) fn replayed(
    policy: &Policy,
    key: &FlowKey,
    packet: &Packet<'_>,
    h: &Headers,
    t: &Transposition,
    hash: u64,
) -> Option<Replayed> {
    const TRANSLATES: u16 = Flags::SRC | Flags::DST | Flags::SRC_PORT | Flags::DST_PORT;
    const KNOWN: u16 =
        TRANSLATES | Flags::DECAP | Flags::ETH | Flags::DEC_TTL | Flags::ENCAP | Flags::REPLY | Flags::DROP;
    let is_known =
        t.flags.0 & !KNOWN == 0 && t.meter == Transposition::NO_METER && t.counter == Transposition::NO_COUNTER;
    let is_whole = matches!(h.protocol, Protocol::TCP | Protocol::UDP) && h.fragment == Fragment::No;
    let reason = t.drop_reason();
    if !is_known || !is_whole || reason.is_some_and(|r| r != DropReason::AclDenied) {
        return None;
    }
    let place = place(policy, key)?;
    let is_inbound = packet.port == policy.underlay_port;
    if is_inbound == place.container.is_some() || (reason.is_none() && t.flags.has(Flags::DECAP) != is_inbound) {
        return None;
    }
    let (outer, mac) = match is_inbound {
        true => arrival(packet.frame(), h)?,
        false => (Addr16::default(), mac_at(packet.frame(), 6)?),
    };
    let mut flow = ReplayFlow {
        outer: words(outer),
        mac: mac.0,
        zone: key.tenant().0,
        from: packet.port.0,
        to: if reason.is_some() { packet.port.0 } else { t.out },
        ..translated(key, t)
    };
    for (flag, bit) in [(Flags::DROP, FLOW_DROP), (Flags::DEC_TTL, FLOW_TTL), (TRANSLATES, FLOW_NAT)] {
        flow.flags |= if t.flags.has(flag) { bit } else { 0 };
    }
    flow.eth[..6].copy_from_slice(&t.eth_dst.0);
    flow.eth[6..].copy_from_slice(&t.eth_src.0);
    if t.flags.has(Flags::ENCAP) && reason.is_none() {
        encapsulated(&mut flow, policy.encap(EncapId(t.encap)).ok()?, hash)?;
    }
    Some(Replayed { place, flow })
}

/// Puts the headers into `flow` that go before the IP packet. `None`: the kernel has no word for these.
fn encapsulated(flow: &mut ReplayFlow, template: &EncapTemplate, hash: u64) -> Option<()> {
    let (outer, length, udp) = match template.is_v4() {
        true => (template.bytes().first_chunk::<50>()?.as_slice(), HEADERS_V4, 34),
        false => (template.bytes().first_chunk::<70>()?.as_slice(), HEADERS_V6, 54),
    };
    let is_plain = outer.len() == template.bytes().len();
    flow.headers.get_mut(..outer.len())?.copy_from_slice(outer);
    flow.headers.get_mut(outer.len()..outer.len() + 12)?.copy_from_slice(&flow.eth);
    flow.headers.get_mut(udp..udp + 2)?.copy_from_slice(&template.source_port(hash));
    flow.headers_length = length as u16;
    flow.to = template.out.0;
    is_plain.then_some(())
}

/// Addresses and ports from now on, and what checksums have to follow.
fn translated(key: &FlowKey, t: &Transposition) -> ReplayFlow {
    let changed = |flag, old, new| if t.flags.has(flag) { new } else { old };
    let (src, dst) = (changed(Flags::SRC, key.src, t.src), changed(Flags::DST, key.dst, t.dst));
    let source = if t.flags.has(Flags::SRC_PORT) { t.src_port } else { key.src_port };
    let destination = if t.flags.has(Flags::DST_PORT) { t.dst_port } else { key.dst_port };
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    let addresses = growth(&key.src.0, &src.0) + growth(&key.dst.0, &dst.0);
    let ports = growth(&key.src_port.to_be_bytes(), &[a, b]) + growth(&key.dst_port.to_be_bytes(), &[c, d]);
    // One less in the byte that shares a word with the protocol (RFC 1624 equation 3).
    let hop = if t.flags.has(Flags::DEC_TTL) { growth(&[1, 0], &[0, 0]) } else { 0 };
    let is_v4 = key.src.is_v4();
    ReplayFlow {
        src: words(src),
        dst: words(dst),
        outer: [0; 2],
        seen: 0,
        address_sum: fold(addresses).into(),
        header_sum: if is_v4 { fold(addresses + hop).into() } else { 0 },
        port_sum: fold(ports).into(),
        ports: [a, b, c, d],
        generation: 0,
        out: 0,
        flags: 0,
        zone: 0,
        from: 0,
        to: 0,
        eth: [0; 12],
        mac: [0; 6],
        headers_length: 0,
        headers: [0; 84],
        pad: [0; 4],
    }
}

/// The underlay source of a frame that came by VXLAN without IP options or extension headers, and the inner destination.
fn arrival(frame: &[u8], h: &Headers) -> Option<(Addr16, Mac)> {
    const V4: [u8; 2] = ethertype::IPV4.to_be_bytes();
    const V6: [u8; 2] = ethertype::IPV6.to_be_bytes();
    let l2 = usize::from(h.l2);
    let (source, port) = match (*frame.get(12..)?.first_chunk::<2>()?, l2) {
        (V4, 50) => (Addr16::from_v4(*frame.get(26..)?.first_chunk()?), frame.get(36..38)?),
        (V6, 70) => (Addr16(*frame.get(22..)?.first_chunk()?), frame.get(56..58)?),
        _ => return None,
    };
    if port != VXLAN_PORT.to_be_bytes() {
        return None;
    }
    Some((source, mac_at(frame, l2)?))
}

/// What a one's complement sum of words of the machine grows by where `old` becomes `new`.
fn growth(old: &[u8], new: &[u8]) -> u64 {
    let words = |bytes: &[u8], flip: u16| -> u64 {
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair) ^ flip)).sum()
    };
    words(new, 0) + words(old, u16::MAX)
}

fn words(a: Addr16) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = a.0;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

fn address(words: [u64; 2]) -> Addr16 {
    let mut address = Addr16::default();
    address.0[..8].copy_from_slice(&words[0].to_ne_bytes());
    address.0[8..].copy_from_slice(&words[1].to_ne_bytes());
    address
}
