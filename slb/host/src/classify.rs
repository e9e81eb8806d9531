use crate::ROUTER_MAC;
use crate::fabric::is_probe_source;
use crate::keys::{key_at, passed_on_key, zone};
use crate::policy::{LocalPort, Network, Policy};
use penstock_engine::Why;
use penstock_model::{Addr16, DropReason, Mac, PortId, Protocol};
use penstock_policy::Target;
use penstock_wire::geneve::{GENEVE_PORT, parse_geneve};
use penstock_wire::quote::{is_error, quote};
use penstock_wire::{Fragment, Headers, VXLAN_PORT, ethertype, parse_vxlan};

/// Where a packet comes from and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Out of an encapsulation, for the container of this port.
    Overlay(PortId),
    /// From the container of this port.
    Container(PortId),
    /// From the container of this port, which passes on what others sent.
    Appliance(PortId),
    /// An ICMP error, out of an encapsulation, about what a virtual address of this port has sent; of an appliance, or what it has
    /// passed on.
    Related(PortId),
    /// An ICMP error from the container of this port, about what came to it by a virtual address if what is known of that says so.
    Complaint(PortId),
    /// For this node itself, from the container of this port.
    Local(PortId),
    /// The provider network's own: the kernel's.
    Underlay,
}

/// Says whose packet this is; `h` describes the inner frame afterwards if it was encapsulated.
///
/// What is checked here is checked for every packet, also of a known flow: the underlay source, the VNI, and that a container
/// sends with its own addresses.
pub(crate) fn origin(
    policy: &Policy,
    frame: &[u8],
    port: PortId,
    h: &mut Headers,
    why: &mut impl Why,
) -> Result<Origin, DropReason> {
    if port == policy.underlay_port {
        return from_underlay(policy, frame, h, why);
    }
    let Some(local) = policy.port(port) else {
        why.because("port", || format!("{port:?} is no container's port"));
        return Err(DropReason::UnknownPort);
    };
    why.because("port", || format!("from container \"{}\"", local.name));
    from_container(policy, local, frame, h, why)
}

fn from_underlay(policy: &Policy, frame: &[u8], h: &mut Headers, why: &mut impl Why) -> Result<Origin, DropReason> {
    let is_geneve = is_geneve(h);
    let is_vxlan = is_whole_udp(h) && h.dst_port == VXLAN_PORT;
    if !(is_vxlan || is_geneve) || h.dst != Addr16::from(policy.own) {
        why.because("underlay", || "no overlay packet for this host".to_owned());
        return Ok(Origin::Underlay);
    }
    if policy.networks.is_empty() {
        why.because("underlay", || "this host has no networks yet".to_owned());
        return Err(DropReason::NoPolicy);
    }
    if !policy.trusts(h.src) {
        why.because("underlay", || format!("{:?} is no tunnel endpoint of the fabric", h.src));
        return Err(DropReason::UntrustedUnderlaySource);
    }
    let outer = h.src;
    let (vni, inner) = if is_geneve { parse_geneve(frame, h)? } else { parse_vxlan(frame, h)? };
    *h = inner;
    check_untagged(h, why)?;
    let network = policy.network_by_vni(vni).ok_or(DropReason::UnknownVni)?;
    let kind = if is_geneve { "Geneve" } else { "VXLAN" };
    why.because("underlay", || format!("{kind} from {outer:?}, network id {vni}: \"{}\"", network.name()));
    if !h.is_ip() {
        return Err(DropReason::Unsupported);
    }
    let mac = mac_at(frame, usize::from(h.l2)).ok_or(DropReason::TruncatedEthernet)?;
    let local = policy.by_mac.get(&(vni, mac)).copied().or_else(|| routed_here(network, mac, h.dst));
    match local {
        Some(id) if is_error(h) && policy.port(id).is_some_and(|p| !p.owns(h.dst)) => Ok(Origin::Related(id)),
        Some(id) => Ok(Origin::Overlay(id)),
        None => {
            why.because("port", || {
                format!("no container of network \"{}\" here has {mac} or {:?}", network.name(), h.dst)
            });
            Err(DropReason::UnknownPort)
        }
    }
}

fn is_whole_udp(h: &Headers) -> bool {
    h.is_ip() && h.protocol == Protocol::UDP && h.fragment == Fragment::No
}

pub(crate) fn is_geneve(h: &Headers) -> bool {
    is_whole_udp(h) && h.dst_port == GENEVE_PORT
}

