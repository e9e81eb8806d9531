//! Virtual IPs with limits, beside others, under floods.

use super::fixture::*;
use crate::{Foreign, LimitCounts, MuxGoal, MuxResolver, Policy, VipLimit, VipRate, explain};
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowTable;
use penstock_model::{BackendId, DropReason, HEADROOM, Nanos, Packet, PortId, Protocol, Verdict};
use std::sync::Arc;

const OTHER: &str = "203.0.113.20";

fn limit(packets: Option<u32>, new_flows: Option<u32>) -> VipLimit {
    let rate = |n: Option<u32>| n.map(|n| VipRate::new(n).unwrap());
    VipLimit { vip: ip(VIP), packets_per_second: rate(packets), new_flows_per_second: rate(new_flows) }
}

/// The usual goal with a second virtual IP beside the one that has the limit.
fn limited(limit: VipLimit) -> MuxGoal {
    let mut goal = goal(&[1, 2, 3, 4]);
    goal.services.push(service(5, OTHER, Protocol::TCP, 80));
    MuxGoal { limits: vec![limit], ..goal }
}

/// All slots change hands, so that all flows need the flow table.
fn all_moved(before: &MuxGoal) -> MuxGoal {
    changed(before, &[5, 6, 7, 8], &[1, 2, 3, 4])
}

fn counts(mux: &mut Mux) -> LimitCounts {
    mux.port.resolver_mut().tell_limits();
    mux.policy().limit_counts()[&ip(VIP)]
}

fn dropped(mux: &Mux, reason: DropReason) -> u64 {
    mux.port.ledger().dropped_for(reason)
}

#[test]
fn only_a_virtual_ip_with_a_limit_leaves_the_short_way_and_neither_it_nor_the_kernel_knows_its_rules() {
    let mut mux = Mux::new(&limited(limit(Some(1_000_000), None)));
    let acks = |vip| (0..64).map(|n| tcp(client(n), vip, 80, ACK)).collect::<Vec<_>>();
    assert!(mux.run_all(&acks(OTHER)).iter().all(|(verdict, _)| *verdict == Verdict::Transmit(PortId(0))));
    assert_eq!(mux.port.resolver().expressed(), 64);
    assert!(mux.run_all(&acks(VIP)).iter().all(|(verdict, _)| *verdict == Verdict::Transmit(PortId(0))));
    assert_eq!(mux.port.resolver().expressed(), 64);
    let known: Vec<u32> = mux.policy().replay_image(PortId(0), 1600).services.iter().map(|s| s.service).collect();
    assert!([3, 4, 5].iter().all(|id| known.contains(id)) && ![1, 2].iter().any(|id| known.contains(id)), "{known:?}");
    assert_eq!(mux.port.resolver().services()[1].packets, 64);
}

#[test]
fn new_connections_beyond_twice_the_limit_are_dropped_and_packets_of_others_are_not() {
    let mut mux = Mux::new(&limited(limit(None, Some(100))));
    let mut passed = 0;
    for ms in 0..10_000u64 {
        mux.now = Nanos(1_000_000_000 + ms * 1_000_000);
        let new = client(ms as u32);
        passed += u64::from(mux.send(&tcp(new, VIP, 80, SYN)).is_ok());
        assert!(mux.send(&tcp(client(7), VIP, 80, ACK)).is_ok(), "a connection that is under way");
        assert!(mux.send(&udp(new, VIP, 53)).is_ok(), "where slots stay, what is new of UDP nobody can tell");
        assert!(mux.send(&tcp(new, OTHER, 80, SYN)).is_ok(), "another virtual IP");
    }
    // 32 at once of each kind.
    assert!((2000..=2064).contains(&passed), "{passed} of 10,000 in ten seconds");
    let expected = LimitCounts { packets_dropped: 0, flows_stateless: passed / 2, flows_dropped: 10_000 - passed };
    let told = counts(&mut mux);
    assert!(told.flows_stateless.abs_diff(expected.flows_stateless) <= 32, "{told:?}");
    assert_eq!(LimitCounts { flows_stateless: 0, ..told }, LimitCounts { flows_stateless: 0, ..expected });
    assert_eq!(dropped(&mux, DropReason::VipFlowLimit), told.flows_dropped);
}

