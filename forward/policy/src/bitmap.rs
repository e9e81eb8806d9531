use std::collections::HashMap;

/// Words of a page: 512 rules.
const PAGE: usize = 8;
type Page = [u64; PAGE];

/// Sets of rules, every distinct set stored once, and of all sets together every distinct page once: neighbouring intervals
/// differ in one rule, so in one page.
///
/// A set is a summary (one bit a word: whether the word has any rule) and the numbers of its pages. Finding what five sets
/// have in common costs an AND over the summaries, n/4096 words, and then over the few words that all five have.
///
/// Memory: a set of n rules takes n/512 bytes of summary and n/128 of page numbers, and a page of 64 bytes for each change.
#[derive(Debug, Clone)]
pub(crate) struct Bitmaps {
    /// Words of a summary.
    summary: usize,
    /// Of a set: its summary, then its page numbers, two a word.
    stride: usize,
    sets: Vec<u64>,
    pages: Vec<Page>,
}

/// Collects sets while a classifier is compiled.
#[derive(Debug)]
pub(crate) struct BitmapsBuilder {
    bitmaps: Bitmaps,
    pages: HashMap<Page, u32>,
    known: HashMap<Box<[u64]>, u32>,
}

/// A set under construction; [`BitmapsBuilder::intern`] may be asked for its number again and again while it changes.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    pages: Vec<Page>,
    /// Pages that have changed since the set was interned.
    changed: Vec<usize>,
    /// As it stands in [`Bitmaps::sets`], but for what has changed.
    stored: Box<[u64]>,
}

impl Bits {
    pub(crate) fn set(&mut self, rule: usize) {
        self.change(rule, |word, bit| *word |= bit);
    }

    pub(crate) fn clear(&mut self, rule: usize) {
        self.change(rule, |word, bit| *word &= !bit);
    }

    fn change(&mut self, rule: usize, change: impl FnOnce(&mut u64, u64)) {
        let (word, page) = (rule / 64, rule / 64 / PAGE);
        if let Some(word) = self.pages.get_mut(page).and_then(|p| p.get_mut(word % PAGE)) {
            change(word, 1 << (rule % 64));
            if self.changed.last() != Some(&page) {
                self.changed.push(page);
            }
        }
    }
}

impl BitmapsBuilder {
    pub(crate) fn new(rules: usize) -> Self {
        let words = rules.div_ceil(64);
        let summary = words.div_ceil(64);
        let stride = summary + words.div_ceil(PAGE).div_ceil(2);
        let empty = [0; PAGE];
        Self {
            bitmaps: Bitmaps { summary, stride, sets: Vec::new(), pages: vec![empty] },
            pages: HashMap::from([(empty, 0)]),
            known: HashMap::new(),
        }
    }

    /// The set without rules.
    pub(crate) fn none(&self) -> Bits {
        let Bitmaps { summary, stride, .. } = self.bitmaps;
        let pages = vec![[0; PAGE]; (stride - summary) * 2];
        Bits { pages, changed: Vec::new(), stored: vec![0; stride].into_boxed_slice() }
    }

    /// The number of `bits`; the same for equal sets.
    pub(crate) fn intern(&mut self, bits: &mut Bits) -> u32 {
        while let Some(page) = bits.changed.pop() {
            self.store(bits, page);
        }
        if let Some(id) = self.known.get(&bits.stored) {
            return *id;
        }
        let id = self.known.len() as u32;
        self.bitmaps.sets.extend_from_slice(&bits.stored);
        self.known.insert(bits.stored.clone(), id);
        id
    }

    fn store(&mut self, bits: &mut Bits, page: usize) {
        let Some(content) = bits.pages.get(page) else { return };
        let next = self.bitmaps.pages.len() as u32;
        let number = *self.pages.entry(*content).or_insert(next);
        if number == next {
            self.bitmaps.pages.push(*content);
        }
        let summary = self.bitmaps.summary;
        let shift = 32 * (page % 2);
        if let Some(word) = bits.stored.get_mut(summary + page / 2) {
            *word = *word & !(0xffff_ffff << shift) | u64::from(number) << shift;
        }
        for (i, word) in content.iter().enumerate() {
            let at = page * PAGE + i;
            if let Some(summary) = bits.stored.get_mut(at / 64).filter(|_| at / 64 < summary) {
                *summary = *summary & !(1 << (at % 64)) | u64::from(*word != 0) << (at % 64);
            }
        }
    }

    pub(crate) fn finish(self) -> Bitmaps {
        self.bitmaps
    }
}

impl Bitmaps {
    #[inline]
    fn get(&self, id: u32) -> &[u64] {
        let at = id as usize * self.stride;
        self.sets.get(at..at + self.stride).unwrap_or(&[])
    }

    /// A word of a set that its summary says is not empty.
    #[inline]
    fn word(&self, set: &[u64], at: usize) -> u64 {
        let page = at / PAGE;
        let number = set.get(self.summary + page / 2).map_or(0, |w| (w >> (32 * (page % 2))) as u32);
        self.pages.get(number as usize).and_then(|p| p.get(at % PAGE)).copied().unwrap_or(0)
    }

    /// The smallest rule that is in all five sets and that `accept` takes.
    #[inline]
    pub(crate) fn first_common(&self, sets: [u32; 5], accept: impl Fn(usize) -> bool) -> Option<usize> {
        let sets = sets.map(|id| self.get(id));
        for i in 0..self.summary {
            let mut common = sets.iter().fold(u64::MAX, |all, set| all & set.get(i).copied().unwrap_or(0));
            while common != 0 {
                let at = i * 64 + common.trailing_zeros() as usize;
                let mut left = sets.iter().fold(u64::MAX, |all, set| all & self.word(set, at));
                while left != 0 {
                    let rule = at * 64 + left.trailing_zeros() as usize;
                    if accept(rule) {
                        return Some(rule);
                    }
                    left &= left - 1;
                }
                common &= common - 1;
            }
        }
        None
    }

    pub(crate) fn bytes(&self) -> usize {
        self.sets.len() * 8 + size_of_val(&*self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn the_first_common_rule_of_five_sets_is_that_of_plain_sets(
            rules in 1usize..9000,
            picks in prop::collection::vec((0usize..5, any::<usize>(), any::<bool>()), 0..400),
            all in prop::collection::vec(any::<bool>(), 5),
        ) {
            let mut builder = BitmapsBuilder::new(rules);
            let mut plain: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 5];
            let mut bits: Vec<Bits> = (0..5).map(|_| builder.none()).collect();
            for ((bits, plain), all) in bits.iter_mut().zip(&mut plain).zip(&all) {
                for rule in (0..rules).filter(|_| *all) {
                    bits.set(rule);
                    plain.insert(rule);
                }
            }
            for (set, rule, is_in) in picks {
                let rule = rule % rules;
                if is_in { bits[set].set(rule); plain[set].insert(rule); } else { bits[set].clear(rule); plain[set].remove(&rule); }
                // Numbers in between must not disturb what comes later.
                builder.intern(&mut bits[set]);
            }
            let ids: Vec<u32> = bits.iter_mut().map(|b| builder.intern(b)).collect();
            for (i, a) in ids.iter().enumerate() {
                for (j, b) in ids.iter().enumerate() {
                    prop_assert_eq!(a == b, plain[i] == plain[j], "one number for each set");
                }
            }
            let expected = plain[0].iter().find(|r| plain.iter().all(|p| p.contains(r))).copied();
            prop_assert_eq!(builder.finish().first_common(ids.try_into().unwrap(), |_| true), expected);
        }
    }
}
