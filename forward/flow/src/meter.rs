use penstock_model::Nanos;

/// How much a meter lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub bits_per_second: u64,
    pub burst_bytes: u32,
}

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
    refused: u64,
}

const SCALE: u128 = 1_000_000_000;

impl Meter {
    /// Lets `bits_per_second` pass in the long run and `burst_bytes` at once. Begins full.
    #[must_use]
    pub fn new(bits_per_second: u64, burst_bytes: u32, now: Nanos) -> Self {
        let burst_bits = u64::from(burst_bytes) * 8;
        Self { bits_per_second, burst_bits, tokens: u128::from(burst_bits) * SCALE, filled: now, refused: 0 }
    }

    /// Whether this is a meter of that rate.
    #[must_use]
    pub fn is_of(&self, rate: Rate) -> bool {
        (self.bits_per_second, self.burst_bits) == (rate.bits_per_second, u64::from(rate.burst_bytes) * 8)
    }

    /// Packets that did not conform.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
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
            self.refused += 1;
            return false;
        }
        self.tokens -= cost;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_just_the_rate_passes() {
        let mut meter = Meter::new(8_000_000, 3000, Nanos(0)); // a megabyte a second
        let mut sent = 0u64;
        for us in 0..10_000_000u64 / 100 {
            if meter.admit(1000, Nanos(us * 100_000)) {
                sent += 1000;
            }
        }
        assert!((9_999_000..=10_003_000).contains(&sent), "{sent} bytes in 10 s");
    }

    #[test]
    fn a_burst_passes_whole_and_not_a_byte_more() {
        let mut meter = Meter::new(8, 1500, Nanos(5));
        assert!(meter.admit(1500, Nanos(5)));
        assert!(!meter.admit(1, Nanos(6)));
        assert!(meter.admit(1, Nanos::from_secs(2)));
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing_and_a_long_rest_no_more_than_the_burst() {
        let mut meter = Meter::new(u64::MAX, 100, Nanos::from_secs(10));
        assert!(meter.admit(100, Nanos::from_secs(10)));
        assert!(!meter.admit(100, Nanos::from_secs(9)));
        assert!(meter.admit(100, Nanos(u64::MAX)));
        assert!(!meter.admit(1, Nanos(u64::MAX)));
    }
}
