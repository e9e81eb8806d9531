//! What does the gateway do with a packet from a tunnel or from a tenant's overlay?
//!
//! Tenants, tunnels, routing and ACL decisions. Sans-IO: driven by `penstock-engine`. It knows no socket, no clock and no
//! key: `gateway/server` encrypts packets whose verdict is a tunnel, and what it decrypts enters the engine again by
//! [`Policy::port_of`] the tunnel, behind an Ethernet header of zeros. GRE, which has no secrets, is taken off and put on here:
//! on the way in by the engine itself, on the way out by [`GatewayResolver::encapsulate`].
//!
//! Routers of tenants speak BGP with sites inside the tunnels: a packet for one of them is handed to
//! [`TunnelInput::handle_router_packet`], and what was learned becomes routes by [`GatewayGoal::with_learned`].
//!
//! Addresses of a site and of its tenant are translated between each other by [`TunnelNat`]: decided with a flow's first packet,
//! replayed with the rest of its decision; of pools it is kept who has which port. ICMP errors are translated by the flow that they
//! are about.
//!
//! Order of use: a [`GatewayGoal`] is compiled by [`Policy::build`], published in an `ArcSwap`, and read by the
//! [`GatewayResolver`] of each worker. [`clamp_mss`] and [`too_big`] mind the tunnel's MTU.
//!
//! Isolation: a tenant is found from the VNI or the tunnel that a packet came by and from nothing in it. Endpoints and
//! routes can only be looked up through the tenant's own value; a route into another tenant's tunnel is refused when
//! the goal is compiled; and the way in is part of a flow's [`GatewayKey`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod caps;
mod check;
mod decide;
mod encaps;
mod epochs;
mod error;
mod explain;
mod flows;
mod goal;
mod gre;
mod input;
mod key;
mod mtu;
mod nat;
mod network;
mod policy;
mod related;
mod resolver;
mod routers;
mod status;
mod tenant;

pub use caps::Direction;
pub use error::GoalError;
pub use explain::explain;
pub use flows::flow_table;
pub use goal::{Caps, GatewayGoal, Secret32, Tunnel, TunnelKind, TunnelNat};
pub use input::{Datagram, TunnelInput};
pub use key::{GatewayKey, Way};
pub use mtu::{TooBig, clamp_mss, too_big};
pub use policy::{Policy, ROUTER_MAC, TUNNEL_MTU, UnderlayHop};
pub use resolver::{GatewayResolver, Remembered};
pub use routers::{Learned, RouterPacket, TenantRouter};
pub use status::{GatewayStatus, PeerAddress, TenantRouterStatus, TunnelState, TunnelStatus};
