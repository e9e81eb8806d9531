use crate::toy::{Toy, UPLINK, send, template};
use penstock_engine::EncapTemplate;
use penstock_flow::{Flags, Transposition};
use penstock_model::{
    Addr16, DropReason, EncapId, HEADROOM, Mac, Offload, Packet, PortId, TunnelId, Underlay, Verdict, Vni,
};
use penstock_wire::build::{FrameBuilder, has_right_checksums, is_intact, vxlan_frame};
use penstock_wire::geneve::{NextOwners, next_owners, parse_geneve};
use penstock_wire::{parse, parse_vxlan};

fn run(t: Transposition, frame: &[u8]) -> (Verdict, Vec<u8>) {
    send(&mut Toy::new().rule(80, t).port(), frame, 1)
}

fn v4(a: [u8; 4]) -> Addr16 {
    Addr16::from_v4(a)
}

#[test]
fn a_pushed_encapsulation_is_valid_vxlan_around_an_intact_packet() {
    let t = Transposition::to_port(PortId(0))
        .with_eth(Mac([6; 6]), Mac([8; 6]))
        .with_ttl_decrement()
        .with_flag(Flags::COMPLETE_CHECKSUM)
        .encapsulated(EncapId(0));
    for frame in [
        FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").tos(0xbb).padded().build(),
        FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").tos(0xbb).partial_checksum().payload(b"x").build(),
        FrameBuilder::udp("[2001:db8::1]:1000", "[2001:db8::2]:80").tos(0xbb).payload(b"abc").build(),
        FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").tos(0xbb).vlan(5).build(),
    ] {
        let (verdict, out) = run(t, &frame);
        assert_eq!(verdict, Verdict::Transmit(UPLINK));
        let outer = parse(&out).unwrap();
        assert!(has_right_checksums(&out, &outer));
        assert_eq!((outer.end as usize, outer.tos, outer.ttl, outer.dst_port), (out.len(), 0xbb, 64, 4789));
        assert!(outer.src_port >= 49_152, "dynamic range (RFC 6335 section 6)");
        assert_eq!(out[20] & 0x40, 0x40, "DF");
        let udp_len = u16::from_be_bytes([out[38], out[39]]);
        assert_eq!(usize::from(udp_len), out.len() - 34);
        let (vni, inner) = parse_vxlan(&out, &outer).unwrap();
        assert_eq!((vni, inner.ttl, inner.dst_port, inner.l3 - inner.l2), (Vni::new(77).unwrap(), 63, 80, 14));
        assert!(has_right_checksums(&out, &inner));
        assert_eq!(out[50..62], [6, 6, 6, 6, 6, 6, 8, 8, 8, 8, 8, 8]);
    }
}

#[test]
fn an_ipv6_encapsulation_has_the_traffic_class_and_length_of_what_it_carries() {
    let ip = |s: &str| Underlay(s.parse().unwrap());
    let mut toy = Toy::new().rule(80, Transposition::to_port(PortId(0)).encapsulated(EncapId(0)));
    let (a, b) = (ip("fd00::1"), ip("fd00::2"));
    toy.encap = EncapTemplate::vxlan(a, b, Vni::new(5).unwrap(), Mac([2; 6]), Mac([4; 6]), UPLINK).unwrap();
    let frame = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").tos(0x2e).build();
    let (verdict, out) = send(&mut toy.port(), &frame, 1);
    assert_eq!(verdict, Verdict::Transmit(UPLINK));
    let outer = parse(&out).unwrap();
    assert_eq!((outer.tos, outer.end as usize, out.len()), (0x2e, out.len(), frame.len() + 70));
    let (vni, inner) = parse_vxlan(&out, &outer).unwrap();
    assert_eq!((vni.get(), &out[usize::from(inner.l2)..]), (5, &frame[..]));
}

