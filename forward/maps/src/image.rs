use crate::{ReplayBackend, ReplayConfig, ReplayPool, ReplayService};
use alloc::vec::Vec;

/// A policy as the mux's program reads it.
///
/// Memory, here and once more in the kernel: 16 KiB a pool, 64 bytes a place for services (two to four times as many places as
/// services), 128 bytes a backend; for 10,000 pools 160 MiB.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplayImage {
    pub config: ReplayConfig,
    /// `config.mask + 1` places.
    pub services: Vec<ReplayService>,
    pub pools: Vec<ReplayPool>,
    /// By backend id.
    pub backends: Vec<ReplayBackend>,
    /// Services' ids are smaller than this.
    pub service_ids: u32,
}
