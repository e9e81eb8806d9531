//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The one's complement sum does not mind byte order (RFC 1071 section 2 (B)): words are added as the machine reads them and
//! only the folded result is turned.

/// The one's complement sum of `bytes`, not yet folded or inverted, added to `seed`. `bytes` must begin at an even offset of
/// what is summed.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8], seed: u64) -> u64 {
    // Four lanes of 32-bit words each: the additions do not wait for each other.
    let mut lanes = [0u64; 4];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, pair) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            let word = u64::from_ne_bytes([pair[0], pair[1], pair[2], pair[3], pair[4], pair[5], pair[6], pair[7]]);
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    let mut acc = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    let mut words = blocks.remainder().chunks_exact(4);
    for w in &mut words {
        acc += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    }
    let rest = words.remainder();
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    acc += u64::from(u32::from_ne_bytes(last));
    seed + u64::from(u16::from_be(fold(acc)))
}

/// Folds a sum to 16 bits, not inverted.
#[must_use]
#[inline]
pub fn fold(sum: u64) -> u16 {
    // A number and its halves exchanged: the upper half of their sum is both halves and the carry of adding them.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum field for a sum: folded and inverted.
#[must_use]
#[inline]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Whether an IPv4 header without options carries its right checksum.
#[must_use]
#[inline(always)]
pub fn is_valid_ipv4(header: &[u8; 20]) -> bool {
    let w = |i: usize| u64::from(u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]));
    let sum = w(0) + w(4) + w(8) + w(12) + w(16);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    // 0xffff or twice that: all that a sum of zero can be before the last carry.
    sum == 0xffff || sum == 0x1_fffe
}

/// Updates a checksum field for 16-bit words that change: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3).
#[must_use]
#[inline]
pub fn update(field: u16, old: &[u8], new: &[u8]) -> u16 {
    debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
    let mut acc = u64::from(!field);
    for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
        acc += u64::from(!u16::from_be_bytes([old[0], old[1]])) + u64::from(u16::from_be_bytes([new[0], new[1]]));
    }
    !fold(acc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_section_3_sums_to_ddf2() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4_gives_0000_and_not_ffff() {
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    #[test]
    fn folding_the_largest_sum_carries_to_the_end() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x0001_ffff_ffff), slow(&[0, 1, 0xff, 0xff, 0xff, 0xff]));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(fold(sum(&bytes, 0)), slow(&bytes));
        }

        #[test]
        fn an_update_gives_what_a_new_sum_gives(
            mut bytes in prop::collection::vec(any::<u8>(), 8..64),
            new in any::<[u8; 4]>(),
        ) {
            bytes[0] |= 1; // an all-zero packet has two representations of its sum
            let field = finish(sum(&bytes, 0));
            let old = [bytes[4], bytes[5], bytes[6], bytes[7]];
            bytes[4..8].copy_from_slice(&new);
            prop_assert_eq!(update(field, &old, &new), finish(sum(&bytes, 0)));
        }

        #[test]
        fn a_header_is_valid_just_if_it_sums_to_ffff(mut header in any::<[u8; 20]>(), repair in any::<bool>()) {
            if repair {
                header[10..12].fill(0);
                let c = finish(sum(&header, 0));
                header[10..12].copy_from_slice(&c.to_be_bytes());
            }
            prop_assert_eq!(is_valid_ipv4(&header), slow(&header) == 0xffff);
        }
    }
}
