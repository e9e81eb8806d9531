//! Which bytes do the kernel program and the node share?
//!
//! Keys, values and counters of the maps of the steering, the mux's and the host's programs, as plain data. The C side includes
//! `include/penstock_maps.h`, which a test keeps equal to what stands here: change the Rust side, run the test with
//! `PENSTOCK_BLESS=1`, and build.
//!
//! It knows no system call; `platform/bpf` fills the maps.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod layout;

pub use image::ReplayImage;
pub use layout::{
    ASK, CField, CONSTANTS, CONTAINER, COUNTERS, CStruct, ENDPOINT_CAPACITY, FLOW_DROP, FLOW_IDLE_SECONDS, FLOW_NAT,
    FLOW_TTL, HEADERS_V4, HEADERS_V6, MARK, OwnedAddress, OwnedEndpoint, POOL_SLOTS, PROBES, QUEUES, ReplayBackend,
    ReplayConfig, ReplayDistribution, ReplayFlow, ReplayFlowKey, ReplayHost, ReplayPool, ReplayService, ReplayTally,
    ReplayTraffic, STRUCTS, SteerCounter, VIP_CAPACITY,
};
