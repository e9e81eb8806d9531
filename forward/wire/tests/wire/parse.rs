use penstock_model::{DropReason, Protocol, Vni};
use penstock_wire::build::{FrameBuilder, is_intact, vxlan_frame};
use penstock_wire::{Fragment, Headers, TcpFlags, checksum, parse, parse_ip, parse_vxlan};

const V4: (&str, &str) = ("192.0.2.1:1000", "198.51.100.1:80");
const V6: (&str, &str) = ("[2001:db8::1]:1000", "[2001:db8::2]:80");

fn fix_ipv4(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    frame[24..26].fill(0);
    let c = checksum::finish(checksum::sum(&frame[14..end], 0));
    frame[24..26].copy_from_slice(&c.to_be_bytes());
}

/// An IPv6 frame with `extensions` (whole headers, next-header fields filled in here) before its TCP header.
fn with_extensions(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut frame = FrameBuilder::tcp(V6.0, V6.1).build();
    let tcp = frame.split_off(54);
    for (i, (_, bytes)) in extensions.iter().enumerate() {
        let mut bytes = bytes.clone();
        bytes[0] = extensions.get(i + 1).map_or(6, |(kind, _)| *kind);
        frame.extend_from_slice(&bytes);
    }
    if let Some((kind, _)) = extensions.first() {
        frame[20] = *kind;
    }
    frame.extend_from_slice(&tcp);
    let len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

#[test]
fn a_tcp_packet_of_either_family_is_read_whole() {
    for ((src, dst), l4) in [(V4, 34u16), (V6, 54)] {
        let frame = FrameBuilder::tcp(src, dst)
            .flags(TcpFlags::SYN)
            .ttl(9)
            .tos(0xba)
            .tcp_options(&[2, 4, 5, 180])
            .payload(b"hi")
            .build();
        let h = parse(&frame).unwrap();
        assert_eq!((h.l2, h.l3, h.l4, h.payload, h.end), (0, 14, l4, l4 + 24, frame.len() as u32));
        assert_eq!((h.src_port, h.dst_port, h.protocol), (1000, 80, Protocol::TCP));
        assert_eq!((h.ttl, h.tos, h.fragment), (9, 0xba, Fragment::No));
        assert!(h.tcp_flags.opens());
        assert_eq!(h.is_v4(), l4 == 34);
        assert_eq!(parse_ip(&frame[14..]).map(|i| (i.src, i.l4 + 14)), Ok((h.src, l4)));
    }
}

#[test]
fn padding_and_vlan_tags_are_not_part_of_the_packet() {
    let frame = FrameBuilder::udp(V4.0, V4.1).vlan(7).payload(b"x").padded().build();
    let h = parse(&frame).unwrap();
    assert_eq!((h.l3, h.end, frame.len()), (18, 18 + 29, 60));
}

#[test]
fn ipv4_options_are_skipped_and_covered_by_the_checksum() {
    let mut frame = FrameBuilder::tcp(V4.0, V4.1).build();
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] += 4;
    assert_eq!(parse(&frame), Err(DropReason::BadIpv4Checksum));
    fix_ipv4(&mut frame);
    let h = parse(&frame).unwrap();
    assert_eq!((h.l4, h.dst_port), (38, 80));
    assert!(is_intact(&frame));
}

#[test]
fn fragments_say_whether_they_have_ports() {
    for (flags, fragment, port) in [
        (0x2000u16, Fragment::First, 80),
        (0x2001, Fragment::Later, 0),
        (0x0001, Fragment::Later, 0),
        (0x4000, Fragment::No, 80),
    ] {
        let mut frame = FrameBuilder::tcp(V4.0, V4.1).build();
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        fix_ipv4(&mut frame);
        let h = parse(&frame).unwrap();
        assert_eq!((h.fragment, h.dst_port), (fragment, port));
    }
    for (field, fragment, port) in [(1u16, Fragment::First, 80), (8, Fragment::Later, 0), (0, Fragment::No, 80)] {
        let [a, b] = field.to_be_bytes();
        let h = parse(&with_extensions(&[(44, vec![0, 0, a, b, 0, 0, 0, 1])])).unwrap();
        assert_eq!((h.fragment, h.dst_port), (fragment, port));
        assert_eq!(h.checksum_at().is_none(), fragment == Fragment::Later);
    }
}

#[test]
fn eight_extension_headers_are_followed_and_nine_are_not() {
    let one = || (60u8, vec![0; 8]);
    let h = parse(&with_extensions(&vec![one(); 8])).unwrap();
    assert_eq!((h.protocol, h.l4, h.dst_port), (Protocol::TCP, 54 + 64, 80));
    assert_eq!(parse(&with_extensions(&vec![one(); 9])), Err(DropReason::TooManyExtensionHeaders));
}

