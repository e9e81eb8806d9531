use ipnetwork::IpNetwork;
use penstock_model::Addr16;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses `first..=last` of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether it has addresses: of one family, and not backwards.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.first.is_ipv4() == self.last.is_ipv4() && self.first <= self.last
    }
}

impl From<IpAddr> for AddressRange {
    fn from(addr: IpAddr) -> Self {
        Self { first: addr, last: addr }
    }
}

impl From<IpNetwork> for AddressRange {
    fn from(network: IpNetwork) -> Self {
        Self { first: network.network(), last: network.broadcast() }
    }
}

/// A set of addresses: found by halving, whatever it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<(Place, Place)>);

/// IPv4 before IPv6, which has the same numbers for other addresses.
type Place = (bool, u128);

impl Ranges {
    #[must_use]
    pub fn contains(&self, addr: Addr16) -> bool {
        let number = u128::from_be_bytes(addr.0);
        let at = if addr.is_v4() { (false, number & u128::from(u32::MAX)) } else { (true, number) };
        let after = self.0.partition_point(|(first, _)| *first <= at);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, last)| at <= *last)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        for (first, last) in &self.0 {
            let mut from = Some(*first);
            for (a, b) in other.0.iter().filter(|(a, b)| a <= last && b >= first) {
                if let Some(start) = from.filter(|start| start < a) {
                    out.push((start, (a.0, a.1.saturating_sub(1))));
                }
                from = next(*b).filter(|after| after <= last);
            }
            out.extend(from.map(|start| (start, *last)));
        }
        Self(out)
    }

    /// In order, none next to another.
    pub fn iter(&self) -> impl Iterator<Item = AddressRange> + '_ {
        self.0.iter().map(|(first, last)| AddressRange { first: address(*first), last: address(*last) })
    }
}

impl FromIterator<AddressRange> for Ranges {
    /// Ranges that have no addresses add none.
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let sound = ranges.into_iter().filter(AddressRange::is_sound);
        let mut all: Vec<(Place, Place)> = sound.map(|r| (place(r.first), place(r.last))).collect();
        all.sort_unstable();
        let mut out: Vec<(Place, Place)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match out.last_mut() {
                Some((_, end)) if first <= *end || next(*end) == Some(first) => *end = last.max(*end),
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }
}

fn place(addr: IpAddr) -> Place {
    match addr {
        IpAddr::V4(a) => (false, u128::from(u32::from(a))),
        IpAddr::V6(a) => (true, u128::from(a)),
    }
}

fn address((is_v6, number): Place) -> IpAddr {
    if is_v6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
}

fn next((is_v6, number): Place) -> Option<Place> {
    number.checked_add(1).map(|n| (is_v6, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[&str]) -> Ranges {
        text.iter().map(|t| AddressRange::from(t.parse::<IpNetwork>().unwrap())).collect()
    }

    fn shown(ranges: &Ranges) -> Vec<String> {
        ranges.iter().map(|r| format!("{}-{}", r.first, r.last)).collect()
    }

    #[test]
    fn ranges_that_touch_are_one_and_families_are_apart() {
        let all = of(&["10.1.0.0/17", "10.1.128.0/17", "10.1.4.0/24", "::/0", "192.0.2.1", "255.255.255.255"]);
        let expected = [
            "10.1.0.0-10.1.255.255",
            "192.0.2.1-192.0.2.1",
            "255.255.255.255-255.255.255.255",
            "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        assert_eq!(shown(&all), expected);
        for (addr, is_in) in [("10.1.4.9", true), ("10.2.0.0", false), ("192.0.2.0", false), ("fd00::1", true)] {
            assert_eq!(all.contains(addr.parse::<IpAddr>().unwrap().into()), is_in, "{addr}");
        }
        assert!(!of(&["::/0"]).contains("10.1.4.9".parse::<IpAddr>().unwrap().into()));
        let backwards = AddressRange { first: "10.0.0.2".parse().unwrap(), last: "10.0.0.1".parse().unwrap() };
        assert_eq!([backwards].into_iter().collect::<Ranges>(), Ranges::default());
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest() {
        let site = of(&["10.1.0.0/16", "fd00::/120"]);
        let left = site.without(&of(&["10.1.0.0/24", "10.1.7.0/24", "10.1.255.255", "fd00::ff", "10.9.0.0/16"]));
        let expected = ["10.1.1.0-10.1.6.255", "10.1.8.0-10.1.255.254", "fd00::-fd00::fe"];
        assert_eq!(shown(&left), expected);
        assert_eq!(site.without(&Ranges::default()), site);
        assert_eq!(site.without(&of(&["0.0.0.0/0", "::/0"])), Ranges::default());
    }
}
