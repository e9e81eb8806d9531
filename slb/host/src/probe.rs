use penstock_model::Nanos;
use std::time::Duration;

/// What one probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// When to probe, and what the answers mean: `count` failures in a row take a backend out, one success brings it in.
///
/// Order of calls: when [`ProbeMachine::poll_timeout`] has passed, [`ProbeMachine::handle_timeout`] says whether to start a
/// probe; its end goes to [`ProbeMachine::handle_outcome`]. A probe that is still open when the next one is due has failed:
/// `handle_timeout` counts it and the caller drops it.
///
/// Until the first success or the first `count` failures there is no verdict ([`ProbeMachine::verdict`]): a host agent that
/// starts must not take its backends out before it has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeMachine {
    interval: Duration,
    count: u16,
    next: Nanos,
    is_open: bool,
    failures: u16,
    verdict: Option<bool>,
    changes: u64,
}

impl ProbeMachine {
    /// The first probe is due at `first`: spread them, so that not all start at once.
    #[must_use]
    pub fn new(interval: Duration, count: u16, first: Nanos) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(100)),
            count: count.max(1),
            next: first,
            is_open: false,
            failures: 0,
            verdict: None,
            changes: 0,
        }
    }

    /// Whether the backend is healthy, once that is known.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// How often the verdict has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// When the next probe is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Nanos {
        self.next
    }

    /// True if a probe is to be started now. If one is still open it has had its time and counts as a failure.
    pub fn handle_timeout(&mut self, now: Nanos) -> bool {
        if now < self.next {
            return false;
        }
        if self.is_open {
            self.handle_outcome(Outcome::Failure);
        }
        // A late caller does not have to catch up.
        self.next = self.next.plus(self.interval).max(now);
        self.is_open = true;
        true
    }

    /// The end of the open probe. Returns whether the verdict changed.
    pub fn handle_outcome(&mut self, outcome: Outcome) -> bool {
        if !self.is_open {
            return false;
        }
        self.is_open = false;
        let before = self.verdict;
        match outcome {
            Outcome::Success => {
                self.failures = 0;
                self.verdict = Some(true);
            }
            Outcome::Failure => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.count {
                    self.verdict = Some(false);
                }
            }
        }
        self.changes += u64::from(before != self.verdict);
        before != self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> ProbeMachine {
        ProbeMachine::new(Duration::from_secs(5), 2, Nanos(0))
    }

    fn run(m: &mut ProbeMachine, outcomes: &[Outcome]) -> Vec<bool> {
        let mut seen = Vec::new();
        for o in outcomes {
            assert!(m.handle_timeout(m.poll_timeout()));
            m.handle_outcome(*o);
            seen.push(m.verdict() == Some(true));
        }
        seen
    }

    #[test]
    fn count_failures_in_a_row_take_it_out_and_one_success_brings_it_back() {
        use Outcome::{Failure as F, Success as S};
        let mut m = machine();
        assert_eq!(m.verdict(), None);
        assert_eq!(run(&mut m, &[S, F, S, F, F, F, S]), [true, true, true, true, false, false, true]);
        assert_eq!(m.changes(), 3);
    }

    #[test]
    fn there_is_no_verdict_before_the_backend_has_answered_or_failed_often_enough() {
        let mut m = machine();
        run(&mut m, &[Outcome::Failure]);
        assert_eq!(m.verdict(), None);
        run(&mut m, &[Outcome::Failure]);
        assert_eq!(m.verdict(), Some(false));
    }

    #[test]
    fn a_probe_is_due_each_interval_and_not_before() {
        let mut m = machine();
        assert!(m.handle_timeout(Nanos(0)));
        m.handle_outcome(Outcome::Success);
        assert!(!m.handle_timeout(Nanos::from_millis(4999)));
        assert!(m.handle_timeout(Nanos::from_secs(5)));
    }

    #[test]
    fn an_answer_that_is_not_there_when_the_next_probe_is_due_is_a_failure() {
        let mut m = machine();
        run(&mut m, &[Outcome::Success]);
        assert!(m.handle_timeout(Nanos::from_secs(5)));
        assert!(m.handle_timeout(Nanos::from_secs(10)));
        assert_eq!(m.verdict(), Some(true));
        assert!(m.handle_timeout(Nanos::from_secs(15)));
        assert_eq!(m.verdict(), Some(false));
        // An answer after its time changes nothing but the probe that is open now.
        assert!(m.is_open());
    }

    #[test]
    fn a_caller_that_slept_does_not_catch_up() {
        let mut m = machine();
        assert!(m.handle_timeout(Nanos::from_secs(100)));
        m.handle_outcome(Outcome::Success);
        assert!(m.handle_timeout(Nanos::from_secs(100)));
        m.handle_outcome(Outcome::Success);
        assert!(!m.handle_timeout(Nanos::from_secs(104)));
    }
}
