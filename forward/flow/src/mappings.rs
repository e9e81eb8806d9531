use crate::{FlowHasher, Full};
use penstock_model::{Addr16, Coarse, FlowKey, Protocol, TenantId};
use std::time::Duration;

/// An address and a port (of an ICMP echo its identifier) on one side of a translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct End {
    pub addr: Addr16,
    pub port: u16,
}

/// Within what ends are told apart: the translation of a tenant, and the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    pub tenant: TenantId,
    /// A number for each translation of the tenant.
    pub translation: u32,
    pub protocol: Protocol,
}

impl Scope {
    fn key(&self, end: End) -> FlowKey {
        let [a, b, c, d] = self.translation.to_be_bytes();
        let translation = Addr16::from_v4([a, b, c, d]);
        FlowKey::new(self.tenant, end.addr, translation, self.protocol, end.port, 0)
    }
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    inside: FlowKey,
    outside: FlowKey,
    /// When a flow was last decided by it, and for how long it stays from then on whatever becomes of the flow.
    since: Coarse,
    keep: u32,
    /// The round over all flows in which one of its flows was met.
    met: u32,
    is_live: bool,
}

/// Which end inside has which end outside, and the other way round: one mapping for all destinations (RFC 4787 section 4.1).
///
/// A mapping lives while a flow does that goes by it. Packets do not come here: whoever walks over the flow table says of each
/// flow that it is alive ([`Mappings::touch_inside`], [`Mappings::touch_outside`]) and when it has been all round
/// ([`Mappings::handle_round`]). What was met in none of the last rounds is free.
///
/// Order of calls: [`Mappings::outside_of`], and [`Mappings::bind`] if there is none; [`Mappings::inside_of`] for what comes in;
/// [`Mappings::maintain`] once a round of the worker.
///
/// **Memory**: fixed from the start and touched only when used: 120 bytes for each mapping of the capacity.
#[derive(Debug, Clone)]
pub struct Mappings {
    hasher: FlowHasher,
    capacity: usize,
    mappings: Vec<Mapping>,
    free: Vec<u32>,
    inside: Index,
    outside: Index,
    used: Vec<u32>,
    of_tenant: u32,
    round: u32,
    cursor: usize,
}

/// Tenants are counted by their id modulo this.
const GROUPS: usize = 256;

/// Rounds in which a flow may be missed because it was moved from one place of its table to another meanwhile.
const ROUNDS: u32 = 2;

