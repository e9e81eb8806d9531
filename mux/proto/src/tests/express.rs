//! The short way beside the long one: over changes of the table, with entries of every kind, in batches of everything.

use super::fixture::*;
use crate::{Distribution, MuxGoal, MuxResolver, Policy, VipLimit, VipRate};
use penstock_model::{Nanos, Underlay, Verdict};
use penstock_wire::{checksum, parse};
use proptest::prelude::*;
use std::net::IpAddr;

/// A packet of few flows, so that they come again.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::option::weighted(0.1, (12usize..60, any::<u8>()));
    (0u32..40, 0u8..6, any::<bool>(), any::<bool>(), damage).prop_map(|(n, kind, opens, is_partial, damage)| {
        let flags = if opens { SYN } else { ACK };
        let mut frame = match kind {
            0 | 1 => tcp(client(n), VIP, 80, flags),
            2 => tcp(client6(n), VIP6, 80, flags),
            3 => udp(client6(n), VIP6, 53),
            4 => udp(client(n), VIP, 53),
            _ => tcp(client(n), VIP, 81, flags),
        };
        frame.extend((frame.len()..60).map(|_| 0));
        if is_partial {
            leave_checksum(&mut frame);
        }
        if let Some((at, byte)) = damage {
            frame[at] = byte;
        }
        frame
    })
}

/// As a sender does whose interface completes it.
fn leave_checksum(frame: &mut [u8]) {
    let h = parse(frame).unwrap();
    let at = h.checksum_at().unwrap();
    let len = h.end as usize - usize::from(h.l4);
    let sum = checksum::fold(penstock_wire::rewrite::pseudo_header_sum(&h, len));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn goals() -> [MuxGoal; 5] {
    let first = goal(&[1, 2, 3, 4]);
    let second = changed(&first, &[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4]);
    let third = changed_again(&second, &[2, 3, 5], &[2, 3, 5, 6]);
    let fourth = settled(&third);
    let fifth = settled(&changed(&fourth, &[], &[]));
    [first, second, third, fourth, fifth]
}

/// A fresh one each time: two that go by one share its limits.
fn policy(goal: &MuxGoal, own: &str, distribution: Distribution, is_limited: bool) -> Policy {
    let mut goal = goal.clone();
    if is_limited {
        let (packets, flows) = (VipRate::new(60), VipRate::new(10));
        goal.limits = vec![VipLimit { vip: ip(VIP6), packets_per_second: packets, new_flows_per_second: flows }];
    }
    goal.services.iter_mut().for_each(|s| s.distribution = distribution);
    let own: IpAddr = ip(own);
    if own.is_ipv6() {
        goal.backends.iter_mut().for_each(|b| b.host = Underlay(ip(&format!("2001:db8:5::{}", b.id.0 % 2 + 1))));
    }
    // The way to one host is not known at first.
    let is_known = |host: Underlay<IpAddr>| goal.revision.0 > 1 || !host.0.to_string().ends_with('1');
    Policy::build(&goal, |host| next_hop(host).filter(|_| is_known(host)), Underlay(own)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn most_packets_leave_by_the_short_way_as_by_the_long_one(
        rounds in prop::collection::vec((prop::collection::vec(frames(), 1..80), any::<bool>()), 2..10),
        v6 in any::<bool>(),
        is_limited in any::<bool>(),
        distribution in prop::sample::select(vec![
            Distribution::Default,
            Distribution::SourceIp,
            Distribution::SourceIpProtocol,
        ]),
    ) {
        let own = if v6 { "2001:db8:4::1" } else { OWN };
        let policy = |goal: &MuxGoal| policy(goal, own, distribution, is_limited);
        let mut goals = goals().into_iter();
        let first = goals.next().unwrap();
        let mut short = Mux::with(policy(&first), [1, 2], |resolver| resolver);
        let mut long = Mux::with(policy(&first), [1, 2], MuxResolver::without_express);
        for (second, (frames, changes)) in (1..).zip(rounds) {
            let now = Nanos::from_secs(second);
            (short.now, long.now) = (now, now);
            let (a, b) = (short.run_all(&frames), long.run_all(&frames));
            for ((a, b), frame) in a.iter().zip(&b).zip(&frames) {
                prop_assert_eq!(a, b, "{:02x?}", frame);
            }
            prop_assert_eq!(short.port.ledger(), long.port.ledger());
            prop_assert_eq!(short.port.counters(), long.port.counters());
            prop_assert_eq!(short.port.resolver().services(), long.port.resolver().services());
            prop_assert_eq!(short.port.flows(), long.port.flows());
            if let Some(next) = goals.next().filter(|_| changes) {
                short.publish_policy(policy(&next));
                long.publish_policy(policy(&next));
            }
        }
    }
}

/// Else the test above would hold whatever the short way does.
#[test]
fn packets_of_settled_slots_and_of_established_flows_do_go_the_short_way() {
    let [first, second, ..] = goals();
    let mut mux = Mux::new(&first);
    let flows: Vec<_> = (0..64).map(|n| tcp(client(n), VIP, 80, ACK)).collect();
    let sent = |mux: &mut Mux| {
        let before = mux.port.resolver().expressed();
        assert!(mux.run_all(&flows).iter().all(|(verdict, _)| matches!(verdict, Verdict::Transmit(_))));
        mux.port.resolver().expressed() - before
    };
    assert_eq!(sent(&mut mux), 64);
    mux.publish(&second);
    let settled = sent(&mut mux);
    assert!((20..60).contains(&settled), "those whose slot has moved are new to the flow table: {settled}");
    // A flow is established by its second packet.
    sent(&mut mux);
    assert_eq!(sent(&mut mux), 64);
}
