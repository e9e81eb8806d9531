use crate::segment::{Segment, Slot};
use crate::stamp::Stamp;
use penstock_model::{Coarse, Epoch};

/// Places to look for an established flow: two pairs of neighbouring buckets.
const ESTABLISHED_PROBES: usize = 4;
/// And for a new one: one pair, because in a flood all places are full and each costs a line; it also stays in its region.
const PROBATION_PROBES: usize = 2;

/// What was found for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<V> {
    pub value: V,
    /// Low bits of the epoch that the entry was made under; compare with [`Hit::is_of`].
    epoch: u16,
    /// The flow is in probation: this is its second packet, and [`FlowTable::promote`] is due.
    pub is_new: bool,
}

impl<V> Hit<V> {
    /// Whether the entry was made under `epoch`.
    #[inline]
    pub fn is_of(&self, epoch: Epoch) -> bool {
        self.epoch == epoch.0 as u16
    }
}

/// The table, or the share that a group of flows may have of it, is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A bound on the flows of one group (a tenant, a port, a VIP), so that one cannot take the table from the others: each has at
/// most `limit` established flows, and a region of probation for itself, in which its new flows push out nobody else's.
#[derive(Debug, Clone)]
pub struct Quota<K> {
    group: fn(&K) -> usize,
    used: Vec<u32>,
    limit: u32,
}

impl<K> Quota<K> {
    /// At most `limit` established flows for each of `groups`; a key whose group is not below `groups` counts to the last.
    #[must_use]
    pub fn new(group: fn(&K) -> usize, groups: usize, limit: u32) -> Self {
        Self { group, used: vec![0; groups.max(1)], limit }
    }

    fn index(&self, key: &K) -> usize {
        (self.group)(key).min(self.used.len() - 1)
    }

    fn groups(&self) -> usize {
        self.used.len()
    }

    fn admits(&self, key: &K) -> bool {
        self.used[self.index(key)] < self.limit
    }

    fn add(&mut self, key: &K) {
        let at = self.index(key);
        self.used[at] += 1;
    }

    fn release(&mut self, key: &K) {
        let at = self.index(key);
        self.used[at] = self.used[at].saturating_sub(1);
    }
}

/// Flows and what was decided for them, in memory that is fixed from the start.
///
/// Two segments. A new flow enters *probation*, a small segment in which new flows push out old ones; its second packet
/// moves it to *established*, where nothing is ever pushed out. So a flood of one-packet flows costs probation only.
///
/// **Memory**: a bucket is a cache line of two slots for keys of 24 and values of 4 bytes, and the table has 0.9 buckets for
/// each flow of its capacity (load factor 0.56): 58 bytes for an established flow, and 4 for its share of probation.
/// **Lookup**: one line, unless the home bucket once overflowed (about one in ten at full load); ask for it ahead with
/// [`FlowTable::prefetch`].
/// **Expiry** is lazy: an expired entry is not found, and its slot is reused; [`FlowTable::maintain`] sweeps the rest. A
/// sweep has to come round within 18 idle times, or an entry long dead would look young again.
#[derive(Debug)]
pub struct FlowTable<K, V> {
    established: Segment<K, V, ESTABLISHED_PROBES>,
    probation: Segment<K, V, PROBATION_PROBES>,
    capacity: usize,
    quota: Option<Quota<K>>,
}

