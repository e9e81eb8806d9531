use crate::bitmap::BitmapsBuilder;
use ipnetwork::IpNetwork;
use penstock_model::Addr16;
use std::net::{IpAddr, Ipv6Addr};

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

/// A value with a successor.
pub(crate) trait Value: Copy + Ord + Default {
    fn next(self) -> Option<Self>;
}

impl Value for u16 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Value for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
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

/// An address as a number; IPv4 in the mapped form, so that both families share one line of values.
#[inline]
pub(crate) fn address(addr: Addr16) -> u128 {
    u128::from_be_bytes(addr.0)
}

/// The mapped form of all IPv4 addresses: `::ffff:0:0/96`.
const V4_FIRST: u128 = 0xffff_0000_0000;
const V4_LAST: u128 = 0xffff_ffff_ffff;

/// The address ranges of a prefix. An IPv6 prefix that covers the mapped form is cut in two around it: `::/0` is not an
/// IPv4 address.
pub(crate) fn ranges(prefix: &IpNetwork) -> impl Iterator<Item = (u128, u128)> {
    let first = address(Addr16::from(prefix.network()));
    let last = address(Addr16::from(prefix.broadcast()));
    let around = prefix.is_ipv6() && first <= V4_FIRST && V4_LAST <= last;
    let pair = if around {
        [(first < V4_FIRST).then_some((first, V4_FIRST - 1)), (V4_LAST < last).then_some((V4_LAST + 1, last))]
    } else {
        [Some((first, last)), None]
    };
    pair.into_iter().flatten()
}

/// Whether an IPv6 prefix lies inside the mapped form, which no packet can carry.
pub(crate) fn is_mapped(prefix: &IpNetwork) -> bool {
    match prefix.ip() {
        IpAddr::V6(v6) => prefix.prefix() >= 96 && is_mapped_address(v6),
        IpAddr::V4(_) => false,
    }
}

fn is_mapped_address(v6: Ipv6Addr) -> bool {
    v6.to_ipv4_mapped().is_some()
}
