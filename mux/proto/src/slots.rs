use crate::chance::Candidates;
use crate::goal::Pool;
use penstock_model::{BackendId, Epoch, PoolId};
use penstock_spread::{SLOTS, SlotTable};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Owner of a slot that has none.
pub(crate) const NOBODY: BackendId = BackendId(u32::MAX);

/// Marks an owner whose slot the flow table is consulted for; [`NOBODY`] bears it, too. Larger than any id.
const MOVED: u32 = 1 << 31;
const _: () = assert!(crate::policy::MAX_BACKEND < MOVED);

/// One bit a slot.
type Bitmap = [u64; SLOTS / 64];

/// What is known of a pool beside its owners.
#[derive(Debug, Clone)]
pub(crate) struct PoolInfo {
    pub(crate) name: String,
    pub(crate) version: u64,
    /// Changes with everything that flow entries of the pool depend on.
    pub(crate) epoch: Epoch,
    /// Slots that have or had another owner since this node started: their packets consult the flow table.
    moved: Option<Box<Bitmap>>,
    /// Previous owners while changes settle, newest first.
    previous: Vec<SlotTable>,
    members: HashSet<BackendId>,
    previous_members: HashSet<BackendId>,
}

impl PoolInfo {
    #[inline]
    pub(crate) fn has_moved(&self, slot: usize) -> bool {
        self.moved.as_ref().is_some_and(|m| m.get(slot / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1))
    }

    fn is_marked_and_settled(&self) -> bool {
        self.moved.is_some() && self.previous.is_empty()
    }

    pub(crate) fn any_moved(&self) -> bool {
        self.moved.is_some()
    }

    /// Who may have an older flow of the slot: its previous owners that can still serve, newest first, then `owner`.
    pub(crate) fn candidates(&self, slot: usize, owner: BackendId) -> Candidates {
        let before = self.previous.iter().filter_map(|t| t.owner_of_slot(slot));
        before
            .filter(|b| *b != owner && self.previous_members.contains(b))
            .chain([owner])
            .filter(|b| *b != NOBODY)
            .collect()
    }

    /// Who gets new connections.
    pub(crate) fn members(&self) -> impl Iterator<Item = BackendId> {
        self.members.iter().copied()
    }

    /// Who may have older ones, while changes settle.
    pub(crate) fn previous_members(&self) -> impl Iterator<Item = BackendId> {
        self.previous_members.iter().copied()
    }

    /// Whether the backend can serve established flows of this pool: it is a healthy member now or was before the change.
    pub(crate) fn serves(&self, backend: BackendId) -> bool {
        self.members.contains(&backend) || self.previous_members.contains(&backend)
    }
}

/// The slot tables of all pools.
///
/// Memory: 16 KiB a pool, and up to 24.5 KiB more while its table is in transition (0.5 KiB afterwards); 10,000 pools: 160 MiB.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// `SLOTS` for each pool, one after the other: the owner is one load away, and whether the flow table is asked first.
    owners: Box<[BackendId]>,
    pools: Vec<PoolInfo>,
    index: HashMap<PoolId, u32>,
}

impl Slots {
    /// `exists` says whether a backend is in the goal. The pools are validated.
    pub(crate) fn new(pools: &[Pool], exists: impl Fn(BackendId) -> bool) -> Self {
        let mut owners = Vec::with_capacity(pools.len() * SLOTS);
        let mut infos = Vec::with_capacity(pools.len());
        let mut index = HashMap::with_capacity(pools.len());
        for (i, pool) in pools.iter().enumerate() {
            index.insert(pool.id, i as u32);
            let current = spread_out(&pool.table, |_| true);
            infos.push(info(pool, &current, &exists));
            owners.extend_from_slice(&current);
        }
        let mut slots = Self { owners: owners.into_boxed_slice(), pools: infos, index };
        (0..pools.len() as u32).for_each(|i| slots.mark(i));
        slots
    }

