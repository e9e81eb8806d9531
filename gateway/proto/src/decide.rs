//! The decisions, one function for each way in. `Why` makes the trace from the same code.
use crate::caps::Direction;
use crate::key::{GatewayKey, Way};
use crate::network::Network;
use crate::policy::{Policy, ROUTER_MAC};
use crate::tenant::{Site, Tenant};
use penstock_engine::Why;
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, DropReason, FlowKey, TunnelId};
use penstock_policy::{AclDirection, Endpoint, NextHop};

/// What becomes of a flow, and of its opposite direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision {
    pub(crate) value: Transposition,
    pub(crate) peer: Option<(GatewayKey, Transposition)>,
}

/// The flow that asks, and whether it is the answer to a flow that the other side opened (known from an older entry): access
/// rules are then asked about that flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) flow: FlowKey,
    pub(crate) is_reply: bool,
}

impl Asked {
    fn opened_by(&self) -> FlowKey {
        if self.is_reply { self.flow.reversed() } else { self.flow }
    }

    /// Marks the direction that answers.
    fn mark(&self, forward: Transposition, back: Transposition) -> (Transposition, Transposition) {
        if self.is_reply { (forward.with_flag(Flags::REPLY), back) } else { (forward, back.with_flag(Flags::REPLY)) }
    }
}

/// A packet that was decrypted from a tunnel: its tenant is the tunnel's.
pub(crate) fn from_tunnel(
    policy: &Policy,
    tenant: Tenant<'_>,
    site: &Site,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let FlowKey { src, dst, .. } = asked.flow;
    why.because("tunnel", || format!("from {} ({:?}) of {:?}", site.name, site.id, site.tenant));
    if !site.may_send_from(src) {
        why.because("tunnel", || format!("source {src:?} is in none of the tunnel's prefixes"));
        return Err(DropReason::NotInAllowedPrefixes);
    }
    // The prefixes of a site may be wider than what is there, as `0.0.0.0/0` is.
    if let Some((_, network)) = tenant.network_of(src) {
        why.because("tunnel", || format!("source {src:?} is inside {}, which is not at the site", network.name()));
        return Err(DropReason::SpoofedSource);
    }
    if let Some((_, network)) = tenant.network_of(dst)
        && let Some(endpoint) = network.endpoint(dst)
    {
        return between(policy, network, endpoint, site.id, asked, Towards::Endpoint, why);
    }
    let next_hop = tenant.first().and_then(|n| n.route(dst, why)).ok_or(DropReason::NoRoute)?;
    match next_hop {
        NextHop::Tunnel(other) if other != site.id => between_sites(policy, site.id, other, asked, why),
        NextHop::Discard => Err(DropReason::RouteDiscard),
        NextHop::Tunnel(_) | NextHop::Vtep { .. } => Err(DropReason::NoRoute),
    }
}

/// A packet that a host sent for one of its containers: its tenant is the network's.
pub(crate) fn from_overlay(
    policy: &Policy,
    network: &Network,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let FlowKey { src, dst, .. } = asked.flow;
    why.because("network", || format!("{} ({:?}) of {:?}", network.name(), network.vni(), network.tenant()));
    let Some(endpoint) = network.endpoint(src) else {
        why.because("network", || format!("source {src:?} is no endpoint of the network"));
        return Err(DropReason::SpoofedSource);
    };
    match network.route(dst, why).ok_or(DropReason::NoRoute)? {
        NextHop::Tunnel(tunnel) => between(policy, network, endpoint, tunnel, asked, Towards::Tunnel, why),
        NextHop::Discard => Err(DropReason::RouteDiscard),
        NextHop::Vtep { .. } => Err(DropReason::NoRoute),
    }
}

/// A packet that the gateway made itself for an endpoint.
pub(crate) fn own(
    policy: &Policy,
    network: &Network,
    dst: Addr16,
    why: &mut impl Why,
) -> Result<Transposition, DropReason> {
    let endpoint = network.endpoint(dst).ok_or(DropReason::NoRoute)?;
    to_endpoint(policy, network, endpoint, why)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Endpoint,
    Tunnel,
}

