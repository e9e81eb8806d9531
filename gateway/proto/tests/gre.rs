//! GRE connections of two tenants with the same addresses, to one peer: told apart by key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_engine::Ending;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_wire::gre::GreOptions;
use penstock_wire::{checksum, ethertype};
use std::net::IpAddr;
use std::sync::Arc;

const PEER: &str = "198.51.100.9";

fn gre(peer: &str, key: Option<u32>) -> TunnelKind {
    TunnelKind::Gre { peer: Underlay(ip(peer)), key, checksum: false }
}

/// Both tenants have a site behind the same peer.
fn two_keys() -> GatewayGoal {
    let mut goal = goal();
    goal.tunnels[0].kind = gre(PEER, Some(7));
    goal.tunnels[1].kind = TunnelKind::Gre { peer: Underlay(ip(PEER)), key: Some(8), checksum: true };
    goal
}

/// An IPv4 packet with this type of service.
fn with_tos(packet: &[u8], tos: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[1] = tos;
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20], 0)).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// `packet` in GRE from `peer`, its outer type of service `tos`.
fn wrapped(peer: &str, options: GreOptions, tos: u8, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 };
    let mut inside = vec![0; options.header_len()];
    inside.extend(packet);
    assert!(options.write(&mut inside, kind));
    ethernet(&with_tos(&v4(peer, GATEWAY, Protocol::GRE, &inside), tos))
}

fn keyed(key: u32) -> GreOptions {
    GreOptions { key: Some(key), checksum: false }
}

/// What a site gets: the key, and the inner packet.
fn unwrapped(frame: &[u8]) -> (IpAddr, u8, Option<u32>, Vec<u8>) {
    let outer = penstock_wire::parse(frame).unwrap();
    let (gre, inner) = penstock_wire::parse_gre(frame, &outer).unwrap();
    (outer.dst.to_ip(), outer.tos, gre.key, frame[usize::from(inner.l3)..inner.end as usize].to_vec())
}

/// As the gateway's server does with a packet whose verdict is a tunnel.
fn encapsulated(gw: &mut Gateway, tunnel: TunnelId, bare: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM + bare.len()];
    buffer[HEADROOM..].copy_from_slice(bare);
    let mut packet = Packet::new(&mut buffer, HEADROOM, bare.len(), UNDERLAY).unwrap();
    gw.port.resolver_mut().encapsulate(tunnel, &mut packet).unwrap().unwrap();
    packet.frame().to_vec()
}

#[test]
fn the_key_names_the_tenant_and_nothing_inside_does() {
    let mut gw = Gateway::new(&two_keys());
    let syn = tcp(SITE, 4000, CONTAINER, 80, 2);
    for (tenant, options) in [(1, keyed(7)), (2, GreOptions { key: Some(8), checksum: true })] {
        let (verdict, frame) = gw.send(&wrapped(PEER, options, 0, &syn), UNDERLAY);
        assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
        let (host, to, mac, packet) = open(&frame);
        assert_eq!((host, to, mac), (ip(HOST), vni(tenant), container_mac(tenant)));
        assert_eq!(&packet[12..], &syn[12..], "all but time to live and checksum is what the site sent");
        assert_eq!((ttl(&packet), ttl(&syn)), (63, 64));
    }
    for (peer, options) in [(PEER, keyed(9)), (PEER, GreOptions::default()), ("198.51.100.10", keyed(7))] {
        let (verdict, _) = gw.send(&wrapped(peer, options, 0, &syn), UNDERLAY);
        assert_eq!(verdict, Verdict::Drop(DropReason::UnknownPeer), "{peer} {options:?}");
    }
}

