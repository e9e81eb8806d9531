//! A policy for the kernel program, which replays what needs no flow table.

use crate::policy::{MUX_MAC, Policy};
use crate::slots::{PoolInfo, Slots};
use penstock_maps::{ASK, HEADERS_V4, HEADERS_V6, POOL_SLOTS, ReplayBackend, ReplayConfig, ReplayImage, ReplayPool};
use penstock_model::{BackendId, PortId};
use penstock_spread::SLOTS;

const _: () = assert!(SLOTS == POOL_SLOTS, "the kernel program has the table of user space");

impl Policy {
    /// What the kernel program replays on packets that come in by `port`, whose interface sends IP packets of at most `mtu`
    /// bytes. It leaves to user space the slots that have moved, those without an owner, and owners whose next hop is not
    /// known or lies beyond another port.
    #[must_use]
    pub fn replay_image(&self, port: PortId, mtu: u32) -> ReplayImage {
        let headers = if self.tables.own.0.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let keys = self.tables.hasher.keys();
        let places = &self.tables.places;
        let config = ReplayConfig {
            keys,
            mask: places.all().len() as u32 - 1,
            mtu,
            headers,
            out: 0,
            shift: places.shift(),
            pad: 0,
        };
        ReplayImage {
            config,
            services: places.all().to_vec(),
            pools: (0..).zip(self.tables.slots.pools()).map(|(i, pool)| self.replay_pool(i, pool, port)).collect(),
            backends: (0..self.backend_counters() as u32).map(|id| self.replay_backend(BackendId(id))).collect(),
            service_ids: self.service_counters() as u32,
        }
    }

    fn replay_pool(&self, index: u32, pool: &PoolInfo, port: PortId) -> ReplayPool {
        let mut owner = [ASK; POOL_SLOTS];
        for (slot, owner) in owner.iter_mut().enumerate().filter(|(slot, _)| !pool.has_moved(*slot)) {
            let backend = self.tables.slots.owner(Slots::reference(index, slot));
            let t = self.transposition(backend);
            if t.drop_reason().is_none() && self.encap(t.encap).is_ok_and(|e| e.out == port) {
                *owner = backend.0;
            }
        }
        ReplayPool { owner }
    }

    fn replay_backend(&self, backend: BackendId) -> ReplayBackend {
        let t = self.transposition(backend);
        let mut bytes = [0; 128];
        if let Ok(encap) = self.encap(t.encap) {
            let parts = [encap.bytes(), &t.eth_dst.0, &MUX_MAC.0];
            parts.into_iter().flatten().zip(&mut bytes).for_each(|(from, to)| *to = *from);
        }
        let mut headers = [0; 16];
        for (word, bytes) in headers.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
        }
        ReplayBackend { headers }
    }
}
