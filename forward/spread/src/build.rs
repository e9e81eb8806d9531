use crate::shares::{Share, normalize, shares};
use crate::{SLOTS, SlotTable};
use penstock_model::BackendId;
use std::collections::HashMap;

/// Fixed for ever: another key is another initial table, and a controller that starts without its state would move
/// every slot.
const PLACEMENT_KEY: u64 = 0x7065_6e73_746f_636b;

impl SlotTable {
    /// The table for `members` (backend, weight) that moves the fewest slots of `previous`.
    ///
    /// * Each member gets its exact quota, `SLOTS * weight / total`, rounded down or up.
    /// * A slot changes its owner only if the owner left or has more than it is due. So removing one of N equal members
    ///   moves that member's slots and no others; adding one takes what it is due evenly from the others; a change of
    ///   weights moves the difference.
    /// * With unequal weights a removal may push several members over the next whole slot at once; then a few single
    ///   slots move for the roundings. Exact shares come first.
    /// * Slots are handed out in a scattered order, the same on every machine: equal input gives equal bytes.
    /// * Weight 0 and members for whom less than one slot is left own nothing; the table does not list them.
    #[must_use]
    pub fn build(previous: Option<&SlotTable>, members: &[(BackendId, u32)]) -> SlotTable {
        let members = normalize(members);
        let nothing = SlotTable::EMPTY;
        let previous = previous.filter(|table| table.validate().is_ok()).unwrap_or(&nothing);
        let held: HashMap<BackendId, usize> = previous.shares().into_iter().collect();
        let mut shares = shares(&members, |id| held.get(&id).copied().unwrap_or(0));
        shares.retain(|share| share.due > 0);
        if shares.is_empty() {
            return SlotTable::EMPTY;
        }
        let (mut slots, free) = keep(previous, &shares);
        hand_out(&mut slots, free, &shares);
        SlotTable {
            members: shares.iter().map(|share| share.id).collect(),
            slots: slots.into_iter().map(|owner| owner.unwrap_or(0)).collect(),
        }
    }
}

/// What stays with its owner, and the slots that go to another, in scattered order.
fn keep(previous: &SlotTable, shares: &[Share]) -> (Vec<Option<u16>>, Vec<usize>) {
    let index_of: HashMap<BackendId, u16> = (0u16..).zip(shares).map(|(index, share)| (share.id, index)).collect();
    let mut surplus: Vec<usize> = shares.iter().map(|share| share.held.saturating_sub(share.due)).collect();
    let mut slots = vec![None; SLOTS];
    let mut free = Vec::new();
    for slot in scattered() {
        let owner = previous.owner_of_slot(slot).and_then(|id| index_of.get(&id).copied());
        let over = owner.and_then(|index| surplus.get_mut(usize::from(index)));
        match over {
            None => free.push(slot),
            Some(0) => {
                if let Some(kept) = slots.get_mut(slot) {
                    *kept = owner;
                }
            }
            Some(count) => {
                *count -= 1;
                free.push(slot);
            }
        }
    }
    (slots, free)
}

/// Gives the free slots to the members that have less than they are due.
fn hand_out(slots: &mut [Option<u16>], free: Vec<usize>, shares: &[Share]) {
    let mut free = free.into_iter();
    for (index, share) in (0u16..).zip(shares) {
        for slot in free.by_ref().take(share.due.saturating_sub(share.held)) {
            if let Some(owner) = slots.get_mut(slot) {
                *owner = Some(index);
            }
        }
    }
}

/// All slots in a pseudo-random order, always the same.
fn scattered() -> Vec<usize> {
    let mut order: Vec<(u64, usize)> = (0..SLOTS).map(|slot| (mix(slot as u64 ^ PLACEMENT_KEY), slot)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, slot)| slot).collect()
}

/// The finalizer of SplitMix64: a bijection, so no two slots are equal.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
