//! What a virtual IP may take of a mux: token buckets for its packets and for its new flows, which all workers share.
//!
//! Under overload what is under way goes first. Of the packets new connections may have the first half of what is left; beyond the
//! rate of new flows those leave no state, beyond twice the rate some of them are dropped, and no others.

use crate::goal::{VipLimit, VipRate};
use penstock_model::{Addr16, DropReason, Nanos, ServiceId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bucket's time: 64 of these are a nanosecond. It lasts for nine years; a node that has been up for longer limits nothing.
const TICKS_PER_NANO: u64 = 64;
const TICKS_PER_SECOND: u64 = TICKS_PER_NANO * 1_000_000_000;
/// What comes at once is taken up to this part of a second's share.
const BURST_PART: u32 = 5;
/// And up to so many packets at any rate.
const LEAST_BURST: u32 = 32;
/// Services of virtual IPs without a limit.
const UNGUARDED: u32 = u32::MAX;

/// A token bucket that threads share without a lock: when it will be full again says how full it is.
#[derive(Debug)]
struct Bucket {
    /// Ticks that the tokens of a handful are worth.
    price: u64,
    /// Tokens that a worker takes at once, so that workers seldom meet here.
    handful: u32,
    /// Ticks from empty to full.
    depth: u64,
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: VipRate) -> Self {
        let rate = u64::from(rate.get());
        let burst = (rate / u64::from(BURST_PART)).max(u64::from(LEAST_BURST));
        // What lies unused with workers stays a small part, for as many of them as machines have.
        let handful = (burst / 128).clamp(1, 64);
        let ticks = |tokens: u64| tokens * TICKS_PER_SECOND / rate;
        Self { price: ticks(handful), handful: handful as u32, depth: ticks(burst), full_at: AtomicU64::new(0) }
    }

    /// A handful of tokens, but none if less than `rest` of the bucket would be left.
    fn take(&self, rest: u64, now: Nanos) -> u32 {
        let now = now.0.saturating_mul(TICKS_PER_NANO);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(self.price);
            if next - now > self.depth - rest {
                return 0;
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return self.handful,
                Err(other) => full_at = other,
            }
        }
    }

    /// One token, out of a worker's `purse` while there are any.
    fn spend(&self, purse: &mut u32, rest: u64, now: Nanos) -> bool {
        if *purse == 0 {
            *purse = self.take(rest, now);
        }
        let has = *purse > 0;
        *purse = purse.saturating_sub(1);
        has
    }
}

/// What a limit has done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitCounts {
    /// Packets dropped because there were too many.
    pub packets_dropped: u64,
    /// First packets of flows that were forwarded and left no state.
    pub flows_stateless: u64,
    /// First packets of flows that were dropped.
    pub flows_dropped: u64,
}

impl LimitCounts {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::Add for LimitCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets_dropped: self.packets_dropped.saturating_add(other.packets_dropped),
            flows_stateless: self.flows_stateless.saturating_add(other.flows_stateless),
            flows_dropped: self.flows_dropped.saturating_add(other.flows_dropped),
        }
    }
}

#[derive(Debug, Default)]
struct Told([AtomicU64; 3]);

/// The limit of a virtual IP, and how much of it is used.
#[derive(Debug)]
pub(crate) struct Guard {
    limit: VipLimit,
    packets: Option<Bucket>,
    /// New flows that may leave state.
    flows: Option<Bucket>,
    /// As many again that do not.
    stateless: Option<Bucket>,
    /// Goes on when the limit changes.
    told: Arc<Told>,
}

impl Guard {
    fn new(limit: &VipLimit, told: Arc<Told>) -> Self {
        let flows = || limit.new_flows_per_second.map(Bucket::new);
        Self {
            limit: limit.clone(),
            packets: limit.packets_per_second.map(Bucket::new),
            flows: flows(),
            stateless: flows(),
            told,
        }
    }

    pub(crate) fn limit(&self) -> &VipLimit {
        &self.limit
    }

    /// As far as the workers have told.
    pub(crate) fn counts(&self) -> LimitCounts {
        let [packets, stateless, flows] = &self.told.0;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        LimitCounts { packets_dropped: get(packets), flows_stateless: get(stateless), flows_dropped: get(flows) }
    }

