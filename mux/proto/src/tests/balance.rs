use super::fixture::*;
use crate::{Distribution, MUX_MAC, Policy};
use penstock_model::{BackendId, DropReason, Mac, Protocol, Underlay};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

fn spread(mux: &mut Mux, frames: impl Iterator<Item = Vec<u8>>) -> BTreeMap<BackendId, u32> {
    let mut counts = BTreeMap::new();
    for frame in frames {
        *counts.entry(mux.backend(&frame)).or_default() += 1;
    }
    counts
}

/// Five standard deviations of a binomial distribution: one run in two million fails by chance, and the seed is fixed.
fn assert_even(counts: &BTreeMap<BackendId, u32>, backends: u32, packets: u32) {
    let p = 1.0 / f64::from(backends);
    let bound = 5.0 * (f64::from(packets) * p * (1.0 - p)).sqrt();
    assert_eq!(counts.len() as u32, backends);
    for (b, n) in counts {
        let off = (f64::from(*n) - f64::from(packets) * p).abs();
        assert!(off <= bound, "{b:?} got {n} of {packets}, more than {bound:.0} off its share");
    }
}

#[test]
fn connections_spread_evenly_for_both_families_and_protocols() {
    let mut mux = Mux::new(&goal(&[1, 2, 3, 4, 5]));
    assert_even(&spread(&mut mux, (0..10_000).map(|n| tcp(client(n), VIP, 80, SYN))), 5, 10_000);
    assert_even(&spread(&mut mux, (0..10_000).map(|n| udp(client(n), VIP, 53))), 5, 10_000);
    assert_even(&spread(&mut mux, (0..10_000).map(|n| tcp(client6(n), VIP6, 80, SYN))), 5, 10_000);
    assert_eq!(mux.port.flows(), 0, "a stable table needs no flow entry");
}

#[test]
fn ports_alone_spread_the_connections_of_one_client() {
    let mut mux = Mux::new(&goal(&[1, 2, 3]));
    let frames = (1024..11_024).map(|p| tcp(SocketAddr::new(client(7).ip(), p), VIP, 80, SYN));
    assert_even(&spread(&mut mux, frames), 3, 10_000);
}

#[test]
fn two_muxes_with_different_boot_secrets_choose_the_same_backend() {
    let goal = goal(&[1, 2, 3, 4]);
    let (mut a, mut b) = (Mux::with_secret(&goal, [1, 1]), Mux::with_secret(&goal, [9, 77]));
    for n in 0..2_000 {
        let (four, six) = (tcp(client(n), VIP, 80, ACK), tcp(client6(n), VIP6, 80, ACK));
        assert_eq!(a.backend(&four), b.backend(&four));
        assert_eq!(a.backend(&six), b.backend(&six));
    }
}

#[test]
fn another_hash_seed_is_another_choice() {
    let one = goal(&[1, 2, 3, 4]);
    let two = crate::MuxGoal { hash_seed: [11, 23], ..one.clone() };
    let (mut a, mut b) = (Mux::new(&one), Mux::new(&two));
    let same =
        (0..1_000).filter(|n| a.backend(&tcp(client(*n), VIP, 80, SYN)) == b.backend(&tcp(client(*n), VIP, 80, SYN)));
    assert!((150..350).contains(&same.count()), "a quarter agrees by chance");
}

/// Muxes of different versions must agree: these slots may never change.
#[test]
fn the_slot_of_a_packet_is_pinned() {
    let policy = build(&goal(&[1, 2, 3]));
    let slot =
        |frame: &[u8]| match crate::decide::decide(&policy, frame, &penstock_wire::parse(frame).unwrap(), &mut ()) {
            crate::decide::Decision::Stable(place) => place.slot,
            other => panic!("{other:?}"),
        };
    let slots = [0, 1, 2].map(|n| slot(&tcp(client(n), VIP, 80, SYN)));
    let slots6 = [0, 1, 2].map(|n| slot(&udp(client6(n), VIP6, 53)));
    assert_eq!((slots, slots6), (PINNED, PINNED6));
}

