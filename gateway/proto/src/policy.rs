//! The gateway's compiled goal: built whole, checked whole, published in one swap.
use crate::caps::{Direction, Meters};
use crate::check;
use crate::encaps::Encaps;
use crate::epochs;
use crate::error::GoalError;
use crate::gre::GreTunnels;
use crate::network::Network;
use crate::routers;
use crate::tenant::{Site, Tenant};
use crate::{GatewayGoal, PeerAddress, TunnelState, TunnelStatus};
use penstock_engine::EncapTemplate;
use penstock_flow::Rate;
use penstock_model::{Addr16, DropReason, Mac, PortId, Revision, TenantId, TunnelId, Underlay, Vni};
use penstock_policy::{Acl, AclJournal, CompiledAcl};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The inner Ethernet address of every router of the fabric: source of what the gateway sends into an overlay.
pub const ROUTER_MAC: Mac = Mac([0x02, 0x50, 0x53, 0x54, 0x00, 0x01]);

/// Bytes of an IP packet that every way to a site takes.
pub(crate) const WAY_MTU: usize = 1500;
/// Bytes of an IP packet that fit a WireGuard tunnel: 40 IPv6 + 8 UDP + 32 WireGuard.
pub const TUNNEL_MTU: usize = WAY_MTU - 80;

/// Ports of decrypted packets begin here: `PortId(TUNNEL_PORT_BASE + tunnel id)`.
const TUNNEL_PORT_BASE: u16 = 1000;
/// Ports of packets that the gateway makes itself for a network: the place of the network behind this.
const OWN_PORT_BASE: u16 = 40_000;
/// A tunnel id has to leave room for the ports of networks.
pub(crate) const MAX_TUNNEL_ID: u32 = (OWN_PORT_BASE - TUNNEL_PORT_BASE - 1) as u32;
pub(crate) const MAX_NETWORKS: usize = (u16::MAX - OWN_PORT_BASE) as usize;

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
    /// Tenants of which a site has other addresses.
    translated: BTreeSet<TenantId>,
    listen_ports: BTreeSet<u16>,
    gre: GreTunnels,
    meters: Meters,
    encaps: Encaps,
    /// As the goal has them: what the next goal is compared with.
    acls: Vec<Acl>,
    last_epoch: u32,
    journal: Option<AclJournal>,
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
        let (networks, by_vni) = check::networks(goal)?;
        let journal = previous.and_then(|p| p.journal.clone());
        let before = |network: &Network| {
            let previous = previous?;
            previous.networks.get(*previous.by_vni.get(&network.vni())?)
        };
        let mut networks: Vec<Network> = networks
            .into_iter()
            .map(|network| {
                let before = before(&network);
                network.continuing(journal.as_ref(), before)
            })
            .collect();
        let mut sites = check::sites(goal, &networks)?;
        routers::place(goal, &networks, &mut sites)?;
        check::routes(goal, &sites)?;
        let listen_ports = check::listen_ports(goal)?;
        let gre = GreTunnels::build(&goal.tunnels, own, &next_hop)?;
        let meters = Meters::assign(&goal.tunnels, previous.map(|p| &p.meters))?;
        let last_epoch = epochs::give(&mut networks, &sites, &goal.acls, previous);
        let mut wanted = BTreeSet::new();
        for (n, network) in goal.networks.iter().enumerate() {
            wanted.extend(check::hosts(n, network, own)?.map(|host| (network.vni, host)));
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
            translated: sites.iter().flatten().filter(|s| s.nat.is_some()).map(|s| s.tenant).collect(),
            sites,
            listen_ports,
            gre,
            meters,
            encaps,
            acls: goal.acls.clone(),
            last_epoch,
            journal,
        })
    }

    /// This policy and those built after it note there what rules decide that are logged.
    #[must_use]
    pub fn with_journal(mut self, journal: AclJournal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// What rules have decided, by network, list and rule.
    pub fn acl_decisions(&self) -> impl Iterator<Item = (&str, &str, &str, u64)> {
        self.networks.iter().flat_map(|network| {
            let of_list =
                |acl| CompiledAcl::decisions(acl).map(|(rule, count)| (network.name(), acl.name(), rule, count));
            network.acls().flat_map(of_list)
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

    /// Whether GRE packets are for tunnels.
    #[must_use]
    pub fn takes_gre(&self) -> bool {
        !self.gre.is_empty()
    }

    /// Underlay addresses that encapsulated packets go to: their neighbours have to be resolved.
    pub fn destinations(&self) -> BTreeSet<IpAddr> {
        self.encaps.iter().map(|(_, host, _)| host).chain(self.gre.peers()).collect()
    }

    /// Bytes of the longest IP packet that goes into `tunnel` whole.
    #[must_use]
    pub fn tunnel_mtu(&self, tunnel: TunnelId) -> usize {
        self.gre.mtu(tunnel).unwrap_or(TUNNEL_MTU)
    }

    /// What is known of the GRE connections; a connection without handshakes is up while its peer's next hop is known.
    pub fn gre_status(&self) -> impl Iterator<Item = TunnelStatus> + '_ {
        self.sites.iter().flatten().filter_map(|site| {
            let (peer, is_reachable) = self.gre.state(site.id)?;
            Some(TunnelStatus {
                id: site.id,
                name: site.name.clone(),
                state: if is_reachable { TunnelState::Connected } else { TunnelState::Connecting },
                endpoint: Some(PeerAddress::Address(peer)),
                handshake_age_seconds: None,
                received_bytes: 0,
                transmitted_bytes: 0,
            })
        })
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

    /// The rates of the meters that a worker needs.
    #[must_use]
    pub fn rates(&self) -> &[Option<Rate>] {
        self.meters.rates()
    }

    /// The ways of tunnels that have a cap, by the tunnels' names, and their meters.
    pub fn meters(&self) -> impl Iterator<Item = (&str, Direction, u16)> + '_ {
        self.meters.iter().filter_map(|(id, direction, meter)| {
            let site = self.sites.get(id.0 as usize)?.as_ref()?;
            Some((site.name.as_str(), direction, meter))
        })
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

    /// Whether addresses of the tenant are translated anywhere.
    pub(crate) fn is_translated(&self, tenant: TenantId) -> bool {
        self.translated.contains(&tenant)
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

    pub(crate) fn caps(&self) -> &Meters {
        &self.meters
    }

    pub(crate) fn gre(&self) -> &GreTunnels {
        &self.gre
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