#[test]
fn a_way_that_names_next_owners_is_geneve_with_right_lengths_and_checksums() {
    let ip = |s: &str| Underlay(s.parse().unwrap());
    let v6 = |n: u16| Addr16::from(std::net::IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
    let lists: [&[Addr16]; 5] = [
        &[v4([10, 0, 0, 1])],
        &[v4([10, 0, 0, 1]), v4([10, 0, 0, 2])],
        &[v6(1)],
        &[v6(1), v6(2)],
        &[v6(1), v6(2), v6(3)],
    ];
    for (a, b, base) in [("192.0.2.1", "192.0.2.2", 42), ("fd00::1", "fd00::2", 62)] {
        for list in lists {
            let next = NextOwners::new(list.iter().copied());
            let each = if list[0].is_v4() { 4 } else { 16 };
            let mut toy = Toy::new().rule(80, Transposition::to_port(PortId(0)).encapsulated(EncapId(0)));
            let plain = EncapTemplate::vxlan(ip(a), ip(b), Vni::new(5).unwrap(), Mac([2; 6]), Mac([4; 6]), UPLINK);
            toy.encap = plain.unwrap().naming(&next);
            let frame = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").tos(0x2e).payload(b"hello").build();
            let (verdict, out) = send(&mut toy.port(), &frame, 1);
            assert_eq!(verdict, Verdict::Transmit(UPLINK));
            let outer = parse(&out).unwrap();
            assert_eq!((outer.tos, outer.dst_port, outer.end as usize), (0x2e, 6081, out.len()));
            assert!(has_right_checksums(&out, &outer));
            assert_eq!(out.len(), frame.len() + base + 12 + each * list.len());
            let (vni, inner) = parse_geneve(&out, &outer).unwrap();
            assert_eq!((vni.get(), &out[usize::from(inner.l2)..]), (5, &frame[..]));
            assert_eq!(next_owners(&out, &outer), next);
        }
    }
}

#[test]
fn flows_differ_in_outer_source_port_and_packets_of_one_do_not() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(0)).encapsulated(EncapId(0))).port();
    let mut port_of = |client: u16| {
        let frame = FrameBuilder::tcp(&format!("192.0.2.1:{client}"), "198.51.100.1:80").build();
        parse(&send(&mut port, &frame, 1).1).unwrap().src_port
    };
    let ports: std::collections::BTreeSet<_> = (1..200).map(&mut port_of).collect();
    assert!(ports.len() > 190);
    assert_eq!(port_of(7), port_of(7));
}

#[test]
fn what_decapsulation_leaves_is_the_inner_frame_rewritten() {
    let t = Transposition::to_port(PortId(3))
        .decapsulated()
        .with_dst(v4([10, 1, 0, 4]))
        .with_dst_port(8080)
        .with_eth(Mac([6; 6]), Mac([8; 6]));
    let inner = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(b"hello").build();
    let (a, b) = ("10.9.0.1".parse().unwrap(), "10.9.0.2".parse().unwrap());
    let (verdict, out) = run(t, &vxlan_frame(a, b, Vni::new(1).unwrap(), &inner));
    assert_eq!(verdict, Verdict::Transmit(PortId(3)));
    let expected =
        FrameBuilder::tcp("192.0.2.1:1000", "10.1.0.4:8080").payload(b"hello").eth(Mac([8; 6]), Mac([6; 6])).build();
    assert_eq!(out, expected);
}

#[test]
fn a_packet_from_one_tunnel_into_another_is_taken_out_and_put_in() {
    let t = Transposition::to_port(PortId(3)).decapsulated().with_ttl_decrement().encapsulated(EncapId(0));
    let inner = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:80").payload(b"hello").build();
    let (a, b) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let (verdict, out) = run(t, &vxlan_frame(a, b, Vni::new(1).unwrap(), &inner));
    assert_eq!((verdict, out.len()), (Verdict::Transmit(UPLINK), inner.len() + 50));
    assert!(is_intact(&out) && is_intact(&out[50..]));
}