const PINNED: [u64; 3] = [397, 3173, 850];
const PINNED6: [u64; 3] = [4062, 3016, 1343];

#[test]
fn source_ip_distribution_keeps_all_connections_of_a_client_together() {
    let mut goal = goal(&[1, 2, 3, 4]);
    goal.services.iter_mut().for_each(|s| s.distribution = Distribution::SourceIp);
    let mut mux = Mux::new(&goal);
    let mut split = 0;
    for n in 0..200 {
        let owner = mux.backend(&tcp(client(n), VIP, 80, SYN));
        for port in [1, 2000, 40_000] {
            assert_eq!(mux.backend(&tcp(SocketAddr::new(client(n).ip(), port), VIP, 80, SYN)), owner);
        }
        assert_eq!(mux.backend(&udp(client(n), VIP, 53)), owner, "addresses alone choose");
        goal.services.iter_mut().for_each(|s| s.distribution = Distribution::SourceIpProtocol);
        split += usize::from(Mux::new(&goal).backend(&udp(client(n), VIP, 53)) != owner);
    }
    assert!((100..200).contains(&split), "with the protocol the two protocols part: {split}");
}

#[test]
fn the_frame_on_the_underlay_is_vxlan_to_the_backend_s_host() {
    let mut mux = Mux::new(&goal(&[1, 2, 3]));
    let frame = tcp(client(5), VIP, 80, SYN);
    let sent = mux.send(&frame).unwrap();
    let b = backend(sent.backend().0);
    let at = usize::from(sent.inner.l2);
    assert_eq!((sent.outer.src.to_ip(), sent.outer.dst.to_ip()), (ip(OWN), b.host.0));
    assert_eq!((sent.outer.protocol, sent.outer.dst_port, sent.vni), (Protocol::UDP, 4789, b.dip.vni));
    assert_eq!(&sent.frame[..6], next_hop(b.host).unwrap().eth_dst.0);
    assert_eq!((&sent.frame[at..at + 6], &sent.frame[at + 6..at + 12]), (&b.mac.0[..], &MUX_MAC.0[..]));
    assert_eq!(sent.inner.dst.to_ip(), ip(VIP), "the virtual IP stays the inner destination");
    assert_eq!((sent.inner.ttl, sent.inner.src.to_ip()), (59, client(5).ip()));
    assert_eq!(&sent.frame[usize::from(sent.inner.l4)..], &frame[34..], "the segment is untouched");
}

#[test]
fn outer_source_ports_vary_between_flows_and_not_within_one() {
    let mut mux = Mux::new(&goal(&[1]));
    let ports: HashSet<u16> =
        (0..500).map(|n| mux.send(&tcp(client(n), VIP, 80, ACK)).unwrap().outer.src_port).collect();
    assert!(ports.len() > 400, "{} ports for 500 flows", ports.len());
    let mut again = || mux.send(&tcp(client(3), VIP, 80, ACK)).unwrap().outer.src_port;
    assert_eq!(again(), again());
}

#[test]
fn counters_name_backend_and_service() {
    let mut mux = Mux::new(&goal(&[1, 2]));
    let mut per_backend = [0; 3];
    for n in 0..100 {
        per_backend[mux.backend(&tcp(client(n), VIP, 80, SYN)).0 as usize] += 1;
    }
    mux.backend(&udp(client(1), VIP, 53));
    per_backend[mux.backend(&udp(client(1), VIP, 53)).0 as usize] += 2;
    let counted: Vec<_> = mux.port.counters().iter().map(|c| c.packets).take(3).collect();
    assert_eq!(counted, per_backend);
    let services = mux.port.resolver().services();
    assert_eq!((services[1].packets, services[2].packets, services[3].packets), (100, 2, 0));
    assert_eq!(services[1].bytes, 100 * tcp(client(0), VIP, 80, SYN).len() as u64);
}

