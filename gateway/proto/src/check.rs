//! What of a goal can be carried out, and what is refused by the name of the field.
use crate::error::GoalError;
use crate::network::Network;
use crate::policy::{MAX_NETWORKS, MAX_TUNNEL_ID};
use crate::tenant::Site;
use crate::{GatewayGoal, Secret32, TunnelKind};
use penstock_maps::ENDPOINT_CAPACITY;
use penstock_model::{Underlay, Vni};
use penstock_policy::NextHop;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The UDP ports of all tunnels: as many as can be steered beside VXLAN's and GRE.
pub(crate) fn listen_ports(goal: &GatewayGoal) -> Result<BTreeSet<u16>, GoalError> {
    const MOST: usize = ENDPOINT_CAPACITY as usize - 2;
    let mut ports = BTreeSet::new();
    for (i, tunnel) in goal.tunnels.iter().enumerate() {
        let TunnelKind::WireGuard { listen_port, .. } = &tunnel.kind else { continue };
        ports.insert(*listen_port);
        if ports.len() > MOST {
            return Err(GoalError::new(
                format!("tunnels[{i}].kind.listen_port"),
                format!("more than {MOST} different ports, which is all that can be steered to a gateway"),
            ));
        }
    }
    Ok(ports)
}

pub(crate) fn networks(goal: &GatewayGoal) -> Result<(Vec<Network>, BTreeMap<Vni, usize>), GoalError> {
    if goal.networks.len() > MAX_NETWORKS {
        return Err(GoalError::new("networks", format!("more than {MAX_NETWORKS} networks")));
    }
    let mut networks: Vec<Network> = Vec::with_capacity(goal.networks.len());
    let mut by_vni = BTreeMap::new();
    for (i, network) in goal.networks.iter().enumerate() {
        if by_vni.insert(network.vni, i).is_some() {
            return Err(GoalError::new(format!("networks[{i}].vni"), format!("{:?} names two networks", network.vni)));
        }
        let compiled = Network::compile(i, network, &goal.acls)?;
        if let Some(other) = networks.iter().find(|n| n.tenant() == network.tenant && n.overlaps(&compiled)) {
            return Err(GoalError::new(
                format!("networks[{i}].prefixes"),
                format!("overlaps network {} of the same tenant", other.name()),
            ));
        }
        networks.push(compiled);
    }
    Ok((networks, by_vni))
}

pub(crate) fn sites(goal: &GatewayGoal, networks: &[Network]) -> Result<Vec<Option<Site>>, GoalError> {
    let mut sites: Vec<Option<Site>> = Vec::new();
    let mut keys = Keys::default();
    for (i, tunnel) in goal.tunnels.iter().enumerate() {
        let at = |field: &str| format!("tunnels[{i}].{field}");
        if tunnel.id.0 > MAX_TUNNEL_ID {
            return Err(GoalError::new(at("id"), format!("{} is above {MAX_TUNNEL_ID}", tunnel.id)));
        }
        if let TunnelKind::WireGuard { private_key, peer_public_key, listen_port, .. } = &tunnel.kind {
            keys.check(i, *listen_port, private_key, *peer_public_key)?;
        }
        let of_tenant: Vec<usize> =
            networks.iter().enumerate().filter(|(_, n)| n.tenant() == tunnel.tenant).map(|(n, _)| n).collect();
        if of_tenant.is_empty() {
            return Err(GoalError::new(at("tenant"), format!("{:?} has no network", tunnel.tenant)));
        }
        if tunnel.prefixes.is_empty() {
            return Err(GoalError::new(at("prefixes"), "a tunnel without prefixes can carry nothing"));
        }
        let index = tunnel.id.0 as usize;
        if sites.len() <= index {
            sites.resize_with(index + 1, || None);
        }
        match sites.get_mut(index) {
            Some(slot @ None) => {
                let site = Site::new(tunnel, of_tenant);
                *slot = Some(site.map_err(|e| GoalError::new(at(&e.field), e.problem))?);
            }
            _ => return Err(GoalError::new(at("id"), format!("{} names two tunnels", tunnel.id))),
        }
    }
    Ok(sites)
}

/// WireGuard's keys by UDP port: a port answers with one key, and a peer is known there by its own.
#[derive(Default)]
struct Keys<'g> {
    peers: BTreeMap<(u16, [u8; 32]), usize>,
    privates: BTreeMap<u16, (usize, &'g Secret32)>,
}

impl<'g> Keys<'g> {
    fn check(&mut self, i: usize, port: u16, private: &'g Secret32, peer: [u8; 32]) -> Result<(), GoalError> {
        let refuse = |field: &str, problem: String| Err(GoalError::new(format!("tunnels[{i}].kind.{field}"), problem));
        if port == 0 || port == penstock_wire::VXLAN_PORT {
            return refuse("listen_port", format!("{port} cannot be a tunnel's port"));
        }
        if let Some(other) = self.peers.insert((port, peer), i) {
            return refuse("peer_public_key", format!("tunnels[{other}] has the same peer on the same port"));
        }
        let (other, key) = self.privates.entry(port).or_insert((i, private));
        if *key != private {
            return refuse("listen_port", format!("tunnels[{other}] listens on port {port} with another private key"));
        }
        Ok(())
    }
}

/// A route leads into a tunnel of its own tenant or nowhere: this is where isolation between tenants is decided.
pub(crate) fn routes(goal: &GatewayGoal, sites: &[Option<Site>]) -> Result<(), GoalError> {
    for (n, network) in goal.networks.iter().enumerate() {
        for (r, route) in network.routes.iter().enumerate() {
            let NextHop::Tunnel(id) = route.next_hop else { continue };
            let at = || format!("networks[{n}].routes[{r}].next_hop");
            match sites.get(id.0 as usize).and_then(Option::as_ref) {
                None => return Err(GoalError::new(at(), format!("there is no tunnel {id}"))),
                Some(site) if site.tenant != network.tenant => {
                    return Err(GoalError::new(at(), format!("tunnel {id} belongs to another tenant")));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Underlay addresses that packets of a network may be sent to.
pub(crate) fn hosts(
    n: usize,
    network: &penstock_policy::VirtualNetwork,
    own: Underlay<IpAddr>,
) -> Result<impl Iterator<Item = IpAddr>, GoalError> {
    let endpoints = network.endpoints.iter().enumerate().map(|(e, ep)| (format!("endpoints[{e}].host"), ep.host.0));
    let routes = network.routes.iter().enumerate().filter_map(|(r, route)| match route.next_hop {
        NextHop::Vtep { addr, .. } => Some((format!("routes[{r}].next_hop"), addr.0)),
        NextHop::Tunnel(_) | NextHop::Discard => None,
    });
    let mut hosts = Vec::new();
    for (field, host) in endpoints.chain(routes) {
        if host.is_ipv4() != own.0.is_ipv4() {
            return Err(GoalError::new(
                format!("networks[{n}].{field}"),
                format!("{host} is not of the address family of this gateway ({})", own.0),
            ));
        }
        hosts.push(host);
    }
    Ok(hosts.into_iter())
}
