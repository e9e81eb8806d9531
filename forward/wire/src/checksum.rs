//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The one's complement sum of `bytes`, not yet folded or inverted, added to `seed`.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8], seed: u64) -> u64 {
    let mut acc = seed;
    let mut chunks = bytes.chunks_exact(4);
    for c in &mut chunks {
        acc += u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
    }
    let rest = chunks.remainder();
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    acc + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum to 16 bits, not inverted.
#[must_use]
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a sum: folded and inverted.
#[must_use]
#[inline]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Updates a checksum field for 16-bit words that change: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3).
#[must_use]
#[inline]
pub fn update(field: u16, old: &[u8], new: &[u8]) -> u16 {
    debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
    let mut acc = u64::from(!field);
    for w in old.chunks_exact(2) {
        acc += u64::from(!u16::from_be_bytes([w[0], w[1]]));
    }
    acc = sum(new, acc);
    !fold(acc)
}
