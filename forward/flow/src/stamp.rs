use penstock_model::{Coarse, Epoch};

/// What the table keeps of an entry besides key and value, in 32 bits, so that a key of 24 bytes and a value of 4 make
/// half a cache line.
///
/// | bits | hold |
/// | --- | --- |
/// | 16..32 | the low bits of the epoch: a false match takes 65,536 changes of one tenant's policy within one idle time |
/// | 7..16 | when it was last seen, in units of 1/16 to 1/28 of its idle time: 18 idle times can be told apart |
/// | 1..7 | idle time, a float of 2 bits mantissa and 4 bits exponent: 1 second to 14 hours (longer ones are cut to that), rounded up by at most a quarter |
/// | 0 | belongs to the bucket, not to the entry |
///
/// An idle time of 0 marks a free slot.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Stamp(pub(crate) u32);

const SEEN_MASK: u32 = 0x1ff;
const BUCKET_BIT: u32 = 1;

impl Stamp {
    pub(crate) fn new(epoch: Epoch, idle_seconds: u16, now: Coarse) -> Self {
        let idle = idle_code(idle_seconds);
        Self(epoch.0 << 16 | seen(now, idle) << 7 | idle << 1)
    }

    #[inline]
    pub(crate) fn is_free(self) -> bool {
        self.idle() == 0
    }

    #[inline]
    fn idle(self) -> u32 {
        self.0 >> 1 & 0x3f
    }

    /// Whether `epoch` may be the one that the entry was made under.
    #[inline]
    pub(crate) fn epoch_low(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// In units of 1/16 to 1/28 of the idle time.
    #[inline]
    fn age(self, now: Coarse) -> u32 {
        seen(now, self.idle()).wrapping_sub(self.0 >> 7) & SEEN_MASK
    }

    #[inline]
    pub(crate) fn is_expired(self, now: Coarse) -> bool {
        self.age(now) > limit(self.idle())
    }

    #[inline]
    pub(crate) fn touched(self, now: Coarse) -> Self {
        Self(self.0 & !(SEEN_MASK << 7) | seen(now, self.idle()) << 7)
    }

    /// The same entry, seen now, with another idle time.
    pub(crate) fn with_idle(self, idle_seconds: u16, now: Coarse) -> Self {
        let idle = idle_code(idle_seconds);
        Self(self.0 & (0xffff << 16 | BUCKET_BIT) | seen(now, idle) << 7 | idle << 1)
    }

    /// Whether the idle time is the one that `idle_seconds` was rounded to.
    pub(crate) fn has_idle(self, idle_seconds: u16) -> bool {
        self.idle() == idle_code(idle_seconds)
    }

    #[inline]
    pub(crate) fn bucket_bit(self) -> bool {
        self.0 & BUCKET_BIT != 0
    }

    #[inline]
    pub(crate) fn with_bucket_bit(self, on: bool) -> Self {
        Self(self.0 & !BUCKET_BIT | u32::from(on))
    }
}

/// An idle time is (4 + mantissa) << exponent units of 2^28 ns (0.268 s). The code is exponent * 4 + mantissa + 1, so that 0
/// stays free for "no entry"; the last code is not used.
fn idle_code(seconds: u16) -> u32 {
    let units = (u64::from(seconds.max(1)) * 1_000_000_000).div_ceil(1 << 28).max(4);
    let exponent = units.ilog2() - 2;
    let mantissa = (units.div_ceil(1 << exponent) - 4) as u32;
    // A mantissa of 4 carries into the exponent by itself.
    (exponent * 4 + mantissa + 1).min(63)
}

#[inline]
fn exponent(idle: u32) -> u32 {
    idle.wrapping_sub(1) >> 2 & 0xf
}

#[inline]
fn limit(idle: u32) -> u32 {
    (4 + (idle.wrapping_sub(1) & 3)) * 4
}

/// The clock in units that fit the idle time: coarse units are 2^26 ns, a quarter of an idle unit.
#[inline]
fn seen(now: Coarse, idle: u32) -> u32 {
    now.0 >> exponent(idle) & SEEN_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::Nanos;

    /// Steps of a tenth of a second.
    fn at(tenths: u64) -> Coarse {
        Nanos(tenths * 100_000_000).coarse()
    }

    #[test]
    fn every_idle_time_is_kept_and_exceeded_by_a_quarter_at_most() {
        for idle in [1u16, 2, 3, 5, 7, 10, 30, 60, 100, 300, 1000, 3600, 7440, 20_000, 50_000] {
            for start in [0, 12_345, 9_999_999] {
                let stamp = Stamp::new(Epoch(0), idle, at(start));
                let tenths = u64::from(idle) * 10;
                assert!(!stamp.is_free());
                assert!(!stamp.is_expired(at(start + tenths)), "{idle} s");
                assert!(stamp.is_expired(at(start + tenths + tenths / 3 + 5)), "{idle} s");
            }
        }
    }

    #[test]
    fn a_touch_begins_the_idle_time_anew_and_changes_nothing_else() {
        let stamp = Stamp::new(Epoch(0x1_2345), 60, at(1000)).with_bucket_bit(true);
        let touched = stamp.touched(at(1500));
        assert!(!touched.is_expired(at(1500 + 600)));
        assert_eq!((touched.epoch_low(), touched.bucket_bit()), (0x2345, true));
    }

    #[test]
    fn an_idle_time_can_be_changed_and_nothing_else_is() {
        let stamp = Stamp::new(Epoch(0x1_2345), 1800, at(1000)).with_bucket_bit(true).with_idle(10, at(2000));
        assert!(stamp.has_idle(10) && !stamp.has_idle(1800));
        assert!(!stamp.is_expired(at(2100)) && stamp.is_expired(at(2200)));
        assert_eq!((stamp.epoch_low(), stamp.bucket_bit()), (0x2345, true));
    }

    #[test]
    fn eighteen_idle_times_can_be_told_apart() {
        let stamp = Stamp::new(Epoch(0), 60, at(1000));
        for multiple in 2..18 {
            assert!(stamp.is_expired(at(1000 + 600 * multiple)), "{multiple}");
        }
    }
}
