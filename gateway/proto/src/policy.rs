//! The gateway's compiled goal: built whole, checked whole, published in one swap.
use crate::encaps::Encaps;
use crate::epochs;
use crate::error::GoalError;
use crate::network::Network;
use crate::tenant::{Site, Tenant};
use crate::{GatewayGoal, Tunnel, TunnelKind};
use penstock_engine::EncapTemplate;
use penstock_maps::ENDPOINT_CAPACITY;
use penstock_model::{Addr16, DropReason, Mac, PortId, Revision, TunnelId, Underlay, Vni};
use penstock_policy::{Acl, NextHop};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The inner Ethernet address of every router of the fabric: source of what the gateway sends into an overlay.
pub const ROUTER_MAC: Mac = Mac([0x02, 0x50, 0x53, 0x54, 0x00, 0x01]);

/// Bytes of an IP packet that fit a tunnel whose way has an MTU of 1,500 bytes: 40 IPv6 + 8 UDP + 32 WireGuard.
pub const TUNNEL_MTU: usize = 1420;

/// Ports of decrypted packets begin here: `PortId(TUNNEL_PORT_BASE + tunnel id)`.
const TUNNEL_PORT_BASE: u16 = 1000;
/// Ports of packets that the gateway makes itself for a network: the place of the network behind this.
const OWN_PORT_BASE: u16 = 40_000;
/// A tunnel id has to leave room for the ports of networks.
const MAX_TUNNEL_ID: u32 = (OWN_PORT_BASE - TUNNEL_PORT_BASE - 1) as u32;
const MAX_NETWORKS: usize = (u16::MAX - OWN_PORT_BASE) as usize;

/// Ethernet addresses of the first hop to an underlay destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayHop {
    pub eth_src: Mac,
    pub eth_dst: Mac,
}

/// Where a packet came from, by its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'p> {
    Underlay,
    Tunnel(Tenant<'p>, &'p Site),
    Own(Tenant<'p>),
}

/// What a gateway does, compiled. Immutable; `Policy::default()` forwards nothing.
///
/// Memory: about 250 bytes a tunnel and 100 an (host, network) pair beside the compiled networks.
#[derive(Debug, Default)]
pub struct Policy {
    revision: Revision,
    own: Addr16,
    underlay: PortId,
    vteps: BTreeSet<Addr16>,
    networks: Vec<Network>,
    by_vni: BTreeMap<Vni, usize>,
    /// By tunnel id.
    sites: Vec<Option<Site>>,
    listen_ports: BTreeSet<u16>,
    encaps: Encaps,
    /// As the goal has them: what the next goal is compared with.
    acls: Vec<Acl>,
    last_epoch: u32,
}

impl Policy {
    /// Compiles `goal` for a gateway whose tunnel endpoint is `own`, reached by the port `underlay`.
    ///
    /// `next_hop` says how an underlay address is reached now, if that is known. `previous` is the policy in force: flows
    /// refer to encapsulations by number, and numbers have to last.
    ///
    /// # Errors
    /// The first field of the goal that cannot be carried out.
    pub fn build(
        goal: &GatewayGoal,
        own: Underlay<IpAddr>,
        underlay: PortId,
        next_hop: impl Fn(IpAddr) -> Option<UnderlayHop>,
        previous: Option<&Policy>,
    ) -> Result<Self, GoalError> {
        let (mut networks, by_vni) = networks(goal)?;
        let sites = sites(goal, &networks)?;
        check_routes(goal, &sites)?;
        let listen_ports = listen_ports(goal)?;
        let last_epoch = epochs::give(&mut networks, &sites, &goal.acls, previous);
        let mut wanted = BTreeSet::new();
        for (n, network) in goal.networks.iter().enumerate() {
            wanted.extend(hosts(n, network, own)?.map(|host| (network.vni, host)));
        }
        let mut encaps = Encaps::assign(&wanted, previous.map(|p| &p.encaps));
        for (vni, host, id) in encaps.iter().collect::<Vec<_>>() {
            let template = next_hop(host)
                .and_then(|hop| EncapTemplate::vxlan(own, Underlay(host), vni, hop.eth_src, hop.eth_dst, underlay));
            encaps.fill(id, template);
        }
        Ok(Self {
            revision: goal.revision,
            own: Addr16::from(own.0),
            underlay,
            vteps: goal.vteps.iter().map(|v| Addr16::from(v.0)).collect(),
            networks,
            by_vni,
            sites,
            listen_ports,
            encaps,
            acls: goal.acls.clone(),
            last_epoch,
        })
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    #[must_use]
    pub fn underlay_port(&self) -> PortId {
        self.underlay
    }

    /// UDP ports that tunnels listen on.
    pub fn listen_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.listen_ports.iter().copied()
    }

