use penstock_model::Nanos;
use std::time::Duration;

/// How often what sites tell is compiled, if it goes on changing: each time all tenants' rules are.
const LONGEST: Duration = Duration::from_secs(2);
const FIRST: Duration = Duration::from_millis(100);

/// When to act on changes: at once on one that comes alone, and the longer after the last time the longer they go on.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Nanos>,
    wait: Duration,
}

impl Pace {
    /// When to act on a change that has come now; then it counts as done.
    pub(crate) fn due(&mut self, now: Nanos) -> Nanos {
        let is_quiet = self.last.is_none_or(|last| now.since(last) > LONGEST * 2);
        self.wait = if is_quiet { Duration::ZERO } else { (self.wait * 2).clamp(FIRST, LONGEST) };
        let due = self.last.map_or(now, |last| now.max(last.plus(self.wait)));
        self.last = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_is_acted_on_at_once_and_one_that_goes_on_ever_more_rarely() {
        let mut pace = Pace::default();
        let mut now = Nanos::from_secs(100);
        assert_eq!(pace.due(now), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let due = pace.due(now);
            waits.push(due.since(now));
            now = due;
        }
        assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
        assert_eq!((waits[0], waits[7]), (FIRST, LONGEST));
        now = now.plus(LONGEST * 3);
        assert_eq!(pace.due(now), now);
    }
}