impl Mappings {
    /// Room for `capacity` mappings, of which one tenant may have `of_tenant`. `hasher` holds the secret of this boot.
    #[must_use]
    pub fn new(hasher: FlowHasher, capacity: usize, of_tenant: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 30);
        Self {
            hasher,
            capacity,
            mappings: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            inside: Index::new(capacity),
            outside: Index::new(capacity),
            used: vec![0; GROUPS],
            of_tenant: u32::try_from(of_tenant).unwrap_or(u32::MAX),
            round: 0,
            cursor: 0,
        }
    }

    /// A number that nobody outside can guess, the same for one end inside: where to begin looking for a port.
    #[must_use]
    pub fn hash(&self, scope: &Scope, inside: End) -> u64 {
        self.hasher.hash(&scope.key(inside))
    }

    /// The end outside that `inside` has.
    #[must_use]
    pub fn outside_of(&self, scope: &Scope, inside: End) -> Option<End> {
        let key = scope.key(inside);
        self.mapping(self.inside.find(self.hasher.hash(&key), |n| self.is_inside(n, &key))?).map(|m| end(&m.outside))
    }

    /// Who inside has the end `outside`.
    #[must_use]
    pub fn inside_of(&self, scope: &Scope, outside: End) -> Option<End> {
        let key = scope.key(outside);
        self.mapping(self.outside.find(self.hasher.hash(&key), |n| self.is_outside(n, &key))?).map(|m| end(&m.inside))
    }

    /// A flow is decided by the mapping of `inside`: it stays for `keep` at least.
    pub fn renew(&mut self, scope: &Scope, inside: End, keep: Duration, now: Coarse) {
        let key = scope.key(inside);
        let round = self.round;
        if let Some(n) = self.inside.find(self.hasher.hash(&key), |n| self.is_inside(n, &key))
            && let Some(m) = self.mappings.get_mut(n as usize)
        {
            (m.since, m.keep, m.met) = (now, Coarse::units(keep), round);
        }
    }

    /// Gives `outside`, which nobody has, to `inside`, which has none.
    ///
    /// # Errors
    /// [`Full`] if there is no room, or the tenant has as many as it may; also if either end is taken.
    pub fn bind(&mut self, scope: &Scope, inside: End, outside: End, keep: Duration, now: Coarse) -> Result<(), Full> {
        let is_taken = self.outside_of(scope, inside).is_some() || self.inside_of(scope, outside).is_some();
        let group = group(scope.tenant);
        if is_taken || self.used.get(group).is_none_or(|n| *n >= self.of_tenant) {
            return Err(Full);
        }
        let (inside, outside) = (scope.key(inside), scope.key(outside));
        let new = Mapping { inside, outside, since: now, keep: Coarse::units(keep), met: self.round, is_live: true };
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.mappings.len() < self.capacity => {
                self.mappings.push(new);
                self.mappings.len() as u32 - 1
            }
            None => return Err(Full),
        };
        if let Some(m) = self.mappings.get_mut(place as usize) {
            *m = new;
        }
        self.inside.insert(self.hasher.hash(&inside), place);
        self.outside.insert(self.hasher.hash(&outside), place);
        if let Some(n) = self.used.get_mut(group) {
            *n += 1;
        }
        Ok(())
    }

    /// Forgets the mapping of `inside`.
    pub fn remove(&mut self, scope: &Scope, inside: End) {
        let key = scope.key(inside);
        if let Some(place) = self.inside.find(self.hasher.hash(&key), |n| self.is_inside(n, &key)) {
            self.release(place);
        }
    }

    /// A flow from `inside` is alive. Returns what it is outside.
    pub fn touch_inside(&mut self, scope: &Scope, inside: End) -> Option<End> {
        let key = scope.key(inside);
        let place = self.inside.find(self.hasher.hash(&key), |n| self.is_inside(n, &key))?;
        let m = self.mappings.get_mut(place as usize)?;
        m.met = self.round;
        Some(end(&m.outside))
    }

    /// A flow to `outside` is alive. Returns what it is inside.
    pub fn touch_outside(&mut self, scope: &Scope, outside: End) -> Option<End> {
        let key = scope.key(outside);
        let place = self.outside.find(self.hasher.hash(&key), |n| self.is_outside(n, &key))?;
        let m = self.mappings.get_mut(place as usize)?;
        m.met = self.round;
        Some(end(&m.inside))
    }

    /// All flows have been walked over once more.
    pub fn handle_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Looks at `budget` mappings and frees those that no flow goes by any more.
    pub fn maintain(&mut self, now: Coarse, budget: usize) {
        for _ in 0..budget.min(self.mappings.len()) {
            if self.cursor >= self.mappings.len() {
                self.cursor = 0;
            }
            let (place, round) = (self.cursor, self.round);
            self.cursor += 1;
            let is_over = |m: &Mapping| m.is_live && round.wrapping_sub(m.met) > ROUNDS && now.since(m.since) > m.keep;
            if self.mappings.get(place).is_some_and(is_over) {
                self.release(place as u32);
            }
        }
    }

    /// Mappings that there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn release(&mut self, place: u32) {
        let Some(m) = self.mappings.get_mut(place as usize) else { return };
        m.is_live = false;
        let (inside, outside) = (m.inside, m.outside);
        let (mappings, hasher) = (&self.mappings, &self.hasher);
        let hash_of =
            |n: u32, side: fn(&Mapping) -> &FlowKey| mappings.get(n as usize).map_or(0, |m| hasher.hash(side(m)));
        self.inside.remove(hasher.hash(&inside), place, |n| hash_of(n, |m| &m.inside));
        self.outside.remove(hasher.hash(&outside), place, |n| hash_of(n, |m| &m.outside));
        self.free.push(place);
        if let Some(n) = self.used.get_mut(group(inside.tenant())) {
            *n = n.saturating_sub(1);
        }
    }

    fn mapping(&self, place: u32) -> Option<&Mapping> {
        self.mappings.get(place as usize)
    }

    fn is_inside(&self, place: u32, key: &FlowKey) -> bool {
        self.mapping(place).is_some_and(|m| m.inside == *key)
    }

    fn is_outside(&self, place: u32, key: &FlowKey) -> bool {
        self.mapping(place).is_some_and(|m| m.outside == *key)
    }
}

