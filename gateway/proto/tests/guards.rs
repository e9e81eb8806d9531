//! What a tenant cannot do to others, nor a site to its tenant, nor a frame to the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use arc_swap::ArcSwap;
use common::*;
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::*;
use penstock_wire::{TcpFlags, checksum};
use std::sync::Arc;

const SYN: u8 = TcpFlags::SYN;
const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
const ACK: u8 = TcpFlags::ACK;

#[test]
fn a_tenant_that_floods_fills_its_own_share_of_the_table_and_no_other() {
    let mut gw = Gateway::with_flows(&goal(), 1024, 256);
    let mut denied = 0;
    for port in 1..4000 {
        match gw.site_sends(1, &tcp(SITE, port, CONTAINER, 80, SYN)).0 {
            Verdict::Transmit(_) => {
                gw.host_sends(1, &tcp(CONTAINER, 80, SITE, port, SYN_ACK));
                gw.site_sends(1, &tcp(SITE, port, CONTAINER, 80, ACK));
            }
            verdict => {
                assert_eq!(verdict, Verdict::Drop(DropReason::FlowTableFull));
                denied += 1;
            }
        }
    }
    assert!(denied > 3000, "{denied}");
    assert_eq!(gw.port.flow_table().established(), 256);
    for port in 1..100 {
        assert_eq!(gw.site_sends(2, &tcp(SITE, port, CONTAINER, 80, SYN)).0, Verdict::Transmit(UNDERLAY));
        assert_eq!(gw.host_sends(2, &tcp(CONTAINER, 80, SITE, port, SYN_ACK)).0, Verdict::Tunnel(TunnelId(2)));
        assert_eq!(gw.site_sends(2, &tcp(SITE, port, CONTAINER, 80, ACK)).0, Verdict::Transmit(UNDERLAY));
    }
}

#[test]
fn forged_syns_that_are_answered_establish_nothing_and_are_soon_forgotten() {
    let mut gw = Gateway::with_flows(&goal(), 4096, 4096);
    for port in 1..500 {
        gw.site_sends(1, &tcp(SITE, port, CONTAINER, 80, SYN));
        gw.host_sends(1, &tcp(CONTAINER, 80, SITE, port, SYN_ACK));
    }
    assert_eq!(gw.port.flow_table().established(), 0);
    assert!(gw.port.flows() > 100);
    pass(&mut gw, 60);
    assert_eq!(gw.port.flows(), 0);
}

#[test]
fn a_connection_is_kept_through_silence_in_both_directions_until_it_closes() {
    for close in [TcpFlags::RST, TcpFlags::FIN | ACK] {
        let mut gw = Gateway::new(&goal());
        gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, SYN));
        gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, SYN_ACK));
        gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, ACK));
        assert_eq!(gw.port.flow_table().established(), 2);
        pass(&mut gw, 1200);
        let answer = gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, ACK)).0;
        assert_eq!(answer, Verdict::Transmit(UNDERLAY), "rules alone would deny it");
        gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, close));
        gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, close));
        pass(&mut gw, 60);
        assert_eq!(gw.port.flows(), 0, "{close:#x}");
    }
}

/// So many seconds without packets, swept.
fn pass(gw: &mut Gateway, seconds: u64) {
    gw.now = Nanos(gw.now.0 + seconds * 1_000_000_000);
    (0..1000).for_each(|_| gw.port.maintain(gw.now));
}

/// The goal's own epoch changes only in bits that a flow entry does not keep, or not at all: only the content tells.
#[test]
fn every_change_of_rules_is_seen_by_an_established_flow_whatever_the_goal_calls_it() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    let packet = tcp(SITE, 4000, CONTAINER, 80, ACK);
    for change in 0..100u32 {
        goal.networks[0].epoch = Epoch((change / 2) << 16);
        let allow = change % 2 == 0;
        goal.acls[0].rules[0].action = if allow { AclAction::Allow } else { AclAction::Deny };
        gw.publish(&goal);
        let expected = if allow { Verdict::Transmit(UNDERLAY) } else { Verdict::Drop(DropReason::AclDenied) };
        assert_eq!(gw.site_sends(1, &packet).0, expected, "change {change}");
    }
}

#[test]
fn a_goal_with_the_same_content_decides_nothing_again() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    for tenant in [1, 2] {
        gw.site_sends(tenant, &tcp(SITE, 4000, CONTAINER, 80, SYN));
    }
    let resolved = gw.port.resolved();
    goal.revision = Revision(77);
    gw.publish(&goal);
    for tenant in [1, 2] {
        gw.site_sends(tenant, &tcp(SITE, 4000, CONTAINER, 80, ACK));
    }
    assert_eq!(gw.port.resolved(), resolved);
}

