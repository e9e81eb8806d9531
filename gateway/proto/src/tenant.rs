use crate::network::Network;
use crate::{Caps, Tunnel};
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
    /// Places of the tenant's networks.
    pub(crate) networks: Vec<usize>,
}

impl Site {
    pub(crate) fn new(tunnel: &Tunnel, networks: Vec<usize>) -> Self {
        Self {
            id: tunnel.id,
            name: tunnel.name.clone(),
            tenant: tunnel.tenant,
            prefixes: tunnel.prefixes.clone(),
            caps: tunnel.caps,
            networks,
        }
    }

    pub(crate) fn prefixes(&self) -> &[IpNetwork] {
        &self.prefixes
    }

    pub(crate) fn caps(&self) -> Caps {
        self.caps
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
