//! Which backend owns which hash slot?
//!
//! A slot table has a fixed number of slots; each belongs to one member, in exact proportion to the weights (within one
//! slot). Changing the members moves the fewest slots possible. The controller builds tables, muxes only read them: all
//! muxes are byte-identical.
#![forbid(unsafe_code)]

use penstock_model::BackendId;
use serde::{Deserialize, Serialize};

/// Slots of every table. A power of two; 16-bit member indices: 8 KiB a table.
pub const SLOTS: usize = 4096;

/// Slot -> backend. Empty `members`: nobody is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    /// Owners, in the order of their ids.
    pub members: Vec<BackendId>,
    /// Index into `members`, `SLOTS` long; empty when there are no members.
    pub slots: Vec<u16>,
}
