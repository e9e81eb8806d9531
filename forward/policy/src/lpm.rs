use crate::rule_box::is_mapped;
use crate::trie::{NONE, Trie};
use crate::{PolicyError, Problem};
use ipnetwork::IpNetwork;
use std::collections::HashMap;
use std::net::IpAddr;

/// Longest-prefix match over IPv4 and IPv6 prefixes, each with a value. Built whole, then only read.
///
/// A lookup takes one step for each six bits of the prefix beyond the root (which resolves up to 20 at once), each
/// reading at most 24 bytes: a table of a million routes costs two to four cache lines.
///
/// Memory per route: the prefix (18 bytes) with its value, and in the trie 20 to 40 bytes for tables as the Internet has
/// them (24 bytes a node, which up to 64 prefixes share); in all 45 to 64 bytes with a 4-byte value. A lone IPv6 host
/// route may take a chain of nodes of its own, 500 bytes at most.
#[derive(Debug, Clone)]
pub struct Lpm<V> {
    routes: Vec<(IpNetwork, V)>,
    v4: Trie<u32>,
    v6: Trie<u128>,
}

impl<V> Default for Lpm<V> {
    fn default() -> Self {
        Self { routes: Vec::new(), v4: Trie::build(&[]), v6: Trie::build(&[]) }
    }
}

impl<V> Lpm<V> {
    /// Bits of a prefix beyond its length are ignored.
    ///
    /// # Errors
    /// A prefix that stands twice, or an IPv4-mapped one; the field is `[index]`.
    pub fn build(routes: impl IntoIterator<Item = (IpNetwork, V)>) -> Result<Self, PolicyError> {
        let routes: Vec<(IpNetwork, V)> =
            routes.into_iter().map(|(prefix, value)| (canonical(prefix), value)).collect();
        let mut seen = HashMap::with_capacity(routes.len());
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, (prefix, _)) in (0u32..).zip(&routes) {
            if is_mapped(prefix) {
                return Err(PolicyError::new(format_args!("[{index}]"), Problem::MappedAddress));
            }
            if let Some(first) = seen.insert(*prefix, index) {
                let problem = Problem::Duplicate { value: prefix.to_string(), first: format!("[{first}]") };
                return Err(PolicyError::new(format_args!("[{index}]"), problem));
            }
            match prefix {
                IpNetwork::V4(net) => v4.push((u32::from(net.network()), u32::from(net.prefix()), index)),
                IpNetwork::V6(net) => v6.push((u128::from(net.network()), u32::from(net.prefix()), index)),
            }
        }
        Ok(Self { v4: Trie::build(&v4), v6: Trie::build(&v6), routes })
    }

    /// The value of the longest prefix that covers `addr`.
    #[must_use]
    #[inline]
    pub fn lookup(&self, addr: IpAddr) -> Option<&V> {
        self.lookup_prefix(addr).map(|(_, value)| value)
    }

    /// The longest prefix that covers `addr`, and its value.
    #[must_use]
    #[inline]
    pub fn lookup_prefix(&self, addr: IpAddr) -> Option<(IpNetwork, &V)> {
        let index = match addr {
            IpAddr::V4(v4) => self.v4.find(u32::from(v4)),
            IpAddr::V6(v6) => self.v6.find(u128::from(v6)),
        };
        if index == NONE {
            return None;
        }
        self.routes.get(index as usize).map(|(prefix, value)| (*prefix, value))
    }

    /// All prefixes, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, &V)> {
        self.routes.iter().map(|(prefix, value)| (*prefix, value))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Bytes that the table takes, without what values own elsewhere.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + self.routes.capacity() * size_of::<(IpNetwork, V)>()
    }
}

/// `10.1.2.3/8` as `10.0.0.0/8`.
pub(crate) fn canonical(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}
