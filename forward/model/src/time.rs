use std::time::Duration;

/// Nanoseconds since an arbitrary start, monotonic. Always an argument, read only in `platform/clock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000_000)
    }

    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    #[must_use]
    pub const fn coarse(self) -> Coarse {
        Coarse((self.0 >> Coarse::SHIFT) as u32)
    }
}

/// Coarse time for flow tables: units of 2^26 ns (67 ms) in 32 bits; wraps after 9 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Coarse(pub u32);

impl Coarse {
    const SHIFT: u32 = 26;

    /// Units in `d`, rounded up.
    #[must_use]
    pub fn units(d: Duration) -> u32 {
        u32::try_from((d.as_nanos() + (1 << Self::SHIFT) - 1) >> Self::SHIFT).unwrap_or(u32::MAX)
    }

    /// Units since `earlier`, by wrapping arithmetic.
    #[must_use]
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_time_wraps_without_losing_distance() {
        assert_eq!(Coarse(2).since(Coarse(u32::MAX)), 3);
    }

    #[test]
    fn a_second_is_fifteen_units() {
        assert_eq!(Coarse::units(Duration::from_secs(1)), 15);
        assert_eq!(Nanos::from_secs(1).coarse().since(Nanos(0).coarse()), 14);
    }
}
