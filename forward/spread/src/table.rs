use penstock_model::BackendId;
use serde::{Deserialize, Serialize};

/// Slots of every table. A power of two; 16-bit member indices: 8 KiB a table, and 4 bytes a member.
///
/// 4096 keeps a table within the first-level cache of a core, and a weight of 1 in 4,000 still gets a slot.
pub const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;

/// Members that can own a slot.
pub const MAX_MEMBERS: usize = SLOTS;

/// Slot -> backend. Empty `members`: nobody is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct SlotTable {
    /// Owners of at least one slot, in the order of their ids.
    pub members: Vec<BackendId>,
    /// Index into `members`, `SLOTS` long; empty when there are no members.
    pub slots: Vec<u16>,
}

/// Why a table that came from elsewhere is not a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotTableError {
    #[error("slots: {found} slots where {expected} are needed")]
    Length { found: usize, expected: usize },
    #[error("slots[{slot}]: index {index} is not below the number of members, {members}")]
    Index { slot: usize, index: u16, members: usize },
    #[error("members[{index}]: {id} does not come after its neighbour")]
    Order { index: usize, id: BackendId },
    #[error("members: {found} members, at most {MAX_MEMBERS} can own a slot")]
    Members { found: usize },
}

impl SlotTable {
    /// The table of a pool without members.
    pub const EMPTY: SlotTable = SlotTable { members: Vec::new(), slots: Vec::new() };

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The slot of a hash: its upper bits, which multiplicative hashes mix best.
    #[must_use]
    #[inline]
    pub const fn slot(hash: u64) -> usize {
        (hash >> (u64::BITS - SLOT_BITS)) as usize
    }

    /// The backend that owns the slot of `hash`; `None` if nobody is healthy.
    #[must_use]
    #[inline]
    pub fn owner(&self, hash: u64) -> Option<BackendId> {
        self.owner_of_slot(Self::slot(hash))
    }

    /// The backend that owns `slot`.
    #[must_use]
    #[inline]
    pub fn owner_of_slot(&self, slot: usize) -> Option<BackendId> {
        let index = *self.slots.get(slot)?;
        self.members.get(usize::from(index)).copied()
    }

    /// The slots whose owner differs between the two tables, ascending.
    pub fn changed<'a>(&'a self, other: &'a SlotTable) -> impl Iterator<Item = usize> + 'a {
        (0..SLOTS).filter(move |slot| self.owner_of_slot(*slot) != other.owner_of_slot(*slot))
    }

    /// How many slots have another owner in `other`.
    #[must_use]
    pub fn moved(&self, other: &SlotTable) -> usize {
        self.changed(other).count()
    }

    /// Slots of each member, in the order of `members`.
    #[must_use]
    pub fn shares(&self) -> Vec<(BackendId, usize)> {
        let mut shares: Vec<(BackendId, usize)> = self.members.iter().map(|id| (*id, 0)).collect();
        for index in &self.slots {
            if let Some((_, count)) = shares.get_mut(usize::from(*index)) {
                *count += 1;
            }
        }
        shares
    }

    /// Checks what [`SlotTable::owner`] relies on. Deserialization has done it already.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn validate(&self) -> Result<(), SlotTableError> {
        let members = self.members.len();
        if members > MAX_MEMBERS {
            return Err(SlotTableError::Members { found: members });
        }
        let expected = if members == 0 { 0 } else { SLOTS };
        if self.slots.len() != expected {
            return Err(SlotTableError::Length { found: self.slots.len(), expected });
        }
        for (index, pair) in self.members.windows(2).enumerate() {
            if let [a, b] = pair
                && a >= b
            {
                return Err(SlotTableError::Order { index: index + 1, id: *b });
            }
        }
        for (slot, index) in self.slots.iter().enumerate() {
            if usize::from(*index) >= members {
                return Err(SlotTableError::Index { slot, index: *index, members });
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Unchecked {
    members: Vec<BackendId>,
    slots: Vec<u16>,
}

impl TryFrom<Unchecked> for SlotTable {
    type Error = SlotTableError;
    fn try_from(raw: Unchecked) -> Result<Self, SlotTableError> {
        let table = SlotTable { members: raw.members, slots: raw.slots };
        table.validate()?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> SlotTable {
        SlotTable::build(None, &[(BackendId(1), 1), (BackendId(2), 1)])
    }

    #[test]
    fn an_index_beyond_the_members_is_refused_on_arrival() {
        let mut table = two();
        table.slots[77] = 2;
        let json = serde_json::to_string(&table).unwrap();
        let err = serde_json::from_str::<SlotTable>(&json).unwrap_err().to_string();
        assert!(err.starts_with("slots[77]: index 2 is not below the number of members, 2"), "{err}");
    }

    #[test]
    fn a_short_table_is_refused_on_arrival() {
        let mut table = two();
        table.slots.pop();
        assert_eq!(table.validate(), Err(SlotTableError::Length { found: SLOTS - 1, expected: SLOTS }));
        table.members.clear();
        assert!(table.validate().is_err(), "slots without members");
    }

    #[test]
    fn members_out_of_order_are_refused() {
        let mut table = two();
        table.members.swap(0, 1);
        assert_eq!(table.validate(), Err(SlotTableError::Order { index: 1, id: BackendId(1) }));
    }

    #[test]
    fn a_table_survives_serialization() {
        let table = two();
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<SlotTable>(&json).unwrap(), table);
    }

    #[test]
    fn the_slot_is_the_upper_bits_of_the_hash() {
        assert_eq!(SlotTable::slot(0), 0);
        assert_eq!(SlotTable::slot(u64::MAX), SLOTS - 1);
        assert_eq!(SlotTable::slot(1 << 52), 1);
        assert_eq!(SlotTable::EMPTY.owner(5), None);
    }
}
