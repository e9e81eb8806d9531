use penstock_model::Nanos;
use std::time::Duration;

/// What one probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// How sure a probe has to be before it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dampening {
    /// Failures in a row that take a backend out.
    pub fall: u16,
    /// Successes in a row that bring it back.
    pub rise: u16,
    /// A backend that was taken out stays out for at least so long.
    pub hold_down: Duration,
}

/// When to probe, and what the answers mean: see [`Dampening`].
///
/// Order of calls: when [`ProbeMachine::poll_timeout`] has passed, [`ProbeMachine::handle_timeout`] says whether to start a
/// probe; its end goes to [`ProbeMachine::handle_outcome`]. A probe that is still open when the next one is due has failed:
/// `handle_timeout` counts it and the caller drops it.
///
/// Until the first success or as many failures as take it out there is no verdict ([`ProbeMachine::verdict`]): a host agent that
/// starts must not take its backends out before it has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeMachine {
    interval: Duration,
    dampening: Dampening,
    next: Nanos,
    is_open: bool,
    failures: u16,
    successes: u16,
    verdict: Option<bool>,
    /// Not well before.
    held_until: Nanos,
    changes: u64,
}

impl ProbeMachine {
    /// The first probe is due at `first`: spread them, so that not all start at once.
    #[must_use]
    pub fn new(interval: Duration, dampening: Dampening, first: Nanos) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(100)),
            dampening,
            next: first,
            is_open: false,
            failures: 0,
            successes: 0,
            verdict: None,
            held_until: Nanos(0),
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
            self.handle_outcome(Outcome::Failure, now);
        }
        // A late caller does not have to catch up.
        self.next = self.next.plus(self.interval).max(now);
        self.is_open = true;
        true
    }

    /// The end of the open probe. Returns whether the verdict changed.
    pub fn handle_outcome(&mut self, outcome: Outcome, now: Nanos) -> bool {
        if !self.is_open {
            return false;
        }
        self.is_open = false;
        let before = self.verdict;
        match outcome {
            Outcome::Success => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                let is_sure = self.successes >= self.dampening.rise.max(1) && now >= self.held_until;
                if is_sure || before.is_none() {
                    self.verdict = Some(true);
                }
            }
            Outcome::Failure => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.dampening.fall.max(1) {
                    self.verdict = Some(false);
                }
            }
        }
        if before != self.verdict && self.verdict == Some(false) {
            self.held_until = now.plus(self.dampening.hold_down);
        }
        self.changes += u64::from(before != self.verdict);
        before != self.verdict
    }

    /// What keeps a backend out that answers again.
    #[must_use]
    pub fn waits_for(&self, now: Nanos) -> Option<String> {
        if self.verdict != Some(false) || self.successes == 0 {
            return None;
        }
        let missing = self.dampening.rise.max(1).saturating_sub(self.successes);
        match (missing, self.held_until.since(now).as_secs_f64().ceil() as u64) {
            (0, 0) => None,
            (0, seconds) => Some(format!("held down for {seconds} s")),
            (missing, _) => Some(format!("{missing} more in a row bring it back")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> ProbeMachine {
        ProbeMachine::new(Duration::from_secs(5), Dampening { fall: 2, rise: 1, hold_down: Duration::ZERO }, Nanos(0))
    }

    fn run(m: &mut ProbeMachine, outcomes: &[Outcome]) -> Vec<bool> {
        let mut seen = Vec::new();
        for o in outcomes {
            assert!(m.handle_timeout(m.poll_timeout()));
            m.handle_outcome(*o, m.poll_timeout());
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
    fn as_many_successes_as_are_asked_for_bring_it_back_and_the_first_verdict_needs_one() {
        use Outcome::{Failure as F, Success as S};
        let mut m = machine();
        m.dampening.rise = 3;
        assert_eq!(
            run(&mut m, &[S, F, F, S, S, F, S, S, S]),
            [true, true, false, false, false, false, false, false, true]
        );
        run(&mut m, &[F, F, S]);
        assert_eq!(m.waits_for(Nanos(0)).as_deref(), Some("2 more in a row bring it back"));
    }

    #[test]
    fn who_was_taken_out_stays_out_for_a_while_however_well_it_is() {
        use Outcome::{Failure as F, Success as S};
        let mut m = machine();
        m.dampening.hold_down = Duration::from_secs(20);
        // Every five seconds: taken out by the third, which is 10 seconds from the start.
        assert_eq!(run(&mut m, &[S, F, F, S, S, S]), [true, true, false, false, false, false]);
        assert!(m.waits_for(Nanos::from_secs(28)).unwrap().starts_with("held down for"));
        assert_eq!(run(&mut m, &[S, S]), [true, true]);
        assert_eq!((m.changes(), m.waits_for(Nanos::from_secs(40))), (3, None));
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
        m.handle_outcome(Outcome::Success, Nanos(0));
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
        m.handle_outcome(Outcome::Success, Nanos(0));
        assert!(m.handle_timeout(Nanos::from_secs(100)));
        m.handle_outcome(Outcome::Success, Nanos(0));
        assert!(!m.handle_timeout(Nanos::from_secs(104)));
    }
}
