use std::time::Duration;

/// Waiting times between attempts: doubling from `FIRST` to `LAST`, each a random part of 50 to 100 %, so that a thousand nodes do
/// not come back in the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// `chance`: any 32 random bits.
    pub(crate) fn wait(&mut self, chance: u32) -> Duration {
        let part = 0.5 + f64::from(chance) / f64::from(u32::MAX) / 2.0;
        let wait = self.next.mul_f64(part);
        self.next = (self.next * 2).min(LAST);
        wait
    }
}

/// Random bits without a generator to carry around: the seed that the standard library draws for each hash map.
pub(crate) fn chance() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    #[expect(clippy::cast_possible_truncation, reason = "any 32 of the bits")]
    let bits = RandomState::new().build_hasher().finish() as u32;
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.wait(0), Duration::from_millis(50));
    }

    #[test]
    fn chance_differs_from_call_to_call() {
        let drawn: std::collections::HashSet<u32> = (0..16).map(|_| chance()).collect();
        assert!(drawn.len() > 8);
    }
}
