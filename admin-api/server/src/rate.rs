//! How often each caller may ask: a bucket that fills with time. And how many of something it may have at once.
use penstock_model::Nanos;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Callers that are remembered: some 100 bytes each. Beyond that the one that asked longest ago is forgotten: its bucket is full.
const REMEMBERED: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Rates {
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Nanos,
}

impl Rates {
    pub(crate) fn new() -> Self {
        Self { buckets: Mutex::new(BTreeMap::new()) }
    }

    /// Takes one of `per_second`, of which a second's worth is saved up at most. Else: seconds until there is one.
    pub(crate) fn take(&self, who: &str, per_second: u32, now: Nanos) -> Result<(), u64> {
        let most = f64::from(per_second.max(1));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(who) {
            let oldest = buckets.iter().min_by_key(|(_, b)| b.at).map(|(name, _)| name.clone());
            oldest.map(|name| buckets.remove(&name));
        }
        let bucket = buckets.entry(who.to_owned()).or_insert(Bucket { tokens: most, at: now });
        bucket.tokens = (bucket.tokens + now.since(bucket.at).as_secs_f64() * most).min(most);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(1);
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Whether [`Self::take`] would give one.
    pub(crate) fn look(&self, who: &str, per_second: u32, now: Nanos) -> Result<(), u64> {
        let most = f64::from(per_second.max(1));
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = buckets.get(who).is_some_and(|b| b.tokens + now.since(b.at).as_secs_f64() * most < 1.0);
        if is_empty { Err(1) } else { Ok(()) }
    }

    pub(crate) fn knows(&self, who: &str) -> bool {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).contains_key(who)
    }

    pub(crate) fn forget(&self, who: &str) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).remove(who);
    }
}

/// How much of something each caller has at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shares(Arc<Mutex<BTreeMap<String, usize>>>);

/// So much of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    all: Shares,
    who: String,
    count: usize,
}

impl Shares {
    pub(crate) fn take(&self, who: &str, count: usize, most: usize) -> Option<Share> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.get(who).copied().unwrap_or_default();
        let then = held.checked_add(count).filter(|then| *then <= most)?;
        all.insert(who.to_owned(), then);
        Some(Share { all: self.clone(), who: who.to_owned(), count })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.who) {
            *count = count.saturating_sub(self.count);
            if *count == 0 {
                held.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_asking_is_saved_up_and_each_caller_has_its_own() {
        let rates = Rates::new();
        let at = |ms: u64| Nanos(ms * 1_000_000);
        let given = |who: &str, n: usize, now| (0..n).filter(|_| rates.take(who, 10, now).is_ok()).count();
        assert_eq!(given("a", 20, at(1000)), 10);
        assert_eq!((rates.look("a", 10, at(1000)), rates.take("a", 10, at(1000))), (Err(1), Err(1)));
        assert_eq!((rates.look("a", 10, at(1100)), rates.look("b", 10, at(1000))), (Ok(()), Ok(())));
        assert_eq!(given("b", 20, at(1000)), 10);
        assert_eq!(given("a", 20, at(1500)), 5);
        assert_eq!(given("a", 50, at(9000)), 10);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let shares = Shares::default();
        let held: Vec<Share> = (0..3).filter_map(|_| shares.take("a", 5, 10)).collect();
        assert_eq!(held.len(), 2);
        assert!(shares.take("b", 10, 10).is_some());
        assert!(shares.take("c", 11, 10).is_none());
        drop(held);
        assert!(shares.take("a", 10, 10).is_some());
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
