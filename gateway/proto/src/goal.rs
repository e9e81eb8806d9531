use crate::routers::TenantRouter;
use ipnetwork::IpNetwork;
use penstock_model::{Revision, TenantId, TunnelId, Underlay};
use penstock_policy::{Acl, TranslationRule, VirtualNetwork};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Everything that a gateway should be doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GatewayGoal {
    pub revision: Revision,
    /// Underlay addresses that may send overlay packets to this gateway.
    pub vteps: Vec<Underlay<IpAddr>>,
    /// Routes to sites stand in the network as `NextHop::Tunnel`.
    pub networks: Vec<VirtualNetwork>,
    pub acls: Vec<Acl>,
    pub tunnels: Vec<Tunnel>,
    /// Who exchanges routes with sites, by BGP inside their tunnels.
    #[serde(default)]
    pub routers: Vec<TenantRouter>,
}

/// One site-to-site connection of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub id: TunnelId,
    /// `VirtualGateways/<gw>/networkConnections/<connection>`.
    pub name: String,
    pub tenant: TenantId,
    /// Inner sources that the site may use, and routes to it.
    pub prefixes: Vec<IpNetwork>,
    pub kind: TunnelKind,
    #[serde(default)]
    pub caps: Caps,
    #[serde(default)]
    pub nat: TunnelNat,
}

/// How addresses are translated between a site and its tenant. The tunnel's prefixes, routes and access rules know the site as the
/// tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TunnelNat {
    /// Addresses at the site (inside), and what they are for the tenant (outside).
    pub site: Vec<TranslationRule>,
    /// Addresses of the tenant (inside), and what they are for the site (outside).
    pub tenant: Vec<TranslationRule>,
}

/// How fast a connection may be, in bits of inner IP packets a second; `None`: as fast as it can. Seen from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Caps {
    pub received: Option<u64>,
    pub transmitted: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelKind {
    WireGuard {
        private_key: Secret32,
        peer_public_key: [u8; 32],
        preshared_key: Option<Secret32>,
        /// UDP port of the gateway that the peer talks to. Several tunnels of different private keys need different ports.
        listen_port: u16,
        /// Where the peer is, if we are to begin; it may roam.
        endpoint: Option<SocketAddr>,
        persistent_keepalive_seconds: Option<u16>,
    },
    /// RFC 2784 and 2890. Nothing is authenticated: whoever can send from the peer's address is the peer.
    Gre {
        peer: Underlay<IpAddr>,
        /// In both directions; connections to one peer differ by it.
        key: Option<u32>,
        /// Whether checksums are sent; those that come are verified.
        checksum: bool,
    },
}

/// 32 secret bytes: never printed, and overwritten when they are no longer needed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret32(pub [u8; 32]);

impl Drop for Secret32 {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(..)")
    }
}
