use penstock_model::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long an id that nobody has any more is not given to another. Longer than the longest idle timeout of a flow
/// (30 minutes, `idleTimeoutInMinutes`): until then a mux may hold flows that name it.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(3600);

/// Small numbers for names: a name keeps its number while it lives, and gets it back if it returns within the
/// quarantine. Numbers stay dense: those that have been free for long are given out first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Ids {
    living: BTreeMap<String, u32>,
    /// In the order in which they retired.
    retired: Vec<Retired>,
    next: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Retired {
    name: String,
    id: u32,
    at: u64,
}

impl Ids {
    /// Makes `names` the living ones.
    pub(crate) fn update(&mut self, names: &BTreeSet<String>, now: Nanos) {
        // The clock starts again with the machine: what seems to lie in the future retired just now.
        for retired in &mut self.retired {
            retired.at = retired.at.min(now.0);
        }
        let gone: Vec<String> = self.living.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(id) = self.living.remove(&name) {
                self.retired.push(Retired { name, id, at: now.0 });
            }
        }
        let new: BTreeSet<&String> = names.iter().filter(|name| !self.living.contains_key(*name)).collect();
        if new.is_empty() {
            return;
        }
        let mut own = self.take_back(&new);
        let mut free = self.take_free(new.len() - own.len(), now).into_iter();
        for name in new {
            let id = own.remove(name).or_else(|| free.next()).unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            self.living.insert(name.clone(), id);
        }
    }

    /// The numbers that some of `names` have had.
    fn take_back(&mut self, names: &BTreeSet<&String>) -> BTreeMap<String, u32> {
        let mut own = BTreeMap::new();
        self.retired.retain(|r| {
            let returns = names.contains(&r.name);
            if returns {
                own.insert(r.name.clone(), r.id);
            }
            !returns
        });
        own
    }

    /// Up to `count` numbers that nobody has had for long, those first that were given up first.
    fn take_free(&mut self, count: usize, now: Nanos) -> Vec<u32> {
        let mut free = Vec::new();
        self.retired.retain(|r| {
            let is_free = free.len() < count && now.since(Nanos(r.at)) >= QUARANTINE;
            if is_free {
                free.push(r.id);
            }
            !is_free
        });
        free
    }

    /// `old` lives on as `new`, which has no number.
    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        if let Some(id) = self.living.remove(old) {
            self.living.insert(new.to_owned(), id);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.living.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_name_keeps_its_number_and_a_returning_one_gets_it_back() {
        let mut ids = Ids::default();
        ids.update(&names(&["a", "b"]), Nanos::from_secs(0));
        ids.update(&names(&["b"]), Nanos::from_secs(1));
        ids.update(&names(&["b", "c"]), Nanos::from_secs(2));
        assert_eq!((ids.get("b"), ids.get("c")), (Some(1), Some(2)), "0 is in quarantine");
        ids.update(&names(&["a", "b", "c"]), Nanos::from_secs(3));
        assert_eq!(ids.get("a"), Some(0));
    }

    #[test]
    fn a_number_is_given_to_another_only_after_the_quarantine() {
        let mut ids = Ids::default();
        ids.update(&names(&["a"]), Nanos::from_secs(0));
        ids.update(&names(&[]), Nanos::from_secs(10));
        ids.update(&names(&["b"]), Nanos::from_secs(3609));
        assert_eq!(ids.get("b"), Some(1));
        ids.update(&names(&["b", "c"]), Nanos::from_secs(3610));
        assert_eq!(ids.get("c"), Some(0));
    }

    #[test]
    fn of_many_who_come_at_once_those_who_return_have_their_own_and_the_others_what_is_free_longest() {
        let mut ids = Ids::default();
        ids.update(&names(&["a", "b", "c", "d"]), Nanos::from_secs(0));
        ids.update(&names(&["b", "c", "d"]), Nanos::from_secs(1));
        ids.update(&names(&["d"]), Nanos::from_secs(2));
        ids.update(&names(&["d", "aa", "c", "e", "f"]), Nanos::from_secs(4000));
        let given = ["d", "aa", "c", "e", "f"].map(|name| ids.get(name));
        assert_eq!(given, [Some(3), Some(0), Some(2), Some(1), Some(4)]);
    }

    #[test]
    fn a_clock_that_starts_again_does_not_shorten_the_quarantine() {
        let mut ids = Ids::default();
        ids.update(&names(&["a"]), Nanos::from_secs(9_000));
        ids.update(&names(&[]), Nanos::from_secs(9_001));
        ids.update(&names(&[]), Nanos::from_secs(5));
        ids.update(&names(&["b"]), Nanos::from_secs(3604));
        assert_eq!(ids.get("b"), Some(1));
        ids.update(&names(&["b", "c"]), Nanos::from_secs(3605));
        assert_eq!(ids.get("c"), Some(0));
    }
}