#[test]
fn beyond_the_limit_new_flows_leave_no_entry_and_go_where_they_would_with_one() {
    let first = limited(limit(None, Some(1)));
    let (mut mux, mut free) = (Mux::new(&first), Mux::new(&MuxGoal { limits: Vec::new(), ..first.clone() }));
    let next = all_moved(&first);
    mux.publish(&next);
    free.publish(&MuxGoal { limits: Vec::new(), ..next });
    for n in 0..64 {
        let syn = tcp(client(n), VIP, 80, SYN);
        assert_eq!(mux.backend(&syn), free.backend(&syn), "flow {n}");
    }
    assert_eq!((mux.port.flows(), free.port.flows()), (32, 64));
    assert_eq!(counts(&mut mux).flows_stateless, 32);
    assert_eq!(mux.send(&tcp(client(64), VIP, 80, SYN)).unwrap_err(), DropReason::VipFlowLimit);
    for n in 32..64 {
        let sent = mux.send(&tcp(client(n), VIP, 80, ACK)).unwrap();
        let owner = free.backend(&tcp(client(n), VIP, 80, ACK));
        assert!(sent.next.contains(&owner), "without an entry the connection is found by the second chance: {sent:?}");
        assert!(mux.send(&udp(client(n), VIP, 53)).is_ok(), "datagrams are never dropped for want of an entry");
    }
    assert_eq!(mux.port.flows(), 32);
}

#[test]
fn of_too_many_packets_those_of_connections_are_dropped_last_and_answers_to_pings_too() {
    let mut mux = Mux::new(&limited(limit(Some(1000), None)));
    let mut passed = |frame: &[u8]| (0..1000).filter(|_| mux.send(frame).is_ok()).count();
    assert_eq!(passed(&tcp(client(1), VIP, 80, SYN)), 100);
    assert_eq!(passed(&tcp(client(1), VIP, 80, ACK)), 100);
    assert_eq!(passed(&tcp(client(1), OTHER, 80, SYN)), 1000);
    let ping = packet(client(1).ip(), ip(VIP), Protocol::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1], Some(2));
    assert_eq!(mux.send(&ping).unwrap_err(), DropReason::VipPacketLimit);
    assert_eq!(dropped(&mux, DropReason::VipPacketLimit), 1801);
    assert_eq!(counts(&mut mux).packets_dropped, 1801);
}

#[test]
fn a_new_policy_gives_no_virtual_ip_more_than_its_limit_and_its_counts_go_on() {
    let goal = limited(limit(None, Some(10)));
    let mut mux = Mux::new(&goal);
    let flood = |mux: &mut Mux| (0..1000).filter(|n| mux.send(&tcp(client(*n), VIP, 80, SYN)).is_ok()).count();
    assert_eq!(flood(&mut mux), 64);
    mux.publish(&goal);
    assert_eq!(flood(&mut mux), 0);
    mux.publish(&limited(limit(None, Some(20))));
    assert_eq!(flood(&mut mux), 64);
    assert_eq!(counts(&mut mux), LimitCounts { packets_dropped: 0, flows_stateless: 64, flows_dropped: 2872 });
    mux.publish(&MuxGoal { limits: Vec::new(), ..goal });
    assert_eq!(flood(&mut mux), 1000);
}

#[test]
fn trace_says_the_limit_and_takes_nothing_of_it() {
    let policy = Arc::new(build(&limited(limit(Some(5000), Some(10)))));
    let syn = tcp(client(1), VIP, 80, SYN);
    for _ in 0..200 {
        let told = explain(&policy, &syn, PortId(0));
        assert_eq!(told.ending, penstock_engine::Ending::Transmit(PortId(0)));
        let step = told.steps.iter().find(|s| s.layer == "limit").unwrap();
        assert!(step.text.contains("5000 packets a second") && step.text.contains("10 new flows"), "{}", step.text);
    }
    assert!(!explain(&policy, &tcp(client(1), OTHER, 80, SYN), PortId(0)).steps.iter().any(|s| s.layer == "limit"));
    assert_eq!(policy.limit_counts()[&ip(VIP)], LimitCounts::default());
}

/// SYNs from everywhere, one buffer for all.
struct Flood {
    frame: Vec<u8>,
    sent: u32,
}

impl Flood {
    fn new() -> Self {
        Self { frame: tcp(client(0), VIP, 80, SYN), sent: 0 }
    }

    /// The IP and TCP checksums are not the packets' own: the mux reads the first alone.
    fn next(&mut self) -> Vec<u8> {
        self.sent += 1;
        let n = self.sent.wrapping_mul(0x9e37_79b9);
        let mut frame = self.frame.clone();
        frame[26..30].copy_from_slice(&[11, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8]);
        frame[34..36].copy_from_slice(&(n as u16 | 1).to_be_bytes());
        frame[24..26].fill(0);
        let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }
}

/// The 64 packets' backends, or why they were dropped.
fn process(port: &mut Port<MuxResolver>, frames: &[Vec<u8>], now: Nanos) -> Vec<Result<BackendId, DropReason>> {
    let mut buffers: Vec<Vec<u8>> = frames.iter().map(|f| [&[0; HEADROOM], f.as_slice()].concat()).collect();
    let mut batch: Vec<Packet<'_>> = buffers
        .iter_mut()
        .zip(frames)
        .map(|(buffer, f)| Packet::new(buffer, HEADROOM, f.len(), PortId(0)).unwrap())
        .collect();
    port.process(&mut batch, now);
    let one = |packet: &Packet<'_>| match packet.verdict {
        // The last byte of the inner destination, which the whole inner frame ends behind.
        Verdict::Transmit(_) => {
            let frame = packet.frame();
            let inner = frame.windows(3).position(|w| w == [2, 0x50, 0]).unwrap();
            Ok(BackendId(u32::from(frame[inner + 5])))
        }
        Verdict::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    };
    batch.iter().map(one).collect()
}

