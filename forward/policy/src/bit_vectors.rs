use crate::bitmap::{Bitmaps, BitmapsBuilder};
use crate::dimension::{Dimension, Span};
use crate::rule_box::{FIELDS, RuleBox, Value};

/// The first of many boxes that overlap in every field.
///
/// Of each field the values are cut into intervals; each interval knows the set of boxes that match there. A packet finds
/// one set for each field and the first box that is in all five. That costs an AND over n/64 words, whatever the boxes are.
///
/// Memory: equal sets are stored once, and sets that differ in a box share all but 512 of their boxes. A field has at most two
/// intervals for each box, and an interval takes 64 bytes and one for each 100 boxes.
#[derive(Debug, Clone)]
pub(crate) struct BitVectors<A> {
    fields: [Dimension<A>; FIELDS],
    bitmaps: Bitmaps,
    boxes: Vec<RuleBox<A>>,
}

impl<A: Value> BitVectors<A> {
    pub(crate) fn build(boxes: Vec<RuleBox<A>>) -> Self {
        let mut bitmaps = BitmapsBuilder::new(boxes.len());
        let fields = std::array::from_fn(|field| {
            let span = |(rule, b): (usize, &RuleBox<A>)| {
                let (first, last) = b.of(field);
                Span { rule, first, last }
            };
            let spans: Vec<Span<A>> = boxes.iter().enumerate().map(span).collect();
            Dimension::compile(boxes.len(), &spans, &mut bitmaps)
        });
        Self { fields, bitmaps: bitmaps.finish(), boxes }
    }

    /// Lowers `best` to the first rule that matches and that `accept` takes, if that comes before.
    pub(crate) fn find(&self, key: &[A; FIELDS], best: &mut u32, accept: impl Fn(&RuleBox<A>) -> bool) {
        let mut sets = [0; FIELDS];
        for ((set, field), value) in sets.iter_mut().zip(&self.fields).zip(key) {
            *set = field.find(*value);
        }
        let accepts = |at: usize| self.boxes.get(at).is_some_and(&accept);
        if let Some(found) = self.bitmaps.first_common(sets, accepts).and_then(|at| self.boxes.get(at)) {
            *best = found.rule.min(*best);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.fields.iter().map(Dimension::bytes).sum::<usize>() + self.bitmaps.bytes() + size_of_val(&*self.boxes)
    }
}
