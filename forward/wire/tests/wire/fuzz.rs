use penstock_model::{Addr16, Vni};
use penstock_wire::build::{FrameBuilder, has_right_checksums, vxlan_frame};
use penstock_wire::rewrite::{Rewrite, complete_checksum, complete_partial_checksum, decrement_ttl, rewrite};
use penstock_wire::{Headers, arp, gso, icmp, nd, parse, parse_ip, parse_vxlan};
use proptest::prelude::*;

/// Everything that the crate can do with bytes. It must return, whatever they are.
fn do_everything(frame: &[u8]) {
    let _ = parse_ip(frame);
    if let Ok(h) = parse(frame) {
        assert_offsets(frame, &h);
        use_headers(frame, h);
        if let Ok((_, inner)) = parse_vxlan(frame, &h) {
            assert_offsets(frame, &inner);
            use_headers(frame, inner);
        }
    }
}

fn assert_offsets(frame: &[u8], h: &Headers) {
    let order =
        [usize::from(h.l2), usize::from(h.l3), usize::from(h.l4), usize::from(h.payload), h.end as usize, frame.len()];
    assert!(order.is_sorted(), "{order:?}");
}

fn use_headers(frame: &[u8], h: Headers) {
    let mut out = vec![0; 2048];
    let _ = arp::parse(frame, &h);
    let _ = nd::parse_solicitation(frame, &h);
    let _ = nd::parse_advertisement(frame, &h);
    let _ = has_right_checksums(frame, &h);
    for router in ["192.0.2.1", "2001:db8::1"] {
        let _ = icmp::too_big(frame, &h, router.parse().unwrap(), 1400, &mut out);
    }
    for size in [0, 1, 1448] {
        let _ = gso::segment(frame, &h, size, &mut out, 128, |_, _| {});
    }
    for partial in [false, true] {
        let mut copy = frame.to_vec();
        let mut headers = h;
        let v4 = Addr16::from_v4([10, 0, 0, 1]);
        let v6 = Addr16([0x20; 16]);
        for address in [v4, v6] {
            let change = Rewrite { src: Some(address), dst: Some(address), src_port: Some(1), dst_port: None };
            let _ = rewrite(&mut copy, &mut headers, &change, partial);
        }
        let _ = decrement_ttl(&mut copy, &mut headers);
        complete_partial_checksum(&mut copy, &headers);
        complete_checksum(&mut copy, &headers);
        let _ = icmp::echo_reply(&mut copy, &headers);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let inner = FrameBuilder::tcp("10.0.0.1:1", "10.0.0.2:2").payload(&[1; 40]).build();
    let a: std::net::Ipv4Addr = "10.0.0.1".parse().unwrap();
    let ask = nd::Solicitation {
        sender: "fd00::1".parse().unwrap(),
        sender_mac: penstock_model::Mac([2; 6]),
        target: "fd00::2".parse().unwrap(),
    };
    vec![
        vxlan_frame(a.into(), a.into(), Vni::new(5).unwrap(), &inner),
        inner,
        FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:4789").payload(&[8; 60]).build(),
        FrameBuilder::udp("10.0.0.1:9", "10.0.0.2:4789").vlan(3).payload(&[8; 60]).build(),
        FrameBuilder::echo("10.0.0.1", "10.0.0.2", 7).payload(&[1; 16]).build(),
        FrameBuilder::echo("2001:db8::1", "2001:db8::2", 7).build(),
        arp::Arp::request(penstock_model::Mac([2; 6]), a, a).to_frame().to_vec(),
        ask.to_frame().to_vec(),
        ask.answer(penstock_model::Mac([4; 6])).to_vec(),
    ]
}

/// Makes the IPv4 header checksum right again, so that damage behind it is reached.
fn repair(frame: &mut [u8]) {
    if let Some(ip) = frame.get_mut(14..34) {
        ip[10..12].fill(0);
        let c = penstock_wire::checksum::finish(penstock_wire::checksum::sum(ip, 0));
        ip[10..12].copy_from_slice(&c.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        do_everything(&bytes);
    }

    #[test]
    fn damaged_packets_do_not_panic(
        seed in prop::sample::select(seeds()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in prop::bool::weighted(0.3),
        is_repaired in any::<bool>(),
    ) {
        let mut frame = seed;
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if truncate {
            frame.truncate(cut.index(frame.len()));
        }
        if is_repaired {
            repair(&mut frame);
        }
        do_everything(&frame);
    }

    #[test]
    fn headers_of_another_frame_do_not_panic(
        seed in prop::sample::select(seeds()),
        other in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        if let Ok(h) = parse(&seed) {
            use_headers(&other, h);
        }
    }
}
