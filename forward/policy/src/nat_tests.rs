use crate::{CompiledNat, Inward, NatKind, Outward, PortRange, TranslationRule};
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, Protocol};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

fn rule(kind: NatKind) -> TranslationRule {
    TranslationRule { name: "rule".to_owned(), kind }
}

fn net(s: &str) -> IpNetwork {
    s.parse().unwrap()
}

fn addr(s: &str) -> Addr16 {
    Addr16::from(s.parse::<IpAddr>().unwrap())
}

fn fixed(inside: &str, outside: &str) -> TranslationRule {
    rule(NatKind::Static { inside: net(inside), outside: net(outside) })
}

fn pool(inside: &[&str], outside: &[&str], first: u16, last: u16) -> TranslationRule {
    rule(NatKind::Pool {
        inside: inside.iter().map(|p| net(p)).collect(),
        outside: outside.iter().map(|p| net(p)).collect(),
        ports: PortRange { first, last },
        is_open: false,
    })
}

fn forward(outside: &str, outside_port: u16, inside: &str, inside_port: u16) -> TranslationRule {
    rule(NatKind::Forward {
        protocol: Protocol::TCP,
        outside: outside.parse().unwrap(),
        outside_port,
        inside: inside.parse().unwrap(),
        inside_port,
    })
}

fn refused(rules: &[TranslationRule]) -> String {
    CompiledNat::compile(rules).unwrap_err().to_string()
}

#[test]
fn a_static_rule_keeps_host_bits_of_both_families() {
    let nat = CompiledNat::compile(&[fixed("10.1.2.0/24", "172.16.9.0/24"), fixed("fd01::/64", "fd02::/64")]).unwrap();
    for (inside, outside) in [("10.1.2.7", "172.16.9.7"), ("fd01::1:2", "fd02::1:2")] {
        assert_eq!(nat.outward(addr(inside)), Outward::Static(addr(outside)));
        assert_eq!(nat.inward(Protocol::TCP, addr(outside), 80), Inward::Static(addr(inside)));
        assert_eq!(nat.inward(Protocol::TCP, addr(inside), 80), Inward::Nobody, "it is reached by its other address");
    }
    assert_eq!(nat.outward(addr("10.1.3.7")), Outward::Same);
    assert_eq!(nat.inward(Protocol::UDP, addr("10.9.9.9"), 1), Inward::Same);
}

#[test]
fn the_longest_prefix_decides_and_a_forward_comes_before_the_pool_of_its_address() {
    let nat = CompiledNat::compile(&[
        pool(&["10.0.0.0/8"], &["192.0.2.0/31"], 2000, 2009),
        fixed("10.0.0.5/32", "192.0.2.9/32"),
        forward("192.0.2.1", 2003, "10.0.0.7", 8080),
        forward("192.0.2.77", 22, "10.0.0.7", 22),
    ])
    .unwrap();
    assert_eq!(nat.outward(addr("10.0.0.5")), Outward::Static(addr("192.0.2.9")));
    assert_eq!(nat.outward(addr("10.0.0.6")), Outward::Pool(0));
    assert_eq!(nat.inward(Protocol::TCP, addr("192.0.2.1"), 2003), Inward::Forward(addr("10.0.0.7"), 8080));
    assert_eq!(nat.inward(Protocol::UDP, addr("192.0.2.1"), 2003), Inward::Pool(0));
    assert_eq!(nat.inward(Protocol::TCP, addr("192.0.2.77"), 23), Inward::Nobody);
    let of_pool = nat.pool(0).unwrap();
    assert_eq!((of_pool.addresses(), of_pool.ports()), (2, 10));
    assert_eq!(of_pool.nth(1, 9), Some((addr("192.0.2.1"), 2009)));
    assert_eq!((of_pool.nth(2, 0), of_pool.nth(0, 10)), (None, None));
    assert!(of_pool.has(addr("192.0.2.0"), 2000) && !of_pool.has(addr("192.0.2.0"), 2010));
}

