//! Where the services are looked for by those that have little time: the kernel's program and [`crate::express`].

use crate::goal::{Distribution, Service};
use crate::hash::halves;
use penstock_flow::FlowHasher;
use penstock_maps::{PROBES, ReplayDistribution, ReplayService};
use penstock_model::Addr16;

/// Places per service beyond which a longer search is the lesser evil.
const MOST_PLACES: usize = 64;

const VACANT: ReplayService =
    ReplayService { vip: [0; 2], vip_hash: 0, tail: 0, pool: 0, service: 0, distribution: 0, pad: [0; 3] };

/// (VIP, protocol, port) -> service, in a cache line each: open addressing, at most half full, never changed once built.
///
/// Memory: 64 bytes a place, two to four places a service.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    places: Box<[ReplayService]>,
    keys: [u64; 2],
    shift: u32,
}

impl Places {
    /// Puts every service at one of the places where it is looked for. One for which all of them are taken, in a table that is
    /// large enough, is left out: its packets go another way. `keys` are the hasher's.
    pub(crate) fn new(keys: &[u64; 5], services: impl Iterator<Item = ReplayService>) -> Self {
        let services: Vec<ReplayService> = services.collect();
        let mut size = (services.len() * 2).max(2).next_power_of_two();
        loop {
            let mut table = Self {
                places: vec![VACANT; size].into_boxed_slice(),
                keys: [keys[3], keys[4]],
                shift: u64::BITS - size.trailing_zeros(),
            };
            let is_complete = services.iter().fold(true, |all, service| table.put(service) & all);
            if is_complete || size >= services.len() * MOST_PLACES {
                return table;
            }
            size *= 2;
        }
    }

    fn put(&mut self, service: &ReplayService) -> bool {
        let home = self.home(&service.vip, service.tail) as usize;
        let mask = self.places.len() - 1;
        let vacant = (0..PROBES as usize)
            .map(|i| (home + i) & mask)
            .find(|at| self.places.get(*at).is_some_and(|place| place.tail == 0));
        let place = vacant.and_then(|at| self.places.get_mut(at));
        let has_place = place.is_some();
        if let Some(place) = place {
            *place = *service;
        }
        has_place
    }

    /// Where the search begins. It need not be hard to foresee: only the virtual IPs of a goal are there to collide. Of the
    /// product the upper bits are taken: they follow from all bits of both factors.
    #[inline(always)]
    pub(crate) fn home(&self, vip: &[u64; 2], tail: u32) -> u32 {
        let [first, second] = self.keys;
        let product = vip[0].wrapping_mul(first).wrapping_add((vip[1] ^ u64::from(tail)).wrapping_mul(second));
        (product >> self.shift) as u32
    }

    /// To be asked for ahead.
    #[inline(always)]
    pub(crate) fn place(&self, at: u32) -> Option<&ReplayService> {
        self.places.get(at as usize)
    }

    #[inline(always)]
    pub(crate) fn find(&self, home: u32, vip: &[u64; 2], tail: u32) -> Option<&ReplayService> {
        let mask = self.places.len() - 1;
        for i in 0..PROBES as usize {
            let place = self.places.get((home as usize + i) & mask)?;
            if place.tail == tail && place.vip == *vip {
                return Some(place);
            }
            if place.tail == 0 {
                return None;
            }
        }
        None
    }

    pub(crate) fn all(&self) -> &[ReplayService] {
        &self.places
    }

    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }
}

/// Port and protocol; never 0.
#[inline(always)]
pub(crate) fn tail(port: u16, protocol: u8) -> u32 {
    u32::from(port) << 16 | u32::from(protocol)
}

/// A service as it stands in a place. `pool` is its index.
pub(crate) fn replay_service(s: &Service, pool: u32, hasher: &FlowHasher) -> ReplayService {
    let vip = halves(&Addr16::from(s.vip));
    let distribution = match s.distribution {
        Distribution::Default => ReplayDistribution::FiveTuple,
        Distribution::SourceIp => ReplayDistribution::Addresses,
        Distribution::SourceIpProtocol => ReplayDistribution::AddressesProtocol,
    };
    ReplayService {
        vip,
        vip_hash: hasher.part(&vip),
        tail: tail(s.port, s.protocol.0),
        pool,
        service: s.id.0,
        distribution: distribution as u32,
        pad: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hasher;

    fn service(id: u32) -> ReplayService {
        let vip = halves(&Addr16::from_v4([203, 0, 113, id as u8]));
        ReplayService { vip, tail: (id >> 8) << 16 | 6, service: id, ..VACANT }
    }

    #[test]
    fn every_service_is_found() {
        let services: Vec<_> = (0..20_000).map(service).collect();
        let table = Places::new(&hasher([1, 2]).keys(), services.iter().copied());
        assert!(table.all().len() <= 1 << 18, "{}", table.all().len());
        for s in &services {
            assert_eq!(table.find(table.home(&s.vip, s.tail), &s.vip, s.tail), Some(s));
        }
        let other = service(20_000);
        assert_eq!(table.find(table.home(&other.vip, other.tail), &other.vip, other.tail), None);
    }

    #[test]
    fn services_that_no_table_can_hold_are_left_out_and_not_looked_for_forever() {
        let services = vec![service(7); 100];
        let table = Places::new(&hasher([1, 2]).keys(), services.into_iter());
        assert_eq!(table.all().iter().filter(|p| p.tail != 0).count(), PROBES as usize);
    }
}