/// 100,000 connections, half of them of the virtual IP that is attacked. The flood comes at once, then at a million a second.
#[test]
fn a_flood_of_syns_of_any_rate_ends_none_of_100_000_connections_and_touches_no_other_virtual_ip() {
    const CONNECTIONS: u32 = 100_000;
    let first = limited(limit(None, Some(1000)));
    let published = Arc::new(ArcSwap::from_pointee(build(&first)));
    let next = Policy::succeed(build(&all_moved(&first)), &published.load());
    published.store(Arc::new(next));
    let resolver = MuxResolver::new(Arc::clone(&published), [1, 2], Foreign::Drop);
    let mut port = Port::new(resolver, FlowTable::new(1 << 17));
    port.ensure_counters(64);
    let mut now = Nanos::from_secs(1);
    let vip = |n: u32| if n.is_multiple_of(2) { VIP } else { OTHER };
    let acks = |from: u32| (from..from + 64).map(|n| tcp(client(n), vip(n), 80, ACK)).collect::<Vec<_>>();
    let mut owners = Vec::new();
    for from in (0..CONNECTIONS).step_by(64) {
        // So that the limit lets them leave an entry; the second packet establishes it.
        now.0 += 100_000_000;
        process(&mut port, &acks(from), now);
        owners.push(process(&mut port, &acks(from), now));
    }
    let established = port.flow_table().established();
    assert!(established >= CONNECTIONS as usize, "{established}");
    let mut flood = Flood::new();
    let begun = port.ledger().clone();
    for round in 0..4_000u64 {
        now.0 += if round < 2_000 { 0 } else { 60_000 };
        let mut frames: Vec<Vec<u8>> = (0..60).map(|_| flood.next()).collect();
        let new = CONNECTIONS + 64 + round as u32;
        frames.extend([tcp(client(new), OTHER, 80, SYN), tcp(client(new), OTHER, 80, ACK)]);
        let answers = process(&mut port, &frames, now);
        assert!(
            answers[60].is_ok() && answers[60] == answers[61],
            "a new connection of another virtual IP: {answers:?}"
        );
    }
    let dropped = port.ledger().dropped_for(DropReason::VipFlowLimit) - begun.dropped_for(DropReason::VipFlowLimit);
    assert!(dropped > 239_000, "{dropped} of 240,000");
    assert_eq!(port.flow_table().established(), established + 4000, "none is gone");
    for (from, before) in (0..CONNECTIONS).step_by(64).zip(&owners) {
        let resolved = port.resolved();
        assert_eq!(&process(&mut port, &acks(from), now), before);
        assert_eq!(port.resolved(), resolved, "by their entries");
    }
}

/// Two workers on one policy.
#[test]
fn workers_share_a_limit() {
    let published = Arc::new(ArcSwap::from_pointee(build(&limited(limit(None, Some(100))))));
    let worker = || Mux::on(&published);
    let mut workers = [worker(), worker()];
    let mut passed = 0;
    for ms in 0..5000u64 {
        for (i, mux) in workers.iter_mut().enumerate() {
            mux.now = Nanos(1_000_000_000 + ms * 1_000_000);
            passed += u64::from(mux.send(&tcp(client(ms as u32 * 2 + i as u32), VIP, 80, SYN)).is_ok());
        }
    }
    assert!((990..=1064).contains(&passed), "{passed} in five seconds");
}

#[test]
fn a_limit_of_no_virtual_ip_or_a_second_one_is_refused() {
    let of = |limits: Vec<VipLimit>| {
        let goal = MuxGoal { limits, ..limited(limit(None, None)) };
        Policy::build(&goal, next_hop, penstock_model::Underlay(ip(OWN))).unwrap_err().to_string()
    };
    let foreign = VipLimit { vip: ip("9.9.9.9"), ..limit(None, None) };
    assert_eq!(of(vec![foreign]), "mux goal, limits[0].vip: 9.9.9.9 is no virtual IP of the goal");
    assert_eq!(of(vec![limit(None, None); 2]), "mux goal, limits[1].vip: 203.0.113.10 is limited twice");
    let text = serde_json::to_string(&limit(Some(5), None)).unwrap();
    assert_eq!(serde_json::from_str::<VipLimit>(&text).unwrap(), limit(Some(5), None));
    let wrong = serde_json::from_str::<VipLimit>(&text.replace('5', "0")).unwrap_err().to_string();
    assert!(wrong.contains("0 is not from 1 to 100000000"), "{wrong}");
}
