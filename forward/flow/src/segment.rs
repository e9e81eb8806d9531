use crate::prefetch::prefetch;
use crate::stamp::Stamp;
use penstock_model::Coarse;

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Slot<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) stamp: Stamp,
}

/// Two slots. With a key of 24 and a value of 4 bytes this is exactly one cache line.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(64))]
pub(crate) struct Bucket<K, V> {
    slots: [Slot<K, V>; 2],
}

impl<K, V> Bucket<K, V> {
    /// Whether keys that belong here were put further on, by the marks of one generation.
    #[inline]
    fn is_overflowed(&self, generation: usize) -> bool {
        self.slots[generation & 1].stamp.bucket_bit()
    }

    #[inline]
    fn mark(&mut self, generation: usize, on: bool) {
        let stamp = &mut self.slots[generation & 1].stamp;
        *stamp = stamp.with_bucket_bit(on);
    }

    /// Writes a slot but leaves the bucket's own bit.
    #[inline]
    fn put(&mut self, at: usize, slot: Slot<K, V>) {
        let mark = self.slots[at].stamp.bucket_bit();
        self.slots[at] = slot;
        self.slots[at].stamp = slot_stamp(self.slots[at].stamp, mark);
    }
}

fn slot_stamp(stamp: Stamp, mark: bool) -> Stamp {
    stamp.with_bucket_bit(mark)
}

/// Where an entry is: bucket and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize, usize);

/// Buckets with `PROBES` candidate places for a key: its home bucket and the neighbour of that, then a second such pair.
///
/// A bucket remembers whether something that belongs to it was put further on, so a lookup reads its home line alone unless
/// that is so. As entries go, the marks grow stale; every second sweep writes a fresh generation of them.
#[derive(Debug)]
pub(crate) struct Segment<K, V, const PROBES: usize> {
    buckets: Vec<Bucket<K, V>>,
    live: usize,
    /// Which of the two sets of overflow marks lookups go by.
    generation: usize,
    cursor: usize,
    /// The sweep under way clears the other set of marks (even) or writes it (odd).
    sweep: u64,
}

