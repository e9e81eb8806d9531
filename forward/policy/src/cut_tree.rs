use crate::bit_vectors::BitVectors;
use crate::cut_build::Builder;
use crate::rule_box::{Boxes, EXACT, FIELDS, Ranges, RuleBox, Value};

/// The first rule that matches a packet, found in a tree whose nodes cut one field into equal parts.
///
/// A box that lies in few parts stands in each of them; one that lies in many stands beside the parts, in a tree of its own
/// that is looked into as well, unless what was found already comes before all of it. So a wide rule is not copied into
/// every part (which is what makes HiCuts, its model, grow), and rules of different widths sort themselves into few layers.
/// Boxes that no cut tells apart are left to [`BitVectors`].
///
/// Memory: at most [`COPIES`](crate::cut_build::COPIES) times the boxes (48 bytes each for IPv4, 176 for IPv6), 4 bytes for each
/// part, of which a node has at most four times its boxes.
#[derive(Debug, Clone)]
pub(crate) struct CutTree<A> {
    pub(crate) root: Link,
    pub(crate) cuts: Vec<Cut<A>>,
    pub(crate) links: Vec<Link>,
    pub(crate) boxes: Vec<RuleBox<A>>,
    pub(crate) uncut: Vec<BitVectors<A>>,
    pub(crate) lists: Vec<[Ranges<A>; 2]>,
}

/// A field cut into `parts` parts from `base`, each `1 << shift` wide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut<A> {
    pub(crate) base: A,
    pub(crate) field: u32,
    pub(crate) shift: u32,
    pub(crate) parts: u32,
    /// Where the links of the parts begin.
    pub(crate) links: u32,
    /// What lies in many parts.
    pub(crate) beside: Link,
    /// The first rule below here.
    pub(crate) least: u32,
}

/// Where a search goes on, in a word: a run of boxes, a cut, or what could not be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link(u32);

/// Boxes of a run: what five bits can say.
pub(crate) const LONGEST_RUN: usize = 31;
const RUN_BITS: u32 = 5;
const KIND: u32 = 3 << 30;
const CUT: u32 = 1 << 30;
const UNCUT: u32 = 2 << 30;

impl Link {
    pub(crate) const NOTHING: Link = Link(0);

    /// `first` is below 2^25 ([`crate::MAX_RULES`] rules of 16 boxes, four times, are 640,000).
    pub(crate) fn run(first: usize, count: usize) -> Self {
        Self((first as u32) << RUN_BITS | count as u32)
    }

    pub(crate) fn cut(index: usize) -> Self {
        Self(CUT | index as u32)
    }

    pub(crate) fn uncut(index: usize) -> Self {
        Self(UNCUT | index as u32)
    }
}

impl<A: Value> CutTree<A> {
    pub(crate) fn build(boxes: Boxes<A>) -> Self {
        Builder::build(boxes)
    }

    /// The first rule that matches. No allocation.
    #[inline]
    pub(crate) fn find(&self, key: &[A; FIELDS]) -> Option<u32> {
        let mut best = u32::MAX;
        self.search(self.root, key, &mut best);
        (best != u32::MAX).then_some(best)
    }

    fn search(&self, mut link: Link, key: &[A; FIELDS], best: &mut u32) {
        while link != Link::NOTHING {
            let index = (link.0 & !KIND) as usize;
            link = match link.0 & KIND {
                CUT => {
                    let Some(cut) = self.cuts.get(index) else { return };
                    if cut.least >= *best {
                        return;
                    }
                    let part = self.part(cut, key);
                    if cut.beside == Link::NOTHING {
                        part
                    } else {
                        self.search(part, key, best);
                        cut.beside
                    }
                }
                UNCUT => {
                    if let Some(vectors) = self.uncut.get(index) {
                        vectors.find(key, best, |rule| self.is_match(rule, key));
                    }
                    return;
                }
                _ => return self.scan(index >> RUN_BITS, index & LONGEST_RUN, key, best),
            };
        }
    }

    #[inline]
    fn part(&self, cut: &Cut<A>, key: &[A; FIELDS]) -> Link {
        let value = key.get(cut.field as usize).copied().unwrap_or_default();
        let part = value.steps(cut.base, cut.shift);
        if part >= cut.parts as usize {
            return Link::NOTHING;
        }
        self.links.get(cut.links as usize + part).copied().unwrap_or(Link::NOTHING)
    }

    #[inline]
    fn scan(&self, first: usize, count: usize, key: &[A; FIELDS], best: &mut u32) {
        for rule in self.boxes.get(first..first + count).unwrap_or(&[]) {
            if rule.rule >= *best {
                return;
            }
            if rule.contains(key) && self.is_match(rule, key) {
                *best = rule.rule;
                return;
            }
        }
    }

    /// Whether a packet in the box matches the rule.
    #[inline]
    fn is_match(&self, rule: &RuleBox<A>, key: &[A; FIELDS]) -> bool {
        rule.lists == EXACT
            || self
                .lists
                .get(rule.lists as usize)
                .is_some_and(|[src, dst]| src.contains(key[0]) && dst.contains(key[1]))
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.cuts)
            + size_of_val(&*self.links)
            + size_of_val(&*self.boxes)
            + self.uncut.iter().map(BitVectors::bytes).sum::<usize>()
            + self.lists.iter().flatten().map(Ranges::bytes).sum::<usize>()
    }
}
