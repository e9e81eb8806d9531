//! What time is it? The one place in Penstock that asks the machine.
//!
//! Everything else takes [`Nanos`] as an argument. A worker reads [`MonotonicClock::now`] once a batch.
#![forbid(unsafe_code)]

use penstock_model::Nanos;
use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

/// Where the clock stands at its first reading, so that "some time ago" can be expressed.
const HEAD_START: Nanos = Nanos::from_secs(1);

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// `CLOCK_MONOTONIC`, counted from the process's first reading. The same for all threads; does not jump.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl MonotonicClock {
    /// Takes some 25 ns: no system call.
    #[must_use]
    #[inline]
    pub fn now() -> Nanos {
        HEAD_START.plus(ORIGIN.elapsed())
    }
}

/// The time of day: for what people read and what must mean the same after a restart. It may jump.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl WallClock {
    #[must_use]
    pub fn now() -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_goes_on_and_threads_agree() {
        let before = MonotonicClock::now();
        assert!(before >= HEAD_START);
        std::thread::sleep(Duration::from_millis(5));
        let after = std::thread::spawn(MonotonicClock::now).join();
        assert!(after.is_ok_and(|after| after.since(before) >= Duration::from_millis(5)));
    }
}
