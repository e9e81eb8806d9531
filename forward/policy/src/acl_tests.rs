//! The classifier against its slow twin, and the defaults as claims.
use crate::classifier::has_ports;
use crate::{Acl, AclAction, AclDirection, AclMatch, AclRule, AclVerdict, CompiledAcl, MAX_RULES, PortRange, Problem};
use ipnetwork::IpNetwork;
use penstock_model::{Addr16, FlowKey, Protocol, TenantId};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The slow twin: walks the rules in order.
fn evaluate_slowly(acl: &Acl, network: &[IpNetwork], direction: AclDirection, key: &FlowKey) -> AclVerdict {
    let verdict = |action, because, log| AclVerdict { action, because, log };
    if acl.rules.is_empty() {
        return verdict(AclAction::Allow, AclMatch::NoList, false);
    }
    let mut order: Vec<usize> = (0..acl.rules.len()).collect();
    order.sort_by_key(|i| acl.rules[*i].priority);
    for index in order {
        let rule = &acl.rules[index];
        if rule.direction == direction && matches(rule, key) {
            return verdict(rule.action, AclMatch::Rule(index as u32), rule.log);
        }
    }
    match direction {
        AclDirection::Outbound => verdict(AclAction::Allow, AclMatch::Default, false),
        AclDirection::Inbound if network.iter().any(|p| p.contains(key.src.to_ip())) => {
            verdict(AclAction::Allow, AclMatch::SameNetwork, false)
        }
        AclDirection::Inbound => verdict(AclAction::Deny, AclMatch::Default, false),
    }
}

fn matches(rule: &AclRule, key: &FlowKey) -> bool {
    let address =
        |prefixes: &[IpNetwork], addr: Addr16| prefixes.is_empty() || prefixes.iter().any(|p| p.contains(addr.to_ip()));
    let port = |range: PortRange, port| {
        if has_ports(key.protocol()) { range.contains(port) } else { range.is_any() }
    };
    rule.protocol.is_none_or(|p| p == key.protocol())
        && address(&rule.src, key.src)
        && address(&rule.dst, key.dst)
        && port(rule.src_ports, key.src_port)
        && port(rule.dst_ports, key.dst_port)
}

// Few distinct values, so that rules overlap and packets hit their edges. Boxed: unboxed, proptest moves value trees of
// many kilobytes over the stack.
fn addr() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        any::<[u8; 4]>(),
        prop::array::uniform4(prop_oneof![Just(0u8), Just(10), Just(127), Just(128), Just(255)]),
    ];
    let v6 = prop::array::uniform8(prop_oneof![Just(0u16), Just(0xfd00), Just(1), Just(0xffff), Just(0xfffe)]);
    prop_oneof![
        v4.prop_map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        v6.prop_map(|w| IpAddr::V6(Ipv6Addr::from(w)))
            .prop_filter("no packet has a mapped address", |a| !Addr16::from(*a).is_v4()),
    ]
    .boxed()
}

fn prefix() -> impl Strategy<Value = IpNetwork> {
    (addr(), any::<prop::sample::Index>())
        .prop_map(|(addr, len)| {
            let max = if addr.is_ipv4() { 32 } else { 128 };
            IpNetwork::new(addr, len.index(max + 1) as u8).unwrap()
        })
        .boxed()
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0u16), Just(1), Just(80), Just(81), Just(443), Just(65534), Just(65535), any::<u16>()]
}

fn range() -> impl Strategy<Value = PortRange> {
    prop_oneof![Just(PortRange::ANY), (port(), port()).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP), any::<u8>().prop_map(Protocol)]
}

fn direction() -> impl Strategy<Value = AclDirection> {
    prop_oneof![Just(AclDirection::Inbound), Just(AclDirection::Outbound)]
}

