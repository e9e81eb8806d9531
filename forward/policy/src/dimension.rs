use crate::bitmap::BitmapsBuilder;
use crate::rule_box::Value;

/// One field of the classifier: the values cut into intervals in each of which the same rules match.
#[derive(Debug, Clone)]
pub(crate) struct Dimension<T> {
    /// First value of each interval, ascending; the first is the smallest value there is.
    starts: Vec<T>,
    /// The rules of each interval, a number of [`crate::bitmap::Bitmaps`].
    sets: Vec<u32>,
}

/// The values `first..=last` match `rule`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<T> {
    pub(crate) rule: usize,
    pub(crate) first: T,
    pub(crate) last: T,
}

impl<T: Value> Dimension<T> {
    /// Sweeps over the ends of all spans once. Spans of one rule may overlap.
    pub(crate) fn compile(rules: usize, spans: &[Span<T>], bitmaps: &mut BitmapsBuilder) -> Self {
        // (value, rule, +1 where a span begins or -1 behind its end)
        let mut events: Vec<(T, usize, i32)> = Vec::with_capacity(spans.len() * 2);
        for span in spans {
            events.push((span.first, span.rule, 1));
            if let Some(after) = span.last.next() {
                events.push((after, span.rule, -1));
            }
        }
        events.sort_unstable();
        let mut covering = vec![0i32; rules];
        let mut bits = bitmaps.none();
        let mut dimension = Self { starts: Vec::new(), sets: Vec::new() };
        let mut at = T::default();
        for (value, rule, step) in events {
            if value != at {
                dimension.push(at, bitmaps.intern(&mut bits));
                at = value;
            }
            if let Some(count) = covering.get_mut(rule) {
                *count += step;
                if *count > 0 { bits.set(rule) } else { bits.clear(rule) }
            }
        }
        dimension.push(at, bitmaps.intern(&mut bits));
        dimension
    }

    fn push(&mut self, start: T, set: u32) {
        if self.sets.last() != Some(&set) {
            self.starts.push(start);
            self.sets.push(set);
        }
    }

    /// The rules that match `value`, by binary search.
    #[inline]
    pub(crate) fn find(&self, value: T) -> u32 {
        let index = self.starts.partition_point(|start| *start <= value);
        self.sets.get(index.wrapping_sub(1)).copied().unwrap_or(0)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.starts.len() * (size_of::<T>() + size_of::<u32>())
    }
}
