//! Which backend owns which hash slot?
//!
//! A slot table has a fixed number of slots; each belongs to one member, in exact proportion to the weights (within one
//! slot). Changing the members moves the fewest slots that exact shares allow. The controller builds tables, muxes only
//! read them: all muxes are byte-identical.
//!
//! It knows no health, no packet and no hash function: whoever calls [`SlotTable::owner`] on several muxes must use one
//! function with one key on all of them, or they will not agree.
//!
//! Order: [`SlotTable::build`] from the table before it -> ship -> [`SlotTable::validate`] (done by deserialization) ->
//! [`SlotTable::owner`] per packet.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod build;
mod shares;
mod table;

#[cfg(test)]
mod twin;

pub use table::{MAX_MEMBERS, SLOTS, SlotTable, SlotTableError};
