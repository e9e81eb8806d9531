//! Which hosts and gateways are taken for dead because their control link is gone. Pure: time is an argument.
use penstock_model::Nanos;
use std::time::Duration;

/// In which all nodes are back that can be, once the first one is: they wait up to 5 s between attempts.
const RETURN: Duration = Duration::from_secs(6);

/// A node's link as the controller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub connected: bool,
    /// When it came or went; without either, when the node was configured.
    pub since: Nanos,
    /// Already taken for dead: it stays so until it is connected again.
    pub absent: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Indexes of the nodes that are now to be taken for dead.
    pub absent: Vec<usize>,
    /// When to judge again if nothing happens before.
    pub next: Option<Nanos>,
}

/// A node is absent when it has been disconnected for `hold_off` while another of its role has been connected for as long. Where none
/// is connected the controller takes itself for the one that is cut off, and everything stays as it is; when nodes then come back
/// one after the other, the last has `hold_off` from the first, and at least as long as nodes wait between attempts.
pub(crate) fn judge(nodes: &[Link], hold_off: Duration, now: Nanos) -> Verdict {
    let Some(witness) = nodes.iter().filter(|n| n.connected).map(|n| n.since).min() else { return Verdict::default() };
    let mut verdict = Verdict::default();
    for (i, node) in nodes.iter().enumerate().filter(|(_, n)| !n.connected && !n.absent) {
        let due = node.since.plus(hold_off).max(witness.plus(hold_off.max(RETURN)));
        if due <= now {
            verdict.absent.push(i);
        } else {
            verdict.next = Some(verdict.next.map_or(due, |next| next.min(due)));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_OFF: Duration = Duration::from_secs(10);

    fn up(since: u64) -> Link {
        Link { connected: true, since: Nanos::from_secs(since), absent: false }
    }

    fn down(since: u64) -> Link {
        Link { connected: false, ..up(since) }
    }

    fn at(hosts: &[Link], now: u64) -> (Vec<usize>, Option<u64>) {
        let verdict = judge(hosts, HOLD_OFF, Nanos::from_secs(now));
        (verdict.absent, verdict.next.map(|n| n.0 / 1_000_000_000))
    }

    #[test]
    fn a_host_is_absent_after_the_hold_off_and_not_before() {
        let hosts = [up(0), down(100), down(103)];
        assert_eq!(at(&hosts, 109), (vec![], Some(110)));
        assert_eq!(at(&hosts, 110), (vec![1], Some(113)));
        assert_eq!(at(&hosts, 113), (vec![1, 2], None));
    }

    #[test]
    fn with_no_host_connected_nothing_is_concluded() {
        assert_eq!(at(&[down(0), down(0)], 1_000_000), (vec![], None));
        assert_eq!(at(&[down(0)], 1_000_000), (vec![], None));
        assert_eq!(at(&[], 0), (vec![], None));
    }

    #[test]
    fn the_first_that_comes_back_does_not_condemn_those_that_follow() {
        assert_eq!(at(&[up(100), down(0)], 101), (vec![], Some(110)));
        assert_eq!(at(&[up(100), down(0)], 110), (vec![1], None));
    }

    #[test]
    fn those_that_come_back_have_time_however_short_the_hold_off_is() {
        let judged = |now| judge(&[up(100), down(0)], Duration::from_secs(1), Nanos::from_secs(now));
        assert_eq!((judged(105).absent, judged(106).absent), (vec![], vec![1]));
        let early = judge(&[up(0), down(100)], Duration::from_secs(1), Nanos::from_secs(101));
        assert_eq!(early.absent, [1], "the other one has been there for long");
    }

    #[test]
    fn an_absent_host_is_judged_once() {
        let absent = Link { absent: true, ..down(0) };
        assert_eq!(at(&[up(0), absent], 100), (vec![], None));
    }
}
