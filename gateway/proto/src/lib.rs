//! What does the gateway do with a packet from a tunnel or from a tenant's overlay?
//!
//! Tenants, tunnels, routing and ACL decisions. Sans-IO: driven by `penstock-engine`; encryption is done by
//! `gateway/server` for packets whose verdict is a tunnel. [`GatewayGoal`] is what the controller tells a gateway.
#![forbid(unsafe_code)]

mod goal;
mod status;

pub use goal::{GatewayGoal, Secret32, Tunnel, TunnelKind};
pub use status::{GatewayStatus, TunnelState, TunnelStatus};
