use super::fixture::*;
use penstock_model::{DropReason, PortId, Protocol, Verdict};
use penstock_wire::{checksum, parse};
use std::net::IpAddr;

fn echo(src: IpAddr, vip: &str, protocol: Protocol, kind: u8) -> Vec<u8> {
    packet(src, ip(vip), protocol, vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1, b'a', b'b', b'c'], Some(2))
}

fn icmp_sum_is_right(frame: &[u8], v6: bool) -> bool {
    let h = parse(frame).unwrap();
    let segment = &frame[usize::from(h.l4)..h.end as usize];
    let mut sum = 0;
    if v6 {
        sum = checksum::sum(&frame[22..54], 0) + u64::from(Protocol::ICMPV6.0) + segment.len() as u64;
    }
    checksum::fold(checksum::sum(segment, sum)) == 0xffff
}

#[test]
fn a_ping_of_a_virtual_ip_is_answered_with_right_checksums() {
    let mut mux = Mux::new(&goal(&[1]));
    for (src, vip, protocol, ask, reply) in
        [(client(1), VIP, Protocol::ICMP, 8, 0), (client6(1), VIP6, Protocol::ICMPV6, 128, 129)]
    {
        let request = echo(src.ip(), vip, protocol, ask);
        assert!(icmp_sum_is_right(&request, protocol == Protocol::ICMPV6));
        let (verdict, frame) = mux.run(&request);
        assert_eq!(verdict, Verdict::Transmit(PortId(0)));
        let h = parse(&frame).unwrap();
        assert_eq!((h.src.to_ip(), h.dst.to_ip(), h.icmp_type, h.ttl), (ip(vip), src.ip(), reply, 64));
        assert_eq!((&frame[..6], &frame[6..12]), (&request[6..12], &request[..6]));
        assert!(icmp_sum_is_right(&frame, protocol == Protocol::ICMPV6));
        assert_eq!(frame.len(), request.len());
    }
}

#[test]
fn an_echo_reply_to_a_virtual_ip_is_not_answered() {
    let mut mux = Mux::new(&goal(&[1]));
    assert_eq!(mux.send(&echo(client(1).ip(), VIP, Protocol::ICMP, 0)), Err(DropReason::NoServiceOnPort));
    assert_eq!(mux.send(&echo(client(1).ip(), "203.0.113.99", Protocol::ICMP, 8)), Err(DropReason::NotOurs));
}

#[test]
fn a_ping_to_an_ethernet_group_address_is_not_answered() {
    let mut mux = Mux::new(&goal(&[1]));
    for (src, vip, protocol, ask) in [(client(1), VIP, Protocol::ICMP, 8), (client6(1), VIP6, Protocol::ICMPV6, 128)] {
        for group in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            let mut request = echo(src.ip(), vip, protocol, ask);
            request[..6].copy_from_slice(&group);
            assert_eq!(mux.send(&request), Err(DropReason::NotOurs));
        }
    }
}

/// The error that a router on the way to the client sends about a segment of the connection: only eight bytes behind the
/// quoted IP header.
fn too_big(n: u32, v6: bool) -> Vec<u8> {
    let (c, vip) = if v6 { (client6(n), VIP6) } else { (client(n), VIP) };
    let server = std::net::SocketAddr::new(ip(vip), 80);
    let reply = tcp(server, &c.ip().to_string(), c.port(), ACK);
    let quoted = if v6 { &reply[14..14 + 48] } else { &reply[14..14 + 28] };
    let mut message = vec![if v6 { 2 } else { 3 }, if v6 { 0 } else { 4 }, 0, 0, 0, 0, 0x05, 0x14];
    message.extend_from_slice(quoted);
    let router = if v6 { "2001:db8:77::1" } else { "198.18.0.1" };
    packet(ip(router), ip(vip), if v6 { Protocol::ICMPV6 } else { Protocol::ICMP }, message, Some(2))
}

#[test]
fn an_icmp_error_follows_the_connection_that_it_is_about() {
    let mut mux = Mux::new(&goal(&[1, 2, 3, 4]));
    for n in 0..200 {
        let four = mux.backend(&tcp(client(n), VIP, 80, ACK));
        assert_eq!(mux.backend(&too_big(n, false)), four);
        let six = mux.backend(&tcp(client6(n), VIP6, 80, ACK));
        assert_eq!(mux.backend(&too_big(n, true)), six);
    }
}

#[test]
fn an_icmp_error_follows_a_remembered_flow_and_leaves_no_entry_itself() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    for n in 0..300 {
        let entries = mux.port.flows();
        mux.backend(&too_big(n, false));
        assert_eq!(mux.port.flows(), entries);
        let new = mux.backend(&tcp(client(n), VIP, 80, SYN));
        assert_eq!(mux.backend(&too_big(n, false)), new);
    }
    assert!(mux.port.flows() > 50);
}

#[test]
fn an_icmp_error_about_something_else_is_dropped_by_name() {
    let mut mux = Mux::new(&goal(&[1]));
    let mut foreign = too_big(1, false);
    foreign[14 + 20 + 8 + 15] ^= 1; // the quoted source is not the VIP
    assert_eq!(mux.send(&foreign), Err(DropReason::NoReverseMapping));
    let truncated = packet(ip("198.18.0.1"), ip(VIP), Protocol::ICMP, vec![3, 4, 0, 0, 0, 0, 5, 20, 0x45, 0], Some(2));
    assert_eq!(mux.send(&truncated), Err(DropReason::NoReverseMapping));
}