    /// Whether the virtual IP may have one more packet. One that opens a connection leaves half of the bucket to the others.
    pub(crate) fn admit(&self, purse: &mut Purse, opens: bool, now: Nanos) -> Result<(), DropReason> {
        let Some(bucket) = &self.packets else { return Ok(()) };
        let rest = if opens { bucket.depth / 2 } else { 0 };
        // Tokens that were taken for a packet of a connection are for such.
        let has = if opens {
            bucket.spend(&mut purse.openers, rest, now)
        } else {
            bucket.spend(&mut purse.packets, rest, now)
        };
        if has {
            return Ok(());
        }
        purse.counts.packets_dropped += 1;
        Err(DropReason::VipPacketLimit)
    }

    /// What becomes of a packet that no flow is known for. Only one that `opens` a connection is ever dropped.
    pub(crate) fn open(&self, purse: &mut Purse, opens: bool, now: Nanos) -> Grade {
        let (Some(flows), Some(stateless)) = (&self.flows, &self.stateless) else { return Grade::State };
        if flows.spend(&mut purse.flows, 0, now) {
            return Grade::State;
        }
        if opens && !stateless.spend(&mut purse.stateless, 0, now) {
            purse.counts.flows_dropped += 1;
            return Grade::Drop;
        }
        purse.counts.flows_stateless += 1;
        Grade::NoState
    }
}

/// How a new flow of a virtual IP is dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    /// As if there were no limit.
    State,
    /// Forwarded, but nothing is remembered.
    NoState,
    Drop,
}

/// What one worker has of a guard: tokens that it has not spent, counts that it has not told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Purse {
    packets: u32,
    openers: u32,
    flows: u32,
    stateless: u32,
    counts: LimitCounts,
}

impl Purse {
    fn tell(&mut self, guard: &Guard) {
        let counts = std::mem::take(&mut self.counts);
        let counts = [counts.packets_dropped, counts.flows_stateless, counts.flows_dropped];
        for (told, n) in guard.told.0.iter().zip(counts).filter(|(_, n)| *n > 0) {
            told.fetch_add(n, Ordering::Relaxed);
        }
    }
}

/// The guards of a policy.
///
/// Memory: about 300 bytes a virtual IP with a limit, 80 more in each worker, and 4 a service of the goal as soon as one has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guards {
    list: Vec<Arc<Guard>>,
    by_vip: HashMap<Addr16, u32>,
    by_service: Box<[u32]>,
}

impl Guards {
    /// `services`: all, with their virtual IPs.
    pub(crate) fn new(limits: &[VipLimit], services: impl Iterator<Item = (ServiceId, IpAddr)>) -> Self {
        if limits.is_empty() {
            return Self::default();
        }
        let list: Vec<_> = limits.iter().map(|limit| Arc::new(Guard::new(limit, Arc::default()))).collect();
        let by_vip: HashMap<Addr16, u32> = limits.iter().map(|l| Addr16::from(l.vip)).zip(0..).collect();
        let mut by_service = Vec::new();
        for (id, vip) in services {
            let at = id.0 as usize;
            by_service.resize(by_service.len().max(at + 1), UNGUARDED);
            if let (Some(place), Some(guard)) = (by_service.get_mut(at), by_vip.get(&Addr16::from(vip))) {
                *place = *guard;
            }
        }
        Self { list, by_vip, by_service: by_service.into_boxed_slice() }
    }