    /// Marks the owners of a pool as its `moved` says.
    fn mark(&mut self, pool: u32) {
        let at = pool as usize * SLOTS;
        let (Some(owners), Some(info)) = (self.owners.get_mut(at..at + SLOTS), self.pools.get(pool as usize)) else {
            return;
        };
        for (slot, owner) in owners.iter_mut().enumerate().filter(|(_, owner)| **owner != NOBODY) {
            owner.0 = owner.0 & !MOVED | if info.has_moved(slot) { MOVED } else { 0 };
        }
    }

    /// Marks the slots that differ from an earlier table, or differed from one before that: flows of this node may have
    /// entries there. `pairs`: pools, each with one of `earlier` by which flows went that go by it now.
    pub(crate) fn remember_moves_since(&mut self, earlier: &Slots, pairs: &BTreeSet<(PoolId, PoolId)>) {
        for (id, before) in pairs {
            let (Some(i), Some(old)) = (self.pool_index(*id), earlier.pool_index(*before)) else { continue };
            let Some(mut bits) = self.moves_since(i, earlier, old) else { continue };
            let Some(pool) = self.pools.get_mut(i as usize) else { continue };
            if let Some(known) = &pool.moved {
                bits.iter_mut().zip(known.iter()).for_each(|(mine, theirs)| *mine |= theirs);
            }
            if bits.iter().any(|word| *word != 0) {
                pool.moved = Some(Box::new(bits));
                self.mark(i);
            }
        }
    }

    fn moves_since(&self, pool: u32, earlier: &Slots, old: u32) -> Option<Bitmap> {
        let mut bits: Bitmap = [0; SLOTS / 64];
        for (slot, (a, b)) in self.range(pool)?.zip(earlier.range(old)?).enumerate() {
            bits[slot / 64] |= u64::from(a != b && b != NOBODY) << (slot % 64);
        }
        if let Some(moved) = earlier.pool(old).and_then(|p| p.moved.as_ref()) {
            bits.iter_mut().zip(moved.iter()).for_each(|(mine, theirs)| *mine |= theirs);
        }
        Some(bits)
    }

    /// Whether there are slots that have moved in pools that have settled.
    pub(crate) fn has_settled_moves(&self) -> bool {
        self.pools.iter().any(PoolInfo::is_marked_and_settled)
    }

    /// Forgets them: without flow entries their packets go to the owner, as those of all other slots.
    pub(crate) fn forget_settled_moves(&mut self) {
        for i in 0..self.pools.len() {
            if let Some(pool) = self.pools.get_mut(i).filter(|p| p.is_marked_and_settled()) {
                pool.moved = None;
                self.mark(i as u32);
            }
        }
    }

    /// All lists of candidates among which a second chance has to choose.
    pub(crate) fn all_candidates(&self) -> impl Iterator<Item = Candidates> {
        let settling = (0u32..).zip(&self.pools).filter(|(_, p)| !p.previous.is_empty());
        settling.flat_map(|(i, pool)| {
            let owners = self.range(i).into_iter().flatten().enumerate();
            owners.map(|(slot, owner)| pool.candidates(slot, owner))
        })
    }

    /// What is left of lists that flow entries may name, where the flow table is asked, once those are gone who serve no more.
    pub(crate) fn reduced(&self, lists: impl Iterator<Item = Candidates>) -> HashSet<Candidates> {
        let mut pools_of: HashMap<BackendId, Vec<u32>> = HashMap::new();
        for (i, pool) in (0u32..).zip(&self.pools).filter(|(_, pool)| pool.any_moved()) {
            let serving: HashSet<BackendId> = pool.members().chain(pool.previous_members()).collect();
            serving.into_iter().for_each(|backend| pools_of.entry(backend).or_default().push(i));
        }
        let mut out = HashSet::new();
        for list in lists {
            let pools =
                list.iter().filter_map(|backend| pools_of.get(&backend)).flatten().filter_map(|i| self.pool(*i));
            let kept = pools.map(|pool| list.iter().filter(|b| pool.serves(*b)).collect::<Candidates>());
            out.extend(kept.filter(|kept| *kept != list));
        }
        out
    }

