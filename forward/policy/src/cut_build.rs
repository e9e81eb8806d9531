//! How a [`CutTree`] is made: at each node the cut after which the least is left to look at.
use crate::bit_vectors::BitVectors;
use crate::cut_tree::{Cut, CutTree, LONGEST_RUN, Link};
use crate::rule_box::{Boxes, FIELDS, RuleBox, Value};

/// All parts together hold at most so many times the boxes that there are.
pub(crate) const COPIES: usize = 4;
/// A box that lies in more parts than these stands beside them.
const PARTS_OF_A_BOX: usize = 4;
/// So few boxes are looked at one after the other.
const SHORT_RUN: usize = 4;
/// A node has at most two to this power parts.
const MOST_PARTS_LOG: u32 = 15;
/// Each cut leaves at most four fifths, so what is deeper than this is small.
const DEEPEST: u32 = 24;

pub(crate) struct Builder<A> {
    tree: CutTree<A>,
    /// Copies that may still be made.
    spare: usize,
    counts: Vec<u32>,
}

/// A cut that could be made, and how much is left to look at behind it.
#[derive(Clone, Copy)]
struct Choice<A> {
    base: A,
    field: usize,
    shift: u32,
    parts: usize,
    /// No packet that comes here is outside all parts.
    is_whole: bool,
    cost: f32,
}

impl<A: Value> Builder<A> {
    pub(crate) fn build(from: Boxes<A>) -> CutTree<A> {
        let Boxes { boxes, lists } = from;
        let (cuts, links, uncut) = (Vec::new(), Vec::new(), Vec::new());
        let tree = CutTree { root: Link::NOTHING, cuts, links, boxes: Vec::with_capacity(boxes.len()), uncut, lists };
        let mut builder = Self { tree, spare: boxes.len() * (COPIES - 1), counts: Vec::new() };
        builder.tree.root = builder.node(boxes, &RuleBox::everything(), 0);
        builder.tree
    }

    /// `boxes` in the order of their rules; `region` is what packets that come here have in common.
    fn node(&mut self, mut boxes: Vec<RuleBox<A>>, region: &RuleBox<A>, depth: u32) -> Link {
        // Behind a rule that matches everything that comes here nothing is ever reached.
        if let Some(last) = boxes.iter().position(|b| b.covers(region)) {
            boxes.truncate(last + 1);
        }
        if boxes.is_empty() {
            return Link::NOTHING;
        }
        if boxes.len() > SHORT_RUN
            && depth < DEEPEST
            && let Some(choice) = self.choose(&boxes, region)
        {
            return self.cut(&boxes, region, &choice, depth);
        }
        if boxes.len() > LONGEST_RUN {
            self.tree.uncut.push(BitVectors::build(boxes));
            return Link::uncut(self.tree.uncut.len() - 1);
        }
        let first = self.tree.boxes.len();
        self.tree.boxes.extend_from_slice(&boxes);
        Link::run(first, boxes.len())
    }

