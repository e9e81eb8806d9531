//! Packets that do not fit the tunnel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_wire::checksum;

fn syn_with_mss(mss: u16, odd: bool) -> Vec<u8> {
    let [hi, lo] = mss.to_be_bytes();
    let options: &[u8] = if odd { &[1, 2, 4, hi, lo, 0, 0, 0] } else { &[2, 4, hi, lo, 1, 1, 4, 2] };
    let mut t = vec![0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, 2, 0x20, 0, 0, 0, 0, 0];
    t.extend(options);
    finish_tcp(SITE, CONTAINER, t)
}

fn tcp_sum_is_right(p: &[u8]) -> bool {
    checksum::fold(checksum::sum(&p[12..], 6 + (p.len() - 20) as u64)) == 0xffff
}

#[test]
fn a_syn_offers_no_more_than_fits_the_tunnel() {
    for (odd, at) in [(false, 42), (true, 43)] {
        let mut p = syn_with_mss(1460, odd);
        assert!(tcp_sum_is_right(&p));
        assert!(clamp_mss(&mut p, TUNNEL_MTU));
        assert_eq!(u16::from_be_bytes([p[at], p[at + 1]]), 1380);
        assert!(tcp_sum_is_right(&p), "odd {odd}");
        assert!(!clamp_mss(&mut p, TUNNEL_MTU), "it fits already");
    }
    let mut small = syn_with_mss(536, false);
    assert!(!clamp_mss(&mut small, TUNNEL_MTU));
    let mut ack = tcp(SITE, 1, CONTAINER, 2, 0x10);
    assert!(!clamp_mss(&mut ack, TUNNEL_MTU));
}

fn with_dont_fragment(packet: &[u8], set: bool) -> Vec<u8> {
    let mut p = packet.to_vec();
    p[6] = if set { 0x40 } else { 0 };
    p[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&p[..20], 0)).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
    p
}

#[test]
fn a_packet_that_is_too_long_is_answered_into_the_overlay_with_the_size_that_fits() {
    let mut gw = Gateway::new(&goal());
    let long = v4(CONTAINER, SITE, Protocol::UDP, &{
        let mut u = vec![0x13, 0x88, 0, 53];
        u.extend((1500u16 - 20).to_be_bytes());
        u.resize(1480, 0);
        u
    });
    let (verdict, packet) = gw.host_sends(1, &long);
    assert_eq!(verdict, Verdict::Tunnel(TunnelId(1)));
    let (port, router) = gw.published.load().answer_port(TunnelId(1), ip(CONTAINER)).unwrap();
    assert_eq!(router, ip("10.1.0.1"));
    let mut answer = vec![0; 1500];
    let TooBig::Answer(len) = too_big(&packet, TUNNEL_MTU, router, &mut answer) else { panic!() };
    let (verdict, frame) = gw.send(&answer[..len], port);
    assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
    let (host, got, mac, icmp) = open(&frame);
    assert_eq!((host, got, mac), (ip(HOST), vni(1), container_mac(1)));
    assert_eq!((icmp[20], icmp[21], u16::from_be_bytes([icmp[26], icmp[27]])), (3, 4, 1420));
    assert_eq!(checksum::fold(checksum::sum(&icmp[20..], 0)), 0xffff);
    assert_eq!(icmp[28..48], packet[..20], "it quotes the packet");
    let icmp = with_dont_fragment(&icmp, true);
    assert_eq!(too_big(&icmp, 100, router, &mut vec![0; 1500]), TooBig::Silent, "no error about an error");
    let may = with_dont_fragment(&long, false);
    assert_eq!(too_big(&may, TUNNEL_MTU, router, &mut vec![0; 1500]), TooBig::MayFragment);
}

#[test]
fn the_ipv6_error_has_a_right_checksum() {
    let mut p = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    p.extend("fd01::4".parse::<std::net::Ipv6Addr>().unwrap().octets());
    p.extend("fd99::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    p.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    let mut answer = vec![0; 1500];
    let TooBig::Answer(len) = too_big(&p, 1420, ip("fd01::1"), &mut answer) else { panic!() };
    let h = penstock_wire::parse(&answer[..len]).unwrap();
    assert_eq!((h.icmp_type, h.dst.to_ip()), (2, ip("fd01::4")));
    let icmp = &answer[54..len];
    let sum = checksum::sum(&answer[22..54], icmp.len() as u64 + 58);
    assert_eq!(checksum::fold(checksum::sum(icmp, sum)), 0xffff);
    assert_eq!(u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]), 1420);
}