#[test]
fn answers_go_back_by_the_connection_that_the_question_came_by() {
    let mut gw = Gateway::new(&two_keys());
    for (tenant, key) in [(1, 7), (2, 8)] {
        let options = GreOptions { key: Some(key), checksum: key == 8 };
        gw.send(&wrapped(PEER, options, 0, &tcp(SITE, 4000, CONTAINER, 80, 2)), UNDERLAY);
        let answer = tcp(CONTAINER, 80, SITE, 4000, 0x12);
        let (verdict, bare) = gw.host_sends(tenant, &answer);
        assert_eq!(verdict, Verdict::Tunnel(TunnelId(tenant)));
        let (to, _, sent, packet) = unwrapped(&encapsulated(&mut gw, TunnelId(tenant), &bare));
        assert_eq!((to, sent), (ip(PEER), Some(key)));
        assert_eq!(&packet[12..], &answer[12..]);
    }
}

#[test]
fn a_connection_without_a_key_is_another_than_one_with_key_0() {
    let mut goal = two_keys();
    goal.tunnels[0].kind = gre(PEER, None);
    goal.tunnels[1].kind = gre(PEER, Some(0));
    let mut gw = Gateway::new(&goal);
    let syn = tcp(SITE, 4000, CONTAINER, 80, 2);
    let to = |gw: &mut Gateway, options| open(&gw.send(&wrapped(PEER, options, 0, &syn), UNDERLAY).1).1;
    assert_eq!(to(&mut gw, GreOptions::default()), vni(1));
    assert_eq!(to(&mut gw, keyed(0)), vni(2));
}

#[test]
fn a_site_may_send_from_its_prefixes_only_also_by_a_known_flow() {
    let mut gw = Gateway::new(&two_keys());
    for src in [CONTAINER, "10.201.0.1"] {
        let (verdict, _) = gw.send(&wrapped(PEER, keyed(7), 0, &tcp(src, 4000, CONTAINER, 80, 2)), UNDERLAY);
        assert_eq!(verdict, Verdict::Drop(DropReason::NotInAllowedPrefixes), "{src}");
    }
}

#[test]
fn dscp_and_ecn_are_copied_outside() {
    let mut gw = Gateway::new(&two_keys());
    let bare = with_tos(&tcp(CONTAINER, 80, SITE, 4000, 2), 0xb8 | 0b01);
    let (_, tos, _, _) = unwrapped(&encapsulated(&mut gw, TunnelId(1), &bare));
    assert_eq!(tos, 0xb8 | 0b01);
}

