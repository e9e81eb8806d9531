use penstock_model::{Addr16, DropReason, Protocol};
use penstock_wire::build::{FrameBuilder, has_right_checksums, is_intact};
use penstock_wire::parse;
use penstock_wire::rewrite::{Rewrite, complete_checksum, complete_partial_checksum, decrement_ttl, rewrite};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

fn frames() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let ends = (any::<[u8; 2]>(), 1u16.., 1u16.., any::<bool>());
    (ends, prop::collection::vec(any::<u8>(), 0..80), 0u8..4, 0u8..3).prop_map(
        |(([a, b], sport, dport, v6), payload, kind, checksum)| {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                (
                    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(a), 1]),
                    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(b), 2]),
                )
            } else {
                (IpAddr::from([10, 0, a, 1]), IpAddr::from([10, 1, b, 2]))
            };
            let protocol = match (kind, v6) {
                (0 | 1, _) => Protocol::TCP,
                (2, _) => Protocol::UDP,
                (_, false) => Protocol::ICMP,
                (_, true) => Protocol::ICMPV6,
            };
            let builder = FrameBuilder::between(SocketAddr::new(src, sport), SocketAddr::new(dst, dport), protocol)
                .payload(&payload);
            let is_partial = checksum == 1 && kind < 3;
            let builder = match checksum {
                1 if kind < 3 => builder.partial_checksum(),
                2 if protocol == Protocol::UDP => builder.no_checksum(),
                _ => builder,
            };
            (builder.build(), is_partial)
        },
    )
}

/// New source and destination address and port.
type Changed = (Option<[u8; 16]>, Option<[u8; 16]>, Option<u16>, Option<u16>);

fn changes() -> impl Strategy<Value = Changed> {
    any::<(Option<[u8; 16]>, Option<[u8; 16]>, Option<u16>, Option<u16>)>()
}

/// Some address of the family that can be forwarded.
fn address(bytes: [u8; 16], v4: bool) -> Addr16 {
    if v4 {
        Addr16::from_v4([10, bytes[0], bytes[1], bytes[2]])
    } else {
        Addr16([0x20, bytes[0], 1, bytes[1], bytes[2], 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes[3], bytes[4]])
    }
}

proptest! {
    #[test]
    fn a_rewritten_packet_reads_as_asked_and_its_checksums_are_as_good_as_before(
        (mut frame, is_partial) in frames(),
        (src, dst, src_port, dst_port) in changes(),
    ) {
        let mut h = parse(&frame).unwrap();
        let change = Rewrite {
            src: src.map(|a| address(a, h.is_v4())),
            dst: dst.map(|a| address(a, h.is_v4())),
            src_port,
            dst_port,
        };
        let before = frame.clone();
        rewrite(&mut frame, &mut h, &change, is_partial).unwrap();
        let read = parse(&frame).unwrap();
        prop_assert_eq!(read, h, "headers follow the bytes");
        prop_assert_eq!(read.src, change.src.unwrap_or(parse(&before).unwrap().src));
        if h.protocol == Protocol::TCP || h.protocol == Protocol::UDP {
            prop_assert_eq!(read.dst_port, dst_port.unwrap_or(parse(&before).unwrap().dst_port));
        }
        if is_partial {
            prop_assert!(complete_partial_checksum(&mut frame, &h), "still only the pseudo-header sum");
        }
        prop_assert!(has_right_checksums(&frame, &h));
        if let Some(at) = h.checksum_at() && h.protocol == Protocol::UDP {
            let was_absent = before[at..at + 2] == [0, 0];
            prop_assert_eq!(frame[at..at + 2] == [0, 0], was_absent, "a UDP checksum neither appears nor vanishes");
        }
    }

    #[test]
    fn a_damaged_packet_stays_damaged(
        (mut frame, is_partial) in frames(),
        flip in any::<prop::sample::Index>(),
        (src, dst, src_port, dst_port) in changes(),
    ) {
        let mut h = parse(&frame).unwrap();
        let body = usize::from(h.payload)..h.end as usize;
        prop_assume!(!is_partial && !body.is_empty() && h.checksum_at().is_some_and(|at| frame[at..at + 2] != [0, 0]));
        frame[body.start + flip.index(body.len())] ^= 0x10;
        let v4 = h.is_v4();
        let change = Rewrite { src: src.map(|a| address(a, v4)), dst: dst.map(|a| address(a, v4)), src_port, dst_port };
        rewrite(&mut frame, &mut h, &change, false).unwrap();
        prop_assert!(!has_right_checksums(&frame, &h));
    }
}

#[test]
fn the_hop_limit_goes_down_to_one_and_no_further() {
    for (src, dst) in [("192.0.2.1:1", "192.0.2.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")] {
        let mut frame = FrameBuilder::udp(src, dst).ttl(2).build();
        let mut h = parse(&frame).unwrap();
        decrement_ttl(&mut frame, &mut h).unwrap();
        assert_eq!(parse(&frame).map(|h| h.ttl), Ok(1));
        assert!(is_intact(&frame));
        let before = frame.clone();
        assert_eq!(decrement_ttl(&mut frame, &mut h), Err(DropReason::TtlExceeded));
        assert_eq!(frame, before);
    }
}

#[test]
fn every_hop_limit_keeps_the_header_checksum_right() {
    for ttl in 2..=255 {
        let mut frame =
            FrameBuilder::udp("192.0.2.1:1", "192.0.2.2:2").ttl(ttl).identification(u16::from(ttl) * 257).build();
        let mut h = parse(&frame).unwrap();
        decrement_ttl(&mut frame, &mut h).unwrap();
        assert_eq!(parse(&frame).map(|h| h.ttl), Ok(ttl - 1));
    }
}

#[test]
fn a_complete_checksum_is_left_alone_and_a_partial_one_is_completed_once() {
    let whole = FrameBuilder::tcp("192.0.2.1:1000", "192.0.2.2:80").payload(b"abc").padded().build();
    let mut partial =
        FrameBuilder::tcp("192.0.2.1:1000", "192.0.2.2:80").payload(b"abc").padded().partial_checksum().build();
    let h = parse(&whole).unwrap();
    assert_ne!(partial, whole);
    assert!(complete_partial_checksum(&mut partial, &h));
    assert_eq!(partial, whole);
    assert!(!complete_partial_checksum(&mut partial, &h));
    complete_checksum(&mut partial, &h);
    assert_eq!(partial, whole, "completing by order is idempotent");
}

#[test]
fn what_does_not_fit_the_packet_is_refused_and_changes_nothing() {
    let v6 = Addr16::from("2001:db8::9".parse::<IpAddr>().unwrap());
    let mut frame = FrameBuilder::tcp("192.0.2.1:1000", "192.0.2.2:80").build();
    let before = frame.clone();
    let mut h = parse(&frame).unwrap();
    let other_family = Rewrite { dst: Some(v6), ..Rewrite::default() };
    assert_eq!(rewrite(&mut frame, &mut h, &other_family, false), Err(DropReason::Unsupported));
    let mut later = h;
    later.fragment = penstock_wire::Fragment::Later;
    let port = Rewrite { dst_port: Some(8080), ..Rewrite::default() };
    assert_eq!(rewrite(&mut frame, &mut later, &port, false), Ok(()), "its first piece has the ports");
    assert_eq!(rewrite(&mut frame[..40], &mut h, &port, false), Err(DropReason::TruncatedTransport));
    assert_eq!(frame, before);
}
