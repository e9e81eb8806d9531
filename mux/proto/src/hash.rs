use penstock_flow::FlowHasher;
use penstock_model::Addr16;

/// The hasher for a goal's `hash_seed`: the same on every mux.
pub(crate) fn hasher(seed: [u64; 2]) -> FlowHasher {
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&seed[0].to_le_bytes());
    secret[8..].copy_from_slice(&seed[1].to_le_bytes());
    FlowHasher::new(secret)
}

/// An address as two words.
#[inline]
pub(crate) fn halves(a: &Addr16) -> [u64; 2] {
    let v = u128::from_le_bytes(a.0);
    [v as u64, (v >> 64) as u64]
}
