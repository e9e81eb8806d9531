use penstock_model::FlowKey;

/// A keyed hash for flow keys: two or three multiplications of 64 by 64 bits whose halves are folded together
/// (the construction of wyhash), with secrets that are drawn once per boot.
///
/// Without the secret nobody can choose packets that meet in one bucket. It is not symmetric and not cryptographic: a
/// hash value must not leave the node but for the 14 bits in an encapsulation's source port.
#[derive(Clone, Copy)]
pub struct FlowHasher {
    k: [u64; 5],
}

impl std::fmt::Debug for FlowHasher {
    /// The secret is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowHasher")
    }
}

impl FlowHasher {
    /// A hasher for a secret of 128 random bits.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        let [a, b] = [0, 8].map(|at| {
            let mut w = [0u8; 8];
            w.copy_from_slice(&secret[at..at + 8]);
            u64::from_le_bytes(w)
        });
        let mut state = a ^ 0x9e37_79b9_7f4a_7c15;
        let mut next = |salt: u64| {
            state = mix(state ^ b, state.rotate_left(32) ^ salt).wrapping_add(a);
            // A key with few set bits would make the product small whatever the input.
            state | 1 << 63 | 1
        };
        Self {
            k: [
                next(0xa076_1d64_78bd_642f),
                next(0xe703_7ed1_a0b4_28db),
                next(0x8ebc_6af0_9c88_c6e3),
                next(0x5899_65cc_7537_4cc3),
                next(0x1d8e_4e27_c47d_124f),
            ],
        }
    }

    /// The hash of a flow key.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hash5(&key.words())
    }

    /// The hash of 24 bytes.
    #[must_use]
    #[inline]
    pub fn hash3(&self, w: &[u64; 3]) -> u64 {
        let k = &self.k;
        mix(mix(w[0] ^ k[0], w[1] ^ k[1]) ^ k[3], w[2] ^ k[2])
    }

    /// The secret, for another engine that hashes alike (the kernel's).
    #[must_use]
    pub fn keys(&self) -> [u64; 5] {
        self.k
    }

    /// The part of [`FlowHasher::hash5`] that follows from its third and fourth word.
    #[must_use]
    #[inline]
    pub fn part(&self, w: &[u64; 2]) -> u64 {
        let k = &self.k;
        mix(w[0] ^ k[2], w[1] ^ k[3]).rotate_left(23) ^ k[1]
    }

    /// The step that hashes are made of, for who makes [`FlowHasher::hash5`] from parts that are known at different times:
    /// `mix(mix(w0 ^ k0, w1 ^ k1) ^ part(w2, w3), w4 ^ k4)`.
    #[must_use]
    #[inline(always)]
    pub fn mix(a: u64, b: u64) -> u64 {
        mix(a, b)
    }

    /// The hash of 40 bytes.
    #[must_use]
    #[inline]
    pub fn hash5(&self, w: &[u64; 5]) -> u64 {
        let k = &self.k;
        let (a, b) = (mix(w[0] ^ k[0], w[1] ^ k[1]), self.part(&[w[2], w[3]]));
        mix(a ^ b, w[4] ^ k[4])
    }
}

/// The full product of two words, its halves folded together.
#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}
