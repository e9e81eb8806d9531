//! Properties of [`SlotTable::build`], against slow and obvious arithmetic.
use crate::{SLOTS, SlotTable};
use penstock_model::BackendId;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Members = BTreeMap<u32, u32>;

fn build(previous: Option<&SlotTable>, members: &Members) -> SlotTable {
    let list: Vec<_> = members.iter().map(|(id, weight)| (BackendId(*id), *weight)).collect();
    SlotTable::build(previous, &list)
}

fn shares(table: &SlotTable) -> BTreeMap<u32, usize> {
    table.shares().into_iter().map(|(id, n)| (id.0, n)).collect()
}

/// Quota rounded down and up.
fn bounds(members: &Members, id: u32) -> (usize, usize) {
    let total: u128 = members.values().map(|w| u128::from(*w)).sum();
    let exact = u128::from(members[&id]) * SLOTS as u128;
    ((exact / total) as usize, exact.div_ceil(total) as usize)
}

/// The fewest moves that any table with exact shares can need: keep everything that bounds let one keep. Members keep
/// their lower bound; of those that hold more, as many keep one more as there are slots left over.
fn fewest_moves(before: &SlotTable, members: &Members) -> usize {
    let held = shares(before);
    let mut kept = 0;
    let mut could_keep_one_more = 0;
    let mut left_over = SLOTS;
    for id in members.keys() {
        let (low, high) = bounds(members, *id);
        let has = held.get(id).copied().unwrap_or(0);
        kept += has.min(low);
        left_over -= low;
        if high > low && has > low {
            could_keep_one_more += 1;
        }
    }
    SLOTS - kept - could_keep_one_more.min(left_over)
}

fn members() -> impl Strategy<Value = Members> {
    let weight = prop_oneof![Just(1u32), 1..20u32, any::<u32>().prop_map(|w| w.max(1))];
    prop::collection::btree_map(0..300u32, weight, 1..200)
}