impl<K: Copy + Eq + Default, V: Copy + Default, const PROBES: usize> Segment<K, V, PROBES> {
    pub(crate) fn new(buckets: usize) -> Self {
        let buckets = buckets.max(2).next_multiple_of(2);
        Self { buckets: vec![Bucket::default(); buckets], live: 0, generation: 0, cursor: 0, sweep: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * 2
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket<K, V>>()
    }

    #[inline]
    fn bucket_of(&self, hash: u64, probe: usize) -> usize {
        let h = if probe < 2 { hash } else { hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) };
        let home = ((u128::from(h) * self.buckets.len() as u128) >> 64) as usize;
        home ^ (probe & 1)
    }

    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let bucket = &self.buckets[self.bucket_of(hash, 0)];
        prefetch(bucket);
        if size_of::<Bucket<K, V>>() > 64 {
            prefetch(&bucket.slots[0].stamp);
            prefetch(&bucket.slots[1].key);
            prefetch(&bucket.slots[1].stamp);
        }
    }

    /// The live entry of `key`, expired or not.
    #[inline]
    pub(crate) fn find(&self, key: &K, hash: u64) -> Option<Place> {
        for probe in 0..PROBES {
            let at = self.bucket_of(hash, probe);
            let bucket = &self.buckets[at];
            for (i, slot) in bucket.slots.iter().enumerate() {
                if slot.key == *key && !slot.stamp.is_free() {
                    return Some(Place(at, i));
                }
            }
            if !bucket.is_overflowed(self.generation) {
                return None;
            }
        }
        None
    }

    #[inline]
    pub(crate) fn slot(&self, place: Place) -> &Slot<K, V> {
        &self.buckets[place.0].slots[place.1]
    }

    #[inline]
    pub(crate) fn touch(&mut self, place: Place, now: Coarse) {
        let stamp = &mut self.buckets[place.0].slots[place.1].stamp;
        let touched = stamp.touched(now);
        // A store makes the line dirty and it has to be written back: only when the coarse clock has moved.
        if touched != *stamp {
            *stamp = touched;
        }
    }

    pub(crate) fn overwrite(&mut self, place: Place, slot: Slot<K, V>) {
        self.buckets[place.0].put(place.1, slot);
    }

    pub(crate) fn clear(&mut self, place: Place) -> Slot<K, V> {
        let old = *self.slot(place);
        self.overwrite(place, Slot::default());
        self.live -= 1;
        old
    }

    /// A free or expired slot for a new key, by order of probing. Gives what expired there, if anything did.
    pub(crate) fn claim(&mut self, slot: Slot<K, V>, hash: u64, now: Coarse) -> Option<Option<Slot<K, V>>> {
        for probe in 0..PROBES {
            let at = self.bucket_of(hash, probe);
            let free = self.buckets[at].slots.iter().position(|s| s.stamp.is_free());
            let free = free.or_else(|| self.buckets[at].slots.iter().position(|s| s.stamp.is_expired(now)));
            if let Some(i) = free {
                let old = self.buckets[at].slots[i];
                self.buckets[at].put(i, slot);
                self.mark_path(hash, probe);
                if old.stamp.is_free() {
                    self.live += 1;
                    return Some(None);
                }
                return Some(Some(old));
            }
        }
        None
    }

    /// Puts an entry into its home bucket whatever it costs: the stalest entry there goes.
    pub(crate) fn force(&mut self, slot: Slot<K, V>, hash: u64, now: Coarse) -> Option<Slot<K, V>> {
        let at = self.bucket_of(hash, 0);
        let rank = |s: &Slot<K, V>| if s.stamp.is_free() { u32::MAX } else { s.stamp.staleness(now) };
        let i = usize::from(rank(&self.buckets[at].slots[1]) > rank(&self.buckets[at].slots[0]));
        let old = self.buckets[at].slots[i];
        self.buckets[at].put(i, slot);
        if old.stamp.is_free() {
            self.live += 1;
            return None;
        }
        Some(old)
    }

    fn mark_path(&mut self, hash: u64, probes: usize) {
        for probe in 0..probes {
            let at = self.bucket_of(hash, probe);
            self.buckets[at].mark(0, true);
            self.buckets[at].mark(1, true);
        }
    }

    /// Looks at `budget` buckets: frees what has expired, refreshes the overflow marks.
    pub(crate) fn maintain(
        &mut self,
        now: Coarse,
        budget: usize,
        hash: &impl Fn(&K) -> u64,
        ended: &mut impl FnMut(&K, &V),
    ) -> usize {
        let mut freed = 0;
        for _ in 0..budget.min(self.buckets.len()) {
            let at = self.cursor;
            if self.sweep & 1 == 0 {
                self.buckets[at].mark(self.generation ^ 1, false);
            }
            for i in 0..2 {
                let slot = self.buckets[at].slots[i];
                if slot.stamp.is_free() {
                    continue;
                }
                if slot.stamp.is_expired(now) {
                    ended(&slot.key, &slot.value);
                    self.clear(Place(at, i));
                    freed += 1;
                } else if self.sweep & 1 == 1 && PROBES > 1 {
                    self.mark_again(at, hash(&slot.key));
                }
            }
            self.cursor += 1;
            if self.cursor == self.buckets.len() {
                self.cursor = 0;
                if self.sweep & 1 == 1 {
                    self.generation ^= 1;
                }
                self.sweep += 1;
            }
        }
        freed
    }

    /// Marks, in the generation being written, the buckets that a lookup passes on its way to `at`.
    fn mark_again(&mut self, at: usize, hash: u64) {
        let generation = self.generation ^ 1;
        for probe in 0..PROBES {
            let passed = self.bucket_of(hash, probe);
            if passed == at {
                return;
            }
            self.buckets[passed].mark(generation, true);
        }
    }
}
