/// The ports of one address that a NAT may give out: a contiguous block, first come first served.
///
/// A port that is given back goes to the end of the line, so that it is used again as late as possible (RFC 6056 section 3
/// warns of quick reuse). Memory: 2 bytes and 1 bit a port.
#[derive(Debug, Clone)]
pub struct PortPool {
    first: u16,
    /// Ring of free ports as offsets from `first`.
    free: Vec<u16>,
    head: usize,
    count: usize,
    taken: Vec<u64>,
}

impl PortPool {
    /// The ports `first..=last`; nothing if `last < first`. `seed` chooses where to begin.
    #[must_use]
    pub fn new(first: u16, last: u16, seed: u64) -> Self {
        let size = if last < first { 0 } else { usize::from(last - first) + 1 };
        let mut free: Vec<u16> = (0..size).map(|i| i as u16).collect();
        shuffle(&mut free, seed);
        Self { first, count: free.len(), free, head: 0, taken: vec![0; size.div_ceil(64)] }
    }

    /// A port that nobody has.
    pub fn take(&mut self) -> Option<u16> {
        if self.count == 0 {
            return None;
        }
        let offset = self.free[self.head];
        self.head = (self.head + 1) % self.free.len();
        self.count -= 1;
        self.taken[usize::from(offset) / 64] |= 1 << (offset % 64);
        Some(self.first + offset)
    }

    /// Gives a port back. False, and nothing is changed, if it was not taken from here.
    pub fn give_back(&mut self, port: u16) -> bool {
        let Some(offset) = port.checked_sub(self.first) else { return false };
        let Some(word) = self.taken.get_mut(usize::from(offset) / 64) else { return false };
        let bit = 1 << (offset % 64);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        let tail = (self.head + self.count) % self.free.len();
        self.free[tail] = offset;
        self.count += 1;
        true
    }

    /// Ports that can be taken.
    #[must_use]
    pub fn available(&self) -> usize {
        self.count
    }
}

/// Fisher-Yates with xorshift: order that is not obvious from outside; what keeps it secret is the seed.
fn shuffle(ports: &mut [u16], seed: u64) {
    let mut state = seed | 1;
    for i in (1..ports.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let j = ((u128::from(state) * (i as u128 + 1)) >> 64) as usize;
        ports.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_port_is_given_once_and_then_none() {
        let mut pool = PortPool::new(1024, 1087, 42);
        let given: BTreeSet<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(given, (1024..=1087).collect());
        assert_eq!(pool.available(), 0);
    }

    #[test]
    fn a_port_that_came_back_is_used_again_last() {
        let mut pool = PortPool::new(60_000, 65_535, 1);
        let first = pool.take().unwrap();
        assert!(pool.give_back(first));
        assert!(!pool.give_back(first), "only once");
        let rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((rest.len(), rest.last()), (5536, Some(&first)));
    }

    #[test]
    fn foreign_ports_are_not_taken_back_and_an_empty_pool_gives_nothing() {
        let mut pool = PortPool::new(1024, 1030, 1);
        assert!(!pool.give_back(1023) && !pool.give_back(1031) && !pool.give_back(1025));
        assert_eq!(PortPool::new(2, 1, 0).take(), None);
    }
}