#[test]
fn a_narrowed_tunnel_stops_the_flows_that_it_no_longer_covers() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, SYN)).0, Verdict::Transmit(UNDERLAY));
    goal.tunnels[0].prefixes = vec!["10.200.9.0/24".parse().unwrap()];
    gw.publish(&goal);
    let verdict = gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, ACK)).0;
    assert_eq!(verdict, Verdict::Drop(DropReason::NotInAllowedPrefixes));
}

#[test]
fn a_site_whose_prefix_covers_the_network_cannot_speak_for_its_endpoints() {
    let mut goal = goal();
    goal.tunnels[0].prefixes = vec!["0.0.0.0/0".parse().unwrap()];
    let other = goal.networks[0].endpoints[0].clone();
    let (addr, network_interface, mac) = (Overlay(ip("10.1.0.5")), "nic9".into(), container_mac(9));
    goal.networks[0].endpoints.push(Endpoint { addr, network_interface, mac, ..other });
    let mut gw = Gateway::new(&goal);
    for source in ["10.1.0.5", "10.1.77.1"] {
        let verdict = gw.site_sends(1, &tcp(source, 4000, CONTAINER, 80, SYN)).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedSource), "{source}");
    }
    assert_eq!(gw.site_sends(1, &tcp("172.16.0.1", 4000, CONTAINER, 80, SYN)).0, Verdict::Transmit(UNDERLAY));
}

#[test]
fn an_inner_frame_with_a_vlan_tag_is_discarded() {
    let mut gw = Gateway::new(&goal());
    let packet = tcp(CONTAINER, 5000, SITE, 443, SYN);
    let mut frame = vxlan(HOST, 1, &packet);
    let inner_type = frame.len() - packet.len() - 2;
    frame.splice(inner_type..inner_type, [0x81, 0, 0, 7]);
    lengthen(&mut frame, 4, 4);
    assert_eq!(gw.send(&frame, UNDERLAY).0, Verdict::Drop(DropReason::VlanTagged));
}

#[test]
fn a_datagram_ends_where_its_own_length_says() {
    let mut gw = Gateway::new(&goal());
    let mut padded = vxlan(HOST, 1, &tcp(CONTAINER, 5000, SITE, 443, SYN));
    padded.extend([0xee; 6]);
    lengthen(&mut padded, 6, 0);
    assert_eq!(gw.send(&padded, UNDERLAY).0, Verdict::Tunnel(TunnelId(1)), "what lies behind is no part of it");

    let mut cut = vxlan(HOST, 1, &tcp(CONTAINER, 5001, SITE, 443, SYN));
    let udp = u16::from_be_bytes([cut[38], cut[39]]) - 1;
    cut[38..40].copy_from_slice(&udp.to_be_bytes());
    assert_eq!(gw.send(&cut, UNDERLAY).0, Verdict::Drop(DropReason::TruncatedIpv4), "the inner packet is not whole");
}

/// Keeps what it is given.
#[derive(Debug, Default)]
struct Recorder(Vec<Vec<u8>>);

impl TunnelInput for Recorder {
    fn handle_datagram(&mut self, datagram: &Datagram<'_>, _now: Nanos) -> Verdict {
        self.0.push(datagram.payload.to_vec());
        Verdict::Consumed
    }

    fn handle_router_packet(&mut self, packet: &RouterPacket<'_>) -> Verdict {
        self.0.push(packet.bytes.to_vec());
        Verdict::Consumed
    }
}

#[test]
fn a_tunnel_is_handed_the_datagram_and_not_what_lies_behind_it() {
    let published = Arc::new(ArcSwap::from_pointee(build(&goal(), None).unwrap()));
    let resolver = GatewayResolver::new(published, FlowHasher::new([3; 16]), Recorder::default());
    let mut port = Port::new(resolver, flow_table(64, 64));
    let mut udp = vec![0x20, 0, 0xca, 0x6c, 0, 8 + 5, 0, 0];
    udp.extend(b"wholeand more");
    let frame = ethernet(&v4("198.51.100.9", GATEWAY, Protocol::UDP, &udp));
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(&frame);
    let mut batch = [Packet::new(&mut buffer, HEADROOM, frame.len(), UNDERLAY).unwrap()];
    port.process(&mut batch, Nanos(0));
    assert_eq!(batch[0].verdict, Verdict::Consumed);
    assert_eq!(port.resolver().tunnels().0, [b"whole"]);
}

/// Makes the outer IP packet and its datagram longer by so much.
fn lengthen(frame: &mut [u8], ip: u16, udp: u16) {
    for (at, by) in [(16, ip), (38, udp)] {
        let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + by;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..34], 0)).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
}
