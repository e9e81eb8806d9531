use penstock_model::{BackendId, Nanos};
use penstock_spread::{SLOTS, SlotTable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The table of a pool and its recent past. 8 KiB for each of two tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolState {
    pub(crate) version: u64,
    pub(crate) table: Arc<SlotTable>,
    /// What `table` was built from.
    members: Vec<(BackendId, u32)>,
    before: Option<Before>,
}

/// The table before, while the change from it settles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    table: Arc<SlotTable>,
    changed_at: u64,
}

impl PoolState {
    pub(crate) fn new() -> Self {
        Self { version: 0, table: Arc::new(SlotTable::EMPTY), members: Vec::new(), before: None }
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
        let old = std::mem::replace(&mut self.table, Arc::new(next));
        self.before = (!old.is_empty()).then_some(Before { table: old, changed_at: now.0 });
        *version += 1;
        self.version = *version;
    }

    /// Forgets the table before once the change has settled.
    pub(crate) fn settle(&mut self, settle: Duration, now: Nanos) {
        let Some(before) = &mut self.before else { return };
        // The clock starts again with the machine: a change that seems to lie in the future happened just now.
        before.changed_at = before.changed_at.min(now.0);
        if now.since(Nanos(before.changed_at)) >= settle {
            self.before = None;
        }
    }

    /// When [`PoolState::settle`] has something to do.
    pub(crate) fn settles_at(&self, settle: Duration) -> Option<Nanos> {
        self.before.as_ref().map(|before| Nanos(before.changed_at).plus(settle))
    }

    /// The table before with slots of backends that no longer serve given to their owners of now; `None` if that differs
    /// nowhere from the table of now.
    pub(crate) fn previous(&self, serves: impl Fn(BackendId) -> bool) -> Option<Arc<SlotTable>> {
        let before = &self.before.as_ref()?.table;
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