#[test]
fn what_cannot_be_kept_is_refused_by_rule_and_part() {
    for (rules, field) in [
        (vec![fixed("10.0.0.0/24", "10.1.0.0/25")], "[0].outside: 10.1.0.0/25 and 10.0.0.0/24"),
        (vec![fixed("10.0.0.0/24", "fd00::/24")], "[0].outside: "),
        (vec![pool(&["10.0.0.0/8"], &[], 1, 2)], "[0].outside: nothing"),
        (vec![pool(&[], &["192.0.2.1/32"], 1, 2)], "[0].inside: nothing"),
        (vec![pool(&["10.0.0.0/8"], &["192.0.2.1/32"], 0, 2)], "[0].ports: port 0"),
        (vec![pool(&["10.0.0.0/8"], &["192.0.2.1/32"], 5, 2)], "[0].ports: the range"),
        (vec![pool(&["10.0.0.0/8"], &["192.0.0.0/8"], 5, 6)], "[0].outside: 16777216"),
        (vec![pool(&["10.0.0.0/8", "fd00::/8"], &["192.0.2.1/32"], 5, 6)], "[0].inside[1]: fd00::/8"),
        (
            vec![fixed("10.0.0.0/24", "10.1.0.0/24"), pool(&["10.2.0.0/16"], &["10.1.0.7/32"], 1, 2)],
            "[1].outside[0]: 10.1.0.7/32 and 10.1.0.0/24 overlap",
        ),
        (
            vec![fixed("10.0.0.0/24", "10.1.0.0/24"), fixed("10.0.0.0/24", "10.2.0.0/24")],
            "[1].inside: 10.0.0.0/24 stands here and in [0].inside",
        ),
        (
            vec![fixed("10.0.0.0/24", "10.1.0.0/24"), forward("10.1.0.9", 80, "10.9.0.1", 80)],
            "[1].outside: 10.1.0.9 and 10.1.0.0/24 overlap",
        ),
        (
            vec![forward("10.1.0.9", 80, "10.9.0.1", 80), forward("10.1.0.9", 80, "10.9.0.2", 80)],
            "[1].outside: tcp port 80 of 10.1.0.9 stands here",
        ),
        (vec![forward("10.1.0.9", 0, "10.9.0.1", 80)], "[0].outside_port: port 0"),
        (vec![forward("10.1.0.9", 80, "fd00::1", 80)], "[0].outside: "),
    ] {
        let said = refused(&rules);
        assert!(said.starts_with(field), "{said} instead of {field}");
    }
}

/// What a compiled translation is to say, rule by rule.
struct Twin<'r>(&'r [TranslationRule]);

