//! Which bytes do the kernel program and the node share?
//!
//! Keys, values and counters of the steering program's maps, as plain data. The C side includes
//! `include/penstock_maps.h`, which a test keeps equal to what stands here: change the Rust side, run the test with
//! `PENSTOCK_BLESS=1`, and build.
//!
//! It knows no system call; `platform/bpf` fills the maps.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod layout;

pub use layout::{
    CField, CONSTANTS, COUNTERS, CStruct, ENDPOINT_CAPACITY, OwnedAddress, OwnedEndpoint, QUEUES, STRUCTS,
    SteerCounter, VIP_CAPACITY,
};
