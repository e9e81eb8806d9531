//! A policy for the kernel program, which replays what needs no flow table.

use crate::goal::Distribution;
use crate::hash::halves;
use crate::policy::{MUX_MAC, Policy};
use crate::slots::{PoolInfo, Slots};
use penstock_maps::{
    ASK, HEADERS_V4, HEADERS_V6, POOL_SLOTS, PROBES, ReplayBackend, ReplayConfig, ReplayDistribution, ReplayImage,
    ReplayPool, ReplayService,
};
use penstock_model::{Addr16, BackendId, PortId};
use penstock_spread::SLOTS;

const _: () = assert!(SLOTS == POOL_SLOTS, "the kernel program has the table of user space");

/// Places per service beyond which a longer search is the lesser evil.
const MOST_PLACES: usize = 64;

impl Policy {
    /// What the kernel program replays on packets that come in by `port`, whose interface sends IP packets of at most `mtu`
    /// bytes. It leaves to user space the slots that have moved, those without an owner, and owners whose next hop is not
    /// known or lies beyond another port.
    #[must_use]
    pub fn replay_image(&self, port: PortId, mtu: u32) -> ReplayImage {
        let headers = if self.tables.own.0.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let keys = self.tables.hasher.keys();
        let services: Vec<ReplayService> = self.replay_services().collect();
        let services = places(&keys, &services);
        let config = ReplayConfig {
            keys,
            mask: services.len() as u32 - 1,
            mtu,
            headers,
            out: 0,
            shift: shift(services.len()),
            pad: 0,
        };
        ReplayImage {
            config,
            services,
            pools: (0..).zip(self.tables.slots.pools()).map(|(i, pool)| self.replay_pool(i, pool, port)).collect(),
            backends: (0..self.backend_counters() as u32).map(|id| self.replay_backend(BackendId(id))).collect(),
            service_ids: self.service_counters() as u32,
        }
    }

    fn replay_services(&self) -> impl Iterator<Item = ReplayService> {
        self.services().filter_map(|s| {
            let vip = halves(&Addr16::from(s.vip));
            let distribution = match s.distribution {
                Distribution::Default => ReplayDistribution::FiveTuple,
                Distribution::SourceIp => ReplayDistribution::Addresses,
                Distribution::SourceIpProtocol => ReplayDistribution::AddressesProtocol,
            };
            Some(ReplayService {
                vip,
                vip_hash: self.tables.hasher.part(&vip),
                tail: u32::from(s.port) << 16 | u32::from(s.protocol.0),
                pool: self.tables.slots.pool_index(s.pool)?,
                service: s.id.0,
                distribution: distribution as u32,
                pad: [0; 3],
            })
        })
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

/// Puts every service at one of the places where the program looks for it, in a table at most half full. One for which all of
/// them are taken, in a table that is large enough, is left out: its packets go to user space.
fn places(keys: &[u64; 5], services: &[ReplayService]) -> Vec<ReplayService> {
    const VACANT: ReplayService =
        ReplayService { vip: [0; 2], vip_hash: 0, tail: 0, pool: 0, service: 0, distribution: 0, pad: [0; 3] };
    let mut size = (services.len() * 2).max(2).next_power_of_two();
    loop {
        let mut table = vec![VACANT; size];
        let mut is_complete = true;
        for service in services {
            let home = home(keys, service, size);
            let vacant = (0..PROBES as usize)
                .map(|i| (home + i) & (size - 1))
                .find(|at| table.get(*at).is_some_and(|p| p.tail == 0));
            match vacant.and_then(|at| table.get_mut(at)) {
                Some(place) => *place = *service,
                None => is_complete = false,
            }
        }
        if is_complete || size >= services.len() * MOST_PLACES {
            return table;
        }
        size *= 2;
    }
}

/// Where the program begins to look. It need not be hard to foresee: only the virtual IPs of a goal are there to collide.
fn home(keys: &[u64; 5], service: &ReplayService, places: usize) -> usize {
    let [first, second] = service.vip;
    let tail = u64::from(service.tail);
    (first.wrapping_mul(keys[3]).wrapping_add((second ^ tail).wrapping_mul(keys[4])) >> shift(places)) as usize
}

/// Of the product the upper bits: they follow from all bits of both factors.
fn shift(places: usize) -> u32 {
    u64::BITS - places.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hasher;

    fn service(id: u32) -> ReplayService {
        let vip = halves(&Addr16::from_v4([203, 0, 113, id as u8]));
        let tail = (id >> 8) << 16 | 6;
        ReplayService { vip, vip_hash: 0, tail, pool: 0, service: id, distribution: 0, pad: [0; 3] }
    }

    #[test]
    fn every_service_has_a_place_where_the_program_looks() {
        let services: Vec<_> = (0..20_000).map(service).collect();
        let keys = hasher([1, 2]).keys();
        let table = places(&keys, &services);
        assert!(table.len() <= 1 << 18, "{}", table.len());
        for s in &services {
            let home = home(&keys, s, table.len());
            let found = (0..PROBES as usize).any(|i| table[(home + i) & (table.len() - 1)] == *s);
            assert!(found, "{s:?}");
        }
    }

    #[test]
    fn services_that_no_table_can_hold_are_left_out_and_not_looked_for_forever() {
        let services = vec![service(7); 100];
        let table = places(&hasher([1, 2]).keys(), &services);
        assert_eq!(table.iter().filter(|p| p.tail != 0).count(), PROBES as usize);
    }
}
