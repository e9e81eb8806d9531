//! Packets that come in pieces: later ones go, and are translated, as their first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_engine::FragmentCounts;
use penstock_model::*;
use penstock_slb_host::{HostGoal, ROUTER_MAC, SnatLease};
use penstock_wire::{Fragment, checksum, parse};
use std::net::SocketAddr;
use std::time::Duration;

const MUX_MAC: Mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
/// Bytes of the transport's packet in the first piece.
const CUT: usize = 1200;

fn udp_goal() -> HostGoal {
    let mut goal = goal();
    goal.nat_rules.iter_mut().for_each(|r| r.protocol = Protocol::UDP);
    goal
}

fn datagram(eth: (Mac, Mac), src: &str, dst: &str) -> Vec<u8> {
    let (s, d) = (sock(src), sock(dst));
    let mut l4 = [s.port().to_be_bytes(), d.port().to_be_bytes(), 3008u16.to_be_bytes(), [0, 0]].concat();
    l4.extend((0..3000u32).map(|n| (n * 7) as u8));
    transport(eth.0, eth.1, s.ip(), d.ip(), Protocol::UDP, 6, l4)
}

/// The packet in two pieces.
fn cut(whole: &[u8], id: u16) -> [Vec<u8>; 2] {
    let v4 = whole[12] == 8;
    let (ip, l4) = if v4 { (&whole[14..34], &whole[34..]) } else { (&whole[14..54], &whole[54..]) };
    let piece = |from: usize, to: usize, more: bool| {
        let mut f = whole[..14].to_vec();
        f.extend(ip);
        if v4 {
            f[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
            f[18..20].copy_from_slice(&id.to_be_bytes());
            f[20..22].copy_from_slice(&(((from / 8) as u16) | if more { 0x2000 } else { 0 }).to_be_bytes());
            set_sum(&mut f);
        } else {
            f[18..20].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
            f[20] = 44;
            f.extend([17, 0]);
            f.extend(((from as u16) | u16::from(more)).to_be_bytes());
            f.extend([0, 0]);
            f.extend(id.to_be_bytes());
        }
        f.extend(&l4[from..to]);
        f
    };
    [piece(0, CUT, true), piece(CUT, l4.len(), false)]
}

fn set_sum(f: &mut [u8]) {
    f[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&f[14..34], 0));
    f[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// What a receiver makes of the pieces, its checksum checked; both have to have come by the same way.
fn join(pieces: &[Vec<u8>]) -> Seen {
    let headers: Vec<_> = pieces.iter().map(|p| parse(p).unwrap()).collect();
    assert_eq!([headers[0].fragment, headers[1].fragment], [Fragment::First, Fragment::Later]);
    assert_eq!((headers[0].src, headers[0].dst, headers[0].ttl), (headers[1].src, headers[1].dst, headers[1].ttl));
    assert_eq!(pieces[0][..12], pieces[1][..12]);
    let v4 = headers[0].is_v4();
    let mut whole = pieces[0][..if v4 { 34 } else { 54 }].to_vec();
    for (h, piece) in headers.iter().zip(pieces) {
        whole.extend(&piece[usize::from(h.l4)..]);
    }
    if v4 {
        let len = (whole.len() - 14) as u16;
        whole[16..18].copy_from_slice(&len.to_be_bytes());
        whole[18..22].fill(0);
        set_sum(&mut whole);
    } else {
        let len = (whole.len() - 54) as u16;
        whole[18..20].copy_from_slice(&len.to_be_bytes());
        whole[20] = 17;
    }
    see(&whole)
}

fn by_mux(piece: &[u8]) -> Vec<u8> {
    vxlan(MUX, vni(1), piece)
}

fn seen(src: &str, dst: &str) -> (SocketAddr, SocketAddr) {
    (sock(src), sock(dst))
}

#[test]
fn a_datagram_in_pieces_reaches_the_container_and_its_answer_in_pieces_the_client() {
    for (client, vip, dip) in [(CLIENT, VIP, "10.0.0.2:8080"), (CLIENT6, VIP6, "[fd00::2]:8080")] {
        let mut host = Host::new(&udp_goal());
        let question = cut(&datagram((MUX_MAC, mac(1, 2)), client, vip), 7);
        let inside = join(&question.map(|p| host.sent(UNDERLAY, &by_mux(&p), port(1, 2))));
        assert_eq!((inside.src, inside.dst), seen(client, dip));
        let answer = cut(&datagram((mac(1, 2), ROUTER_MAC), dip, client), 7);
        let outside = join(&answer.map(|p| host.sent(port(1, 2), &p, UNDERLAY)));
        assert_eq!((outside.src, outside.dst, outside.ttl), (sock(vip), sock(client), 63));
        assert_eq!(host.engine.resolver().fragments(), FragmentCounts { first: 2, later: 2, orphans: 0 });
    }
}

#[test]
fn a_datagram_in_pieces_leaves_by_a_leased_port_and_is_answered_in_pieces() {
    let lease = SnatLease {
        network_interface: "t1-c2".to_owned(),
        dip: Overlay(ip("10.0.0.2")),
        vip: ip("198.51.100.9"),
        first: 1024,
        count: 64,
        protocol: None,
    };
    let mut host = Host::new(&HostGoal { snat: vec![lease], ..goal() });
    let question = cut(&datagram((mac(1, 2), ROUTER_MAC), "10.0.0.2:40000", "192.0.2.80:53"), 9);
    let left = join(&question.map(|p| host.sent(port(1, 2), &p, UNDERLAY)));
    assert_eq!((left.src.ip(), left.dst), (ip("198.51.100.9"), sock("192.0.2.80:53")));
    let answer = cut(&datagram((MUX_MAC, mac(1, 2)), "192.0.2.80:53", &left.src.to_string()), 9);
    let inside = join(&answer.map(|p| host.sent(UNDERLAY, &by_mux(&p), port(1, 2))));
    assert_eq!((inside.src, inside.dst), seen("192.0.2.80:53", "10.0.0.2:40000"));
}

#[test]
fn a_later_piece_alone_or_of_another_tenant_or_too_late_is_dropped_by_name() {
    let mut host = Host::new(&udp_goal());
    let [first, later] = cut(&datagram((MUX_MAC, mac(1, 2)), CLIENT, VIP), 7);
    assert_eq!(host.dropped(UNDERLAY, &by_mux(&later)), DropReason::FragmentUnsupported);
    // To explain the first is not to see it.
    host.engine.explain(&by_mux(&first), UNDERLAY, host.now);
    assert_eq!(host.dropped(UNDERLAY, &by_mux(&later)), DropReason::FragmentUnsupported);
    host.sent(UNDERLAY, &by_mux(&first), port(1, 2));
    let [_, other] = cut(&datagram((MUX_MAC, mac(1, 2)), CLIENT, VIP), 8);
    assert_eq!(host.dropped(UNDERLAY, &by_mux(&other)), DropReason::FragmentUnsupported);
    let mut elsewhere = later.clone();
    elsewhere[..6].copy_from_slice(&mac(2, 2).0);
    assert_eq!(host.dropped(UNDERLAY, &vxlan(MUX, vni(2), &elsewhere)), DropReason::FragmentUnsupported);
    host.now = host.now.plus(Duration::from_secs(10));
    assert_eq!(host.dropped(UNDERLAY, &by_mux(&later)), DropReason::FragmentUnsupported);
    assert_eq!(host.engine.resolver().fragments(), FragmentCounts { first: 1, later: 0, orphans: 5 });
}
