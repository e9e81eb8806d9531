//! The decisions, one function for each way in. `Why` makes the trace from the same code.
use crate::caps::Direction;
use crate::key::{GatewayKey, Way};
use crate::nat::{Translator, rewriting, source_of, translated};
use crate::network::Network;
use crate::policy::{Policy, ROUTER_MAC};
use crate::tenant::{Site, Tenant};
use penstock_engine::Why;
use penstock_flow::{End, Flags, Transposition};
use penstock_model::{Addr16, DropReason, FlowKey, TunnelId};
use penstock_policy::{AclDirection, Endpoint, NextHop};

/// What becomes of a flow, and of its opposite direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision {
    pub(crate) value: Transposition,
    pub(crate) peer: Option<(GatewayKey, Transposition)>,
}

/// The flow that asks, as it came; and whether it is the answer to a flow that the other side opened (known from an older entry):
/// access rules are then asked about that flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) flow: FlowKey,
    pub(crate) is_reply: bool,
    /// What its source was translated to, if it was.
    pub(crate) was: End,
}

impl Asked {
    /// `prior`: what is remembered of the flow.
    pub(crate) fn new(flow: FlowKey, prior: Option<&Transposition>) -> Self {
        let is_reply = prior.is_some_and(|t| t.flags.has(Flags::REPLY));
        let was = prior.map_or(flow, |t| translated(&flow, t));
        Self { flow, is_reply, was: source_of(&was) }
    }

    /// Of a flow as the tenant sees it, the direction that opened it.
    fn opened_by(&self, flow: FlowKey) -> FlowKey {
        if self.is_reply { flow.reversed() } else { flow }
    }

    /// Marks the direction that answers.
    fn mark(&self, forward: Transposition, back: Transposition) -> (Transposition, Transposition) {
        if self.is_reply { (forward.with_flag(Flags::REPLY), back) } else { (forward, back.with_flag(Flags::REPLY)) }
    }

    /// The decision for both directions: answers to the flow as it `leaves` come in by `way`.
    fn decision(&self, leaves: FlowKey, way: Way, forward: Transposition, back: Transposition) -> Decision {
        let (value, peer) = self.mark(forward, back);
        let answers = leaves.reversed();
        let peer = rewriting(peer, &answers, &self.flow.reversed());
        Decision { value: rewriting(value, &self.flow, &leaves), peer: Some((GatewayKey::new(way, answers), peer)) }
    }
}

/// What decisions are made by.
#[derive(Debug)]
pub(crate) struct Means<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) translator: Translator<'a>,
}

/// A packet that was decrypted from a tunnel: its tenant is the tunnel's.
pub(crate) fn from_tunnel(
    means: &mut Means<'_>,
    tenant: Tenant<'_>,
    site: &Site,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    why.because("tunnel", || format!("from {} ({:?}) of {:?}", site.name, site.id, site.tenant));
    let flow = means.translator.for_tenant(site, &asked, why)?;
    let FlowKey { src, dst, .. } = flow;
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
        return to_endpoint_from_site(means, network, endpoint, site.id, flow, asked, why);
    }
    let next_hop = tenant.first().and_then(|n| n.route(dst, why)).ok_or(DropReason::NoRoute)?;
    match next_hop {
        NextHop::Tunnel(other) => between_sites(means, site.id, other, flow, asked, why),
        NextHop::Discard => Err(DropReason::RouteDiscard),
        NextHop::Vtep { .. } => Err(DropReason::NoRoute),
    }
}

/// A packet that a host sent for one of its containers: its tenant is the network's.
pub(crate) fn from_overlay(
    means: &mut Means<'_>,
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
        NextHop::Tunnel(tunnel) => to_site_from_endpoint(means, network, endpoint, tunnel, asked, why),
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

/// `flow`: as the tenant sees it.
fn to_endpoint_from_site(
    means: &Means<'_>,
    network: &Network,
    endpoint: &Endpoint,
    tunnel: TunnelId,
    flow: FlowKey,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let direction = if asked.is_reply { AclDirection::Outbound } else { AclDirection::Inbound };
    if !network.allows(endpoint, direction, &asked.opened_by(flow), why) {
        return Err(DropReason::AclDenied);
    }
    let stop = network.first_stop(endpoint, &flow, why)?;
    let forward = inward(means.policy, network, stop, tunnel, why)?;
    // The trace is about the direction that is asked for.
    let back = outward(means.policy, tunnel, &mut ());
    Ok(asked.decision(flow, Way::Overlay(network.vni()), forward, back))
}

fn to_site_from_endpoint(
    means: &mut Means<'_>,
    network: &Network,
    endpoint: &Endpoint,
    tunnel: TunnelId,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let direction = if asked.is_reply { AclDirection::Inbound } else { AclDirection::Outbound };
    if !network.allows(endpoint, direction, &asked.opened_by(asked.flow), why) {
        return Err(DropReason::AclDenied);
    }
    let policy = means.policy;
    let stop = network.first_stop(endpoint, &asked.flow.reversed(), &mut ())?;
    let back = inward(policy, network, stop, tunnel, &mut ())?;
    let (site, _) = policy.tunnel(tunnel).ok_or(DropReason::UnknownPeer)?;
    let leaves = means.translator.for_site(site, asked.flow, &asked, why)?;
    Ok(asked.decision(leaves, Way::Tunnel(tunnel), outward(policy, tunnel, why), back))
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

/// From one site of a tenant to another, or back to the same one if it is known by other addresses there (RFC 4787 REQ-9).
fn between_sites(
    means: &mut Means<'_>,
    from: TunnelId,
    to: TunnelId,
    flow: FlowKey,
    asked: Asked,
    why: &mut impl Why,
) -> Result<Decision, DropReason> {
    let policy = means.policy;
    let (site, _) = policy.tunnel(to).ok_or(DropReason::UnknownPeer)?;
    let leaves = means.translator.for_site(site, flow, &asked, why)?;
    if from == to && leaves.dst == flow.dst {
        return Err(DropReason::NoRoute);
    }
    let which = if from == to { "the same site" } else { "another site" };
    why.because("tunnel", || format!("to {} ({to:?}), {which} of the tenant", site.name));
    policy.caps().tell_received(from, why);
    let (forward, back) = (to_site(policy, to, why), to_site(policy, from, &mut ()));
    Ok(asked.decision(leaves, Way::Tunnel(to), forward, back))
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