fn equal_members() -> impl Strategy<Value = Members> {
    (prop::collection::btree_set(0..3000u32, 2..1500), 1..9u32)
        .prop_map(|(ids, weight)| ids.into_iter().map(|id| (id, weight)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn shares_are_exact_within_one_slot_after_any_history(history in prop::collection::vec(members(), 1..6)) {
        let mut table = SlotTable::EMPTY;
        for members in &history {
            table = build(Some(&table), members);
            prop_assert_eq!(table.validate(), Ok(()));
            let shares = shares(&table);
            for id in members.keys() {
                let (low, high) = bounds(members, *id);
                let got = shares.get(id).copied().unwrap_or(0);
                prop_assert!(low <= got && got <= high, "{} has {}, due {}..={}", id, got, low, high);
            }
            prop_assert_eq!(shares.values().sum::<usize>(), SLOTS);
        }
    }

    #[test]
    fn no_table_with_exact_shares_moves_fewer_slots(history in prop::collection::vec(members(), 2..6)) {
        let mut table = build(None, &history[0]);
        for members in &history[1..] {
            let next = build(Some(&table), members);
            prop_assert_eq!(table.moved(&next), fewest_moves(&table, members));
            table = next;
        }
    }

    #[test]
    fn removing_one_of_n_equals_moves_only_its_slots(all in equal_members(), which in any::<prop::sample::Index>()) {
        let before = build(None, &all);
        let gone = *which.get(&all.keys().copied().collect::<Vec<_>>());
        let mut rest = all;
        rest.remove(&gone);
        let after = build(Some(&before), &rest);
        let its_slots: Vec<usize> = (0..SLOTS).filter(|s| before.owner_of_slot(*s) == Some(BackendId(gone))).collect();
        prop_assert_eq!(before.changed(&after).collect::<Vec<_>>(), its_slots);
    }

    #[test]
    fn what_an_added_member_gets_is_all_that_moves(all in equal_members()) {
        let before = build(None, &all);
        let mut more = all.clone();
        more.insert(9999, *all.values().next().unwrap());
        let after = build(Some(&before), &more);
        for slot in before.changed(&after) {
            prop_assert_eq!(after.owner_of_slot(slot), Some(BackendId(9999)));
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(members in members(), seed in any::<u64>()) {
        let mut list: Vec<_> = members.iter().map(|(id, w)| (BackendId(*id), *w)).collect();
        let sorted = SlotTable::build(None, &list);
        list.sort_by_key(|(id, _)| u64::from(id.0).wrapping_mul(seed | 1));
        prop_assert_eq!(SlotTable::build(None, &list), sorted);
    }
}

#[test]
fn the_same_members_again_move_nothing() {
    let members: Members = (0..37).map(|id| (id, id % 5 + 1)).collect();
    let table = build(None, &members);
    assert_eq!(build(Some(&table), &members), table);
}

#[test]
fn adding_a_fourth_takes_evenly_from_three() {
    let three: Members = (1..=3).map(|id| (id, 1)).collect();
    let four: Members = (1..=4).map(|id| (id, 1)).collect();
    let before = build(None, &three);
    let after = build(Some(&before), &four);
    assert_eq!(before.moved(&after), 1024);
    assert_eq!(shares(&after), BTreeMap::from([(1, 1024), (2, 1024), (3, 1024), (4, 1024)]));
}

#[test]
fn doubling_a_weight_moves_the_difference() {
    let before = build(None, &BTreeMap::from([(1, 1), (2, 1), (3, 1), (4, 1)]));
    let after = build(Some(&before), &BTreeMap::from([(1, 2), (2, 1), (3, 1), (4, 1)]));
    // Quotas 1638.4 and 819.2: the one slot of the roundings stays with a member that has it.
    assert_eq!(shares(&after), BTreeMap::from([(1, 1638), (2, 820), (3, 819), (4, 819)]));
    assert_eq!(before.moved(&after), 1638 - 1024);
}

#[test]
fn more_members_than_slots_leave_the_last_without() {
    let many: Members = (0..5000).map(|id| (id, 1)).collect();
    let table = build(None, &many);
    assert_eq!(table.members.len(), SLOTS);
    assert_eq!(table.validate(), Ok(()));
}

#[test]
fn all_members_gone_is_the_empty_table() {
    let table = build(None, &BTreeMap::from([(1, 1)]));
    assert_eq!(SlotTable::build(Some(&table), &[]), SlotTable::EMPTY);
    assert_eq!(SlotTable::build(Some(&table), &[(BackendId(1), 0)]), SlotTable::EMPTY);
}

/// Chi-square against a fair spread: neighbouring slots must not tend to one owner, or a client whose hashes are close
/// would stay on one backend.
#[test]
fn owners_are_scattered_over_the_table() {
    let table = build(None, &(0..8).map(|id| (id, 1)).collect());
    let mut pairs = [[0f64; 8]; 8];
    for w in table.slots.windows(2) {
        pairs[usize::from(w[0])][usize::from(w[1])] += 1.0;
    }
    let expected = (SLOTS - 1) as f64 / 64.0;
    let chi: f64 = pairs.iter().flatten().map(|n| (n - expected).powi(2) / expected).sum();
    // 63 - 14 degrees of freedom, mean 49; 99.9 % of fair tables are below 86.
    assert!(chi < 86.0, "chi-square {chi}");
}

/// 1,000 connections over 6 backends: each within five standard deviations, as any fair hash gives.
#[test]
fn connections_spread_within_the_statistical_bound() {
    let table = build(None, &(0..6).map(|id| (id, 1)).collect());
    let mut counts = [0f64; 6];
    for i in 0..1000u64 {
        let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xd6e8_feb8_6659_fd93);
        counts[table.owner(hash).unwrap().0 as usize] += 1.0;
    }
    let (mean, deviation) = (1000.0 / 6.0, (1000.0f64 * 5.0 / 36.0).sqrt());
    assert!(counts.iter().all(|n| (n - mean).abs() < 5.0 * deviation), "{counts:?}");
}

/// The placement is a contract: a controller that lost its state must not move slots of running muxes.
#[test]
fn the_first_slots_are_pinned() {
    let table = build(None, &BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    let first: Vec<u16> = table.slots[..16].to_vec();
    assert_eq!(first, PINNED);
}

const PINNED: [u16; 16] = [1, 2, 2, 2, 2, 2, 2, 2, 1, 0, 0, 1, 0, 0, 0, 0];
