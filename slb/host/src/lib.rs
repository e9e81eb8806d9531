//! What does a host do with a packet from the underlay or from a container?
//!
//! The host agent's decisions: decapsulate, VIP to DIP and back (direct return), overlay routing, ACL, ARP and neighbour
//! discovery for the containers' gateway. Sans-IO: driven by `penstock-engine`. It knows no device, no socket and no clock.
//!
//! Order of use: [`Policy::build`] compiles a [`HostGoal`] (what the controller says) against this machine; the policy is
//! published in an `ArcSwap`; each worker's [`HostResolver`] follows it inside a `penstock_engine::Port`. [`explain`] says what
//! would happen to a frame, by the same code. [`ProbeMachine`] judges the answers of a health probe.
//!
//! | a packet | goes |
//! | --- | --- |
//! | VXLAN from a trusted endpoint, inner destination a VIP | VIP:port to DIP:port, ACL, to the container |
//! | the same, and the virtual IP floats | with VIP:port as it is, to the container, which answers by it |
//! | the same by Geneve, of a flow that is not known here | to the container that the mux has named, or its host |
//! | the container's answer to it | DIP to VIP, plain, by the underlay straight to the client |
//! | an ICMP error of the container about such a request | as the virtual IP's own, to whom it is about |
//! | a later piece of a packet | as its first piece, whose ports are noted for 5 s |
//! | an ICMP error about such an answer | VIP to DIP, also in the packet that it quotes, to the container |
//! | container to an endpoint of its network | to the local port, or by VXLAN to its host |
//! | container to a routed prefix | by VXLAN to the route's tunnel endpoint |
//! | container to anywhere else but the site itself, with ports leased to it | by a virtual IP and one of these ports, plain, by the underlay |
//! | the answer to it, brought by a mux | to the container |
//! | ARP, neighbour discovery, echo to a subnet's gateway | answered here |
//! | container to the source of probes | to the probes |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
mod build;
mod chance;
mod classify;
mod decide;
mod door;
mod explain;
mod fabric;
mod goal;
mod keys;
mod policy;
mod probe;
mod ranges;
mod related;
mod replay;
mod resolver;
mod snat;
mod status;

pub use build::{GoalError, Surroundings};
pub use decide::HostFlow;
pub use explain::explain;
pub use fabric::{Hop, PROBE_V4, PROBE_V6, ROUTER_MAC, UnderlayFib, is_probe_source};
pub use goal::{ALL_PORTS, HostGoal, NatRule, Port, Probe, ProbeKind, SnatLease};
pub use policy::Policy;
pub use probe::{Dampening, Outcome, ProbeMachine};
pub use ranges::{AddressRange, Ranges};
pub use replay::{Notice, Place, Replayed, flow_of};
pub use resolver::{HostResolver, flow_group, flow_table};
pub use status::{HostStatus, PortStatus, ProbeStatus, SnatUse};
