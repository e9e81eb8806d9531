//! Which packets does the kernel hand to Penstock? The programs that run in the kernel, and their loader.
//!
//! [`Steering::attach`] puts the steering program on an interface; then [`Steering::register_socket`] for each AF_XDP queue,
//! and [`Steering::set_vips`] and [`Steering::set_endpoints`] whenever the node owns other addresses. Dropping it detaches.
//! A mux gives it each policy by [`Steering::replay`]: packets that need no flow table then never leave the kernel; by
//! [`Steering::attach_pinned`] they go on to be forwarded while no process is there, until the next one takes the program over.
//! A host has [`HostReplay`] on its interfaces and puts established flows into its [`FlowMap`].
//!
//! [`occupants`] tells who has an interface; nobody is ever replaced.
//!
//! For measurements: [`testrun::Generator`] sends live frames, [`Sink`] drops and counts them, [`Floor`] is the least program to
//! be measured against, [`Stopwatch`] takes the time of one. It knows no policy and reads
//! no packet.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod device;
mod error;
mod flow_map;
mod host;
mod measure;
mod object;
mod occupant;
mod pins;
mod replay;
mod sink;
mod steering;
pub mod testrun;
mod traffic;

pub use device::WayOut;
pub use error::{BpfError, Obstacle};
pub use flow_map::FlowMap;
pub use host::{HostPoint, HostReplay};
pub use measure::{Floor, Stopwatch, Target};
pub use object::XdpMode;
pub use occupant::{Occupant, occupants};
pub use penstock_maps::OwnedEndpoint;
pub use pins::Pins;
pub use replay::ReplayCounts;
pub use sink::{Sink, SinkPoint, Tally};
pub use steering::{SteerCounts, Steering};