    fn cut(&mut self, boxes: &[RuleBox<A>], region: &RuleBox<A>, choice: &Choice<A>, depth: u32) -> Link {
        let most = self.most_parts(boxes.len());
        let mut beside = Vec::new();
        let mut inside: Vec<(usize, RuleBox<A>)> = Vec::with_capacity(boxes.len());
        for b in boxes {
            match choice.parts_of(b, region, most) {
                Some((from, to)) => inside.extend((from..=to).map(|part| (part, *b))),
                None => beside.push(*b),
            }
        }
        self.spare = self.spare.saturating_sub((inside.len() + beside.len()).saturating_sub(boxes.len()));
        // Stable: the boxes of a part stay in the order of their rules.
        inside.sort_by_key(|(part, _)| *part);
        let (index, links) = (self.tree.cuts.len(), self.tree.links.len());
        self.tree.links.resize(links + choice.parts, Link::NOTHING);
        self.tree.cuts.push(Cut {
            base: choice.base,
            field: choice.field as u32,
            shift: choice.shift,
            parts: choice.parts as u32,
            links: links as u32,
            beside: Link::NOTHING,
            least: boxes.first().map_or(u32::MAX, |b| b.rule),
        });
        for of_part in inside.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((part, _)) = of_part.first() else { continue };
            let boxes = of_part.iter().map(|(_, b)| *b).collect();
            let link = self.node(boxes, &choice.region(*part, region), depth + 1);
            if let Some(slot) = self.tree.links.get_mut(links + part) {
                *slot = link;
            }
        }
        let beside = self.node(beside, region, depth + 1);
        if let Some(cut) = self.tree.cuts.get_mut(index) {
            cut.beside = beside;
        }
        Link::cut(index)
    }

    /// Without spare room nothing is copied any more.
    fn most_parts(&self, boxes: usize) -> usize {
        if self.spare >= boxes * (PARTS_OF_A_BOX - 1) { PARTS_OF_A_BOX } else { 1 }
    }

    fn choose(&mut self, boxes: &[RuleBox<A>], region: &RuleBox<A>) -> Option<Choice<A>> {
        let mut best: Option<Choice<A>> = None;
        for field in 0..FIELDS {
            let Some((least, most)) = bounds(boxes, region, field) else { continue };
            let width = most.bits_above(least);
            let finest = width.min(boxes.len().ilog2() + 2).min(MOST_PARTS_LOG);
            // Two bits fewer for each try: rules of one length of prefix mostly show at the finest, the others follow.
            for log in (1..=finest).rev().step_by(2) {
                let Some(choice) = self.judge(boxes, region, field, (least, most), width - log) else { continue };
                if best.is_none_or(|b| choice.cost < b.cost) {
                    best = Some(choice);
                }
            }
        }
        best
    }

    /// What a cut leaves; `None` if that is hardly less than there was.
    fn judge(
        &mut self,
        boxes: &[RuleBox<A>],
        region: &RuleBox<A>,
        field: usize,
        (least, most): (A, A),
        shift: u32,
    ) -> Option<Choice<A>> {
        // Prefixes lie in one part if parts begin where prefixes do.
        let base = least.floor(shift);
        let parts = most.steps(base, shift) + 1;
        let (region_least, region_most) = region.of(field);
        let reach = A::after(base, parts, shift).and_then(A::previous);
        let is_whole = base <= region_least && reach.is_none_or(|last| region_most <= last);
        let mut choice = Choice { base, field, shift, parts, is_whole, cost: 0.0 };
        let limit = self.most_parts(boxes.len());
        self.counts.clear();
        self.counts.resize(parts, 0);
        let mut beside = 0u32;
        for b in boxes {
            match choice.parts_of(b, region, limit) {
                Some((from, to)) => {
                    self.counts.get_mut(from..=to).into_iter().flatten().for_each(|count| *count += 1);
                }
                None => beside += 1,
            }
        }
        let (mut copies, mut squares) = (0f32, 0f32);
        for count in &self.counts {
            copies += *count as f32;
            squares += (*count as f32) * (*count as f32);
        }
        let worst = self.counts.iter().max().copied().unwrap_or(0).max(beside);
        if worst as usize > boxes.len() * 4 / 5 || copies == 0.0 {
            return None;
        }
        // A packet that matches finds itself among `squares / copies` boxes; each halving of them is about one unit of work,
        // and so is a second tree.
        let besides = if beside == 0 { 0.0 } else { 1.0 + (1.0 + beside as f32).log2() };
        choice.cost = (1.0 + squares / copies).log2() + besides + shift_cost(parts, boxes.len());
        Some(choice)
    }
}

/// Of two cuts that are equally good the one with fewer parts.
fn shift_cost(parts: usize, boxes: usize) -> f32 {
    0.1 * parts as f32 / boxes as f32
}

impl<A: Value> Choice<A> {
    /// First and last part of a box; `None` for one that lies in more than `limit` parts or also outside of them.
    fn parts_of(&self, b: &RuleBox<A>, region: &RuleBox<A>, limit: usize) -> Option<(usize, usize)> {
        if !self.is_whole && b.covers_in(region, self.field) {
            return None;
        }
        let (first, last) = clipped(b, region, self.field);
        let (from, to) = (first.steps(self.base, self.shift), last.steps(self.base, self.shift));
        (to - from < limit).then_some((from, to))
    }

    fn region(&self, part: usize, region: &RuleBox<A>) -> RuleBox<A> {
        let (least, most) = region.of(self.field);
        let first = A::after(self.base, part, self.shift).unwrap_or(self.base).max(least);
        let after = A::after(self.base, part + 1, self.shift);
        // The last value of a part is the one before the next part's first.
        let last = after.and_then(A::previous).map_or(most, |last| last.min(most));
        region.with(self.field, first, last)
    }
}

fn clipped<A: Value>(b: &RuleBox<A>, region: &RuleBox<A>, field: usize) -> (A, A) {
    let ((first, last), (least, most)) = (b.of(field), region.of(field));
    (first.max(least), last.min(most))
}

/// Where the boxes lie that do not fill the whole region.
fn bounds<A: Value>(boxes: &[RuleBox<A>], region: &RuleBox<A>, field: usize) -> Option<(A, A)> {
    boxes
        .iter()
        .filter(|b| !b.covers_in(region, field))
        .map(|b| clipped(b, region, field))
        .reduce(|(least, most), (first, last)| (least.min(first), most.max(last)))
}
