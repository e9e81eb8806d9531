use crate::prefetch::prefetch;
use crate::stamp::Stamp;
use penstock_model::Coarse;

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Slot<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) stamp: Stamp,
}

/// Entries that are moved in a row, at most, to make room for one. With four buckets of two slots for each key, a table at
/// 0.56 of its slots then takes every key: a refusal needs 32 more buckets full, each of which is with odds of one in five.
const DISPLACEMENTS: usize = 1;

/// Two slots. With a key of 24 and a value of 4 bytes this is exactly one cache line.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(64))]
pub(crate) struct Bucket<K, V> {
    slots: [Slot<K, V>; 2],
}

impl<K: Copy, V: Copy> Bucket<K, V> {
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
        let stamp = slot.stamp.with_bucket_bit(self.slots[at].stamp.bucket_bit());
        self.slots[at] = Slot { stamp, ..slot };
    }
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

    pub(crate) fn set_idle(&mut self, place: Place, idle_seconds: u16, now: Coarse) {
        let stamp = &mut self.buckets[place.0].slots[place.1].stamp;
        *stamp = stamp.with_idle(idle_seconds, now);
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

    /// Puts a new key into the first of its buckets that has a free or expired slot; if none has, moves others on. `ended` is
    /// told of what had expired. False, and nothing is changed, if there is no room.
    pub(crate) fn claim(
        &mut self,
        slot: Slot<K, V>,
        hash: u64,
        now: Coarse,
        rehash: &impl Fn(&K) -> u64,
        ended: &mut impl FnMut(&K),
    ) -> bool {
        let place = self.vacancy(hash, now).or_else(|| self.make_room(hash, now, rehash, ended, DISPLACEMENTS));
        let Some(place) = place else { return false };
        self.settle(place, slot, hash, ended);
        true
    }

    fn vacancy(&self, hash: u64, now: Coarse) -> Option<Place> {
        (0..PROBES).find_map(|probe| {
            let at = self.bucket_of(hash, probe);
            let slots = &self.buckets[at].slots;
            let free = slots.iter().position(|s| s.stamp.is_free());
            free.or_else(|| slots.iter().position(|s| s.stamp.is_expired(now))).map(|i| Place(at, i))
        })
    }

    /// Writes an entry to a place that is free or expired, and marks the way to it.
    fn settle(&mut self, place: Place, slot: Slot<K, V>, hash: u64, ended: &mut impl FnMut(&K)) {
        let old = self.slot(place);
        if old.stamp.is_free() {
            self.live += 1;
        } else {
            ended(&old.key);
        }
        self.overwrite(place, slot);
        self.mark_way(place.0, hash, &[0, 1]);
    }

    /// Makes a place in one of the buckets of `hash` by moving an entry there to another of its own (cuckoo hashing). Gives the
    /// place, which is free then.
    fn make_room(
        &mut self,
        hash: u64,
        now: Coarse,
        rehash: &impl Fn(&K) -> u64,
        ended: &mut impl FnMut(&K),
        depth: usize,
    ) -> Option<Place> {
        let places = || (0..PROBES * 2).map(|n| (n / 2, n % 2));
        for (probe, i) in places() {
            let from = Place(self.bucket_of(hash, probe), i);
            let slot = *self.slot(from);
            let other = rehash(&slot.key);
            if let Some(to) = self.vacancy(other, now) {
                self.clear(from);
                self.settle(to, slot, other, ended);
                return Some(from);
            }
        }
        if depth == 0 {
            return None;
        }
        for (probe, i) in places() {
            let other = rehash(&self.slot(Place(self.bucket_of(hash, probe), i)).key);
            if self.make_room(other, now, rehash, ended, depth - 1).is_some() {
                // Now an entry of ours can move, or a place came free in one of our own buckets.
                return self.vacancy(hash, now).or_else(|| self.make_room(hash, now, rehash, ended, 0));
            }
        }
        None
    }

    /// Puts an entry where there is room, else into its home bucket, of which the older of two others goes. The newer stands
    /// first there, because the stamps' clock is too coarse to tell two new flows apart.
    pub(crate) fn force(&mut self, slot: Slot<K, V>, hash: u64, now: Coarse) {
        let home = self.bucket_of(hash, 0);
        match self.vacancy(hash, now) {
            Some(place) if place.0 != home => self.settle(place, slot, hash, &mut |_| {}),
            vacancy => {
                let [newer, older] = self.buckets[home].slots;
                if vacancy.is_some() && (newer.stamp.is_free() || older.stamp.is_free()) {
                    self.live += 1;
                }
                if !newer.stamp.is_free() {
                    self.buckets[home].put(1, newer);
                }
                self.buckets[home].put(0, slot);
            }
        }
    }

    /// Looks at `budget` buckets: frees what has expired, refreshes the overflow marks.
    pub(crate) fn maintain(
        &mut self,
        now: Coarse,
        budget: usize,
        rehash: &impl Fn(&K) -> u64,
        ended: &mut impl FnMut(&K),
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
                    ended(&slot.key);
                    self.clear(Place(at, i));
                    freed += 1;
                } else if self.sweep & 1 == 1 && PROBES > 1 {
                    self.mark_way(at, rehash(&slot.key), &[self.generation ^ 1]);
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

    /// Shows what lives in `budget` buckets from `from` on. Returns the bucket to go on with, 0 after the last.
    pub(crate) fn visit(&self, from: usize, budget: usize, now: Coarse, mut seen: impl FnMut(&K, &V)) -> usize {
        let to = from.saturating_add(budget).min(self.buckets.len());
        for slot in self.buckets.get(from..to).unwrap_or_default().iter().flat_map(|b| &b.slots) {
            if !slot.stamp.is_free() && !slot.stamp.is_expired(now) {
                seen(&slot.key, &slot.value);
            }
        }
        if to == self.buckets.len() { 0 } else { to }
    }

    /// Marks, in the given generations, the buckets that a lookup passes on its way to `at`.
    fn mark_way(&mut self, at: usize, hash: u64, generations: &[usize]) {
        for probe in 0..PROBES {
            let passed = self.bucket_of(hash, probe);
            if passed == at {
                return;
            }
            for generation in generations {
                self.buckets[passed].mark(*generation, true);
            }
        }
    }
}
