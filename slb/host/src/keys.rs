//! The keys of flows, as each port of a host sees them.

use crate::policy::{LocalPort, Policy};
use penstock_flow::{Flags, Transposition};
use penstock_model::{FlowKey, PortId, Protocol, TenantId};
use penstock_wire::Headers;

/// The key of a flow as one container port sees it.
///
/// As in VFP each port has its flows for itself: the zone of the key is the port (numbered from 1), not the tenant. So
/// neither two tenants nor two containers of one tenant ever share an entry.
pub(crate) fn key_at(port: PortId, h: &Headers) -> FlowKey {
    h.flow_key(zone(port))
}

/// The key of a flow that an appliance passes on, on its way out: the same packets have come in by [`key_at`].
pub(crate) fn passed_on_key(port: PortId, h: &Headers) -> FlowKey {
    h.flow_key(TenantId(zone(port).0 | PASSED_ON))
}

/// Marks zones of what leaves an appliance and is not its own.
const PASSED_ON: u32 = 1 << 20;

pub(crate) fn zone(port: PortId) -> TenantId {
    TenantId(u32::from(port.0) + 1)
}

/// The port whose flow `key` is.
pub(crate) fn port_of(key: &FlowKey) -> PortId {
    PortId((key.tenant().0 & !PASSED_ON).saturating_sub(1) as u16)
}

/// The same flow as another port sees it.
pub(crate) fn in_zone(port: PortId, key: &FlowKey) -> FlowKey {
    in_zone_of(zone(port), key)
}

/// The answer to `key` as it reaches `port`.
pub(crate) fn answer_to(port: PortId, key: &FlowKey) -> FlowKey {
    FlowKey::new(zone(port), key.dst, key.src, key.protocol(), key.dst_port, key.src_port)
}

/// The answer to `key` as it leaves `port`.
pub(crate) fn answer_of(port: &LocalPort, key: &FlowKey) -> FlowKey {
    let answer = answer_to(port.id, key);
    if port.forwards && !port.sends_as(answer.src) {
        in_zone_of(TenantId(zone(port.id).0 | PASSED_ON), &answer)
    } else {
        answer
    }
}

fn in_zone_of(zone: TenantId, key: &FlowKey) -> FlowKey {
    FlowKey::new(zone, key.src, key.dst, key.protocol(), key.src_port, key.dst_port)
}

/// The key of the opposite direction of the flow `key`, as what was decided for it tells. Between two containers of this host
/// that is at the other's port.
pub(crate) fn peer_key(policy: &Policy, key: &FlowKey, value: &Transposition) -> FlowKey {
    let is_inward = value.flags.has(Flags::DECAP);
    let is_between_ports = !value.flags.has(Flags::DECAP | Flags::DROP) && value.out != policy.underlay_port.0;
    let port = if is_between_ports { PortId(value.out) } else { port_of(key) };
    let own = translated(key, value);
    match policy.port(port).filter(|_| is_inward || is_between_ports) {
        Some(port) => answer_of(port, &own),
        None => answer_to(port, &own),
    }
}

/// The flow as it is behind its translation.
fn translated(key: &FlowKey, value: &Transposition) -> FlowKey {
    let mut own = *key;
    if value.flags.has(Flags::DST) {
        (own.dst, own.dst_port) = (value.dst, value.dst_port);
    }
    if value.flags.has(Flags::SRC) {
        (own.src, own.src_port) = (value.src, value.src_port);
    }
    // An echo has one identifier, which stands for both ports.
    if is_echo(key.protocol()) {
        let was_source = value.flags.has(Flags::SRC);
        (own.src_port, own.dst_port) =
            if was_source { (own.src_port, own.src_port) } else { (own.dst_port, own.dst_port) };
    }
    own
}

/// The answer to what leaves this host translated, by the port that sent it.
pub(crate) fn answer_from_outside(key: &FlowKey, out: &Transposition) -> FlowKey {
    answer_to(port_of(key), &translated(key, out))
}

fn is_echo(protocol: Protocol) -> bool {
    protocol == Protocol::ICMP || protocol == Protocol::ICMPV6
}
