use crate::SLOTS;
use penstock_model::BackendId;

/// What one member owns and what it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) id: BackendId,
    /// Slots in the table before.
    pub(crate) held: usize,
    /// Slots in the table to be.
    pub(crate) due: usize,
}

/// Members in the order of their ids, each once, weights added up, without those of weight 0.
pub(crate) fn normalize(members: &[(BackendId, u32)]) -> Vec<(BackendId, u64)> {
    let mut sorted: Vec<(BackendId, u64)> =
        members.iter().filter(|(_, weight)| *weight > 0).map(|(id, weight)| (*id, u64::from(*weight))).collect();
    sorted.sort_unstable();
    sorted.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    sorted
}

/// How many slots each member is due: its exact quota `SLOTS * weight / total`, rounded down or up, the roundings
/// chosen so that the sum is `SLOTS`.
///
/// Who is rounded up: first those that already hold that many slots, so that nothing moves for a rounding alone; then by
/// largest remainder; then by smallest id.
///
/// `held` says how many slots a member has now.
pub(crate) fn shares(members: &[(BackendId, u64)], held: impl Fn(BackendId) -> usize) -> Vec<Share> {
    let total: u128 = members.iter().map(|(_, weight)| u128::from(*weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut shares = Vec::with_capacity(members.len());
    // (holds its rounded-up quota already, remainder, index), of those with a remainder.
    let mut candidates = Vec::new();
    let mut left = SLOTS;
    for (index, (id, weight)) in members.iter().enumerate() {
        let exact = u128::from(*weight) * SLOTS as u128;
        let due = (exact / total) as usize;
        let remainder = exact % total;
        let held = held(*id);
        if remainder > 0 {
            candidates.push((held > due, remainder, index));
        }
        left -= due;
        shares.push(Share { id: *id, held, due });
    }
    candidates.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    for (_, _, index) in candidates.into_iter().take(left) {
        if let Some(share) = shares.get_mut(index) {
            share.due += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(weights: &[u64]) -> Vec<usize> {
        let members: Vec<_> = weights.iter().enumerate().map(|(i, w)| (BackendId(i as u32), *w)).collect();
        shares(&members, |_| 0).iter().map(|s| s.due).collect()
    }

    #[test]
    fn a_third_each_leaves_one_slot_for_the_first() {
        assert_eq!(due(&[1, 1, 1]), [1366, 1365, 1365]);
    }

    #[test]
    fn the_largest_remainder_gets_the_slot_that_is_left() {
        // Quotas 585.14, 1170.29, 2340.57.
        assert_eq!(due(&[1, 2, 4]), [585, 1170, 2341]);
    }

    #[test]
    fn weights_of_any_size_do_not_overflow() {
        assert_eq!(due(&[u64::from(u32::MAX), u64::from(u32::MAX)]), [2048, 2048]);
        assert_eq!(due(&vec![u64::from(u32::MAX); 5000]).iter().sum::<usize>(), SLOTS);
    }

    #[test]
    fn weight_zero_is_no_member_and_a_repeated_member_adds_up() {
        let members = normalize(&[(BackendId(9), 1), (BackendId(3), 0), (BackendId(2), 5), (BackendId(9), 2)]);
        assert_eq!(members, [(BackendId(2), 5), (BackendId(9), 3)]);
    }

    #[test]
    fn an_equal_claim_is_decided_for_the_holder() {
        let members = [(BackendId(1), 1), (BackendId(2), 1), (BackendId(3), 1)];
        let held = |id| if id == BackendId(3) { 1366 } else { 1365 };
        let due: Vec<usize> = shares(&members, held).iter().map(|s| s.due).collect();
        assert_eq!(due, [1365, 1365, 1366]);
    }
}
