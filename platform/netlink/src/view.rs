use penstock_model::Mac;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Administratively up and with carrier.
    pub up: bool,
}

/// How to reach a destination on the provider network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    pub ifindex: u32,
    pub eth_src: Mac,
    pub eth_dst: Mac,
    /// Of the interface, in bytes.
    pub mtu: u32,
}

/// One unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) prefix: IpAddr,
    pub(crate) prefix_len: u8,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
    pub(crate) metric: u32,
}

/// Who answers at an address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) mac: Mac,
    /// The operator's own entry (`nud permanent`): it is not ours to resolve.
    pub(crate) fixed: bool,
}

/// The kernel's links, routes and neighbours at one moment.
///
/// Memory: about 100 bytes a route and 60 a neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnderlayView {
    links: BTreeMap<u32, Link>,
    v4: RouteTable<u32>,
    v6: RouteTable<u128>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
}

impl UnderlayView {
    pub(crate) fn new(
        links: impl IntoIterator<Item = Link>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = (u32, IpAddr, Neighbour)>,
    ) -> Self {
        let mut view = Self {
            links: links.into_iter().map(|l| (l.index, l)).collect(),
            neighbours: neighbours.into_iter().map(|(i, ip, n)| ((i, ip), n)).collect(),
            ..Self::default()
        };
        for route in routes {
            match route.prefix {
                IpAddr::V4(p) => view.v4.insert(p.to_bits(), route),
                IpAddr::V6(p) => view.v6.insert(p.to_bits(), route),
            }
        }
        view
    }

    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|l| l.name == name)
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The next hop towards `dst`; `None` while there is no route or its neighbour is not resolved.
    #[must_use]
    pub fn next_hop(&self, dst: IpAddr) -> Option<NextHop> {
        let (ifindex, neighbour) = self.neighbour_for(dst)?;
        let link = self.links.get(&ifindex)?;
        let eth_dst = self.neighbours.get(&(ifindex, neighbour))?.mac;
        Some(NextHop { ifindex, eth_src: link.mac, eth_dst, mtu: link.mtu })
    }

    /// Whether the operator wrote the neighbour down.
    pub(crate) fn is_fixed(&self, ifindex: u32, neighbour: IpAddr) -> bool {
        self.neighbours.get(&(ifindex, neighbour)).is_some_and(|n| n.fixed)
    }

    /// The gateways of all routes, at most `limit` of them.
    #[must_use]
    pub fn gateways(&self, limit: usize) -> BTreeSet<IpAddr> {
        let v4 = self.v4.by_len.values().flat_map(HashMap::values);
        let v6 = self.v6.by_len.values().flat_map(HashMap::values);
        v4.chain(v6).filter_map(|r| r.gateway).take(limit).collect()
    }

    /// Interface and address of the neighbour that packets to `dst` are handed to.
    #[must_use]
    pub fn neighbour_for(&self, dst: IpAddr) -> Option<(u32, IpAddr)> {
        let route = match dst {
            IpAddr::V4(a) => self.v4.lookup(a.to_bits()),
            IpAddr::V6(a) => self.v6.lookup(a.to_bits()),
        }?;
        Some((route.ifindex, route.gateway.unwrap_or(dst)))
    }
}

/// Routes by prefix length, longest first; one hash look-up for each length in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RouteTable<A: Bits> {
    by_len: BTreeMap<std::cmp::Reverse<u8>, HashMap<A, Route>>,
}

impl<A: Bits> Default for RouteTable<A> {
    fn default() -> Self {
        Self { by_len: BTreeMap::new() }
    }
}

impl<A: Bits> RouteTable<A> {
    /// The lower metric wins, as in the kernel.
    fn insert(&mut self, prefix: A, route: Route) {
        let table = self.by_len.entry(std::cmp::Reverse(route.prefix_len)).or_default();
        let kept = table.entry(prefix.masked(route.prefix_len)).or_insert(route);
        if route.metric < kept.metric {
            *kept = route;
        }
    }

    fn lookup(&self, addr: A) -> Option<&Route> {
        self.by_len.iter().find_map(|(len, table)| table.get(&addr.masked(len.0)))
    }
}

trait Bits: Copy + Eq + std::hash::Hash {
    fn masked(self, len: u8) -> Self;
}

impl Bits for u32 {
    fn masked(self, len: u8) -> Self {
        self & u32::MAX.checked_shl(Ipv4Addr::BITS.saturating_sub(u32::from(len))).unwrap_or(0)
    }
}

impl Bits for u128 {
    fn masked(self, len: u8) -> Self {
        self & u128::MAX.checked_shl(Ipv6Addr::BITS.saturating_sub(u32::from(len))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, len: u8, gateway: Option<&str>, ifindex: u32, metric: u32) -> Route {
        Route {
            prefix: prefix.parse().unwrap(),
            prefix_len: len,
            gateway: gateway.map(|g| g.parse().unwrap()),
            ifindex,
            metric,
        }
    }

    fn view() -> UnderlayView {
        let link = |index, mac| Link {
            index,
            name: format!("eth{index}"),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            mtu: 1600,
            up: true,
        };
        UnderlayView::new(
            [link(1, 1), link(2, 2)],
            [
                route("0.0.0.0", 0, Some("192.0.2.1"), 1, 0),
                route("192.0.2.0", 24, None, 1, 0),
                route("198.51.100.0", 24, None, 2, 10),
                route("198.51.100.0", 24, Some("192.0.2.9"), 1, 5),
                route("::", 0, Some("2001:db8::1"), 2, 0),
            ],
            [
                (1, "192.0.2.1".parse().unwrap(), Neighbour { mac: Mac([2, 0, 0, 0, 1, 1]), fixed: false }),
                (2, "2001:db8::1".parse().unwrap(), Neighbour { mac: Mac([2, 0, 0, 0, 1, 6]), fixed: false }),
            ],
        )
    }

    #[test]
    fn the_longest_prefix_wins_and_then_the_lower_metric() {
        let v = view();
        assert_eq!(v.neighbour_for("192.0.2.7".parse().unwrap()), Some((1, "192.0.2.7".parse().unwrap())));
        assert_eq!(v.neighbour_for("203.0.113.7".parse().unwrap()), Some((1, "192.0.2.1".parse().unwrap())));
        assert_eq!(v.neighbour_for("198.51.100.3".parse().unwrap()), Some((1, "192.0.2.9".parse().unwrap())));
    }

    #[test]
    fn a_destination_without_a_resolved_neighbour_has_no_next_hop() {
        let v = view();
        assert_eq!(v.next_hop("192.0.2.7".parse().unwrap()), None);
        let hop = v.next_hop("8.8.8.8".parse().unwrap()).unwrap();
        assert_eq!((hop.ifindex, hop.eth_dst), (1, Mac([2, 0, 0, 0, 1, 1])));
        let hop = v.next_hop("2001:db8:1::9".parse().unwrap()).unwrap();
        assert_eq!((hop.ifindex, hop.eth_src), (2, Mac([2, 0, 0, 0, 0, 2])));
    }
}