/// RFC 6040 section 4.2, figure 4: for each inner field what it becomes by outer field Not-ECT, ECT(0), ECT(1), CE.
const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
    (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
    (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
    (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
    (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
];

#[test]
fn what_the_outer_header_tells_of_congestion_is_carried_on_as_rfc_6040_has_it_from_sites_and_from_hosts() {
    let mut gw = Gateway::new(&two_keys());
    // The rule that lets the site in makes the container's packets answers.
    gw.send(&wrapped(PEER, keyed(7), 0, &tcp(SITE, 4000, CONTAINER, 80, 2)), UNDERLAY);
    for (inner, row) in FIGURE_4 {
        for (outer, becomes) in [0b00, 0b10, 0b01, 0b11].into_iter().zip(row) {
            let from_site = with_tos(&tcp(SITE, 4000, CONTAINER, 80, 0x10), 0xb8 | inner);
            let (verdict, frame) = gw.send(&wrapped(PEER, keyed(7), outer, &from_site), UNDERLAY);
            let from_host = with_tos(&tcp(CONTAINER, 80, SITE, 4000, 0x10), 0xb8 | inner);
            let mut vxlan = vxlan(HOST, 1, &from_host);
            let marked = with_tos(&vxlan[14..], outer);
            vxlan[14..].copy_from_slice(&marked);
            let (back, bare) = gw.send(&vxlan, UNDERLAY);
            let Some(ecn) = becomes else {
                assert_eq!(verdict, Verdict::Drop(DropReason::CongestionHidden));
                assert_eq!(back, verdict);
                continue;
            };
            let is = |packet: &[u8]| (packet[1], penstock_wire::build::is_intact(&ethernet(packet)));
            assert_eq!(is(&open(&frame).3), (0xb8 | ecn, true), "inner {inner:#b}, outer {outer:#b}");
            assert_eq!(frame[15], 0xb8 | ecn, "and crosses the next tunnel");
            assert_eq!(back, Verdict::Tunnel(TunnelId(1)));
            assert_eq!(is(&bare), (0xb8 | ecn, true), "inner {inner:#b}, outer {outer:#b}");
        }
    }
}

#[test]
fn what_fits_back_follows_from_the_connection_and_not_from_what_came() {
    let mut gw = Gateway::new(&two_keys());
    let mut segment = vec![0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0x20, 0, 0, 0, 0, 0];
    segment.extend([2, 4, 0x23, 0x28]); // 9,000
    let syn = finish_tcp(SITE, CONTAINER, segment);
    let policy = gw.published.load_full();
    let without_a_checksum = wrapped(PEER, keyed(8), 0, &syn);
    for (tenant, mut frame) in [(1, wrapped(PEER, keyed(7), 0, &syn)), (2, without_a_checksum)] {
        // A VLAN tag outside is in nobody's way.
        frame.splice(12..12, [0x81, 0, 0, 5]);
        let packet = open(&gw.send(&frame, UNDERLAY).1).3;
        let mss = usize::from(u16::from_be_bytes([packet[42], packet[43]]));
        assert_eq!(mss, policy.tunnel_mtu(TunnelId(tenant)) - 40, "of tenant {tenant}");
    }
}

#[test]
fn a_connection_that_changes_between_wireguard_and_gre_is_decided_again() {
    let (site, answer) = (tcp(SITE, 4000, CONTAINER, 80, 0x10), tcp(CONTAINER, 80, SITE, 4000, 0x10));
    let goes_on = |gw: &mut Gateway, is_gre: bool| {
        let frame = if is_gre { wrapped(PEER, keyed(7), 0, &site) } else { ethernet(&site) };
        let port = if is_gre { UNDERLAY } else { Policy::port_of(TunnelId(1)) };
        for _ in 0..2 {
            let (verdict, frame) = gw.send(&frame, port);
            assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
            let (host, to, mac, packet) = open(&frame);
            assert_eq!((host, to, mac), (ip(HOST), vni(1), container_mac(1)));
            assert_eq!(&packet[12..], &site[12..]);
            let (verdict, packet) = gw.host_sends(1, &answer);
            assert_eq!(verdict, Verdict::Tunnel(TunnelId(1)));
            assert_eq!(&packet[12..], &answer[12..]);
        }
    };
    let mut gw = Gateway::new(&goal());
    goes_on(&mut gw, false);
    let mut by_gre = goal();
    by_gre.tunnels[0].kind = gre(PEER, Some(7));
    gw.publish(&by_gre);
    goes_on(&mut gw, true);
    gw.publish(&goal());
    goes_on(&mut gw, false);
}

/// The outer packet of a frame cut in two, and the frames of the pieces.
fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = frame[14..].to_vec();
    packet[6] = 0; // may be fragmented
    let packet = with_tos(&packet, packet[1]);
    let pieces = penstock_wire::fragment::fragments(&packet, packet.len() - 1).unwrap();
    pieces.map(|(header, piece)| ethernet(&[&header[..], piece].concat())).collect()
}

#[test]
fn pieces_of_encapsulated_packets_are_dropped_by_name_and_those_of_others_are_the_kernels() {
    let mut gw = Gateway::new(&two_keys());
    let mut wireguard = two_keys();
    wireguard.tunnels[0].kind = tunnel(1).kind;
    let syn = tcp(SITE, 4000, CONTAINER, 80, 2);
    let fragment = Verdict::Drop(DropReason::FragmentUnsupported);
    let all = |gw: &mut Gateway, frame: &[u8]| -> Vec<Verdict> {
        cut(frame).iter().map(|piece| gw.send(piece, UNDERLAY).0).collect()
    };
    assert_eq!(all(&mut gw, &wrapped(PEER, keyed(7), 0, &syn)), [fragment, fragment]);
    // The later piece of a datagram may be of one for somebody else.
    assert_eq!(all(&mut gw, &vxlan(HOST, 1, &syn)), [fragment, Verdict::Pass]);
    let datagram = |port: u16| {
        let [hi, lo] = port.to_be_bytes();
        let mut udp = vec![0x10, 0, hi, lo, 0, 48, 0, 0];
        udp.resize(48, 7);
        ethernet(&v4(PEER, GATEWAY, Protocol::UDP, &udp))
    };
    assert_eq!(all(&mut gw, &datagram(51820)), [Verdict::Pass, Verdict::Pass], "nobody listens");
    assert_eq!(all(&mut Gateway::new(&wireguard), &datagram(51820)), [fragment, Verdict::Pass]);
    let mut without_gre = Gateway::new(&goal());
    assert_eq!(all(&mut without_gre, &wrapped(PEER, keyed(7), 0, &syn)), [Verdict::Pass, Verdict::Pass]);
}

#[test]
fn from_one_site_to_another_both_connections_count_and_padding_is_not_counted() {
    let mut goal = two_keys();
    let mut third = goal.tunnels[0].clone();
    (third.id, third.kind) = (TunnelId(3), gre(PEER, Some(9)));
    third.prefixes = vec!["10.203.0.0/16".parse().unwrap()];
    let next_hop = penstock_policy::NextHop::Tunnel(third.id);
    goal.networks[0].routes.push(penstock_policy::Route { prefix: third.prefixes[0], next_hop });
    goal.tunnels.push(third);
    let mut gw = Gateway::new(&goal);
    let packet = v4(SITE, "10.203.0.1", Protocol(99), &[]);
    let mut frame = wrapped(PEER, keyed(7), 0, &packet);
    frame.resize(100, 0);
    for _ in 0..3 {
        assert_eq!(gw.send(&frame, UNDERLAY).0, Verdict::Tunnel(TunnelId(3)));
    }
    let counted = |id| {
        let (from, to) = Policy::counters_of(TunnelId(id));
        [from, to].map(|n| gw.port.counters()[n as usize]).map(|c| (c.packets, c.bytes))
    };
    let all = (3, 3 * (14 + packet.len() as u64));
    assert_eq!([counted(1), counted(3)], [[all, (0, 0)], [(0, 0), all]]);
}

#[test]
fn what_a_site_offers_in_a_syn_is_lowered_to_what_fits_back() {
    let mut gw = Gateway::new(&two_keys());
    let mut segment = vec![0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0x20, 0, 0, 0, 0, 0];
    segment.extend([2, 4, 0x23, 0x28]); // 9,000
    let syn = finish_tcp(SITE, CONTAINER, segment);
    let (_, frame) = gw.send(&wrapped(PEER, keyed(7), 0, &syn), UNDERLAY);
    let packet = open(&frame).3;
    assert_eq!(u16::from_be_bytes([packet[42], packet[43]]), 1500 - 20 - 8 - 40);
    assert!(penstock_wire::build::is_intact(&ethernet(&packet)));
    assert_eq!(gw.published.load().tunnel_mtu(TunnelId(1)), 1500 - 20 - 8);
    assert_eq!(gw.published.load().tunnel_mtu(TunnelId(2)), 1500 - 20 - 12, "with a checksum");
}

#[test]
fn keepalives_of_routers_come_back_to_them() {
    let mut gw = Gateway::new(&two_keys());
    let mut inside = vec![0; 8];
    assert!(keyed(7).write(&mut inside, 0));
    let question = v4(GATEWAY, PEER, Protocol::GRE, &inside);
    let (verdict, frame) = gw.send(&wrapped(PEER, keyed(7), 0, &question), UNDERLAY);
    assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
    assert_eq!(&frame[14..], &question[..], "as it is, to whom it is for");
    assert_eq!((&frame[..6], &frame[6..12]), (&HOST_MAC.0[..], &GATEWAY_MAC.0[..]));
    let other = v4(GATEWAY, PEER, Protocol::GRE, &wrapped(PEER, keyed(7), 0, &tcp(SITE, 1, CONTAINER, 80, 2))[34..]);
    let (verdict, _) = gw.send(&wrapped(PEER, keyed(7), 0, &other), UNDERLAY);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotOurs), "GRE in GRE is nothing else");
}

