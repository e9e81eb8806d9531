//! Longest-prefix match against its slow twin.
use crate::Lpm;
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Routes = BTreeMap<IpNetwork, u32>;

/// The slow twin: looks at every route.
fn lookup_slowly(routes: &Routes, addr: IpAddr) -> Option<(IpNetwork, u32)> {
    routes.iter().filter(|(p, _)| p.contains(addr)).max_by_key(|(p, _)| p.prefix()).map(|(p, v)| (*p, *v))
}

fn v4() -> impl Strategy<Value = IpAddr> {
    let byte = || prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(255), any::<u8>()];
    [byte(), byte(), byte(), byte()].prop_map(|b| IpAddr::V4(Ipv4Addr::from(b)))
}

fn v6() -> impl Strategy<Value = IpAddr> {
    let word = || prop_oneof![Just(0u16), Just(1), Just(0x2001), Just(0x8000), Just(0xffff), any::<u16>()];
    [word(), word(), word(), word(), word(), word(), word(), word()]
        .prop_map(|w| IpAddr::V6(Ipv6Addr::from(w)))
        .prop_filter("mapped", |a| !matches!(a, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()))
}

fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![v4(), v6()]
}

fn prefix() -> impl Strategy<Value = IpNetwork> {
    (addr(), any::<prop::sample::Index>())
        .prop_map(|(addr, len)| {
            let len = len.index(if addr.is_ipv4() { 33 } else { 129 }) as u8;
            let net = IpNetwork::new(addr, len).unwrap();
            IpNetwork::new(net.network(), len).unwrap()
        })
        .prop_filter("mapped", |p| !crate::rule_box::is_mapped(p))
}

/// The first and last address of a prefix and their neighbours.
fn edges(prefix: &IpNetwork) -> Vec<IpAddr> {
    match prefix {
        IpNetwork::V4(net) => {
            let (a, b) = (u32::from(net.network()), u32::from(net.broadcast()));
            [a, b, a.wrapping_sub(1), b.wrapping_add(1)].map(|x| IpAddr::V4(x.into())).to_vec()
        }
        IpNetwork::V6(net) => {
            let (a, b) = (u128::from(net.network()), u128::from(net.broadcast()));
            [a, b, a.wrapping_sub(1), b.wrapping_add(1)].map(|x| IpAddr::V6(x.into())).to_vec()
        }
    }
}

fn compare(routes: &Routes, addrs: impl IntoIterator<Item = IpAddr>) -> Result<(), TestCaseError> {
    let table = Lpm::build(routes.iter().map(|(p, v)| (*p, *v))).unwrap();
    for addr in addrs {
        let found = table.lookup_prefix(addr).map(|(p, v)| (p, *v));
        prop_assert_eq!(found, lookup_slowly(routes, addr), "{}", addr);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_trie_finds_what_a_look_at_every_route_finds(
        prefixes in prop::collection::btree_map(prefix(), any::<u32>(), 0..300),
        addrs in prop::collection::vec(addr(), 0..50),
    ) {
        let at_edges: Vec<IpAddr> = prefixes.keys().flat_map(edges).collect();
        compare(&prefixes, addrs.into_iter().chain(at_edges))?;
    }
}

/// Roots of every size, with routes of every length.
#[test]
fn tables_of_every_root_size_agree_with_the_twin() {
    for count in [1usize, 63, 64, 4_095, 4_096] {
        let mut state = 88_172_645_463_325_252u64;
        let mut routes = Routes::new();
        while routes.len() < count {
            let len = (8 + random(&mut state) % 25) as u8;
            let net = IpNetwork::new(Ipv4Addr::from(random(&mut state) as u32).into(), len).unwrap();
            routes.insert(IpNetwork::new(net.network(), len).unwrap(), random(&mut state) as u32);
        }
        let edges: Vec<IpAddr> = routes.keys().step_by(1 + count / 50).flat_map(edges).collect();
        compare(&routes, edges).unwrap();
    }
}

/// Checks the stated memory, and that each of a sample of routes is found at its own first address.
fn check_table_of(count: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut routes = Vec::with_capacity(count);
    let mut seen = std::collections::HashSet::new();
    while routes.len() < count {
        // The lengths of the Internet's table; addresses cluster under allocations of /11.
        let len = [24u8, 24, 24, 24, 24, 24, 23, 22, 22, 21, 20, 19, 18, 16][(random(&mut state) % 14) as usize];
        let block = (random(&mut state) % (count as u64 / 32)) as u32 * 0x1_3b00;
        let addr = block.wrapping_add(random(&mut state) as u32 & 0x001f_ffff) & (u32::MAX << (32 - len));
        if seen.insert((addr, len)) {
            routes.push((IpNetwork::new(Ipv4Addr::from(addr).into(), len).unwrap(), routes.len() as u32));
        }
    }
    let table = Lpm::build(routes.iter().copied()).unwrap();
    for (prefix, value) in routes.iter().step_by(97) {
        let (found, got) = table.lookup_prefix(prefix.ip()).unwrap();
        assert!(found.prefix() >= prefix.prefix());
        assert!(found != *prefix || got == value);
    }
    let per_route = table.bytes() / routes.len();
    assert!(per_route <= 64, "{per_route} bytes a route");
    println!("{count} routes: {per_route} bytes a route");
}

#[test]
fn a_hundred_thousand_routes_fit_in_the_stated_memory() {
    check_table_of(100_000);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "half a minute without optimization: cargo test --release")]
fn a_million_routes_fit_in_the_stated_memory() {
    check_table_of(1_000_000);
}

/// Xorshift: enough to scatter test routes.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_prefix_that_stands_twice_is_refused_whatever_its_host_bits() {
    let nets = ["10.0.0.0/8", "10.1.2.3/8"].map(|p| p.parse::<IpNetwork>().unwrap());
    let err = Lpm::build(nets.map(|n| (n, ()))).unwrap_err();
    assert_eq!(err.to_string(), "[1]: 10.0.0.0/8 stands here and in [0]");
}

#[test]
fn a_default_route_of_one_family_says_nothing_about_the_other() {
    let table = Lpm::build([("0.0.0.0/0".parse().unwrap(), 4)]).unwrap();
    assert_eq!(table.lookup("255.255.255.255".parse().unwrap()), Some(&4));
    assert_eq!(table.lookup("::1".parse().unwrap()), None);
    assert!(Lpm::<u32>::default().lookup("::1".parse().unwrap()).is_none());
}