    /// Underlay addresses that encapsulated packets go to: their neighbours have to be resolved.
    pub fn destinations(&self) -> BTreeSet<IpAddr> {
        self.encaps.iter().map(|(_, host, _)| host).collect()
    }

    /// Counters that a worker needs: two a tunnel, see [`Policy::counters_of`].
    #[must_use]
    pub fn counters(&self) -> usize {
        self.sites.len() * 2
    }

    /// Indices of the counters of packets (from, to) a tunnel.
    #[must_use]
    pub fn counters_of(tunnel: TunnelId) -> (u32, u32) {
        (tunnel.0 * 2, tunnel.0 * 2 + 1)
    }

    /// The port by which packets that were decrypted from `tunnel` enter the engine.
    #[must_use]
    pub fn port_of(tunnel: TunnelId) -> PortId {
        PortId(TUNNEL_PORT_BASE.saturating_add(u16::try_from(tunnel.0).unwrap_or(u16::MAX)))
    }

    /// Where an error about a packet that was bound for `tunnel` goes: the port by which the gateway's own packets enter the
    /// engine, and the router's address towards `source`.
    #[must_use]
    pub fn answer_port(&self, tunnel: TunnelId, source: IpAddr) -> Option<(PortId, IpAddr)> {
        let (_, tenant) = self.tunnel(tunnel)?;
        let (index, network) = tenant.network_of(Addr16::from(source))?;
        Some((PortId(OWN_PORT_BASE.checked_add(u16::try_from(index).ok()?)?), network.router_address(source)?))
    }

    pub(crate) fn source(&self, port: PortId) -> Result<Source<'_>, DropReason> {
        if port == self.underlay {
            return Ok(Source::Underlay);
        }
        if let Some(index) = port.0.checked_sub(OWN_PORT_BASE) {
            let tenant = self.tenant_at(usize::from(index)).ok_or(DropReason::UnknownPort)?;
            return Ok(Source::Own(tenant));
        }
        let id = port.0.checked_sub(TUNNEL_PORT_BASE).ok_or(DropReason::UnknownPort)?;
        let (site, tenant) = self.tunnel(TunnelId(id.into())).ok_or(DropReason::UnknownPort)?;
        Ok(Source::Tunnel(tenant, site))
    }

    /// The tunnel, and the tenant that it belongs to.
    pub(crate) fn tunnel(&self, id: TunnelId) -> Option<(&Site, Tenant<'_>)> {
        let site = self.sites.get(id.0 as usize)?.as_ref()?;
        Some((site, Tenant::new(&self.networks, &site.networks)))
    }

    /// The tenant whose overlay network has this id.
    pub(crate) fn tenant_of(&self, vni: Vni) -> Option<Tenant<'_>> {
        self.tenant_at(*self.by_vni.get(&vni)?)
    }

    fn tenant_at(&self, network: usize) -> Option<Tenant<'_>> {
        let only = self.networks.get(network).map(Network::place)?;
        Some(Tenant::new(&self.networks, only))
    }

    pub(crate) fn is_own(&self, addr: Addr16) -> bool {
        addr == self.own
    }

    pub(crate) fn is_vtep(&self, addr: Addr16) -> bool {
        self.vteps.contains(&addr)
    }

    pub(crate) fn listens_on(&self, port: u16) -> bool {
        self.listen_ports.contains(&port)
    }

    pub(crate) fn encaps(&self) -> &Encaps {
        &self.encaps
    }

    pub(crate) fn networks(&self) -> &[Network] {
        &self.networks
    }

    pub(crate) fn sites(&self) -> &[Option<Site>] {
        &self.sites
    }

    pub(crate) fn acls(&self) -> &[Acl] {
        &self.acls
    }

    pub(crate) fn last_epoch(&self) -> u32 {
        self.last_epoch
    }
}

