use crate::goal::MAX_PREVIOUS;
use crate::policy::MAX_BACKEND;
use crate::slots::NOBODY;
use penstock_model::BackendId;
use std::collections::HashMap;

/// Values of flow entries above the ids of backends stand for [`Candidates`].
const FIRST: u32 = MAX_BACKEND + 1;
/// Different lists that a mux knows; 250 bytes each, so at most 32 MiB. What finds no place here goes to its first candidate
/// and has no second chance.
const MAX_LISTS: usize = 1 << 17;

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

/// All lists that flow entries of this node may name. Only ever added to, so that a number never changes its meaning while the
/// process lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chances {
    numbers: HashMap<Candidates, u32>,
    lists: Vec<Candidates>,
}

impl Chances {
    pub(crate) fn add(&mut self, list: Candidates) {
        if list.is_choice() && self.lists.len() < MAX_LISTS && !self.numbers.contains_key(&list) {
            self.numbers.insert(list, self.lists.len() as u32);
            self.lists.push(list);
        }
    }

    pub(crate) fn lists(&self) -> &[Candidates] {
        &self.lists
    }

    /// What a flow entry says for a list.
    pub(crate) fn value(&self, list: &Candidates) -> Option<BackendId> {
        let number = self.numbers.get(list).filter(|_| list.is_choice());
        number.map(|n| BackendId(FIRST + n)).or_else(|| list.first())
    }

    /// Whom the value of a flow entry stands for.
    pub(crate) fn candidates(&self, value: BackendId) -> Candidates {
        match index(value.0) {
            Some(at) => self.lists.get(at).copied().unwrap_or(Candidates::NONE),
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

    #[test]
    fn a_number_keeps_its_meaning_and_one_backend_needs_none() {
        let mut chances = Chances::default();
        chances.add(list(&[1, 2]));
        let value = chances.value(&list(&[1, 2])).unwrap();
        assert!(value.0 > MAX_BACKEND);
        chances.add(list(&[5]));
        chances.add(list(&[3, 4]));
        chances.add(list(&[1, 2]));
        assert_eq!(chances.lists().len(), 2);
        assert_eq!(chances.candidates(value), list(&[1, 2]));
        assert_eq!(chances.value(&list(&[5])), Some(BackendId(5)));
        assert_eq!(chances.candidates(BackendId(5)), list(&[5]));
        assert_eq!(chances.value(&list(&[9, 8])), Some(BackendId(9)), "an unknown list is its first");
    }
}
