use crate::nat::SiteNat;
use crate::network::Network;
use crate::routers::Ends;
use crate::{Caps, GoalError, Tunnel, TunnelKind, TunnelNat};
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, TenantId, TunnelId};
use penstock_policy::Lpm;
use std::collections::BTreeMap;

/// One site-to-site connection, as decisions need it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: TunnelId,
    pub(crate) name: String,
    pub(crate) tenant: TenantId,
    prefixes: Vec<IpNetwork>,
    /// The same, to be looked up: a site may have told many.
    sources: Lpm<()>,
    caps: Caps,
    /// `None`: addresses are the same on both sides.
    pub(crate) nat: Option<SiteNat>,
    /// Whether its packets reach the engine in their encapsulation: they are decapsulated by the decision about them.
    pub(crate) is_enclosed: bool,
    /// Places of the tenant's networks.
    pub(crate) networks: Vec<usize>,
    /// Sessions of the tenant's routers with peers behind it.
    pub(crate) routers: Vec<Ends>,
}

/// Two references to sites are equal when they are to the same one.
impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && std::ptr::eq(self, other)
    }
}

impl Eq for Site {}

/// All of a [`Site`] that the decisions about its packets follow from: where it is equal, they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SiteContent<'p> {
    id: TunnelId,
    prefixes: &'p [IpNetwork],
    caps: Caps,
    nat: Option<&'p TunnelNat>,
    is_enclosed: bool,
}

impl Site {
    /// # Errors
    /// The prefixes cannot be looked up, or a rule of its translation cannot be kept.
    pub(crate) fn new(tunnel: &Tunnel, networks: Vec<usize>) -> Result<Self, GoalError> {
        let once: BTreeMap<IpNetwork, ()> = tunnel.prefixes.iter().map(|p| (masked(*p), ())).collect();
        let sources = Lpm::build(once).map_err(|e| GoalError::new("prefixes", e.to_string()))?;
        Ok(Self {
            id: tunnel.id,
            name: tunnel.name.clone(),
            tenant: tunnel.tenant,
            prefixes: tunnel.prefixes.clone(),
            sources,
            caps: tunnel.caps,
            nat: SiteNat::compile(&tunnel.nat)?,
            is_enclosed: matches!(tunnel.kind, TunnelKind::Gre { .. }),
            networks,
            routers: Vec::new(),
        })
    }

    /// What decisions follow from.
    pub(crate) fn content(&self) -> SiteContent<'_> {
        SiteContent {
            id: self.id,
            prefixes: &self.prefixes,
            caps: self.caps,
            nat: self.nat.as_ref().map(SiteNat::rules),
            is_enclosed: self.is_enclosed,
        }
    }

    /// Whether the site may use this address (WireGuard's cryptokey routing, whitepaper section 2).
    pub(crate) fn may_send_from(&self, addr: Addr16) -> bool {
        self.sources.lookup(addr.to_ip()).is_some()
    }
}

/// Without host bits.
fn masked(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

/// The networks of one tenant, and no others: the only door to endpoints and routes.
///
/// A value can be had from where a packet came in (its VNI, its tunnel) and from nothing that the packet says, and it is
/// passed down in place of the policy: code that holds it cannot reach another tenant's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenant<'p> {
    all: &'p [Network],
    mine: &'p [usize],
}

impl<'p> Tenant<'p> {
    pub(crate) fn new(all: &'p [Network], mine: &'p [usize]) -> Self {
        Self { all, mine }
    }

    fn networks(self) -> impl Iterator<Item = (usize, &'p Network)> {
        self.mine.iter().filter_map(move |i| self.all.get(*i).map(|n| (*i, n)))
    }

    /// The tenant's first network: the one that a packet came from if it came by VNI.
    pub(crate) fn first(self) -> Option<&'p Network> {
        self.networks().next().map(|(_, n)| n)
    }

    /// The network that has this address.
    pub(crate) fn network_of(self, addr: Addr16) -> Option<(usize, &'p Network)> {
        let ip = addr.to_ip();
        self.networks().find(|(_, n)| n.contains(ip))
    }
}
