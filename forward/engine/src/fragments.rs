use penstock_flow::FlowHasher;
use penstock_model::{FlowKey, Nanos, TenantId};
use penstock_wire::{Fragment, Headers, fragment_id};

/// Places that one key's group may take: a flood of fragments to one virtual IP pushes out its own.
const WAYS: usize = 8;
const SETS: usize = 16;
const REGIONS: usize = 64;
/// How long the fragments of a packet may be under way: receivers give up after 15 to 60 s (RFC 791 section 3.2, RFC 8200 section
/// 4.5), but identifications come round sooner than that (RFC 4963).
const LIFE_SECONDS: u64 = 5;

/// A packet that was cut: `FlowKey` with its identification where ports would be.
type Datagram = FlowKey;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    datagram: Datagram,
    ports: (u16, u16),
    /// In seconds; 0: never.
    until: u64,
}

/// Which ports the first fragment of a packet had, so that its later ones belong to the same flow.
///
/// Fixed memory: 8,192 packets, 64 bytes each. Each destination (of a zone) has one of 64 regions of 128 packets, so that it
/// shares its room with one in 64 others alone; in a full place the oldest goes.
#[derive(Debug, Clone)]
pub struct Fragments {
    entries: Box<[Entry]>,
    hasher: FlowHasher,
    counts: FragmentCounts,
    is_looking: bool,
}

/// What became of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentCounts {
    pub first: u64,
    /// Later ones that found their first.
    pub later: u64,
    /// Later ones that did not: it was lost, went by another node, or came too long ago.
    pub orphans: u64,
}

impl FragmentCounts {
    /// Each with its name, for metrics.
    #[must_use]
    pub const fn outcomes(self) -> [(&'static str, u64); 3] {
        [("first", self.first), ("later", self.later), ("orphan", self.orphans)]
    }

    pub fn add(&mut self, other: Self) {
        self.first += other.first;
        self.later += other.later;
        self.orphans += other.orphans;
    }
}

impl Fragments {
    #[must_use]
    pub fn new(hasher: FlowHasher) -> Self {
        Self {
            entries: vec![Entry::default(); REGIONS * SETS * WAYS].into_boxed_slice(),
            hasher,
            counts: FragmentCounts::default(),
            is_looking: false,
        }
    }

    /// While a packet is explained: nothing is noted and nothing counted.
    pub fn look_only(&mut self, is_looking: bool) {
        self.is_looking = is_looking;
    }

    #[must_use]
    pub fn counts(&self) -> FragmentCounts {
        self.counts
    }

    /// Gives a later fragment the ports of its first, which were noted as it passed. A fragment that finds none keeps none (0). Zones
    /// are told apart: their addresses may be the same.
    pub fn name(&mut self, frame: &[u8], headers: &mut Headers, zone: TenantId, now: Nanos) {
        let Some(id) = fragment_id(frame, headers) else { return };
        let (src, dst) = (headers.src, headers.dst);
        let datagram = FlowKey::new(zone, src, dst, headers.protocol, (id >> 16) as u16, id as u16);
        match headers.fragment {
            Fragment::No => {}
            Fragment::First => self.note_first(&datagram, (headers.src_port, headers.dst_port), now),
            Fragment::Later => {
                if let Some(ports) = self.find(&datagram, now) {
                    (headers.src_port, headers.dst_port) = ports;
                }
            }
        }
    }

    /// The packet's first fragment: source and destination port. One that had the identification before is forgotten.
    fn note_first(&mut self, datagram: &Datagram, ports: (u16, u16), now: Nanos) {
        if self.is_looking {
            return;
        }
        self.counts.first += 1;
        let (seconds, set) = (seconds(now), self.set(datagram));
        let Some(set) = self.entries.get_mut(set..set + WAYS) else { return };
        let same = set.iter().position(|e| e.until != 0 && e.datagram == *datagram);
        let oldest = || set.iter().enumerate().min_by_key(|(_, e)| e.until).map_or(0, |(i, _)| i);
        let at = same.unwrap_or_else(oldest);
        if let Some(entry) = set.get_mut(at) {
            *entry = Entry { datagram: *datagram, ports, until: seconds + LIFE_SECONDS };
        }
    }

    /// The ports of a later fragment's first.
    fn find(&mut self, datagram: &Datagram, now: Nanos) -> Option<(u16, u16)> {
        let (seconds, set) = (seconds(now), self.set(datagram));
        let set = self.entries.get(set..set + WAYS).unwrap_or_default();
        let found = set.iter().find(|e| e.until > seconds && e.datagram == *datagram).map(|e| e.ports);
        match found {
            _ if self.is_looking => {}
            Some(_) => self.counts.later += 1,
            None => self.counts.orphans += 1,
        }
        found
    }

    fn set(&self, datagram: &Datagram) -> usize {
        let of_destination = FlowKey::new(datagram.tenant(), datagram.dst, datagram.dst, datagram.protocol(), 0, 0);
        let region = self.hasher.hash(&of_destination) as usize % REGIONS;
        (region * SETS + self.hasher.hash(datagram) as usize % SETS) * WAYS
    }
}

/// One more than the machine has run, so that 0 is never.
const fn seconds(now: Nanos) -> u64 {
    now.0 / Nanos::from_secs(1).0 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::{Addr16, Protocol};

    fn datagram(dst: u8, id: u32) -> Datagram {
        let addr = |n| Addr16::from_v4([192, 0, 2, n]);
        FlowKey::new(TenantId(1), addr(1), addr(dst), Protocol::UDP, (id >> 16) as u16, id as u16)
    }

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    #[test]
    fn later_fragments_find_their_first_for_a_while() {
        let mut f = Fragments::new(FlowHasher::new([1; 16]));
        f.note_first(&datagram(9, 7), (1000, 53), at(10));
        assert_eq!(f.find(&datagram(9, 7), at(10)), Some((1000, 53)));
        assert_eq!(f.find(&datagram(9, 7), at(12)), Some((1000, 53)));
        assert_eq!((f.find(&datagram(9, 8), at(10)), f.find(&datagram(8, 7), at(10))), (None, None));
        assert_eq!(f.find(&datagram(9, 7), at(30)), None);
        assert_eq!(f.counts(), FragmentCounts { first: 1, later: 2, orphans: 3 });
    }

    #[test]
    fn an_identification_that_comes_again_is_another_packet() {
        let mut f = Fragments::new(FlowHasher::new([1; 16]));
        f.note_first(&datagram(9, 7), (1000, 53), at(1));
        f.note_first(&datagram(9, 7), (2000, 53), at(1));
        assert_eq!(f.find(&datagram(9, 7), at(1)), Some((2000, 53)));
    }

    #[test]
    fn a_flood_to_one_destination_leaves_the_others_theirs() {
        let mut f = Fragments::new(FlowHasher::new([1; 16]));
        let region = |f: &Fragments, dst| f.set(&datagram(dst, 0)) / (SETS * WAYS);
        let others: Vec<u8> = (2..250).filter(|n| region(&f, *n) != region(&f, 1)).collect();
        assert!(others.len() > 200);
        for n in others.iter().take(20) {
            f.note_first(&datagram(*n, 5), (u16::from(*n), 53), at(1));
        }
        for id in 0..1_000_000 {
            f.note_first(&datagram(1, id), (1, 1), at(1));
        }
        for n in others.iter().take(20) {
            assert_eq!(f.find(&datagram(*n, 5), at(1)), Some((u16::from(*n), 53)), "{n}");
        }
    }
}