fn rule() -> impl Strategy<Value = AclRule> {
    let prefixes =
        || prop_oneof![4 => prop::collection::vec(prefix(), 0..4), 1 => prop::collection::vec(prefix(), 5..9)];
    let who = (prefixes(), prefixes(), range(), range(), prop::option::of(protocol()));
    (who, 100..110u16, any::<bool>(), direction(), any::<bool>())
        .prop_map(|((src, dst, src_ports, dst_ports, protocol), priority, allow, direction, log)| AclRule {
            name: "r".into(),
            priority,
            action: if allow { AclAction::Allow } else { AclAction::Deny },
            direction,
            protocol,
            src,
            dst,
            src_ports,
            dst_ports,
            log,
        })
        .boxed()
}

fn key() -> impl Strategy<Value = FlowKey> {
    (addr(), addr(), protocol(), port(), port())
        .prop_filter("no packet has two families", |(src, dst, ..)| src.is_ipv4() == dst.is_ipv4())
        .prop_map(|(src, dst, p, sp, dp)| FlowKey::new(TenantId(1), src.into(), dst.into(), p, sp, dp))
}

/// A packet whose values are edges of the rules: the first or last address of a prefix, or one beside it.
fn edge_key(acl: &Acl, pick: (usize, usize, u8), key: FlowKey) -> FlowKey {
    let (rule, item, how) = pick;
    let Some(rule) = acl.rules.get(rule % acl.rules.len().max(1)) else { return key };
    let edge = |prefixes: &[IpNetwork], fallback: Addr16| {
        let Some(p) = prefixes.get(item % prefixes.len().max(1)) else { return fallback };
        let at = Addr16::from(if how & 1 == 0 { p.network() } else { p.broadcast() });
        let value = u128::from_be_bytes(at.0);
        let moved = match how & 6 {
            2 => value.saturating_sub(1),
            4 => value.saturating_add(1),
            _ => value,
        };
        Addr16(moved.to_be_bytes())
    };
    let port = |r: PortRange| match how & 24 {
        8 => r.first,
        16 => r.last,
        24 => r.last.wrapping_add(1),
        _ => r.first.wrapping_sub(1),
    };
    let (src, dst) = (edge(&rule.src, key.src), edge(&rule.dst, key.dst));
    let (src, dst) = if src.is_v4() == dst.is_v4() { (src, dst) } else { (key.src, key.dst) };
    FlowKey::new(
        key.tenant(),
        src,
        dst,
        rule.protocol.unwrap_or(key.protocol()),
        port(rule.src_ports),
        port(rule.dst_ports),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_decides_as_a_walk_over_the_rules(
        rules in prop_oneof![prop::collection::vec(rule(), 0..100), prop::collection::vec(rule(), 200..400)],
        network in prop::collection::vec(prefix(), 0..3),
        keys in prop::collection::vec((key(), any::<(usize, usize, u8)>()), 1..60),
    ) {
        let acl = Acl { name: "l".into(), rules };
        let compiled = CompiledAcl::compile(&acl, &network).unwrap();
        for (key, pick) in keys {
            for key in [key, edge_key(&acl, pick, key)] {
                for direction in [AclDirection::Inbound, AclDirection::Outbound] {
                    prop_assert_eq!(
                        compiled.evaluate(direction, &key),
                        evaluate_slowly(&acl, &network, direction, &key),
                        "{:?} {:?}", direction, key
                    );
                }
            }
        }
    }
}

/// Rules of which each overlaps with all others in every field, and some that are narrow: what no cut tells apart.
fn nested() -> impl Strategy<Value = Vec<AclRule>> {
    let one = (any::<bool>(), 0u16..30_000, 0u16..30_000, 100..110u16, any::<bool>(), prop::option::of(prefix()));
    prop::collection::vec(one, 40..600).prop_map(|rules| {
        let around = |distance: u16| PortRange { first: 32_768 - distance, last: 32_768 + distance };
        let rule =
            |(narrow, src, dst, priority, allow, prefix): (bool, u16, u16, u16, bool, Option<IpNetwork>)| AclRule {
                priority,
                action: if allow { AclAction::Allow } else { AclAction::Deny },
                src: prefix.filter(|_| narrow).into_iter().collect(),
                src_ports: around(src),
                dst_ports: around(dst),
                ..any_rule("r", 0, AclAction::Allow, AclDirection::Inbound)
            };
        rules.into_iter().map(rule).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rules_that_no_cut_tells_apart_are_decided_as_a_walk_over_the_rules(
        rules in nested(),
        keys in prop::collection::vec((key(), 0u16..32_000, 0u16..32_000, any::<bool>()), 1..60),
    ) {
        let acl = Acl { name: "l".into(), rules };
        let compiled = CompiledAcl::compile(&acl, &[]).unwrap();
        for (key, src, dst, above) in keys {
            let port = |distance: u16| if above { 32_768 + distance } else { 32_768 - distance };
            let key = FlowKey::new(key.tenant(), key.src, key.dst, Protocol::TCP, port(src), port(dst));
            let expected = evaluate_slowly(&acl, &[], AclDirection::Inbound, &key);
            prop_assert_eq!(compiled.evaluate(AclDirection::Inbound, &key), expected, "{:?}", key);
        }
    }
}

#[test]
fn a_packet_of_two_families_is_refused() {
    let acl = compile(vec![any_rule("all", 100, AclAction::Allow, AclDirection::Outbound)]);
    assert!(!acl.evaluate(AclDirection::Outbound, &packet("10.0.0.4", "2001:db8::1", Protocol::TCP, 80)).allows());
}

fn any_rule(name: &str, priority: u16, action: AclAction, direction: AclDirection) -> AclRule {
    AclRule {
        name: name.into(),
        priority,
        action,
        direction,
        protocol: None,
        src: vec![],
        dst: vec![],
        src_ports: PortRange::ANY,
        dst_ports: PortRange::ANY,
        log: false,
    }
}

fn packet(src: &str, dst: &str, protocol: Protocol, dport: u16) -> FlowKey {
    let ip = |text: &str| Addr16::from(text.parse::<IpAddr>().unwrap());
    FlowKey::new(TenantId(1), ip(src), ip(dst), protocol, 40000, dport)
}

fn network() -> Vec<IpNetwork> {
    vec!["10.0.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]
}

fn compile(rules: Vec<AclRule>) -> CompiledAcl {
    CompiledAcl::compile(&Acl { name: "web".into(), rules }, &network()).unwrap()
}

#[test]
fn an_empty_list_allows_everything() {
    let acl = compile(vec![]);
    let verdict = acl.evaluate(AclDirection::Inbound, &packet("203.0.113.1", "10.0.0.4", Protocol::TCP, 22));
    assert_eq!((verdict.action, verdict.because), (AclAction::Allow, AclMatch::NoList));
    assert!(CompiledAcl::none().evaluate(AclDirection::Outbound, &FlowKey::default()).allows());
}

#[test]
fn without_a_match_outsiders_are_denied_and_neighbours_allowed() {
    let mut rule = any_rule("allow-http", 100, AclAction::Allow, AclDirection::Inbound);
    rule.protocol = Some(Protocol::TCP);
    rule.dst_ports = PortRange { first: 80, last: 80 };
    let acl = compile(vec![rule]);
    let decide = |src, dport| {
        let v = acl.evaluate(AclDirection::Inbound, &packet(src, "10.0.0.4", Protocol::TCP, dport));
        (v.action, v.because)
    };
    assert_eq!(decide("203.0.113.1", 80), (AclAction::Allow, AclMatch::Rule(0)));
    assert_eq!(decide("203.0.113.1", 22), (AclAction::Deny, AclMatch::Default));
    assert_eq!(decide("10.0.9.9", 22), (AclAction::Allow, AclMatch::SameNetwork));
    let out = acl.evaluate(AclDirection::Outbound, &packet("10.0.0.4", "203.0.113.1", Protocol::TCP, 22));
    assert_eq!((out.action, out.because), (AclAction::Allow, AclMatch::Default));
}

#[test]
fn the_lower_priority_value_wins_and_then_the_place_in_the_list() {
    let inbound = |name, priority, action| any_rule(name, priority, action, AclDirection::Inbound);
    let acl = compile(vec![
        inbound("late", 200, AclAction::Allow),
        inbound("first", 100, AclAction::Deny),
        inbound("second", 100, AclAction::Allow),
    ]);
    let verdict = acl.evaluate(AclDirection::Inbound, &packet("10.0.0.1", "10.0.0.2", Protocol::UDP, 53));
    assert_eq!(verdict.because, AclMatch::Rule(1));
    assert_eq!(acl.explain(&verdict), "rule \"first\" of list \"web\" denies");
}

#[test]
fn an_identifier_of_an_echo_request_is_no_port() {
    let mut rule = any_rule("deny-80", 100, AclAction::Deny, AclDirection::Outbound);
    rule.dst_ports = PortRange { first: 80, last: 80 };
    let acl = compile(vec![rule]);
    assert!(!acl.evaluate(AclDirection::Outbound, &packet("10.0.0.4", "10.0.0.5", Protocol::TCP, 80)).allows());
    assert!(acl.evaluate(AclDirection::Outbound, &packet("10.0.0.4", "10.0.0.5", Protocol::ICMP, 80)).allows());
}

#[test]
fn the_prefix_of_all_ipv6_addresses_does_not_match_ipv4() {
    let mut rule = any_rule("no-v6", 100, AclAction::Deny, AclDirection::Outbound);
    rule.dst = vec!["::/0".parse().unwrap()];
    let acl = compile(vec![rule]);
    assert!(acl.evaluate(AclDirection::Outbound, &packet("10.0.0.4", "192.0.2.1", Protocol::TCP, 80)).allows());
    assert!(!acl.evaluate(AclDirection::Outbound, &packet("fd00:1::4", "2001:db8::1", Protocol::TCP, 80)).allows());
}

#[test]
fn what_cannot_be_compiled_is_refused_by_the_name_of_the_field() {
    let refuse = |change: fn(&mut AclRule)| {
        let mut rule = any_rule("x", 100, AclAction::Deny, AclDirection::Inbound);
        change(&mut rule);
        let rules = vec![any_rule("ok", 99, AclAction::Allow, AclDirection::Inbound), rule];
        CompiledAcl::compile(&Acl { name: "web".into(), rules }, &[]).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(|r| r.dst_ports = PortRange { first: 9, last: 8 }),
        "web.rules[1].dst_ports: the range 9-8 is empty: its first port is above its last"
    );
    assert_eq!(
        refuse(|r| r.src = vec!["::ffff:10.0.0.0/104".parse().unwrap()]),
        "web.rules[1].src[0]: an IPv4-mapped IPv6 address; no packet can carry it"
    );
    let too_many = vec![any_rule("x", 1, AclAction::Deny, AclDirection::Inbound); MAX_RULES + 1];
    let err = CompiledAcl::compile(&Acl { name: "big".into(), rules: too_many }, &[]).unwrap_err();
    assert_eq!(err.problem, Problem::TooMany { found: MAX_RULES + 1, max: MAX_RULES });
}

/// The documented bound: rules that share nothing.
#[test]
fn different_rules_take_at_most_100_bytes_each() {
    let rules = (0..1000u32)
        .map(|i| {
            let mut rule = any_rule("r", 100, AclAction::Deny, AclDirection::Inbound);
            rule.src = vec![IpNetwork::new(Ipv4Addr::from(0x0a00_0000 + i * 512).into(), 24).unwrap()];
            rule.dst = vec![IpNetwork::new(Ipv4Addr::from(0x0b00_0000 + i * 512).into(), 24).unwrap()];
            rule.src_ports = PortRange { first: (i * 60 + 1) as u16, last: (i * 60 + 30) as u16 };
            rule.dst_ports = PortRange { first: (i * 60 + 5) as u16, last: (i * 60 + 20) as u16 };
            rule
        })
        .collect();
    let bytes = compile(rules).bytes();
    assert!(bytes < 100 * 1000, "{bytes}");
}