impl<K: Copy + Eq + Default, V: Copy + Default> FlowTable<K, V> {
    /// A table for `capacity` established flows, with a probation segment of a sixteenth of that.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_probation(capacity, capacity / 16)
    }

    /// A table for `capacity` established flows with place for `probation` new ones.
    ///
    /// Where a flow that is forgotten is a flow that breaks (NAT, stateful rules), make probation as large as the flows that
    /// may be new between the first and the second packet of one.
    #[must_use]
    pub fn with_probation(capacity: usize, probation: usize) -> Self {
        let capacity = capacity.max(16);
        Self {
            established: Segment::new(capacity - capacity / 10),
            probation: Segment::new(probation.div_ceil(2).max(64)),
            capacity,
            quota: None,
        }
    }

    /// Bounds groups. To be called while the table is empty.
    ///
    /// **Memory**: each group gets an equal region of probation, 128 new flows at least; where there are so many groups that
    /// probation is too small for that, it grows.
    #[must_use]
    pub fn with_quota(mut self, quota: Quota<K>) -> Self {
        const LEAST_BUCKETS: usize = 64;
        let buckets = (self.probation.slots() / 2).max(quota.groups() * LEAST_BUCKETS);
        self.probation = Segment::new(buckets);
        self.quota = Some(quota);
        self
    }

    /// The hash that places `key` in probation: in the region of its group.
    #[inline]
    fn region(&self, key: &K, hash: u64) -> u64 {
        region(self.quota.as_ref(), key, hash)
    }

    /// Brings the line of an established flow into the cache.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.established.prefetch(hash);
    }

    /// Brings the line of a new flow into the cache.
    #[inline]
    pub fn prefetch_probation(&self, key: &K, hash: u64) {
        self.probation.prefetch(self.region(key, hash));
    }

    /// What is known of `key`, and notes that it was seen. If the flow is in probation, promote it next.
    #[inline]
    pub fn lookup(&mut self, key: &K, hash: u64, now: Coarse) -> Option<Hit<V>> {
        self.lookup_established(key, hash, now).or_else(|| self.lookup_probation(key, hash, now))
    }

    /// [`FlowTable::lookup`] in the established segment alone.
    #[inline]
    pub fn lookup_established(&mut self, key: &K, hash: u64, now: Coarse) -> Option<Hit<V>> {
        let place = self.established.find(key, hash)?;
        let slot = self.established.slot(place);
        if slot.stamp.is_expired(now) {
            return None;
        }
        let hit = Hit { value: slot.value, epoch: slot.stamp.epoch_low(), is_new: false };
        self.established.touch(place, now);
        Some(hit)
    }

    /// [`FlowTable::lookup`] in probation alone.
    pub fn lookup_probation(&mut self, key: &K, hash: u64, now: Coarse) -> Option<Hit<V>> {
        let place = self.probation.find(key, self.region(key, hash))?;
        let slot = self.probation.slot(place);
        if slot.stamp.is_expired(now) {
            return None;
        }
        let hit = Hit { value: slot.value, epoch: slot.stamp.epoch_low(), is_new: true };
        self.probation.touch(place, now);
        Some(hit)
    }

    /// Moves a flow from probation to established. False if it is not in probation or there is no room; it stays then.
    pub fn promote(&mut self, key: &K, hash: u64, now: Coarse, rehash: impl Fn(&K) -> u64) -> bool {
        let Some(place) = self.probation.find(key, self.region(key, hash)) else { return false };
        let slot = *self.probation.slot(place);
        if slot.stamp.is_expired(now) || self.establish(slot, hash, now, &rehash).is_err() {
            return false;
        }
        self.probation.clear(place);
        true
    }

    /// What is known of `key`, without noting anything.
    #[must_use]
    pub fn peek(&self, key: &K, hash: u64, now: Coarse) -> Option<Hit<V>> {
        let found = |slot: &Slot<K, V>, is_new| {
            (!slot.stamp.is_expired(now)).then(|| Hit { value: slot.value, epoch: slot.stamp.epoch_low(), is_new })
        };
        let established = self.established.find(key, hash).and_then(|p| found(self.established.slot(p), false));
        established.or_else(|| {
            let place = self.probation.find(key, self.region(key, hash))?;
            found(self.probation.slot(place), true)
        })
    }

    /// Remembers `value` for `key`: in place if it is known, in probation if it is new.
    ///
    /// # Errors
    /// [`Full`] if the group of the key has used its quota of established flows: it is not to open more.
    pub fn insert(
        &mut self,
        key: K,
        hash: u64,
        value: V,
        epoch: Epoch,
        idle_seconds: u16,
        now: Coarse,
    ) -> Result<(), Full> {
        let slot = Slot { key, value, stamp: Stamp::new(epoch, idle_seconds, now) };
        if let Some(place) = self.established.find(&key, hash) {
            self.established.overwrite(place, slot);
            return Ok(());
        }
        if let Some(place) = self.probation.find(&key, self.region(&key, hash)) {
            self.probation.overwrite(place, slot);
            return Ok(());
        }
        if self.quota.as_ref().is_some_and(|q| !q.admits(&key)) || self.is_full() {
            return Err(Full);
        }
        self.probation.force(slot, self.region(&slot.key, hash), now);
        Ok(())
    }

    /// Remembers `value` for `key` in the established segment at once.
    ///
    /// # Errors
    /// [`Full`] if there is no room or the group of the key has used its quota.
    #[allow(clippy::too_many_arguments, reason = "an entry has as many parts")]
    pub fn insert_established(
        &mut self,
        key: K,
        hash: u64,
        value: V,
        epoch: Epoch,
        idle_seconds: u16,
        now: Coarse,
        rehash: impl Fn(&K) -> u64,
    ) -> Result<(), Full> {
        let slot = Slot { key, value, stamp: Stamp::new(epoch, idle_seconds, now) };
        if let Some(place) = self.established.find(&key, hash) {
            self.established.overwrite(place, slot);
            return Ok(());
        }
        self.establish(slot, hash, now, &rehash)?;
        if let Some(place) = self.probation.find(&key, self.region(&key, hash)) {
            self.probation.clear(place);
        }
        Ok(())
    }

    fn establish(&mut self, slot: Slot<K, V>, hash: u64, now: Coarse, rehash: &impl Fn(&K) -> u64) -> Result<(), Full> {
        // An expired entry of the same key must not stay behind the new one.
        if let Some(place) = self.established.find(&slot.key, hash) {
            self.established.overwrite(place, slot);
            return Ok(());
        }
        if self.quota.as_ref().is_some_and(|q| !q.admits(&slot.key)) || self.is_full() {
            return Err(Full);
        }
        let quota = &mut self.quota;
        let is_placed = self.established.claim(slot, hash, now, rehash, &mut |key| release(quota, key));
        if !is_placed {
            return Err(Full);
        }
        if let Some(quota) = &mut self.quota {
            quota.add(&slot.key);
        }
        Ok(())
    }

    /// Gives an entry another idle time, as its connection takes a turn, and notes that it was seen. False if it is not known.
    pub fn set_idle(&mut self, key: &K, hash: u64, idle_seconds: u16, now: Coarse) -> bool {
        if let Some(place) = self.established.find(key, hash) {
            self.established.set_idle(place, idle_seconds, now);
            return true;
        }
        let Some(place) = self.probation.find(key, self.region(key, hash)) else { return false };
        self.probation.set_idle(place, idle_seconds, now);
        true
    }

    /// Whether an entry is known whose idle time is `idle_seconds`, as far as entries tell idle times apart.
    #[must_use]
    pub fn has_idle(&self, key: &K, hash: u64, idle_seconds: u16) -> bool {
        let established = self.established.find(key, hash).map(|p| self.established.slot(p).stamp);
        let probation = || self.probation.find(key, self.region(key, hash)).map(|p| self.probation.slot(p).stamp);
        established.or_else(probation).is_some_and(|stamp| stamp.has_idle(idle_seconds))
    }

    /// Whether `key` is an established flow.
    #[must_use]
    pub fn is_established(&self, key: &K, hash: u64, now: Coarse) -> bool {
        self.established.find(key, hash).is_some_and(|p| !self.established.slot(p).stamp.is_expired(now))
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K, hash: u64) -> Option<V> {
        if let Some(place) = self.probation.find(key, self.region(key, hash)) {
            return Some(self.probation.clear(place).value);
        }
        let place = self.established.find(key, hash)?;
        let old = self.established.clear(place);
        release(&mut self.quota, &old.key);
        Some(old.value)
    }

    /// Looks at `budget` buckets of each segment and frees what has expired there. `rehash` must be the function whose
    /// values `insert` was given; so everywhere. Returns how many were freed.
    pub fn maintain(&mut self, now: Coarse, budget: usize, rehash: impl Fn(&K) -> u64) -> usize {
        let quota = &mut self.quota;
        let freed = self.established.maintain(now, budget, &rehash, &mut |key| release(quota, key));
        let quota = &self.quota;
        let in_region = |key: &K| region(quota.as_ref(), key, rehash(key));
        freed + self.probation.maintain(now, budget, &in_region, &mut |_| {})
    }

    /// Shows the established flows in `budget` buckets from bucket `from` on. Returns where to go on; 0: that was the last bucket.
    pub fn visit(&self, from: usize, budget: usize, now: Coarse, seen: impl FnMut(&K, &V)) -> usize {
        self.established.visit(from, budget, now, seen)
    }

    /// No more flows are taken.
    fn is_full(&self) -> bool {
        self.established.len() >= self.capacity
    }

    /// Flows that are remembered, expired ones that nobody has swept included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.established.len() + self.probation.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows that were seen more than once.
    #[must_use]
    pub fn established(&self) -> usize {
        self.established.len()
    }

    /// Established flows of a group of the [`Quota`].
    #[must_use]
    pub fn established_of(&self, group: usize) -> u32 {
        self.quota.as_ref().and_then(|q| q.used.get(group)).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Buckets that a full sweep looks at.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.established.slots() / 2
    }

    /// Memory of both segments.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.established.bytes() + self.probation.bytes()
    }
}

#[inline]
fn region<K>(quota: Option<&Quota<K>>, key: &K, hash: u64) -> u64 {
    match quota {
        None => hash,
        Some(quota) => {
            let groups = quota.groups() as u64;
            hash / groups + (u64::MAX / groups).wrapping_mul(quota.index(key) as u64)
        }
    }
}

fn release<K>(quota: &mut Option<Quota<K>>, key: &K) {
    if let Some(quota) = quota {
        quota.release(key);
    }
}
