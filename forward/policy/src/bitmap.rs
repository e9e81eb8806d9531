use std::collections::HashMap;

/// Sets of rules, each `words` words long, every distinct set stored once.
#[derive(Debug, Clone)]
pub(crate) struct Bitmaps {
    words: usize,
    all: Vec<u64>,
}

/// Collects sets while a classifier is compiled.
#[derive(Debug)]
pub(crate) struct BitmapsBuilder {
    bitmaps: Bitmaps,
    known: HashMap<Vec<u64>, u32>,
}

/// A set under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn none(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)])
    }

    pub(crate) fn set(&mut self, rule: usize) {
        if let Some(word) = self.0.get_mut(rule / 64) {
            *word |= 1 << (rule % 64);
        }
    }

    pub(crate) fn clear(&mut self, rule: usize) {
        if let Some(word) = self.0.get_mut(rule / 64) {
            *word &= !(1 << (rule % 64));
        }
    }
}

impl BitmapsBuilder {
    pub(crate) fn new(rules: usize) -> Self {
        Self { bitmaps: Bitmaps { words: rules.div_ceil(64), all: Vec::new() }, known: HashMap::new() }
    }

    /// The number of `bits`; the same for equal sets.
    pub(crate) fn intern(&mut self, bits: &Bits) -> u32 {
        if let Some(id) = self.known.get(&bits.0) {
            return *id;
        }
        let id = self.known.len() as u32;
        self.bitmaps.all.extend_from_slice(&bits.0);
        self.known.insert(bits.0.clone(), id);
        id
    }

    pub(crate) fn finish(self) -> Bitmaps {
        self.bitmaps
    }
}

impl Bitmaps {
    #[inline]
    fn get(&self, id: u32) -> &[u64] {
        let at = id as usize * self.words;
        self.all.get(at..at + self.words).unwrap_or(&[])
    }

    /// The smallest rule that is in all five sets.
    #[inline]
    pub(crate) fn first_common(&self, sets: [u32; 5]) -> Option<usize> {
        let [a, b, c, d, e] = sets.map(|id| self.get(id));
        for (i, ((((a, b), c), d), e)) in a.iter().zip(b).zip(c).zip(d).zip(e).enumerate() {
            let common = a & b & c & d & e;
            if common != 0 {
                return Some(i * 64 + common.trailing_zeros() as usize);
            }
        }
        None
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.len() * 8
    }
}
