//! The BGP routers of tenants: where their peers are, and what becomes of the routes that those tell.
use crate::error::GoalError;
use crate::goal::GatewayGoal;
use crate::network::Network;
use crate::tenant::Site;
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, TunnelId, Vni, is_host};
use penstock_policy::{NextHop, Route};
use penstock_routing_proto::{Chosen, Prefix, RouterGoal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Routes of one peer that are kept, at most.
const MOST_PREFIXES: u32 = 100_000;

/// A router of a tenant. Equal addresses of two tenants' routers and peers are different ones: the tunnel tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRouter {
    /// `<virtual gateway>/<router>`; no two have one.
    pub name: String,
    /// The network that learned routes are of.
    pub vni: Vni,
    /// Every peer has a `local_address`, which is the router's, and `max_prefixes`.
    pub goal: RouterGoal,
    /// The tunnel behind which each peer is, by the peer's name.
    pub sites: BTreeMap<String, TunnelId>,
    /// What peers are told of as being here, as far as their export policies let it through.
    pub own: BTreeSet<Prefix>,
}

/// What the routers have learned, by their names.
pub type Learned = BTreeMap<String, Vec<Chosen>>;

impl GatewayGoal {
    /// The goal with routes to what sites have told. Nothing that a site tells takes the place of what the goal itself says, or
    /// leads out of the network that is here.
    #[must_use]
    pub fn with_learned(&self, learned: &Learned) -> Self {
        let mut goal = self.clone();
        let own = |n: &penstock_policy::VirtualNetwork| (n.vni, n.routes.iter().map(|r| r.prefix).collect());
        let said: BTreeMap<Vni, BTreeSet<IpNetwork>> = self.networks.iter().map(own).collect();
        // By several routers of a network: the way of the first is taken.
        let mut taken: BTreeSet<(Vni, IpNetwork)> = BTreeSet::new();
        for router in &self.routers {
            let Some(chosen) = learned.get(&router.name) else { continue };
            let Some(network) = goal.networks.iter_mut().find(|n| n.vni == router.vni) else { continue };
            let mut allowed: BTreeMap<TunnelId, Vec<IpNetwork>> = BTreeMap::new();
            for route in chosen {
                let prefix = IpNetwork::from(route.prefix);
                let inside = |own: &IpNetwork| own.prefix() <= prefix.prefix() && own.contains(prefix.network());
                if said.get(&router.vni).is_some_and(|s| s.contains(&prefix)) || network.prefixes.iter().any(inside) {
                    continue;
                }
                let mut tunnels = route.peers.iter().filter_map(|peer| router.sites.get(&**peer)).copied().peekable();
                let Some(best) = tunnels.peek() else { continue };
                if taken.insert((router.vni, prefix)) {
                    network.routes.push(Route { prefix, next_hop: NextHop::Tunnel(*best) });
                }
                // A site that offers a way may use it, also where another is preferred (RFC 3704 section 2.3).
                tunnels.for_each(|tunnel| allowed.entry(tunnel).or_default().push(prefix));
            }
            for tunnel in &mut goal.tunnels {
                let Some(more) = allowed.remove(&tunnel.id) else { continue };
                let known: BTreeSet<IpNetwork> = tunnel.prefixes.iter().copied().collect();
                let more: BTreeSet<IpNetwork> = more.into_iter().filter(|p| !known.contains(p)).collect();
                tunnel.prefixes.extend(more);
            }
        }
        goal
    }
}

/// Puts the addresses of routers and their peers where packets from the tunnels meet them.
pub(crate) fn place(goal: &GatewayGoal, networks: &[Network], sites: &mut [Option<Site>]) -> Result<(), GoalError> {
    let mut names = BTreeSet::new();
    for (r, router) in goal.routers.iter().enumerate() {
        let at = |field: &str| format!("routers[{r}].{field}");
        if !names.insert(&router.name) {
            return Err(GoalError::new(at("name"), "another router has the name"));
        }
        let Some(network) = networks.iter().find(|n| n.vni() == router.vni) else {
            return Err(GoalError::new(at("vni"), format!("no network has {:?}", router.vni)));
        };
        check_peers(r, &router.goal)?;
        for (p, peer) in router.goal.peers.iter().enumerate() {
            let at = |field: &str| format!("routers[{r}].goal.peers[{p}].{field}");
            let Some(own) = peer.local_address else {
                return Err(GoalError::new(at("local_address"), "is the router's address, and is not given"));
            };
            for (field, address) in [("local_address", own), ("address", peer.address)] {
                if !is_host(address) {
                    return Err(GoalError::new(at(field), format!("{address} is no address of one host")));
                }
            }
            if network.endpoint(Addr16::from(own)).is_some() {
                return Err(GoalError::new(at("local_address"), format!("{own} is an endpoint's address")));
            }
            let tunnel = router.sites.get(&peer.name);
            let Some(tunnel) = tunnel else {
                return Err(GoalError::new(at("name"), "no tunnel leads to the peer"));
            };
            let site = sites.get_mut(tunnel.0 as usize).and_then(Option::as_mut);
            let Some(site) = site.filter(|s| s.tenant == network.tenant()) else {
                return Err(GoalError::new(at("name"), format!("{tunnel} is no tunnel of the tenant")));
            };
            let ends = Ends { own: Addr16::from(own), peer: Addr16::from(peer.address) };
            if site.routers.contains(&ends) {
                return Err(GoalError::new(at("address"), "another router has the peer by the same address"));
            }
            site.routers.push(ends);
        }
    }
    Ok(())
}

/// A session's addresses, which mean something inside its tunnel alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) own: Addr16,
    pub(crate) peer: Addr16,
}

fn check_peers(r: usize, goal: &RouterGoal) -> Result<(), GoalError> {
    goal.check().map_err(|e| GoalError::new(format!("routers[{r}].goal.{}", e.field), e.reason))?;
    for (p, peer) in goal.peers.iter().enumerate() {
        let refuse =
            |field: &str, problem: &str| Err(GoalError::new(format!("routers[{r}].goal.peers[{p}].{field}"), problem));
        if !peer.max_prefixes.is_some_and(|most| (1..=MOST_PREFIXES).contains(&most)) {
            return refuse("max_prefixes", "must be given, from 1 to 100000: a site may not fill the gateway");
        }
        if peer.md5_key.is_some() {
            return refuse("md5_key", "sessions inside a tunnel carry no TCP-MD5");
        }
        if peer.bfd.is_some() {
            return refuse("bfd", "sessions inside a tunnel are not watched by BFD");
        }
    }
    Ok(())
}

impl Site {
    /// Whether a packet from the tunnel is for a router of the tenant.
    pub(crate) fn is_for_router(&self, dst: Addr16) -> bool {
        self.routers.iter().any(|ends| ends.own == dst)
    }
}

/// A packet from a tunnel for a router of its tenant.
#[derive(Debug, Clone, Copy)]
pub struct RouterPacket<'a> {
    pub tunnel: TunnelId,
    pub from: IpAddr,
    pub to: IpAddr,
    /// From the IP header on.
    pub bytes: &'a [u8],
}
