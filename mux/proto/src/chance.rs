use crate::goal::MAX_PREVIOUS;
use crate::policy::MAX_BACKEND;
use crate::resolver::TCP_IDLE_SECONDS;
use crate::slots::NOBODY;
use penstock_model::BackendId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Values of flow entries above the ids of backends stand for [`Candidates`].
const FIRST: u32 = MAX_BACKEND + 1;
/// Different lists that a mux knows; 370 bytes each, so at most 46 MiB. What finds no place here goes to its first candidate
/// and has no second chance; such lists are counted.
const MAX_LISTS: usize = 1 << 17;
/// No flow entry says what no packet has gone by for so long: the flow table rounds the longest idle time up by a third at most.
const KEEP_SECONDS: u32 = 2 * TCP_IDLE_SECONDS as u32;

/// Backends that may have a flow, each once, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Candidates([BackendId; MAX_PREVIOUS + 1]);

impl Candidates {
    pub(crate) const NONE: Self = Self([NOBODY; MAX_PREVIOUS + 1]);

    /// Adds one that is not in the list yet; what does not fit is left out.
    pub(crate) fn add(&mut self, backend: BackendId) {
        if self.iter().all(|b| b != backend)
            && let Some(place) = self.0.iter_mut().find(|b| **b == NOBODY)
        {
            *place = backend;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = BackendId> + use<> {
        self.0.into_iter().take_while(|b| *b != NOBODY)
    }

    pub(crate) fn first(&self) -> Option<BackendId> {
        self.iter().next()
    }

    fn is_choice(&self) -> bool {
        self.iter().nth(1).is_some()
    }
}

impl FromIterator<BackendId> for Candidates {
    fn from_iter<I: IntoIterator<Item = BackendId>>(backends: I) -> Self {
        let mut list = Self::NONE;
        backends.into_iter().for_each(|b| list.add(b));
        list
    }
}

/// A second of the workers' clock that only moves on. Many write it: who finds it there already does not store it again.
#[derive(Debug, Default)]
pub(crate) struct Second(AtomicU32);

impl Second {
    #[inline]
    pub(crate) fn note(&self, now: u32) {
        if self.get() < now {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All lists that flow entries of this node may name. A number keeps its meaning while an entry may say it: it is given to
/// another list only after no slot has named its own, and no packet has gone by it, for longer than any entry lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chances {
    numbers: HashMap<Candidates, u32>,
    lists: Vec<Known>,
    vacant: Vec<u32>,
    /// How many lists that slots name have no number.
    unplaced: usize,
    /// As far as any worker has come.
    pub(crate) clock: Arc<Second>,
}

#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) list: Candidates,
    /// When a packet last went by it.
    pub(crate) used: Arc<Second>,
    /// Whether a slot names it. New entries name no others, so that those fall out of use.
    is_named: bool,
}

impl Chances {
    /// Gives a number to each list that slots name, and takes back those that are out of use.
    pub(crate) fn name(&mut self, lists: impl IntoIterator<Item = Candidates>) {
        let now = self.clock.get();
        let mut named = HashSet::new();
        let mut order = Vec::new();
        for list in lists.into_iter().filter(Candidates::is_choice) {
            if named.insert(list) {
                order.push(list);
            }
        }
        for (number, known) in (0..).zip(&mut self.lists) {
            let was_named = std::mem::replace(&mut known.is_named, named.contains(&known.list));
            if was_named || known.is_named {
                known.used.note(now);
            } else if known.list != Candidates::NONE && now.saturating_sub(known.used.get()) > KEEP_SECONDS {
                self.numbers.remove(&known.list);
                known.list = Candidates::NONE;
                self.vacant.push(number);
            }
        }
        order.retain(|list| !self.numbers.contains_key(list));
        self.unplaced = order.into_iter().filter(|list| !self.place(*list, now)).count();
    }

    fn place(&mut self, list: Candidates, now: u32) -> bool {
        let known = Known { list, used: Arc::new(Second(AtomicU32::new(now))), is_named: true };
        let number = match self.vacant.pop() {
            Some(number) => number,
            None if self.lists.len() < MAX_LISTS => self.lists.len() as u32,
            None => return false,
        };
        match self.lists.get_mut(number as usize) {
            Some(place) => *place = known,
            None => self.lists.push(known),
        }
        self.numbers.insert(list, number);
        true
    }

    pub(crate) fn lists(&self) -> &[Known] {
        &self.lists
    }

    pub(crate) fn unplaced(&self) -> usize {
        self.unplaced
    }

    /// What a new flow entry says for a list.
    pub(crate) fn value(&self, list: &Candidates) -> Option<BackendId> {
        let is_named = |n: &&u32| self.lists.get(**n as usize).is_some_and(|known| known.is_named);
        let number = self.numbers.get(list).filter(is_named);
        number.map(|n| BackendId(FIRST + n)).or_else(|| list.first())
    }

    /// What an entry says that said `value`, now that only those serve who are in the list and for whom `serves` holds; `None`
    /// if that is nobody.
    pub(crate) fn reduced(&self, value: BackendId, serves: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let list = self.candidates(value);
        let kept: Candidates = list.iter().filter(|b| serves(*b)).collect();
        if kept == list { list.first().map(|_| value) } else { self.value(&kept) }
    }

    /// Whom the value of a flow entry stands for.
    pub(crate) fn candidates(&self, value: BackendId) -> Candidates {
        match index(value.0) {
            Some(at) => self.lists.get(at).map_or(Candidates::NONE, |known| known.list),
            None => Candidates::from_iter([value]),
        }
    }
}

/// The place in [`Chances::lists`] of a value, if it stands for a list.
#[inline]
pub(crate) fn index(value: u32) -> Option<usize> {
    value.checked_sub(FIRST).map(|n| n as usize)
}

/// The number of a list's encapsulation: the same as of its value.
pub(crate) fn number(index: usize) -> u32 {
    FIRST.saturating_add(index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: &[u32]) -> Candidates {
        ids.iter().map(|id| BackendId(*id)).collect()
    }

    #[test]
    fn a_list_names_each_backend_once_and_four_at_most() {
        assert_eq!(list(&[3, 1, 3, 2, 1, 7, 8]), list(&[3, 1, 2, 7]));
        assert_eq!(list(&[]).first(), None);
    }

    fn pairs(count: u32) -> impl Iterator<Item = Candidates> {
        (0..count).map(|n| list(&[n / 1000, 5000 + n % 1000]))
    }

    #[test]
    fn a_number_keeps_its_meaning_and_one_backend_needs_none() {
        let mut chances = Chances::default();
        chances.name([list(&[1, 2])]);
        let value = chances.value(&list(&[1, 2])).unwrap();
        assert!(value.0 > MAX_BACKEND);
        chances.name([list(&[5]), list(&[3, 4]), list(&[1, 2])]);
        assert_eq!(chances.lists().len(), 2);
        assert_eq!(chances.candidates(value), list(&[1, 2]));
        assert_eq!(chances.value(&list(&[5])), Some(BackendId(5)));
        assert_eq!(chances.candidates(BackendId(5)), list(&[5]));
        assert_eq!(chances.value(&list(&[9, 8])), Some(BackendId(9)), "an unknown list is its first");
    }

    #[test]
    fn a_list_that_no_slot_names_holds_for_entries_that_have_it_and_no_new_ones() {
        let mut chances = Chances::default();
        chances.name([list(&[1, 2])]);
        let value = chances.value(&list(&[1, 2])).unwrap();
        chances.name([]);
        assert_eq!(chances.value(&list(&[1, 2])), Some(BackendId(1)));
        assert_eq!(chances.reduced(value, |_| true), Some(value));
        assert_eq!(chances.reduced(value, |b| b == BackendId(2)), Some(BackendId(2)));
        assert_eq!(chances.reduced(value, |_| false), None);
        chances.name([list(&[1, 2])]);
        assert_eq!(chances.value(&list(&[1, 2])), Some(value), "named again, it has its number again");
    }

    #[test]
    fn a_number_is_another_list_s_only_when_no_entry_can_say_it() {
        let mut chances = Chances::default();
        chances.name([list(&[1, 2]), list(&[3, 4])]);
        let [used, idle] = [[1, 2], [3, 4]].map(|l| chances.value(&list(&l)).unwrap());
        chances.name([]);
        chances.clock.note(KEEP_SECONDS);
        chances.lists()[index(used.0).unwrap()].used.note(KEEP_SECONDS);
        chances.name([list(&[5, 6])]);
        assert_eq!(chances.lists().len(), 3, "nothing is given back yet");
        chances.clock.note(KEEP_SECONDS + 1);
        chances.name([list(&[5, 6]), list(&[7, 8]), list(&[7, 9])]);
        assert_eq!(chances.value(&list(&[7, 8])), Some(idle));
        assert_eq!(chances.candidates(used), list(&[1, 2]));
        assert_eq!((chances.lists().len(), chances.unplaced()), (4, 0));
    }

    #[test]
    fn lists_that_find_no_place_are_counted_and_find_one_when_others_are_out_of_use() {
        let (most, more) = (MAX_LISTS as u32, MAX_LISTS as u32 + 7);
        let mut chances = Chances::default();
        chances.name(pairs(more));
        assert_eq!((chances.lists().len(), chances.unplaced()), (MAX_LISTS, 7));
        let late: Vec<_> = pairs(more).skip(most as usize).collect();
        chances.name(late.iter().copied());
        assert_eq!(chances.unplaced(), 7);
        chances.clock.note(2 * KEEP_SECONDS);
        chances.name(late.iter().copied());
        assert_eq!(chances.unplaced(), 0);
        assert!(late.iter().all(|l| chances.candidates(chances.value(l).unwrap()) == *l));
    }
}
