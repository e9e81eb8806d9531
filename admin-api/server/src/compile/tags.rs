//! Addresses that are not in given prefixes.
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The prefixes that cover all addresses of both families but those in `excluded`.
pub(super) fn all_but(excluded: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut out = Vec::new();
    for whole in [
        Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).map(IpNetwork::V4),
        Ipv6Network::new(Ipv6Addr::UNSPECIFIED, 0).map(IpNetwork::V6),
    ]
    .into_iter()
    .flatten()
    {
        let excluded: Vec<IpNetwork> = excluded.iter().filter(|e| e.is_ipv4() == whole.is_ipv4()).copied().collect();
        subtract(whole, &excluded, &mut out);
    }
    out
}

/// Halves `space` until a part is outside of all that is excluded or inside of one: as deep as prefixes are long.
fn subtract(space: IpNetwork, excluded: &[IpNetwork], out: &mut Vec<IpNetwork>) {
    let within: Vec<IpNetwork> = excluded.iter().filter(|e| covers(&space, e)).copied().collect();
    if excluded.iter().any(|e| covers(e, &space)) {
        return;
    }
    if within.is_empty() {
        return out.push(space);
    }
    halves(space).into_iter().flatten().for_each(|half| subtract(half, &within, out));
}

fn covers(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn halves(space: IpNetwork) -> [Option<IpNetwork>; 2] {
    let length = space.prefix() + 1;
    let (lower, upper) = match space {
        IpNetwork::V4(net) => {
            let bit = 1u32.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (net.network().into(), Ipv4Addr::from(u32::from(net.network()) | bit).into())
        }
        IpNetwork::V6(net) => {
            let bit = 1u128.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (net.network().into(), Ipv6Addr::from(u128::from(net.network()) | bit).into())
        }
    };
    [lower, upper].map(|addr| IpNetwork::new(addr, length).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn what_is_left_touches_nothing_that_is_excluded_and_misses_nothing_else() {
        let excluded: Vec<IpNetwork> =
            ["10.1.0.0/16", "10.1.2.0/24", "192.0.2.7/32", "fd00:1::/48"].map(|p| p.parse().unwrap()).into();
        let left = all_but(&excluded);
        assert!(left.len() < 16 + 32 + 48, "{left:?}");
        for text in [
            "10.0.255.255",
            "10.1.0.0",
            "10.1.2.3",
            "10.1.255.255",
            "10.2.0.0",
            "192.0.2.6",
            "192.0.2.7",
            "192.0.2.8",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "fd00:1::",
            "fd00:1:0:ffff::",
            "fd00:0:ffff::",
            "fd00:1:1::",
        ] {
            let addr: IpAddr = text.parse().unwrap();
            let is_excluded = excluded.iter().any(|p| p.contains(addr));
            let times = left.iter().filter(|p| p.contains(addr)).count();
            assert_eq!(times, usize::from(!is_excluded), "{addr}");
        }
    }
}