fn listen_port(tunnel: &Tunnel) -> u16 {
    match tunnel.kind {
        TunnelKind::WireGuard { listen_port, .. } => listen_port,
    }
}

/// The UDP ports of all tunnels: as many as can be steered beside VXLAN's.
fn listen_ports(goal: &GatewayGoal) -> Result<BTreeSet<u16>, GoalError> {
    const MOST: usize = ENDPOINT_CAPACITY as usize - 1;
    let mut ports = BTreeSet::new();
    for (i, tunnel) in goal.tunnels.iter().enumerate() {
        ports.insert(listen_port(tunnel));
        if ports.len() > MOST {
            return Err(GoalError::new(
                format!("tunnels[{i}].kind.listen_port"),
                format!("more than {MOST} different ports, which is all that can be steered to a gateway"),
            ));
        }
    }
    Ok(ports)
}

fn networks(goal: &GatewayGoal) -> Result<(Vec<Network>, BTreeMap<Vni, usize>), GoalError> {
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

fn sites(goal: &GatewayGoal, networks: &[Network]) -> Result<Vec<Option<Site>>, GoalError> {
    let mut sites: Vec<Option<Site>> = Vec::new();
    let mut keys: BTreeMap<(u16, [u8; 32]), usize> = BTreeMap::new();
    let mut privates: BTreeMap<u16, (usize, &crate::Secret32)> = BTreeMap::new();
    for (i, tunnel) in goal.tunnels.iter().enumerate() {
        let at = |field: &str| format!("tunnels[{i}].{field}");
        if tunnel.id.0 > MAX_TUNNEL_ID {
            return Err(GoalError::new(at("id"), format!("{} is above {MAX_TUNNEL_ID}", tunnel.id)));
        }
        let TunnelKind::WireGuard { private_key, peer_public_key, listen_port, .. } = &tunnel.kind;
        if *listen_port == 0 || *listen_port == penstock_wire::VXLAN_PORT {
            return Err(GoalError::new(at("kind.listen_port"), format!("{listen_port} cannot be a tunnel's port")));
        }
        if let Some(other) = keys.insert((*listen_port, *peer_public_key), i) {
            return Err(GoalError::new(
                at("kind.peer_public_key"),
                format!("tunnels[{other}] has the same peer on the same port"),
            ));
        }
        match privates.get(listen_port) {
            Some((other, key)) if *key != private_key => {
                return Err(GoalError::new(
                    at("kind.listen_port"),
                    format!("tunnels[{other}] listens on port {listen_port} with another private key"),
                ));
            }
            _ => privates.insert(*listen_port, (i, private_key)),
        };
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
            Some(slot @ None) => *slot = Some(Site::new(tunnel, of_tenant)),
            _ => return Err(GoalError::new(at("id"), format!("{} names two tunnels", tunnel.id))),
        }
    }
    Ok(sites)
}

/// A route leads into a tunnel of its own tenant or nowhere: this is where isolation between tenants is decided.
fn check_routes(goal: &GatewayGoal, sites: &[Option<Site>]) -> Result<(), GoalError> {
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
fn hosts(
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
