//! How fast may a connection be? The meters of one policy.
use crate::error::GoalError;
use crate::{Caps, Tunnel};
use penstock_engine::Why;
use penstock_flow::{Rate, Transposition};
use penstock_model::TunnelId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Received => "received",
            Self::Transmitted => "transmitted",
        })
    }
}

/// Meters by number. One stays with its connection from policy to policy, because flows remember it; a number that fell free
/// is given out again: whoever used it belonged to a tenant that changed, so its flows are stale.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    numbers: BTreeMap<(TunnelId, Direction), u16>,
    /// By number.
    rates: Vec<Option<Rate>>,
    /// Those of [`Direction::Received`], by tunnel id.
    received: Vec<u16>,
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
        let of_received = numbers.iter().filter(|((_, direction), _)| *direction == Direction::Received);
        let of_received: Vec<_> = of_received.map(|((id, _), number)| (id.0 as usize, *number)).collect();
        let mut received = vec![Transposition::NO_METER; of_received.iter().map(|(id, _)| id + 1).max().unwrap_or(0)];
        for (id, number) in of_received {
            if let Some(slot) = received.get_mut(id) {
                *slot = number;
            }
        }
        Ok(Self { numbers, rates, received })
    }

    /// The meter of what comes from `tunnel`, if that has a cap.
    #[inline]
    pub(crate) fn of_received(&self, tunnel: TunnelId) -> u16 {
        self.received.get(tunnel.0 as usize).copied().unwrap_or(Transposition::NO_METER)
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

    /// The cap of one way of a connection, and its meter.
    fn meter(&self, tunnel: TunnelId, direction: Direction, why: &mut impl Why) -> Option<u16> {
        let number = self.number(tunnel, direction)?;
        let Rate { bits_per_second, burst_bytes } = self.rates.get(usize::from(number)).copied().flatten()?;
        why.because("meter", || {
            format!("at most {bits_per_second} bit/s {direction} by {tunnel:?}, {burst_bytes} bytes at once")
        });
        Some(number)
    }

    /// Caps a decision by what its packets use on their way out.
    pub(crate) fn cap(
        &self,
        t: Transposition,
        tunnel: TunnelId,
        direction: Direction,
        why: &mut impl Why,
    ) -> Transposition {
        match self.meter(tunnel, direction, why) {
            Some(number) => t.with_meter(number),
            None => t,
        }
    }

    /// Says what caps packets from `tunnel` whose decision has the meter of another connection.
    pub(crate) fn tell_received(&self, tunnel: TunnelId, why: &mut impl Why) {
        self.meter(tunnel, Direction::Received, why);
    }
}

impl Caps {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Direction, u64)> {
        let received = self.received.map(|cap| (Direction::Received, cap));
        received.into_iter().chain(self.transmitted.map(|cap| (Direction::Transmitted, cap)))
    }
}