#[test]
fn peers_by_ipv6_and_inner_ipv6_work_alike() {
    let (own, peer) = ("2001:db8::1", "2001:db8::9");
    let mut goal = two_keys();
    goal.networks.iter_mut().for_each(|n| n.endpoints[0].host = Underlay(ip("2001:db8::10")));
    goal.networks[0].endpoints[0].acl = None;
    goal.networks[0].endpoints[0].addr = Overlay(ip("fd01::4"));
    goal.networks[0].routes[0].prefix = "fd02::/64".parse().unwrap();
    goal.tunnels[0].prefixes = vec!["fd02::/64".parse().unwrap()];
    goal.tunnels.iter_mut().for_each(|t| t.kind = gre(peer, Some(t.id.0)));
    let policy = Policy::build(&goal, Underlay(ip(own)), UNDERLAY, hop, None).unwrap();
    assert_eq!(policy.tunnel_mtu(TunnelId(1)), 1500 - 40 - 8);
    let mut inside = vec![0; 8];
    inside.extend(tcp6("fd02::7", 4000, "fd01::4", 80, 2));
    assert!(keyed(1).write(&mut inside, ethertype::IPV6));
    let mut outer = vec![0x60, 0, 0, 0];
    outer.extend((inside.len() as u16).to_be_bytes());
    outer.extend([47, 64]);
    for address in [peer, own] {
        let IpAddr::V6(v6) = ip(address) else { panic!() };
        outer.extend(v6.octets());
    }
    outer.extend(&inside);
    let explanation = explain(&Arc::new(policy), &ethernet(&outer), UNDERLAY);
    assert_eq!(explanation.ending, Ending::Transmit(UNDERLAY), "{:?}", explanation.steps);
    assert!(explanation.steps.iter().any(|s| s.layer == "tunnel" && s.text.contains("gw/site1")));
    let (host, to, _, packet) = open(&explanation.frame);
    assert_eq!((host, to), (ip("2001:db8::10"), vni(1)));
    assert_eq!(packet[6..8], [6, 63]);
}

