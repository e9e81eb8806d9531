use penstock_model::Nanos;

/// A token bucket: integers only, time as an argument.
///
/// Tokens are kept in units of 1 / 8,000,000,000 byte-seconds, so that no rate loses anything to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    bits_per_second: u64,
    burst_bits: u64,
    /// Bits that may be sent now, times 10^9.
    tokens: u128,
    filled: Nanos,
}

const SCALE: u128 = 1_000_000_000;

impl Meter {
    /// Lets `bits_per_second` pass in the long run and `burst_bytes` at once. Begins full.
    #[must_use]
    pub fn new(bits_per_second: u64, burst_bytes: u32, now: Nanos) -> Self {
        let burst_bits = u64::from(burst_bytes) * 8;
        Self { bits_per_second, burst_bits, tokens: u128::from(burst_bits) * SCALE, filled: now }
    }

    /// Whether a packet of `bytes` conforms; if so its tokens are taken.
    #[inline]
    pub fn admit(&mut self, bytes: usize, now: Nanos) -> bool {
        let elapsed = now.0.saturating_sub(self.filled.0);
        if elapsed > 0 {
            let earned = u128::from(elapsed) * u128::from(self.bits_per_second);
            self.tokens = (self.tokens + earned).min(u128::from(self.burst_bits) * SCALE);
            self.filled = now;
        }
        let cost = bytes as u128 * 8 * SCALE;
        if cost > self.tokens {
            return false;
        }
        self.tokens -= cost;
        true
    }
}