    /// A limit that stays is as much used as before; one that changes begins anew, and its counts go on.
    pub(crate) fn succeed(&mut self, earlier: &Guards) {
        for guard in &mut self.list {
            let at = earlier.by_vip.get(&Addr16::from(guard.limit.vip));
            match at.and_then(|at| earlier.list.get(*at as usize)) {
                Some(before) if before.limit == guard.limit => *guard = Arc::clone(before),
                Some(before) => *guard = Arc::new(Guard::new(&guard.limit, Arc::clone(&before.told))),
                None => {}
            }
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn of_service(&self, service: ServiceId) -> Option<usize> {
        self.by_service.get(service.0 as usize).filter(|at| **at != UNGUARDED).map(|at| *at as usize)
    }

    pub(crate) fn of_vip(&self, vip: &Addr16) -> Option<usize> {
        self.by_vip.get(vip).map(|at| *at as usize)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Guard> {
        self.list.get(at).map(|guard| &**guard)
    }
}

/// What a worker has of all guards.
#[derive(Debug)]
pub(crate) struct Purses(Vec<Purse>);

impl Purses {
    pub(crate) fn of(guards: &Guards) -> Self {
        Self(vec![Purse::default(); guards.list.len()])
    }

    /// Adds up what the worker has counted.
    pub(crate) fn tell(&mut self, guards: &Guards) {
        self.0.iter_mut().zip(&guards.list).for_each(|(purse, guard)| purse.tell(guard));
    }

    pub(crate) fn get(&mut self, at: usize) -> Option<&mut Purse> {
        self.0.get_mut(at)
    }
}

/// What limits have done, by virtual IP.
pub(crate) fn counts(guards: &Guards) -> BTreeMap<IpAddr, LimitCounts> {
    guards.list.iter().map(|guard| (guard.limit.vip, guard.counts())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(n: u32) -> VipRate {
        VipRate::new(n).unwrap()
    }

    /// Tokens that `workers` get when all want `wanted` in each of the milliseconds, in turn.
    fn spent(bucket: &Bucket, workers: usize, millis: std::ops::Range<u64>, wanted: u32) -> u32 {
        let mut purses = vec![0; workers];
        let mut spent = 0;
        for ms in millis {
            for _ in 0..wanted {
                let now = Nanos(ms * 1_000_000);
                spent += purses.iter_mut().map(|purse| u32::from(bucket.spend(purse, 0, now))).sum::<u32>();
            }
        }
        spent
    }

    #[test]
    fn in_the_long_run_just_the_rate_passes_whatever_it_is_and_however_many_workers_share_it() {
        for (per_second, workers) in [(1, 1), (7, 3), (1000, 1), (1000, 8), (50_000, 4), (333_333, 2)] {
            let bucket = Bucket::new(rate(per_second));
            let burst = (per_second / BURST_PART).max(LEAST_BURST);
            let wanted = per_second / 500 + 1;
            let passed = spent(&bucket, workers, 1000..11_000, wanted);
            let most = per_second * 10 + burst;
            assert!(passed <= most + 1 && passed >= most - burst / 8 - 1, "{passed} of {most} at {per_second}");
        }
    }

    #[test]
    fn the_highest_rate_does_not_overflow_and_a_clock_that_stands_still_gives_the_burst_alone() {
        let bucket = Bucket::new(VipRate::MAX);
        assert_eq!(bucket.take(0, Nanos(u64::MAX)), bucket.handful);
        let bucket = Bucket::new(rate(1000));
        assert_eq!(spent(&bucket, 1, 5..6, 10_000), 200);
    }

    #[test]
    fn who_opens_connections_leaves_half_to_those_that_are_under_way() {
        let limit = VipLimit {
            vip: IpAddr::from([203, 0, 113, 10]),
            packets_per_second: Some(rate(1000)),
            new_flows_per_second: None,
        };
        let guard = Guard::new(&limit, Arc::default());
        let mut purse = Purse::default();
        let passed = |opens, purse: &mut Purse| {
            (0..1000).filter(|_| guard.admit(purse, opens, Nanos::from_secs(1)).is_ok()).count()
        };
        assert_eq!((passed(true, &mut purse), passed(false, &mut purse)), (100, 100));
        purse.tell(&guard);
        assert_eq!(guard.counts().packets_dropped, 1800);
    }

    #[test]
    fn a_limit_that_stays_is_as_much_used_as_before_and_counts_survive_another_limit() {
        let vip = IpAddr::from([203, 0, 113, 10]);
        let limit = |n| VipLimit { vip, packets_per_second: None, new_flows_per_second: Some(rate(n)) };
        let guards = |n| Guards::new(&[limit(n)], [(ServiceId(3), vip)].into_iter());
        let now = Nanos::from_secs(1);
        let first = guards(10);
        assert_eq!((first.of_service(ServiceId(3)), first.of_service(ServiceId(2))), (Some(0), None));
        let mut purses = Purses::of(&first);
        let open = |guards: &Guards, purses: &mut Purses| guards.list[0].open(purses.get(0).unwrap(), true, now);
        while open(&first, &mut purses) != Grade::Drop {}
        purses.tell(&first);
        let told = LimitCounts { packets_dropped: 0, flows_stateless: 32, flows_dropped: 1 };
        let mut same = guards(10);
        same.succeed(&first);
        assert_eq!(open(&same, &mut Purses::of(&same)), Grade::Drop);
        let mut other = guards(20);
        other.succeed(&same);
        assert_eq!(open(&other, &mut Purses::of(&other)), Grade::State);
        assert_eq!(counts(&other), BTreeMap::from([(vip, told)]));
    }
}
