//! How fast may a connection be? The meters of one policy.
use crate::error::GoalError;
use crate::{Caps, Tunnel};
use penstock_engine::Why;
use penstock_flow::{Rate, Transposition};
use penstock_model::TunnelId;
use std::collections::{BTreeMap, BTreeSet};

/// What may come at once: a tenth of a second of the rate, so that TCP's bursts are not punished, and at least twenty full packets.
fn burst(bits_per_second: u64) -> u32 {
    const LEAST: u64 = 30_000;
    u32::try_from((bits_per_second / 80).max(LEAST)).unwrap_or(u32::MAX)
}

/// Which way of a connection, seen from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Received,
    Transmitted,
}

/// Meters by number. One stays with its connection from policy to policy, because flows remember it; a number that fell free
/// is given out again: whoever used it belonged to a tenant that changed, so its flows are stale.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    numbers: BTreeMap<(TunnelId, Direction), u16>,
    /// By number.
    rates: Vec<Option<Rate>>,
}

impl Meters {
    /// # Errors
    /// More caps than flows have numbers for.
    pub(crate) fn assign(tunnels: &[Tunnel], previous: Option<&Self>) -> Result<Self, GoalError> {
        let wanted: BTreeMap<_, u64> =
            tunnels.iter().flat_map(|t| t.caps.iter().map(|(d, cap)| ((t.id, d), cap))).collect();
        let before = previous.into_iter().flat_map(|p| &p.numbers);
        let mut numbers: BTreeMap<_, _> =
            before.filter(|(k, _)| wanted.contains_key(k)).map(|(k, n)| (*k, *n)).collect();
        let taken: BTreeSet<u16> = numbers.values().copied().collect();
        let mut free = (0..Transposition::NO_METER).filter(|n| !taken.contains(n));
        for key in wanted.keys() {
            if !numbers.contains_key(key) {
                let number = free
                    .next()
                    .ok_or_else(|| GoalError::new("tunnels", format!("more than {} caps", Transposition::NO_METER)))?;
                numbers.insert(*key, number);
            }
        }
        let mut rates = vec![None; numbers.values().map(|n| usize::from(*n) + 1).max().unwrap_or(0)];
        for (key, number) in &numbers {
            if let (Some(slot), Some(cap)) = (rates.get_mut(usize::from(*number)), wanted.get(key)) {
                *slot = Some(Rate { bits_per_second: *cap, burst_bytes: burst(*cap) });
            }
        }
        Ok(Self { numbers, rates })
    }

    pub(crate) fn rates(&self) -> &[Option<Rate>] {
        &self.rates
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TunnelId, Direction, u16)> + '_ {
        self.numbers.iter().map(|((tunnel, direction), number)| (*tunnel, *direction, *number))
    }

    fn number(&self, tunnel: TunnelId, direction: Direction) -> Option<u16> {
        self.numbers.get(&(tunnel, direction)).copied()
    }

    /// Caps a decision by those of `ways` that have a cap: a transposition has one meter, so the slowest counts.
    pub(crate) fn cap(&self, t: Transposition, ways: &[(TunnelId, Direction)], why: &mut impl Why) -> Transposition {
        let rate = |n: u16| self.rates.get(usize::from(n)).copied().flatten().map(|r| (r.bits_per_second, n));
        let slowest = ways.iter().filter_map(|(id, direction)| rate(self.number(*id, *direction)?)).min();
        let Some((bits, number)) = slowest else { return t };
        why.because("meter", || format!("at most {bits} bit/s, {} bytes at once", burst(bits)));
        t.with_meter(number)
    }
}

impl Caps {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Direction, u64)> {
        let received = self.received.map(|cap| (Direction::Received, cap));
        received.into_iter().chain(self.transmitted.map(|cap| (Direction::Transmitted, cap)))
    }
}