    fn range(&self, pool: u32) -> Option<impl Iterator<Item = BackendId>> {
        let at = pool as usize * SLOTS;
        Some(self.owners.get(at..at + SLOTS)?.iter().map(|owner| bare(*owner)))
    }

    pub(crate) fn pool_index(&self, id: PoolId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub(crate) fn pools(&self) -> &[PoolInfo] {
        &self.pools
    }

    #[inline]
    pub(crate) fn pool(&self, index: u32) -> Option<&PoolInfo> {
        self.pools.get(index as usize)
    }

    /// Where a slot of a pool is kept.
    #[inline]
    pub(crate) fn reference(pool: u32, slot: usize) -> u64 {
        u64::from(pool) * SLOTS as u64 + slot as u64
    }

    /// Where a slot's owner lies in memory.
    #[inline]
    pub(crate) fn place(&self, reference: u64) -> Option<&BackendId> {
        self.owners.get(reference as usize)
    }

    /// The owner of a slot; [`NOBODY`] if it has none.
    #[inline]
    pub(crate) fn owner(&self, reference: u64) -> BackendId {
        self.owners.get(reference as usize).map_or(NOBODY, |owner| bare(*owner))
    }

    /// The owner of a slot, and whether the flow table is asked first. [`NOBODY`] comes with `true`.
    #[inline(always)]
    pub(crate) fn tracked_owner(&self, reference: u64) -> (BackendId, bool) {
        let owner = self.owners.get(reference as usize).copied().unwrap_or(NOBODY);
        (owner, owner.0 & MOVED != 0)
    }

    /// What entries for flows of a slot have to be of.
    #[inline]
    pub(crate) fn epoch(&self, reference: u64) -> Option<Epoch> {
        self.pools.get(reference as usize / SLOTS).map(|pool| pool.epoch)
    }
}

/// Without the mark.
#[inline]
fn bare(owner: BackendId) -> BackendId {
    if owner == NOBODY { NOBODY } else { BackendId(owner.0 & !MOVED) }
}

fn spread_out(table: &SlotTable, usable: impl Fn(BackendId) -> bool) -> Vec<BackendId> {
    (0..SLOTS).map(|slot| table.owner_of_slot(slot).filter(|b| usable(*b)).unwrap_or(NOBODY)).collect()
}

fn info(pool: &Pool, current: &[BackendId], exists: &impl Fn(BackendId) -> bool) -> PoolInfo {
    let previous_members: HashSet<_> =
        pool.previous.iter().flat_map(|t| &t.members).copied().filter(|b| exists(*b)).collect();
    let mut moved: Bitmap = [0; SLOTS / 64];
    for table in &pool.previous {
        for (slot, (before, now)) in spread_out(table, exists).iter().zip(current).enumerate() {
            moved[slot / 64] |= u64::from(*before != NOBODY && before != now) << (slot % 64);
        }
    }
    let in_transition = moved.iter().any(|w| *w != 0);
    PoolInfo {
        name: pool.name.clone(),
        version: pool.version,
        epoch: epoch(pool, &previous_members),
        moved: in_transition.then(|| Box::new(moved)),
        previous: if in_transition { pool.previous.clone() } else { Vec::new() },
        members: pool.table.members.iter().copied().collect(),
        previous_members,
    }
}

/// A digest of what decides whether a flow entry still holds: the version of the table and who can serve.
fn epoch(pool: &Pool, previous_members: &HashSet<BackendId>) -> Epoch {
    let mut previous: Vec<_> = previous_members.iter().map(|b| b.0).collect();
    previous.sort_unstable();
    let members = pool.table.members.iter().map(|b| u64::from(b.0));
    let before = previous.iter().map(|b| u64::from(*b) | 1 << 32);
    let digest = members
        .chain(before)
        .fold(pool.version, |d, word| (d ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    Epoch((digest ^ (digest >> 32)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(members: &[u32], owner: impl Fn(usize) -> u16) -> SlotTable {
        SlotTable {
            members: members.iter().map(|m| BackendId(*m)).collect(),
            slots: if members.is_empty() { Vec::new() } else { (0..SLOTS).map(owner).collect() },
        }
    }

    fn pool(version: u64, current: SlotTable, previous: Option<SlotTable>) -> Pool {
        Pool { id: PoolId(9), name: "p".to_owned(), version, table: current, previous: previous.into_iter().collect() }
    }

    fn half_moved() -> Pool {
        pool(2, table(&[1, 2], |s| u16::from(s % 2 == 1)), Some(table(&[1], |_| 0)))
    }

    #[test]
    fn only_slots_whose_owner_changed_are_in_transition() {
        let slots = Slots::new(&[half_moved()], |_| true);
        let p = slots.pool(0).unwrap();
        assert!(!p.has_moved(0) && p.has_moved(1));
        let (kept, moved) = (p.candidates(0, BackendId(1)), p.candidates(1, BackendId(2)));
        assert_eq!(
            (kept, moved),
            ([1].map(BackendId).into_iter().collect(), [1, 2].map(BackendId).into_iter().collect())
        );
        assert_eq!(slots.owner(Slots::reference(0, 1)), BackendId(2));
    }

    #[test]
    fn a_previous_owner_that_left_the_goal_does_not_count() {
        let slots = Slots::new(&[half_moved()], |b| b != BackendId(1));
        let p = slots.pool(0).unwrap();
        assert!(!p.has_moved(1) && !p.any_moved());
        assert_eq!(p.candidates(1, BackendId(2)), [BackendId(2)].into_iter().collect());
    }

    #[test]
    fn moved_slots_stay_marked_after_the_change_has_settled() {
        let then = Slots::new(&[half_moved()], |_| true);
        let mut settled = Slots::new(&[pool(2, half_moved().table, None)], |_| true);
        settled.remember_moves_since(&then, &BTreeSet::from([(PoolId(9), PoolId(9))]));
        let p = settled.pool(0).unwrap();
        assert!(p.has_moved(1) && !p.has_moved(0));
        assert_eq!(p.candidates(1, BackendId(2)).iter().count(), 1);
    }

    #[test]
    fn older_owners_come_after_newer_ones_and_nobody_twice() {
        let older = [table(&[3], |_| 0), table(&[1], |_| 0), table(&[4], |_| 0)];
        let p = Pool { previous: older.to_vec(), ..half_moved() };
        let slots = Slots::new(&[p], |b| b != BackendId(4));
        let p = slots.pool(0).unwrap();
        assert!(p.has_moved(0) && p.has_moved(1));
        assert_eq!(p.candidates(0, BackendId(1)), [3, 1].map(BackendId).into_iter().collect());
        assert_eq!(p.candidates(1, BackendId(2)), [3, 1, 2].map(BackendId).into_iter().collect());
    }

    #[test]
    fn a_move_that_came_without_a_previous_table_is_marked_too() {
        let then = Slots::new(&[pool(1, table(&[1], |_| 0), None)], |_| true);
        let mut now = Slots::new(&[pool(2, half_moved().table, None)], |_| true);
        now.remember_moves_since(&then, &BTreeSet::from([(PoolId(9), PoolId(9))]));
        assert!(now.pool(0).unwrap().has_moved(1));
    }

    #[test]
    fn the_epoch_follows_version_and_members_and_nothing_else() {
        let epoch = |p: Pool| Slots::new(&[p], |_| true).pool(0).unwrap().epoch;
        let base = epoch(half_moved());
        assert_eq!(base, epoch(Pool { name: "other".to_owned(), ..half_moved() }));
        assert_ne!(base, epoch(Pool { version: 3, ..half_moved() }));
        assert_ne!(base, epoch(Pool { previous: Vec::new(), ..half_moved() }));
    }

    #[test]
    fn an_empty_pool_has_nobody_in_every_slot() {
        let slots = Slots::new(&[pool(1, table(&[], |_| 0), None)], |_| true);
        assert_eq!(slots.owner(Slots::reference(0, 17)), NOBODY);
        assert_eq!(slots.owner(u64::MAX), NOBODY);
    }
}
