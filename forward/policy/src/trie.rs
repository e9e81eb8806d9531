use std::ops::{BitAnd, Shl, Shr};

/// An address as an unsigned number of fixed width.
pub(crate) trait Key:
    Copy + Ord + Shr<u32, Output = Self> + Shl<u32, Output = Self> + BitAnd<Output = Self> + Default
{
    const WIDTH: u32;
    const MAX: Self;
    fn low_bits(self) -> usize;
    fn from_bits(bits: usize) -> Self;
    fn plus(self, other: Self) -> Option<Self>;
    fn minus_one(self) -> Self;
    fn or(self, other: Self) -> Self;
}

macro_rules! key {
    ($int:ty) => {
        impl Key for $int {
            const WIDTH: u32 = <$int>::BITS;
            const MAX: Self = <$int>::MAX;
            #[inline]
            fn low_bits(self) -> usize {
                self as usize
            }
            fn from_bits(bits: usize) -> Self {
                bits as $int
            }
            fn plus(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }
            fn minus_one(self) -> Self {
                self.wrapping_sub(1)
            }
            fn or(self, other: Self) -> Self {
                self | other
            }
        }
    };
}
key!(u32);
key!(u128);

/// Bits that one node resolves.
const STRIDE: u32 = 6;
/// Marks an entry of the root, or a leaf, that has no route.
pub(crate) const NONE: u32 = u32::MAX;
/// Root entries with this bit are leaves.
const LEAF: u32 = 1 << 31;

/// Longest-prefix match by a trie with 64-way nodes whose children and leaves lie packed behind bit vectors (the
/// structure of Poptrie, Asai and Ohara, SIGCOMM 2015). A lookup takes one step for each six bits of the prefix behind
/// the root, which resolves the first 2, 8, 14 or 20 bits at once, more for larger tables.
///
/// Memory: 24 bytes a node and 4 bytes a leaf, a run of equal leaves stored once; the root up to 4 MiB for tables of
/// 400,000 routes and more.
#[derive(Debug, Clone)]
pub(crate) struct Trie<K> {
    root_bits: u32,
    root: Vec<u32>,
    nodes: Vec<Node>,
    leaves: Vec<u32>,
    _key: std::marker::PhantomData<K>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// Slots that have a child node.
    children: u64,
    /// Slots without a child in which a run of equal leaves begins.
    runs: u64,
    first_child: u32,
    first_leaf: u32,
}

/// `first..` up to the next interval belongs to `value`.
#[derive(Debug, Clone, Copy)]
struct Interval<K> {
    first: K,
    value: u32,
}

impl<K: Key> Trie<K> {
    /// `routes`: (address, prefix length, value), no prefix twice, values below 2^31.
    pub(crate) fn build(routes: &[(K, u32, u32)]) -> Self {
        let intervals = flatten(routes);
        let root_bits = match routes.len() {
            0..64 => 2,
            64..4_096 => 8,
            4_096..400_000 => 14,
            _ => 20,
        };
        let mut trie =
            Self { root_bits, root: Vec::new(), nodes: Vec::new(), leaves: Vec::new(), _key: std::marker::PhantomData };
        let shift = K::WIDTH - root_bits;
        let mut rest: &[Interval<K>] = &intervals;
        for slot in 0..1usize << root_bits {
            let base = K::from_bits(slot) << shift;
            let here = within(&mut rest, base, last_of(base, shift));
            let entry = match here {
                [only] => only.value | LEAF,
                many => {
                    let index = trie.nodes.len() as u32;
                    trie.nodes.push(Node::default());
                    trie.fill(index as usize, many, base, shift - STRIDE);
                    index
                }
            };
            trie.root.push(entry);
        }
        trie.nodes.shrink_to_fit();
        trie.leaves.shrink_to_fit();
        trie
    }

