use penstock_model::{BackendId, Nanos};
use penstock_spread::{SLOTS, SlotTable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Previous owners of a slot that are remembered: as many as a packet can name.
const DEPTH: usize = 3;

/// The table of a pool and its recent past. 8 KiB for each of up to four tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolState {
    pub(crate) version: u64,
    pub(crate) table: Arc<SlotTable>,
    /// What `table` was built from.
    members: Vec<(BackendId, u32)>,
    before: Option<Before>,
}

/// Who owned each slot before, while changes settle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    /// The newest previous owners, the ones before them, and so on. A slot that has had fewer names one of its owners again.
    #[serde(default)]
    tables: Vec<Arc<SlotTable>>,
    /// The last change.
    changed_at: u64,
    /// Only owners that drain are left.
    #[serde(default)]
    has_settled: bool,
}

impl Before {
    fn new(tables: Vec<Arc<SlotTable>>, now: Nanos) -> Option<Self> {
        (!tables.is_empty()).then_some(Self { tables, changed_at: now.0, has_settled: false })
    }
}

impl PoolState {
    pub(crate) fn new() -> Self {
        Self { version: 0, table: Arc::new(SlotTable::EMPTY), members: Vec::new(), before: None }
    }

    /// What the table was built from.
    pub(crate) fn members(&self) -> &[(BackendId, u32)] {
        &self.members
    }

    /// Makes `members` the owners. `version` is taken only if the table changes.
    pub(crate) fn update(&mut self, members: Vec<(BackendId, u32)>, version: &mut u64, now: Nanos) {
        if self.version != 0 && members == self.members {
            return;
        }
        let next = SlotTable::build(Some(&self.table), &members);
        self.members = members;
        if self.version != 0 && next == *self.table {
            return;
        }
        let tables = history(&next, &self.table, self.before.as_ref().map_or(&[], |b| &b.tables));
        self.before = Before::new(tables, now);
        self.table = Arc::new(next);
        *version += 1;
        self.version = *version;
    }

    /// The same for another pool, under a version of its own.
    pub(crate) fn again(self, version: &mut u64) -> Self {
        *version += 1;
        Self { version: *version, ..self }
    }

    /// What has gone by the table of `other` goes by this one now: the owners there are previous ones here.
    pub(crate) fn join(&mut self, other: &Self, now: Nanos) {
        let older: Vec<_> =
            [&self.before, &other.before].into_iter().flatten().flat_map(|b| &b.tables).cloned().collect();
        let tables = history(&self.table, &other.table, &older);
        if self.before.as_ref().map_or(&[][..], |b| &b.tables) != tables {
            self.before = Before::new(tables, now);
        }
    }

    /// Once the last change has settled, forgets previous owners, but not those that drain: however long that takes, their
    /// connections are theirs.
    pub(crate) fn settle(&mut self, settle: Duration, now: Nanos, drains: impl Fn(BackendId) -> bool) {
        let Some(mut before) = self.before.take() else { return };
        // The clock starts again with the machine: a change that seems to lie in the future happened just now.
        before.changed_at = before.changed_at.min(now.0);
        before.has_settled = now.since(Nanos(before.changed_at)) >= settle;
        if before.has_settled {
            before.tables = before.tables.iter().filter_map(|t| self.alive(t, &drains)).collect();
        }
        self.before = Some(before).filter(|b| !b.tables.is_empty());
    }

    /// When [`PoolState::settle`] has something to do that is not done yet.
    pub(crate) fn settles_at(&self, settle: Duration) -> Option<Nanos> {
        let before = self.before.as_ref().filter(|before| !before.has_settled);
        before.map(|before| Nanos(before.changed_at).plus(settle))
    }

    /// Previous owners, newest first, with slots of backends that no longer serve given to their owners of now; tables that
    /// then differ nowhere from the table of now are left out.
    pub(crate) fn previous(&self, serves: impl Fn(BackendId) -> bool) -> Vec<Arc<SlotTable>> {
        let tables = self.before.iter().flat_map(|b| &b.tables);
        tables.filter_map(|before| self.alive(before, &serves)).collect()
    }

    /// Backends that may have flows of this pool.
    pub(crate) fn owners(&self) -> impl Iterator<Item = BackendId> {
        let before = self.before.iter().flat_map(|b| &b.tables);
        before.chain([&self.table]).flat_map(|t| t.members.iter().copied())
    }

    fn alive(&self, before: &Arc<SlotTable>, serves: impl Fn(BackendId) -> bool) -> Option<Arc<SlotTable>> {
        let serving: BTreeSet<BackendId> = before.members.iter().copied().filter(|id| serves(*id)).collect();
        if serving.len() == before.members.len() {
            return Some(before.clone());
        }
        if self.table.is_empty() {
            return among(before, &serving);
        }
        let owner = |slot| {
            before.owner_of_slot(slot).filter(|id| serving.contains(id)).or_else(|| self.table.owner_of_slot(slot))
        };
        let table = from_owners(&(0..SLOTS).filter_map(owner).collect::<Vec<_>>());
        (table != *self.table).then(|| Arc::new(table))
    }
}

/// The past of `next`, which follows `last`, whose past was `older`: for each slot its [`DEPTH`] latest owners but the one of
/// `next`, each once.
fn history(next: &SlotTable, last: &SlotTable, older: &[Arc<SlotTable>]) -> Vec<Arc<SlotTable>> {
    let past = |slot: usize| {
        let now = next.owner_of_slot(slot);
        let mut owners: Vec<BackendId> = Vec::with_capacity(DEPTH);
        let before = [last].into_iter().chain(older.iter().map(|t| &**t)).filter_map(|t| t.owner_of_slot(slot));
        for owner in before.filter(|owner| Some(*owner) != now) {
            if owners.len() < DEPTH && !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        owners
    };
    let pasts: Vec<Vec<BackendId>> = (0..SLOTS).map(past).collect();
    let depth = pasts.iter().map(Vec::len).max().unwrap_or_default();
    let filled = |slot: usize, past: &[BackendId], at: usize| {
        past.get(at).copied().or_else(|| next.owner_of_slot(slot)).or_else(|| past.last().copied())
    };
    let layer = |at| from_owners(&pasts.iter().enumerate().filter_map(|(s, p)| filled(s, p, at)).collect::<Vec<_>>());
    (0..depth).map(|at| Arc::new(layer(at))).filter(|t| t.slots.len() == SLOTS).collect()
}

/// Everything drains: nobody has slots now, so those of the dead go to the rest of the table before.
fn among(before: &SlotTable, serving: &BTreeSet<BackendId>) -> Option<Arc<SlotTable>> {
    let share = |(id, slots): (BackendId, usize)| serving.contains(&id).then_some((id, slots as u32));
    let rest: Vec<_> = before.shares().into_iter().filter_map(share).collect();
    let table = SlotTable::build(Some(before), &rest);
    (!table.is_empty()).then(|| Arc::new(table))
}

fn from_owners(owners: &[BackendId]) -> SlotTable {
    let members: Vec<BackendId> = owners.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let index: HashMap<BackendId, u16> = members.iter().copied().zip(0u16..).collect();
    let slots = owners.iter().filter_map(|id| index.get(id).copied()).collect();
    SlotTable { members, slots }
}