#[test]
fn extension_headers_that_rfc_8200_forbids_are_refused() {
    let bad = |e: &[(u8, Vec<u8>)]| assert_eq!(parse(&with_extensions(e)), Err(DropReason::BadIpv6Header));
    bad(&[(60, vec![0; 8]), (0, vec![0; 8])]); // hop-by-hop not first
    bad(&[(43, vec![0, 0, 0, 1, 0, 0, 0, 0])]); // source route with segments left
    bad(&[(60, vec![0, 255, 0, 0, 0, 0, 0, 0])]); // longer than the packet
    assert!(parse(&with_extensions(&[(0, vec![0; 8]), (43, vec![0, 0, 0, 0, 0, 0, 0, 0])])).is_ok());
    assert!(parse(&with_extensions(&[(51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])])).is_ok());
}

#[test]
fn every_truncation_has_a_reason_and_none_parses() {
    for frame in [
        FrameBuilder::tcp(V4.0, V4.1).payload(b"abc").build(),
        FrameBuilder::tcp(V6.0, V6.1).payload(b"abc").build(),
        FrameBuilder::udp(V4.0, V4.1).build(),
        FrameBuilder::echo("192.0.2.1", "192.0.2.2", 1).build(),
        with_extensions(&[(44, vec![0, 0, 0, 1, 0, 0, 0, 1])]),
    ] {
        assert!(parse(&frame).is_ok());
        for n in 0..frame.len() {
            let err = parse(&frame[..n]).unwrap_err();
            let expected = [DropReason::TruncatedEthernet, DropReason::TruncatedIpv4, DropReason::TruncatedIpv6];
            assert!(expected.contains(&err), "{n} bytes: {err:?}");
        }
    }
}

#[test]
fn addresses_that_cannot_be_forwarded_are_martians() {
    use DropReason::{MartianDestination, MartianSource};
    let reason = |src: &str, dst: &str| parse(&FrameBuilder::tcp(src, dst).build()).map(|_| ()).unwrap_err();
    for src in ["127.0.0.1:1", "224.0.0.1:1", "240.0.0.1:1", "255.255.255.255:1"] {
        assert_eq!(reason(src, "192.0.2.1:1"), MartianSource);
    }
    for dst in ["127.0.0.1:1", "0.0.0.0:1"] {
        assert_eq!(reason("192.0.2.1:1", dst), MartianDestination);
    }
    for src in ["[::1]:1", "[ff02::1]:1", "[::ffff:192.0.2.1]:1"] {
        assert_eq!(reason(src, "[2001:db8::1]:1"), MartianSource);
    }
    for dst in ["[::1]:1", "[::]:1", "[::ffff:192.0.2.1]:1"] {
        assert_eq!(reason("[2001:db8::1]:1", dst), MartianDestination);
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let mut tcp = FrameBuilder::tcp(V4.0, V4.1).build();
    for offset in [0x40, 0x60] {
        tcp[46] = offset;
        assert_eq!(parse(&tcp), Err(DropReason::BadTcpHeader));
    }
    let mut udp = FrameBuilder::udp(V4.0, V4.1).payload(b"abcd").build();
    for length in [0u16, 7, 13] {
        udp[38..40].copy_from_slice(&length.to_be_bytes());
        assert_eq!(parse(&udp), Err(DropReason::BadUdpLength));
    }
    udp[38..40].copy_from_slice(&8u16.to_be_bytes());
    assert!(parse(&udp).is_ok(), "bytes behind the datagram are allowed");
}

#[test]
fn a_vxlan_packet_gives_its_network_and_inner_offsets_of_the_outer_frame() {
    let inner = FrameBuilder::tcp(V6.0, V6.1).payload(b"data").build();
    let vni = Vni::new(0x0a_0b0c).unwrap();
    let frame = vxlan_frame("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), vni, &inner);
    let outer = parse(&frame).unwrap();
    let (found, h) = parse_vxlan(&frame, &outer).unwrap();
    assert_eq!((found, h.l2, h.l3, h.l4, h.payload), (vni, 50, 64, 104, 124));
    assert_eq!(h.end as usize, frame.len());
    let expected = parse(&inner).unwrap();
    assert_eq!((h.src, h.dst, h.src_port), (expected.src, expected.dst, expected.src_port));

    let mut no_flag = frame.clone();
    no_flag[42] = 0;
    assert_eq!(parse_vxlan(&no_flag, &outer), Err(DropReason::BadTunnelHeader));
    let short = Headers { end: 49, ..outer };
    assert_eq!(parse_vxlan(&frame, &short), Err(DropReason::TruncatedTunnel));
    let cut_inner = Headers { end: 60, ..outer };
    assert_eq!(parse_vxlan(&frame, &cut_inner), Err(DropReason::TruncatedEthernet));
}

#[test]
fn an_icmp_error_has_no_identifier_and_an_echo_has_it_on_both_sides() {
    let mut echo = FrameBuilder::echo("192.0.2.1", "192.0.2.2", 0x1234).build();
    let h = parse(&echo).unwrap();
    assert_eq!((h.src_port, h.dst_port, h.icmp_type), (0x1234, 0x1234, 8));
    echo[34] = 3;
    assert_eq!(parse(&echo).map(|h| (h.src_port, h.icmp_type)), Ok((0, 3)));
}