#[test]
fn what_cannot_be_forwarded_ends_by_name() {
    let mut mux = Mux::new(&goal(&[1]));
    assert_eq!(mux.send(&tcp(client(1), VIP, 81, SYN)), Err(DropReason::NoServiceOnPort));
    assert_eq!(mux.send(&udp(client(1), VIP, 80)), Err(DropReason::NoServiceOnPort));
    assert_eq!(mux.send(&tcp(client(1), VIP, 0, SYN)), Err(DropReason::NoServiceOnPort));
    assert_eq!(mux.send(&tcp(client(1), "203.0.113.11", 80, SYN)), Err(DropReason::NotOurs));
    let mut empty = Mux::new(&goal(&[]));
    assert_eq!(empty.send(&tcp(client(1), VIP, 80, SYN)), Err(DropReason::NoHealthyBackend));
    let unresolved = Policy::build(&goal(&[1]), |_| None, Underlay(ip(OWN))).unwrap();
    let e = crate::explain(&std::sync::Arc::new(unresolved), &tcp(client(1), VIP, 80, SYN), penstock_model::PortId(0));
    assert_eq!(e.ending, penstock_engine::Ending::Drop(DropReason::NextHopUnresolved));
}

fn fragmented(mut frame: Vec<u8>, id: u16, flags_offset: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
    frame[24..26].fill(0);
    let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn pieces(n: u32, id: u16) -> [Vec<u8>; 2] {
    [0x2000, 0x0001].map(|flags_offset| fragmented(udp(client(n), VIP, 53), id, flags_offset))
}

#[test]
fn pieces_of_a_packet_go_where_the_packet_would() {
    let mut mux = Mux::new(&goal(&[1, 2, 3, 4]));
    for n in 0..200 {
        let whole = mux.backend(&udp(client(n), VIP, 53));
        let [first, later] = pieces(n, n as u16);
        assert_eq!([first, later.clone(), later].map(|piece| mux.backend(&piece)), [whole; 3]);
        let [_, stray] = pieces(n, 7000);
        assert_eq!(mux.send(&stray), Err(DropReason::FragmentUnsupported), "its first went elsewhere");
    }
    let seen = mux.port.resolver().fragments();
    assert_eq!((seen.first, seen.later, seen.orphans), (200, 400, 200));
}

#[test]
fn pieces_go_where_the_flow_goes_while_slots_change_hands() {
    let before = goal(&[1, 2]);
    let mut mux = Mux::new(&before);
    mux.publish(&changed(&before, &[1, 2, 3], &[1, 2]));
    for n in 0..300 {
        let [first, later] = pieces(n, n as u16);
        let flow = mux.backend(&first);
        assert_eq!((mux.backend(&later), mux.backend(&udp(client(n), VIP, 53))), (flow, flow));
    }
    assert!(mux.port.flows() > 50);
}

#[test]
fn where_ports_do_not_choose_a_piece_needs_no_first() {
    let mut by_address = goal(&[1, 2, 3, 4]);
    by_address.services.iter_mut().for_each(|s| s.distribution = Distribution::SourceIp);
    let mut mux = Mux::new(&by_address);
    for n in 0..100 {
        let whole = mux.backend(&udp(client(n), VIP, 53));
        let [first, later] = pieces(n, n as u16);
        assert_eq!((mux.backend(&later), mux.backend(&first)), (whole, whole));
    }
}

#[test]
fn a_changed_next_hop_is_used_by_the_same_tables() {
    let policy = build(&goal(&[1]));
    let moved = policy.with_next_hops(|h| next_hop(h).map(|n| crate::NextHopInfo { eth_dst: Mac([6; 6]), ..n }));
    assert_eq!((policy.unresolved(), moved.unresolved(), policy.with_next_hops(|_| None).unresolved()), (0, 0, 2));
    let out = crate::explain(&std::sync::Arc::new(moved), &tcp(client(1), VIP, 80, SYN), penstock_model::PortId(0));
    assert_eq!(out.frame[..6], [6; 6]);
}
