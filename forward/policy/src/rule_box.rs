use ipnetwork::IpNetwork;
use std::net::IpAddr;

/// Fields that a classifier looks at, in this order: source, destination, source port, destination port, protocol.
pub(crate) const FIELDS: usize = 5;

/// Stands for the port of a packet whose protocol has none: only rules for all ports match it.
pub(crate) const NO_PORT: u32 = 0x1_0000;

/// At most so many boxes stand for one rule whose lists of prefixes multiply; a rule with more is one box that may hold too
/// much, and its lists are looked into.
const BOXES_OF_A_RULE: usize = 16;

/// A number that any field may be: as wide as the addresses of a family.
pub(crate) trait Value: Copy + Ord + Default + std::fmt::Debug + From<u32> {
    const MAX: Self;
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
    /// How many widths of `1 << shift` this lies above `base`.
    fn steps(self, base: Self, shift: u32) -> usize;
    /// `base` and so many widths of `1 << shift`.
    fn after(base: Self, steps: usize, shift: u32) -> Option<Self>;
    /// Without the bits below `shift`.
    fn floor(self, shift: u32) -> Self;
    /// Bits that the distance from `base` takes.
    fn bits_above(self, base: Self) -> u32;
    /// First and last address of a prefix of this family.
    fn range(prefix: &IpNetwork) -> Option<(Self, Self)>;
}

macro_rules! value {
    ($type:ty, $family:ident) => {
        impl Value for $type {
            const MAX: Self = <$type>::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }

            #[inline]
            fn steps(self, base: Self, shift: u32) -> usize {
                usize::try_from(self.wrapping_sub(base) >> shift).unwrap_or(usize::MAX)
            }

            fn after(base: Self, steps: usize, shift: u32) -> Option<Self> {
                base.checked_add(<$type>::try_from(steps).ok()?.checked_mul(1 << shift)?)
            }

            fn floor(self, shift: u32) -> Self {
                self >> shift << shift
            }

            fn bits_above(self, base: Self) -> u32 {
                <$type>::BITS - self.wrapping_sub(base).leading_zeros()
            }

            fn range(prefix: &IpNetwork) -> Option<(Self, Self)> {
                match prefix {
                    IpNetwork::$family(net) => Some((net.network().into(), net.broadcast().into())),
                    _ => None,
                }
            }
        }
    };
}

value!(u32, V4);
value!(u128, V6);

/// What of a rule can be said of each field for itself: the values from `first` to `last`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuleBox<A> {
    pub(crate) first: [A; FIELDS],
    pub(crate) last: [A; FIELDS],
    /// The rule's place in the order in which rules are looked at.
    pub(crate) rule: u32,
    /// Where more has to be looked into: a place in [`Boxes::lists`], or [`EXACT`].
    pub(crate) lists: u32,
}

/// The box holds what the rule matches and nothing else.
pub(crate) const EXACT: u32 = u32::MAX;

impl<A: Value> RuleBox<A> {
    /// All packets.
    pub(crate) fn everything() -> Self {
        let (port, protocol) = (NO_PORT.into(), u32::from(u8::MAX).into());
        Self { first: [A::default(); FIELDS], last: [A::MAX, A::MAX, port, port, protocol], rule: 0, lists: EXACT }
    }

    #[inline]
    pub(crate) fn contains(&self, key: &[A; FIELDS]) -> bool {
        // All five without a branch between them: which of them fails is as good as random.
        let mut inside = true;
        for ((first, last), value) in self.first.iter().zip(&self.last).zip(key) {
            inside &= (first <= value) & (value <= last);
        }
        inside
    }

    /// Whether everything in `region` matches the rule.
    pub(crate) fn covers(&self, region: &RuleBox<A>) -> bool {
        self.lists == EXACT && (0..FIELDS).all(|field| self.covers_in(region, field))
    }

    pub(crate) fn covers_in(&self, region: &RuleBox<A>, field: usize) -> bool {
        let (first, last) = self.of(field);
        let (least, most) = region.of(field);
        first <= least && most <= last
    }

    /// The values of one field.
    pub(crate) fn of(&self, field: usize) -> (A, A) {
        (self.first.get(field).copied().unwrap_or_default(), self.last.get(field).copied().unwrap_or_default())
    }

    /// The same box with other values of one field.
    pub(crate) fn with(mut self, field: usize, first: A, last: A) -> Self {
        if let (Some(f), Some(l)) = (self.first.get_mut(field), self.last.get_mut(field)) {
            (*f, *l) = (first, last);
        }
        self
    }
}

/// Addresses of one family: ranges that neither overlap nor touch, ascending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges<A>(Vec<(A, A)>);

impl<A: Value> Ranges<A> {
    /// Of the family `A` among `prefixes`.
    pub(crate) fn new(prefixes: &[IpNetwork]) -> Self {
        let mut all: Vec<(A, A)> = prefixes.iter().filter_map(A::range).collect();
        all.sort_unstable();
        let mut merged: Vec<(A, A)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if end.next().is_none_or(|after| first <= after) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// What an address field of a rule means: without prefixes any address.
    fn of_field(prefixes: &[IpNetwork]) -> Self {
        if prefixes.is_empty() { Self(vec![(A::default(), A::MAX)]) } else { Self::new(prefixes) }
    }

    #[inline]
    pub(crate) fn contains(&self, value: A) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= value);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    fn hull(&self) -> Option<(A, A)> {
        Some((self.0.first()?.0, self.0.last()?.1))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<(A, A)>()
    }
}

/// The rules of one list and direction as boxes, in the order in which rules are looked at.
#[derive(Debug)]
pub(crate) struct Boxes<A> {
    pub(crate) boxes: Vec<RuleBox<A>>,
    /// Source and destination of rules that one box cannot say.
    pub(crate) lists: Vec<[Ranges<A>; 2]>,
}

impl<A> Default for Boxes<A> {
    fn default() -> Self {
        Self { boxes: Vec::new(), lists: Vec::new() }
    }
}

impl<A: Value> Boxes<A> {
    /// A rule for packets whose other fields are in `bounds`.
    pub(crate) fn push(&mut self, bounds: RuleBox<A>, src: &[IpNetwork], dst: &[IpNetwork]) {
        let (src, dst) = (Ranges::<A>::of_field(src), Ranges::<A>::of_field(dst));
        let (Some(all_src), Some(all_dst)) = (src.hull(), dst.hull()) else { return };
        if src.0.len() * dst.0.len() > BOXES_OF_A_RULE {
            let lists = self.lists.len() as u32;
            let hull = bounds.with(0, all_src.0, all_src.1).with(1, all_dst.0, all_dst.1);
            self.boxes.push(RuleBox { lists, ..hull });
            self.lists.push([src, dst]);
            return;
        }
        for (first, last) in &src.0 {
            let row = bounds.with(0, *first, *last);
            self.boxes.extend(dst.0.iter().map(|(first, last)| row.with(1, *first, *last)));
        }
    }
}

/// Whether an IPv6 prefix lies inside the mapped form, which no packet can carry.
pub(crate) fn is_mapped(prefix: &IpNetwork) -> bool {
    match prefix.ip() {
        IpAddr::V6(v6) => prefix.prefix() >= 96 && v6.to_ipv4_mapped().is_some(),
        IpAddr::V4(_) => false,
    }
}
