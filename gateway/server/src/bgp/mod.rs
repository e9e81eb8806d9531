//! The routers of tenants: BGP with sites, by a TCP of the gateway's own inside the tunnels. No address of a tenant is ever the
//! kernel's, so those of two tenants may be equal.
//!
//! The worker hands a packet for a router to [`Links::deliver`]; the router's [`stack`](stack::Stack) answers with packets that
//! the worker takes from the [`Outward`] queue and puts into the tunnel. `docs/decisions/0012` says why.
mod link;
mod routers;
mod stack;
mod transport;
mod wire;

pub(crate) use link::{FromRouters, Links, Outward, outward};
pub(crate) use routers::Routers;
