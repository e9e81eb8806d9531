//! What does a host do with a packet from the underlay or from a container?
//!
//! The host agent's decisions: decapsulate, VIP to DIP and back (direct return), overlay routing, ACL, ARP and neighbour
//! discovery for the containers' gateway. Sans-IO: driven by `penstock-engine`. [`HostGoal`] is what the controller tells a host.
#![forbid(unsafe_code)]

mod goal;
mod status;

pub use goal::{HostGoal, NatRule, Port, Probe, ProbeKind};
pub use status::{HostStatus, PortStatus, ProbeStatus};
