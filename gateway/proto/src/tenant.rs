use crate::network::Network;
use crate::{Caps, Tunnel, TunnelKind};
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, TenantId, TunnelId};

/// One site-to-site connection, as decisions need it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) id: TunnelId,
    pub(crate) name: String,
    pub(crate) tenant: TenantId,
    prefixes: Vec<IpNetwork>,
    caps: Caps,
    /// Whether its packets reach the engine in their encapsulation: they are decapsulated by the decision about them.
    pub(crate) is_enclosed: bool,
    /// Places of the tenant's networks.
    pub(crate) networks: Vec<usize>,
}

/// All of a [`Site`] that the decisions about its packets follow from: where it is equal, they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SiteContent<'p> {
    id: TunnelId,
    prefixes: &'p [IpNetwork],
    caps: Caps,
    is_enclosed: bool,
}

impl Site {
    pub(crate) fn new(tunnel: &Tunnel, networks: Vec<usize>) -> Self {
        Self {
            id: tunnel.id,
            name: tunnel.name.clone(),
            tenant: tunnel.tenant,
            prefixes: tunnel.prefixes.clone(),
            caps: tunnel.caps,
            is_enclosed: matches!(tunnel.kind, TunnelKind::Gre { .. }),
            networks,
        }
    }

    /// What decisions follow from.
    pub(crate) fn content(&self) -> SiteContent<'_> {
        SiteContent { id: self.id, prefixes: &self.prefixes, caps: self.caps, is_enclosed: self.is_enclosed }
    }

    /// Whether the site may use this address (WireGuard's cryptokey routing, whitepaper section 2).
    pub(crate) fn may_send_from(&self, addr: Addr16) -> bool {
        let addr = addr.to_ip();
        self.prefixes.iter().any(|p| p.contains(addr))
    }
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