    /// Builds the node at `index`, whose slots are `2^shift` addresses each, from the intervals that it covers.
    fn fill(&mut self, index: usize, intervals: &[Interval<K>], base: K, shift: u32) {
        let mut node = Node { first_leaf: self.leaves.len() as u32, ..Node::default() };
        let mut below: Vec<(K, &[Interval<K>])> = Vec::new();
        let mut run = None;
        let mut rest = intervals;
        for slot in 0..1usize << STRIDE {
            let start = base.or(K::from_bits(slot) << shift);
            match within(&mut rest, start, last_of(start, shift)) {
                [only] => {
                    if run != Some(only.value) {
                        run = Some(only.value);
                        node.runs |= 1 << slot;
                        self.leaves.push(only.value);
                    }
                }
                many => {
                    node.children |= 1 << slot;
                    below.push((start, many));
                }
            }
        }
        node.first_child = self.nodes.len() as u32;
        self.nodes.resize(self.nodes.len() + below.len(), Node::default());
        if let Some(place) = self.nodes.get_mut(index) {
            *place = node;
        }
        for (offset, (start, many)) in below.into_iter().enumerate() {
            self.fill(node.first_child as usize + offset, many, start, shift - STRIDE);
        }
    }

    /// The value of the longest prefix that covers `key`, or [`NONE`].
    #[inline]
    pub(crate) fn find(&self, key: K) -> u32 {
        let mut shift = K::WIDTH - self.root_bits;
        let Some(entry) = self.root.get((key >> shift).low_bits()) else { return NONE };
        if entry & LEAF != 0 {
            return value_of(*entry);
        }
        let mut index = *entry;
        while let Some(node) = self.nodes.get(index as usize) {
            shift -= STRIDE;
            let slot = (key >> shift).low_bits() & ((1 << STRIDE) - 1);
            let bit = 1u64 << slot;
            if node.children & bit == 0 {
                let upto = node.runs & (bit | (bit - 1));
                let leaf = node.first_leaf.wrapping_add(upto.count_ones()).wrapping_sub(1);
                return self.leaves.get(leaf as usize).copied().map_or(NONE, value_of);
            }
            index = node.first_child + (node.children & (bit - 1)).count_ones();
        }
        NONE
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.root.len() + self.leaves.len()) * 4 + self.nodes.len() * size_of::<Node>()
    }
}

/// Leaves hold values with or without [`LEAF`]; [`NONE`] has it.
#[inline]
const fn value_of(entry: u32) -> u32 {
    if entry == NONE { NONE } else { entry & !LEAF }
}

fn last_of<K: Key>(base: K, shift: u32) -> K {
    base.or((K::from_bits(1) << shift).minus_one())
}

/// The intervals that touch `first..=last`; `rest` is left with those that touch what follows.
fn within<'a, K: Key>(rest: &mut &'a [Interval<K>], first: K, last: K) -> &'a [Interval<K>] {
    // The interval that holds `first` stands at the head, or one before the first that begins later.
    let skip = rest.partition_point(|i| i.first <= first).saturating_sub(1);
    let end = rest.partition_point(|i| i.first <= last);
    let here = rest.get(skip..end).unwrap_or(&[]);
    *rest = rest.get(end.saturating_sub(1)..).unwrap_or(&[]);
    here
}

/// Cuts all addresses into intervals by the prefix that decides there.
fn flatten<K: Key>(routes: &[(K, u32, u32)]) -> Vec<Interval<K>> {
    let mut sorted: Vec<(K, u32, u32)> = routes.to_vec();
    sorted.sort_unstable();
    let mut out = vec![Interval { first: K::default(), value: NONE }];
    // Prefixes that are open at the point reached, outermost first: (last address, value).
    let mut open: Vec<(K, u32)> = Vec::new();
    for (addr, len, value) in sorted {
        close(&mut open, &mut out, Some(addr));
        begin(&mut out, addr, value);
        open.push((if len == 0 { K::MAX } else { last_of(addr, K::WIDTH - len) }, value));
    }
    close(&mut open, &mut out, None);
    out
}

/// Ends the open prefixes that end before `addr`; behind each, the one around it goes on.
fn close<K: Key>(open: &mut Vec<(K, u32)>, out: &mut Vec<Interval<K>>, addr: Option<K>) {
    while let Some((last, _)) = open.last().copied() {
        if addr.is_some_and(|addr| addr <= last) {
            return;
        }
        open.pop();
        if let Some(next) = last.plus(K::from_bits(1)) {
            begin(out, next, open.last().map_or(NONE, |(_, value)| *value));
        }
    }
}

fn begin<K: Key>(out: &mut Vec<Interval<K>>, first: K, value: u32) {
    if out.last().is_some_and(|last| last.first == first) {
        out.pop();
    }
    if out.last().is_none_or(|last| last.value != value) {
        out.push(Interval { first, value });
    }
}