/// RFC 7348 section 6.1: inner frames carry no VLAN tag; nor do the containers' links, on which one would lead to another
/// segment of whoever takes the frame next.
fn check_untagged(h: &Headers, why: &mut impl Why) -> Result<(), DropReason> {
    if h.l3 == h.l2 + 14 {
        return Ok(());
    }
    why.because("vlan", || "the frame carries a VLAN tag".to_owned());
    Err(DropReason::VlanTagged)
}

/// A frame for the router is for whoever has its IP destination.
fn routed_here(network: &Network, mac: Mac, dst: Addr16) -> Option<PortId> {
    if mac != ROUTER_MAC {
        return None;
    }
    match network.endpoint(dst)?.1? {
        crate::policy::Place::Local(id) => Some(id),
        crate::policy::Place::Remote(_) => None,
    }
}

fn from_container(
    policy: &Policy,
    port: &LocalPort,
    frame: &[u8],
    h: &Headers,
    why: &mut impl Why,
) -> Result<Origin, DropReason> {
    check_untagged(h, why)?;
    let source = mac_at(frame, 6).ok_or(DropReason::TruncatedEthernet)?;
    if source != port.mac {
        why.because("anti-spoofing", || format!("source {source}, but the container is {}", port.mac));
        return Err(DropReason::SpoofedSource);
    }
    if h.ethertype == ethertype::ARP || is_neighbour_discovery(h) {
        return Ok(Origin::Local(port.id));
    }
    if is_group(h.dst) {
        why.because("route", || format!("{:?} is a group; overlays carry none", h.dst));
        return Err(DropReason::Unsupported);
    }
    let own = port.sends_as(h.src);
    if !own && port.forwards && !is_link_local(h.src) {
        why.because("appliance", || format!("it passes on what {:?} sent", h.src));
        return Ok(Origin::Appliance(port.id));
    }
    if !own && !is_link_local(h.src) {
        why.because("anti-spoofing", || format!("source {:?} is not the container's", h.src));
        return Err(DropReason::SpoofedSource);
    }
    let network = policy.network_of(port).ok_or(DropReason::NoPolicy)?;
    if is_for_this_node(network, h) {
        return Ok(Origin::Local(port.id));
    }
    if !own {
        why.because("route", || format!("{:?} stays on the link", h.dst));
        return Err(DropReason::Unsupported);
    }
    if is_complaint(network, h) {
        return Ok(Origin::Complaint(port.id));
    }
    Ok(Origin::Container(port.id))
}

fn is_for_this_node(network: &Network, h: &Headers) -> bool {
    let dst = h.dst.to_ip();
    is_probe_source(dst) || network.is_gateway(dst)
}

/// Whether an error is for none of the tenant's own: it may be about what came by a virtual address.
pub(crate) fn is_complaint(network: &Network, h: &Headers) -> bool {
    let is_beyond = || !matches!(network.compiled.lookup(h.dst.to_ip()), Target::Endpoint { .. });
    is_error(h) && !is_for_this_node(network, h) && is_beyond()
}

/// RFC 4861 section 4: router solicitation to redirect.
pub(crate) fn is_neighbour_discovery(h: &Headers) -> bool {
    h.protocol == Protocol::ICMPV6 && h.is_v6() && h.fragment == Fragment::No && (133..=137).contains(&h.icmp_type)
}

fn is_group(a: Addr16) -> bool {
    if a.is_v4() { a.v4_bytes()[0] >= 224 } else { a.0[0] == 0xff }
}

fn is_link_local(a: Addr16) -> bool {
    !a.is_v4() && a.0[0] == 0xfe && a.0[1] & 0xc0 == 0x80
}

pub(crate) fn mac_at(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..).and_then(|f| f.first_chunk::<6>()).map(|m| Mac(*m))
}

/// The flow of answers to the packet that an error of `origin` quotes: what is remembered of it says how the error is translated.
pub(crate) fn about(origin: Origin, frame: &[u8], h: &Headers) -> Option<penstock_model::FlowKey> {
    match origin {
        Origin::Related(port) | Origin::Complaint(port) => Some(quote(frame, h)?.answers(zone(port))),
        _ => None,
    }
}

/// The flow that a packet of `origin` belongs to.
pub(crate) fn flow_of(origin: Origin, h: &Headers) -> Option<penstock_model::FlowKey> {
    match origin {
        Origin::Overlay(port) | Origin::Container(port) => Some(key_at(port, h)),
        Origin::Appliance(port) => Some(passed_on_key(port, h)),
        Origin::Local(_) | Origin::Related(_) | Origin::Complaint(_) | Origin::Underlay => None,
    }
}
