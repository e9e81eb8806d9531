//! Access lists of 10 to 10,000 rules: what the first packet of a flow costs, by the classifier and by its linear twin, and
//! what it costs to compile a list, which is what stands between a change of rules and the data path.
use super::Random;
use super::measure::{Cost, measure, report};
use super::pool::{Pool, processor_time};
use crate::report::Report;
use penstock_model::{Addr16, FlowKey, Protocol, TenantId};
use penstock_policy::{Acl, AclAction, AclDirection, AclMatch, AclRule, CompiledAcl, PortRange};
use std::fmt::Debug;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::str::FromStr;

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
const COMPILATIONS: usize = 15;

/// The rows' `flows` are rules.
pub(crate) fn run(out: &mut Report) {
    of_kind(out, "", firewall);
    of_kind(out, "-mixed", mixed);
}

fn of_kind(out: &mut Report, kind: &str, rule: fn(u32) -> AclRule) {
    let name = |of: &str| format!("core/acl{kind}{of}");
    for rules in SIZES {
        let acl = Acl { name: "large".into(), rules: (0..rules).map(rule).collect() };
        let compiled = CompiledAcl::compile(&acl, &[]).unwrap();
        let mut random = Random::new();
        for _ in 0..2_000 {
            let key = key(&mut random, rules);
            let because = compiled.evaluate(AclDirection::Inbound, &key).because;
            assert_eq!(because, linear(&acl, &key), "{key:?}");
        }
        let classify = |key: &FlowKey| compiled.evaluate(AclDirection::Inbound, key).because;
        evaluate(out, &name(""), rules, classify);
        evaluate(out, &name("-linear"), rules, |key| linear(&acl, key));
        if out.wants(&name("-compile")) {
            let bytes = compiled.bytes() as f64 / f64::from(rules);
            report(out, &name("-compile"), Some(rules.into()), 0, compile(&acl), Some(bytes));
        }
    }
}

fn evaluate(out: &mut Report, name: &str, rules: u32, classify: impl Fn(&FlowKey) -> AclMatch) {
    if !out.wants(name) {
        return;
    }
    let mut random = Random::new();
    let keys: Vec<FlowKey> = (0..Pool::PACKETS).map(|_| key(&mut random, rules)).collect();
    let cost = measure(|| {
        let start = processor_time();
        for key in &keys {
            black_box(classify(black_box(key)));
        }
        processor_time() - start
    });
    report(out, name, Some(rules.into()), 0, cost, None);
}

/// Nanoseconds for a list, median and range.
fn compile(acl: &Acl) -> Cost {
    let mut times: Vec<f64> = (0..COMPILATIONS)
        .map(|_| {
            let start = processor_time();
            black_box(CompiledAcl::compile(black_box(acl), &[]).unwrap());
            (processor_time() - start).as_nanos() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    Cost { median: times[COMPILATIONS / 2], range: (times[0], times[COMPILATIONS - 1]) }
}

/// What a firewall's list looks like when nothing in it repeats: each rule names a network of its own, a host of its own
/// and a port or a range.
fn firewall(n: u32) -> AclRule {
    AclRule {
        name: format!("rule {n}"),
        priority: u16::try_from(n + 1).unwrap(),
        action: if n.is_multiple_of(3) { AclAction::Deny } else { AclAction::Allow },
        direction: AclDirection::Inbound,
        protocol: Some(protocol(n)),
        src: vec![network(source(n), 24 - n % 3)],
        dst: vec![network(destination(n), 32)],
        src_ports: PortRange::ANY,
        dst_ports: ports(n),
        log: false,
    }
}

/// Rules of four kinds: networks that lie inside each other as sources alone, the same as destinations alone, those of
/// [`firewall`], and rules for a host and all its ports or some.
fn mixed(n: u32) -> AclRule {
    let of_firewall = firewall(n);
    let (of_kind, anywhere) = (n / 4, Vec::new());
    match n % 4 {
        0 => AclRule { src: vec![network(source(n), 16 + of_kind % 13)], dst: anywhere, ..of_firewall },
        1 => AclRule { src: anywhere, dst: vec![network(destination(n), 24 + of_kind % 9)], ..of_firewall },
        2 => of_firewall,
        _ if of_kind.is_multiple_of(2) => AclRule { src: anywhere, dst_ports: PortRange::ANY, ..of_firewall },
        _ => AclRule { src: anywhere, ..of_firewall },
    }
}

fn network<T: FromStr<Err: Debug>>(addr: Ipv4Addr, length: u32) -> T {
    format!("{addr}/{length}").parse().unwrap()
}

fn protocol(n: u32) -> Protocol {
    if n.is_multiple_of(5) { Protocol::UDP } else { Protocol::TCP }
}

fn source(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n.wrapping_mul(40_503) % 65_536 * 256)
}

fn destination(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + n)
}

fn ports(n: u32) -> PortRange {
    let first = 1 + (n * 7 % 60_000) as u16;
    PortRange { first, last: first + (n % 4) as u16 * 100 }
}

/// Nine of ten packets match a rule, the others none.
fn key(random: &mut Random, rules: u32) -> FlowKey {
    let n = random.below(rules.into()) as u32;
    let port = if random.below(10) == 0 { 65_000 } else { ports(n).first };
    let (src, dst) = (source(n).octets(), destination(n).octets());
    FlowKey::new(TenantId(1), Addr16::from_v4(src), Addr16::from_v4(dst), protocol(n), 40_000, port)
}

/// The list as it reads. Its rules stand in the order of their priorities.
fn linear(acl: &Acl, key: &FlowKey) -> AclMatch {
    let (src, dst) = (key.src.to_ip(), key.dst.to_ip());
    let matches = |rule: &AclRule| {
        rule.protocol == Some(key.protocol())
            && rule.dst_ports.contains(key.dst_port)
            && (rule.dst.is_empty() || rule.dst.iter().any(|p| p.contains(dst)))
            && (rule.src.is_empty() || rule.src.iter().any(|p| p.contains(src)))
    };
    acl.rules.iter().position(matches).map_or(AclMatch::Default, |n| AclMatch::Rule(n as u32))
}
