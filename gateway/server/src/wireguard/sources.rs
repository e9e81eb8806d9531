//! How often may one source begin a handshake? A token bucket an address, in a table of fixed size.
use penstock_model::Nanos;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// Handshake initiations a second that one address may send, sustained; Linux allows as many (`ratelimiter.c`).
const PER_SECOND: u64 = 20;
/// Initiations that may come at once: a NAT with many sites behind it starts them together.
const BURST: u64 = 40;
const NANOS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

/// 4,096 buckets of 40 bytes: 160 KiB. A source that shares its bucket with another takes it over from the one that has been
/// quiet for longer; who floods from many addresses meets the cookie (whitepaper section 5.3) instead.
const SETS: usize = 2048;
const WAYS: usize = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    addr: Option<IpAddr>,
    /// When the bucket will be (or was) full: tokens are the time that has gone since `full_at - BURST`.
    full_at: u64,
}

#[derive(Debug)]
pub(crate) struct Sources {
    buckets: Vec<[Bucket; WAYS]>,
    hasher: RandomState,
}

impl Sources {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![Default::default(); SETS], hasher: RandomState::new() }
    }

    /// Whether the source may begin another handshake now; takes nothing.
    pub(crate) fn may(&self, addr: IpAddr, now: Nanos) -> bool {
        self.buckets
            .get(self.set(addr))
            .and_then(|set| set.iter().find(|b| b.addr == Some(addr)))
            .is_none_or(|b| b.full_at <= now.0 + (BURST - 1) * NANOS_PER_TOKEN)
    }

    /// Takes a token.
    pub(crate) fn take(&mut self, addr: IpAddr, now: Nanos) {
        let set = self.set(addr);
        let Some(set) = self.buckets.get_mut(set) else { return };
        let place = set
            .iter()
            .position(|b| b.addr == Some(addr))
            .or_else(|| set.iter().enumerate().min_by_key(|(_, b)| b.full_at).map(|(i, _)| i));
        let Some(bucket) = place.and_then(|i| set.get_mut(i)) else { return };
        if bucket.addr != Some(addr) {
            *bucket = Bucket { addr: Some(addr), full_at: now.0 };
        }
        bucket.full_at = bucket.full_at.max(now.0) + NANOS_PER_TOKEN;
    }

    fn set(&self, addr: IpAddr) -> usize {
        self.hasher.hash_one(addr) as usize % SETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_burst_then_goes_at_its_rate_and_others_are_not_touched() {
        let mut sources = Sources::new();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let start = Nanos::from_secs(5);
        let mut allowed = 0;
        for _ in 0..1000 {
            if sources.may(a, start) {
                sources.take(a, start);
                allowed += 1;
            }
        }
        assert_eq!(allowed, 40);
        assert!(sources.may(b, start));
        let later = Nanos(start.0 + 1_000_000_000);
        let mut allowed = 0;
        while sources.may(a, later) {
            sources.take(a, later);
            allowed += 1;
        }
        assert_eq!(allowed, 20);
    }
}