/// Both directions between an endpoint and a site.
fn between(
    policy: &Policy,
    network: &Network,
    endpoint: &Endpoint,
    tunnel: TunnelId,
    asked: Asked,
    towards: Towards,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let towards_endpoint = (towards == Towards::Endpoint) != asked.is_reply;
    let direction = if towards_endpoint { AclDirection::Inbound } else { AclDirection::Outbound };
    if !network.allows(endpoint, direction, &asked.opened_by(), why) {
        return Err(DropReason::AclDenied);
    }
    let back = asked.flow.reversed();
    // The trace is about the direction that is asked for.
    Ok(match towards {
        Towards::Endpoint => {
            let stop = network.first_stop(endpoint, &asked.flow, why)?;
            let inward = inward(policy, network, stop, tunnel, why)?;
            let (value, peer) = asked.mark(inward, outward(policy, tunnel, &mut ()));
            Decision { value, peer: Some((GatewayKey::new(Way::Overlay(network.vni()), back), peer)) }
        }
        Towards::Tunnel => {
            let stop = network.first_stop(endpoint, &back, &mut ())?;
            let inward = inward(policy, network, stop, tunnel, &mut ())?;
            let (value, peer) = asked.mark(outward(policy, tunnel, why), inward);
            Decision { value, peer: Some((GatewayKey::new(Way::Tunnel(tunnel), back), peer)) }
        }
    })
}

/// From a site to an endpoint, or to the appliance before it.
fn inward(
    policy: &Policy,
    network: &Network,
    endpoint: &Endpoint,
    tunnel: TunnelId,
    why: &mut impl Why,
) -> Result<Transposition, DropReason> {
    let (site, _) = policy.tunnel(tunnel).ok_or(DropReason::UnknownPeer)?;
    let mut t = to_endpoint(policy, network, endpoint, why)?.with_counter(Policy::counters_of(tunnel).0);
    if site.is_enclosed {
        t = t.decapsulated();
    }
    Ok(policy.caps().cap(t, tunnel, Direction::Received, why))
}

/// From an endpoint to a site.
fn outward(policy: &Policy, tunnel: TunnelId, why: &mut impl Why) -> Transposition {
    why.because("tunnel", || format!("by {tunnel:?}"));
    let t = Transposition::to_tunnel(tunnel)
        .decapsulated()
        .with_ttl_decrement()
        .with_flag(Flags::COMPLETE_CHECKSUM)
        .with_counter(Policy::counters_of(tunnel).1);
    policy.caps().cap(t, tunnel, Direction::Transmitted, why)
}

/// From one site of a tenant to another.
fn between_sites(
    policy: &Policy,
    from: TunnelId,
    to: TunnelId,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let (site, _) = policy.tunnel(to).ok_or(DropReason::UnknownPeer)?;
    why.because("tunnel", || format!("to {} ({to:?}), another site of the tenant", site.name));
    policy.caps().tell_received(from, why);
    let (value, peer) = asked.mark(to_site(policy, to, why), to_site(policy, from, &mut ()));
    Ok(Decision { value, peer: Some((GatewayKey::new(Way::Tunnel(to), asked.flow.reversed()), peer)) })
}

/// From a site to a site; what it uses of the connection that it came by is the resolver's to say (`account`).
fn to_site(policy: &Policy, tunnel: TunnelId, why: &mut impl Why) -> Transposition {
    let t = Transposition::to_tunnel(tunnel).with_ttl_decrement().with_counter(Policy::counters_of(tunnel).1);
    policy.caps().cap(t, tunnel, Direction::Transmitted, why)
}

fn to_endpoint(
    policy: &Policy,
    network: &Network,
    endpoint: &Endpoint,
    why: &mut impl Why,
) -> Result<Transposition, DropReason> {
    let encap = policy.encaps().id(network.vni(), endpoint.host.0).ok_or(DropReason::NoRoute)?;
    why.because("encapsulation", || {
        format!(
            "endpoint {:?} ({}): VXLAN {:?} to host {:?}, {}",
            endpoint.addr,
            endpoint.network_interface,
            network.vni(),
            endpoint.host,
            endpoint.mac
        )
    });
    Ok(Transposition::to_port(policy.underlay_port())
        .with_eth(endpoint.mac, ROUTER_MAC)
        .with_ttl_decrement()
        .encapsulated(encap))
}