#[test]
fn connections_that_cannot_be_told_apart_are_refused() {
    let refused = |change: fn(&mut GatewayGoal)| {
        let mut goal = two_keys();
        change(&mut goal);
        build(&goal, None).unwrap_err().field
    };
    assert_eq!(refused(|g| g.tunnels[1].kind = gre(PEER, Some(7))), "tunnels[1].kind.key");
    assert_eq!(refused(|g| g.tunnels[1].kind = gre("2001:db8::9", Some(7))), "tunnels[1].kind.peer");
    assert_eq!(refused(|g| g.tunnels[1].kind = gre(GATEWAY, Some(7))), "tunnels[1].kind.peer");
}

#[test]
fn a_gateway_without_gre_connections_leaves_gre_to_its_kernel() {
    let mut gw = Gateway::new(&goal());
    let (verdict, _) = gw.send(&wrapped(PEER, keyed(7), 0, &tcp(SITE, 4000, CONTAINER, 80, 2)), UNDERLAY);
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn a_flow_is_decided_once_and_replayed_after() {
    let mut gw = Gateway::new(&two_keys());
    for (tenant, options) in [(1, keyed(7)), (2, GreOptions { key: Some(8), checksum: true })] {
        let before = gw.port.resolved();
        for _ in 0..20 {
            let frame = wrapped(PEER, options, 0, &tcp(SITE, 4000, CONTAINER, 80, 0x10));
            assert_eq!(gw.send(&frame, UNDERLAY).0, Verdict::Transmit(UNDERLAY));
            assert_eq!(
                gw.host_sends(tenant, &tcp(CONTAINER, 80, SITE, 4000, 0x10)).0,
                Verdict::Tunnel(TunnelId(tenant))
            );
        }
        assert_eq!(gw.port.resolved() - before, 1);
    }
}