#[test]
fn a_tunnelled_packet_is_bare_ip_without_padding() {
    let frame = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:80").payload(b"x").padded().build();
    let (verdict, out) = run(Transposition::to_tunnel(TunnelId(4)).with_ttl_decrement(), &frame);
    assert_eq!((verdict, out.len(), out[0], out[8]), (Verdict::Tunnel(TunnelId(4)), 29, 0x45, 63));
}

#[test]
fn an_expired_hop_limit_ends_the_packet() {
    let frame = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:80").ttl(1).build();
    let (verdict, out) = run(Transposition::to_port(PortId(3)).with_ttl_decrement(), &frame);
    assert_eq!((verdict, out), (Verdict::Drop(DropReason::TtlExceeded), frame));
}

fn apply_to(
    frame: &[u8],
    headroom: usize,
    t: &Transposition,
    offload: Offload,
) -> (Result<Verdict, DropReason>, Vec<u8>, Offload) {
    let mut buffer = vec![0; headroom + frame.len()];
    buffer[headroom..].copy_from_slice(frame);
    let mut packet = Packet::new(&mut buffer, headroom, frame.len(), PortId(1)).unwrap();
    packet.offload = offload;
    let h = parse(frame).unwrap();
    let h = if h.dst_port == 4789 { parse_vxlan(frame, &h).unwrap().1 } else { h };
    let verdict = penstock_engine::apply(t, &mut packet, &h, 1, Some(&template()));
    (verdict, packet.frame().to_vec(), packet.offload)
}

#[test]
fn a_packet_that_outgrows_its_buffer_or_its_length_field_is_too_large() {
    let t = Transposition::to_port(PortId(0)).encapsulated(EncapId(0));
    let frame = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:80").build();
    assert_eq!(apply_to(&frame, 49, &t, Offload::default()).0, Err(DropReason::TooLarge));
    assert_eq!(apply_to(&frame, 50, &t, Offload::default()).0, Ok(Verdict::Transmit(UPLINK)));
    let long = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:80").payload(&vec![0; 65_486]).build();
    assert_eq!(apply_to(&long, HEADROOM, &t, Offload::default()).0, Err(DropReason::TooLarge));
}

#[test]
fn a_partial_checksum_stays_partial_on_a_port_and_is_completed_for_an_encapsulation() {
    let frame = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(b"data").partial_checksum().build();
    let partial = Offload { partial_checksum: true, checksum_start: 34, checksum_offset: 16, ..Offload::default() };
    let nat = Transposition::to_port(PortId(2)).with_dst(v4([10, 0, 0, 4])).with_dst_port(8080);
    let (verdict, out, offload) = apply_to(&frame, HEADROOM, &nat, partial);
    let expected = FrameBuilder::tcp("192.0.2.1:1000", "10.0.0.4:8080").payload(b"data");
    assert_eq!((verdict, offload), (Ok(Verdict::Transmit(PortId(2))), partial));
    assert_eq!(out, expected.clone().partial_checksum().build());
    let (_, out, offload) = apply_to(&frame, HEADROOM, &nat.encapsulated(EncapId(0)), partial);
    assert_eq!((&out[50..], offload), (&expected.build()[..], Offload::default()));

    let outer = vxlan_frame("10.9.0.1".parse().unwrap(), "10.9.0.2".parse().unwrap(), Vni::new(1).unwrap(), &frame);
    let behind = Offload { checksum_start: 84, ..partial };
    let (_, out, offload) = apply_to(&outer, HEADROOM, &nat.decapsulated(), behind);
    assert_eq!(offload, partial, "offsets follow the frame");
    assert_eq!(parse(&out).map(|h| h.dst_port), Ok(8080));
    let (_, _, offload) = apply_to(&outer, HEADROOM, &nat.decapsulated(), partial);
    assert_eq!(offload, Offload::default(), "the outer packet's offload goes with the outer packet");
}