fn end(key: &FlowKey) -> End {
    End { addr: key.src, port: key.src_port }
}

fn group(tenant: TenantId) -> usize {
    tenant.0 as usize % GROUPS
}

/// Places by hash: open addressing with twice as many slots as there are places, and no graves.
#[derive(Debug, Clone)]
struct Index {
    /// A place and one; 0 is free.
    slots: Vec<u32>,
    mask: usize,
}

impl Index {
    fn new(capacity: usize) -> Self {
        let size = (capacity * 2).next_power_of_two();
        Self { slots: vec![0; size], mask: size - 1 }
    }

    fn slot(&self, at: usize) -> u32 {
        self.slots.get(at & self.mask).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, slot: u32) {
        let at = at & self.mask;
        if let Some(s) = self.slots.get_mut(at) {
            *s = slot;
        }
    }

    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize;
        loop {
            let place = self.slot(at).checked_sub(1)?;
            if is_it(place) {
                return Some(place);
            }
            at = at.wrapping_add(1);
        }
    }

    fn insert(&mut self, hash: u64, place: u32) {
        let mut at = hash as usize;
        while self.slot(at) != 0 {
            at = at.wrapping_add(1);
        }
        self.set(at, place + 1);
    }

    /// Closes the gap: what stands behind it and belongs before it moves up.
    fn remove(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        let mut gap = hash as usize;
        while self.slot(gap) != place + 1 {
            if self.slot(gap) == 0 {
                return;
            }
            gap = gap.wrapping_add(1);
        }
        let mut at = gap;
        loop {
            at = at.wrapping_add(1);
            let Some(next) = self.slot(at).checked_sub(1) else { break };
            let from_home = at.wrapping_sub(hash_of(next) as usize) & self.mask;
            if from_home >= at.wrapping_sub(gap) & self.mask {
                self.set(gap, next + 1);
                gap = at;
            }
        }
        self.set(gap, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const KEEP: Duration = Duration::from_secs(60);

    fn scope(n: u32) -> Scope {
        Scope { tenant: TenantId(n % 2), translation: n / 2, protocol: Protocol::UDP }
    }

    fn at(n: u16) -> End {
        End { addr: Addr16::from_v4([10, 0, 0, (n % 3) as u8]), port: n }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Bind(u32, u16, u16),
        Remove(u32, u16),
        Touch(u32, u16),
        Later,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..4, 0u16..40, 0u16..40).prop_map(|(s, i, o)| Step::Bind(s, i, o)),
            2 => (0u32..4, 0u16..40).prop_map(|(s, i)| Step::Remove(s, i)),
            2 => (0u32..4, 0u16..40).prop_map(|(s, i)| Step::Touch(s, i)),
            1 => Just(Step::Later),
        ]
    }

    proptest! {
        #[test]
        fn the_table_and_two_plain_maps_say_the_same(steps in proptest::collection::vec(step(), 1..80)) {
            const MOST: usize = 24;
            let mut table = Mappings::new(FlowHasher::new([7; 16]), MOST, 16);
            // By scope and inside: outside, and the time when it was bound and the round in which it was met.
            let mut twin: BTreeMap<(u32, End), (End, u32, u32)> = BTreeMap::new();
            let (mut now, mut round) = (0u32, 0u32);
            for step in steps {
                match step {
                    Step::Bind(s, i, o) => {
                        let is_taken = twin.iter().any(|((t, inside), v)| *t == s && (*inside == at(i) || v.0 == at(o)));
                        let of_tenant = twin.keys().filter(|(t, _)| t % 2 == s % 2).count();
                        let fits = !is_taken && of_tenant < 16 && twin.len() < MOST;
                        prop_assert_eq!(table.bind(&scope(s), at(i), at(o), KEEP, Coarse(now)).is_ok(), fits);
                        if fits {
                            twin.insert((s, at(i)), (at(o), now, round));
                        }
                    }
                    Step::Remove(s, i) => {
                        table.remove(&scope(s), at(i));
                        twin.remove(&(s, at(i)));
                    }
                    Step::Touch(s, i) => {
                        let was = twin.get_mut(&(s, at(i)));
                        prop_assert_eq!(table.touch_inside(&scope(s), at(i)), was.as_ref().map(|v| v.0));
                        if let Some(v) = was {
                            v.2 = round;
                        }
                    }
                    Step::Later => {
                        (now, round) = (now + Coarse::units(KEEP) / 2, round + 1);
                        table.handle_round();
                        table.maintain(Coarse(now), MOST);
                        twin.retain(|_, v| round - v.2 <= ROUNDS || now - v.1 <= Coarse::units(KEEP));
                    }
                }
                prop_assert_eq!(table.len(), twin.len());
                for s in 0..4 {
                    for n in 0..40 {
                        let outside = twin.get(&(s, at(n))).map(|v| v.0);
                        prop_assert_eq!(table.outside_of(&scope(s), at(n)), outside);
                        let inside = twin.iter().find(|((t, _), v)| *t == s && v.0 == at(n)).map(|((_, i), _)| *i);
                        prop_assert_eq!(table.inside_of(&scope(s), at(n)), inside);
                    }
                }
            }
        }
    }

    #[test]
    fn a_mapping_stays_while_its_flows_are_met_and_goes_some_rounds_after() {
        let mut table = Mappings::new(FlowHasher::new([7; 16]), 8, 8);
        let s = scope(0);
        table.bind(&s, at(1), at(2), KEEP, Coarse(0)).unwrap();
        let late = Coarse(Coarse::units(KEEP) * 10);
        for _ in 0..10 {
            table.handle_round();
            assert_eq!(table.touch_outside(&s, at(2)), Some(at(1)));
            table.maintain(late, 8);
        }
        assert_eq!(table.outside_of(&s, at(1)), Some(at(2)));
        for left in [ROUNDS, 1, 0] {
            assert_eq!(table.len(), 1, "{left} rounds more");
            table.handle_round();
            table.maintain(late, 8);
        }
        assert!(table.is_empty());
        assert_eq!((table.outside_of(&s, at(1)), table.inside_of(&s, at(2))), (None, None));
    }

    #[test]
    fn a_new_flow_of_a_mapping_keeps_it_as_long_as_the_first() {
        let mut table = Mappings::new(FlowHasher::new([7; 16]), 8, 8);
        let s = scope(0);
        table.bind(&s, at(1), at(2), KEEP, Coarse(0)).unwrap();
        let later = Coarse(Coarse::units(KEEP));
        table.renew(&s, at(1), KEEP, later);
        (0..9).for_each(|_| table.handle_round());
        table.maintain(Coarse(later.0 + Coarse::units(KEEP)), 8);
        assert_eq!(table.len(), 1);
        table.maintain(Coarse(later.0 + Coarse::units(KEEP) + 1), 8);
        assert!(table.is_empty());
    }
}
