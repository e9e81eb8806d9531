//! Every reader of bytes, on any bytes.
use penstock_model::{Addr16, TenantId, Vni};
use penstock_wire::fragment::fragments;
use penstock_wire::rewrite::{Rewrite, complete_partial_checksum, decrement_ttl, rewrite};
use penstock_wire::{Headers, arp, build, gso, icmp, nd, parse, parse_gre, parse_ip, parse_vxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads `data` as a frame and as an IP packet, and what is in it.
pub fn run(data: &[u8]) {
    if let Ok(headers) = parse(data) {
        look(data, &headers);
        if let Ok((vni, inner)) = parse_vxlan(data, &headers) {
            assert!(vni <= Vni::MAX);
            assert!(inner.l2 >= headers.payload + 8 && inner.end <= headers.end);
            look(data, &inner);
        }
        if let Ok((gre, inner)) = parse_gre(data, &headers) {
            assert!(gre.is_ip() && gre.len >= 4);
            assert_eq!(usize::from(inner.l3), usize::from(headers.l4) + gre.len);
            assert!(inner.l3 == inner.l2 + 14 && inner.end <= headers.end);
            look(data, &Headers { l2: inner.l3, ..inner });
        }
    }
    if let Ok(headers) = parse_ip(data) {
        look(data, &headers);
        pieces(data, &headers);
    }
}

/// What a packet is cut into fits, and is as long as the whole.
fn pieces(packet: &[u8], h: &Headers) {
    const MTU: usize = 68;
    if let Ok(all) = fragments(packet, MTU) {
        let mut payload = 0;
        for (header, piece) in all {
            assert!(header.len() + piece.len() <= MTU);
            payload += piece.len();
        }
        assert_eq!(payload, h.end as usize - usize::from(h.l4));
    }
}

fn look(frame: &[u8], h: &Headers) {
    assert!(h.l2 <= h.l3 && h.l3 <= h.l4 && h.l4 <= h.payload);
    assert!(u32::from(h.payload) <= h.end && h.end as usize <= frame.len());
    if !h.is_ip() {
        let _ = arp::parse(frame, h);
        return;
    }
    assert_eq!(h.is_v4(), h.src.is_v4());
    assert_eq!(h.is_v4(), h.dst.is_v4());
    let key = h.flow_key(TenantId(1));
    assert_eq!(key.reversed().reversed(), key);
    if nd::is_solicitation(h) {
        let _ = nd::parse_solicitation(frame, h);
    }
    let _ = nd::parse_advertisement(frame, h);
    answers(frame, h);
    changes(frame, h);
}

/// What a node makes in answer must be well-formed.
fn answers(frame: &[u8], h: &Headers) {
    let mut out = [0; 1500];
    let from: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    if let Ok(len) = icmp::too_big(frame, h, from[usize::from(h.is_v6())], 1400, &mut out) {
        assert!(build::is_intact(&out[..len]), "too big");
    }
    let mut copy = frame.to_vec();
    if icmp::echo_reply(&mut copy, h).is_ok() {
        let reply = again(&copy, h);
        assert_eq!((reply.src, reply.dst), (h.dst, h.src));
        assert!(!build::has_right_checksums(frame, h) || build::has_right_checksums(&copy, &reply), "echo reply");
    }
}

/// Rewriting keeps right checksums right, and what is written is what is read.
fn changes(frame: &[u8], h: &Headers) {
    let right = build::has_right_checksums(frame, h);
    let mut copy = frame.to_vec();
    let mut headers = *h;
    if decrement_ttl(&mut copy, &mut headers).is_ok() {
        assert!(!right || build::has_right_checksums(&copy, &headers), "decrement_ttl");
    }
    let to = if h.is_v4() { Addr16::from_v4([10, 1, 2, 3]) } else { Addr16([0xfd; 16]) };
    for port in [None, Some(4711)] {
        let change = Rewrite { src: Some(to), dst_port: port, ..Rewrite::default() };
        if rewrite(&mut copy, &mut headers, &change, false).is_ok() {
            let read = again(&copy, h);
            assert_eq!((read.src, read.dst_port), (headers.src, headers.dst_port));
            assert!(!right || build::has_right_checksums(&copy, &read), "rewrite");
        }
    }
    if complete_partial_checksum(&mut copy, &headers) {
        assert!(build::has_right_checksums(&copy, &headers) || !ip_header_is_right(&copy, &headers), "complete");
    }
    segments(frame, h);
}

fn ip_header_is_right(frame: &[u8], h: &Headers) -> bool {
    let header = &frame[usize::from(h.l3)..usize::from(h.l4)];
    !h.is_v4() || penstock_wire::checksum::fold(penstock_wire::checksum::sum(header, 0)) == 0xffff
}

/// Each segment of a frame that is cut is a packet with right checksums.
fn segments(frame: &[u8], h: &Headers) {
    if h.l2 == h.l3 || !ip_header_is_right(frame, h) {
        return;
    }
    let mut buffer = vec![0; frame.len() + 64];
    let size = frame.len() / 3 + 1;
    let _ = gso::segment(frame, h, size, &mut buffer, 0, |bytes, len| {
        assert!(build::is_intact(&bytes[..len]), "segment");
    });
}

/// The headers of a frame that was changed in place.
fn again(frame: &[u8], h: &Headers) -> Headers {
    let (from, end) = (usize::from(h.l2), h.end as usize);
    let read = if h.l2 == h.l3 { parse_ip(&frame[from..end]) } else { parse(&frame[from..end]) };
    let mut read = read.expect("a packet stays a packet");
    for offset in [&mut read.l2, &mut read.l3, &mut read.l4, &mut read.payload] {
        *offset += h.l2;
    }
    read.end += u32::from(h.l2);
    read
}