impl Twin<'_> {
    fn holder(&self, ip: IpAddr, is_inside: bool) -> Option<(usize, IpNetwork)> {
        let prefixes = |(i, r): (usize, &TranslationRule)| -> Vec<(usize, IpNetwork)> {
            match &r.kind {
                NatKind::Static { inside, outside } => vec![(i, if is_inside { *inside } else { *outside })],
                NatKind::Pool { inside, outside, .. } => {
                    (if is_inside { inside } else { outside }).iter().map(|p| (i, *p)).collect()
                }
                NatKind::Forward { .. } => vec![],
            }
        };
        let all = self.0.iter().enumerate().flat_map(prefixes).filter(|(_, p)| p.contains(ip));
        all.max_by_key(|(_, p)| p.prefix())
    }

    /// Bit by bit: those of the prefix from `to`, the others from `ip`.
    fn moved(ip: IpAddr, to: IpNetwork) -> Addr16 {
        let (IpAddr::V4(ip), IpAddr::V4(base)) = (ip, to.ip()) else { panic!("v4 only") };
        let mut out = 0u32;
        for bit in 0..32u8 {
            let from = if bit < to.prefix() { u32::from(base) } else { u32::from(ip) };
            out |= from & (0x8000_0000 >> bit);
        }
        Addr16::from(IpAddr::V4(Ipv4Addr::from(out)))
    }

    fn pools_before(&self, i: usize) -> usize {
        self.0.iter().take(i).filter(|r| matches!(r.kind, NatKind::Pool { .. })).count()
    }

    fn outward(&self, ip: IpAddr) -> Outward {
        let Some((i, _)) = self.holder(ip, true) else { return Outward::Same };
        match &self.0[i].kind {
            NatKind::Static { outside, .. } => Outward::Static(Self::moved(ip, *outside)),
            _ => Outward::Pool(self.pools_before(i)),
        }
    }

    fn inward(&self, ip: IpAddr, port: u16) -> Inward {
        for r in self.0 {
            if let NatKind::Forward { outside, outside_port, inside, inside_port, .. } = &r.kind
                && (*outside, *outside_port) == (ip, port)
            {
                return Inward::Forward(Addr16::from(*inside), *inside_port);
            }
        }
        if let Some((i, _)) = self.holder(ip, false) {
            return match &self.0[i].kind {
                NatKind::Static { inside, .. } => Inward::Static(Self::moved(ip, *inside)),
                _ => Inward::Pool(self.pools_before(i)),
            };
        }
        let is_forwarded = self.0.iter().any(|r| matches!(&r.kind, NatKind::Forward { outside, .. } if *outside == ip));
        if is_forwarded || self.holder(ip, true).is_some() { Inward::Nobody } else { Inward::Same }
    }
}

fn prefix(second: u8) -> impl Strategy<Value = IpNetwork> {
    (0u8..4, 0u8..4, 22u8..=32).prop_map(move |(c, d, len)| {
        let ip = Ipv4Addr::new(10, second, c, d * 64);
        let net = IpNetwork::new(IpAddr::V4(ip), len).unwrap();
        IpNetwork::new(net.network(), len).unwrap()
    })
}

fn any_rule() -> impl Strategy<Value = TranslationRule> {
    let fixed = (prefix(1), prefix(2)).prop_map(|(inside, outside)| {
        let outside = IpNetwork::new(outside.ip(), inside.prefix()).unwrap();
        NatKind::Static { inside, outside: IpNetwork::new(outside.network(), inside.prefix()).unwrap() }
    });
    let pool = (prefix(1), prefix(2)).prop_map(|(inside, outside)| NatKind::Pool {
        inside: vec![inside],
        outside: vec![outside],
        ports: PortRange { first: 1, last: 3 },
        is_open: true,
    });
    let forward = (prefix(2), prefix(1), 1u16..4).prop_map(|(outside, inside, port)| NatKind::Forward {
        protocol: Protocol::TCP,
        outside: outside.ip(),
        outside_port: port,
        inside: inside.ip(),
        inside_port: port + 100,
    });
    prop_oneof![fixed, pool, forward].prop_map(rule)
}

proptest! {
    #[test]
    fn compiled_rules_and_the_twin_say_the_same(
        rules in proptest::collection::vec(any_rule(), 0..5),
        asked in proptest::collection::vec((1u8..3, 0u8..4, any::<u8>(), 1u16..4), 50),
    ) {
        let Ok(nat) = CompiledNat::compile(&rules) else { return Ok(()) };
        let twin = Twin(&rules);
        for (b, c, d, port) in asked {
            let ip = IpAddr::V4(Ipv4Addr::new(10, b, c, d));
            let outward = nat.outward(ip.into());
            prop_assert_eq!(outward, twin.outward(ip));
            prop_assert_eq!(nat.inward(Protocol::TCP, ip.into(), port), twin.inward(ip, port));
            if let Outward::Static(outside) = outward {
                prop_assert_eq!(nat.inward(Protocol::TCP, outside, port), Inward::Static(ip.into()), "there and back");
            }
        }
    }
}
