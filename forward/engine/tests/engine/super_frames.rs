use crate::toy::{Toy, UPLINK, ledger};
use penstock_engine::Port;
use penstock_flow::{Meter, Transposition};
use penstock_model::{DropReason, EncapId, Gso, HEADROOM, Nanos, Offload, Packet, PortId, TunnelId, Verdict};
use penstock_wire::build::{FrameBuilder, has_right_checksums};
use penstock_wire::{parse, parse_vxlan};

const NOW: Nanos = Nanos::from_secs(1);

/// 4,000 bytes of TCP that the sender wants cut at 1,448.
fn whole() -> (Vec<u8>, Offload) {
    let payload: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
    let frame = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(&payload).partial_checksum().build();
    let offload = Offload {
        partial_checksum: true,
        checksum_start: 34,
        checksum_offset: 16,
        gso: Gso::Tcp4,
        gso_size: 1448,
        header_len: 54,
        ..Offload::default()
    };
    (frame, offload)
}

type Ended = (Verdict, Vec<u8>);

fn run(port: &mut Port<Toy>, scratch: usize) -> (Verdict, Vec<u8>, Vec<Ended>) {
    let (frame, offload) = whole();
    let mut buffer = vec![0; HEADROOM + frame.len()];
    buffer[HEADROOM..].copy_from_slice(&frame);
    let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(1)).unwrap();
    packet.offload = offload;
    let mut segments = Vec::new();
    port.process_super(&mut packet, &mut vec![0; scratch], NOW, &mut |p| {
        segments.push((p.verdict, p.frame().to_vec()))
    });
    assert!(port.ledger().balances());
    (packet.verdict, packet.frame().to_vec(), segments)
}

#[test]
fn a_super_frame_that_is_encapsulated_is_cut_and_decided_once() {
    let t = Transposition::to_port(UPLINK).with_ttl_decrement().encapsulated(EncapId(0)).with_counter(1);
    let mut port = Toy::new().rule(80, t).port();
    let (verdict, _, segments) = run(&mut port, 2048);
    assert_eq!((verdict, segments.len()), (Verdict::Consumed, 3));
    let mut stream = Vec::new();
    for (verdict, frame) in &segments {
        assert_eq!(*verdict, Verdict::Transmit(UPLINK));
        let outer = parse(frame).unwrap();
        let (_, inner) = parse_vxlan(frame, &outer).unwrap();
        assert!(has_right_checksums(frame, &inner));
        assert_eq!((inner.ttl, inner.end as usize), (63, frame.len()));
        stream.extend_from_slice(&frame[usize::from(inner.payload)..]);
    }
    let (frame, _) = whole();
    assert_eq!(stream, frame[54..]);
    assert_eq!(port.resolver().asked, [false]);
    assert_eq!(*port.ledger(), ledger((3, 4162), (3, 4312), [0; 3], &[]));
    assert_eq!(port.counters()[1].packets, 3);
}

#[test]
fn a_super_frame_for_a_tunnel_is_cut_into_ip_packets() {
    let mut port = Toy::new().rule(80, Transposition::to_tunnel(TunnelId(1))).port();
    let (_, _, segments) = run(&mut port, 2048);
    let lengths: Vec<_> = segments.iter().map(|(v, f)| (*v, f.len(), f[0])).collect();
    let v = Verdict::Tunnel(TunnelId(1));
    assert_eq!(lengths, [(v, 1488, 0x45), (v, 1488, 0x45), (v, 1144, 0x45)]);
}

#[test]
fn a_super_frame_for_a_port_stays_whole() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(2)).with_dst_port(8080)).port();
    let (verdict, frame, segments) = run(&mut port, 0);
    assert_eq!((verdict, frame.len(), segments.len()), (Verdict::Transmit(PortId(2)), 4054, 0));
    assert_eq!(*port.ledger(), ledger((1, 4054), (1, 4054), [0; 3], &[]));
}

#[test]
fn what_cannot_be_cut_or_is_over_the_cap_is_dropped_and_counted() {
    let t = Transposition::to_port(UPLINK).encapsulated(EncapId(0));
    let mut port = Toy::new().rule(80, t).port();
    assert_eq!(run(&mut port, 1500).0, Verdict::Drop(DropReason::NoBuffer));
    assert_eq!(*port.ledger(), ledger((1, 4054), (0, 0), [0; 3], &[(DropReason::NoBuffer, 1)]));

    let mut port = Toy::new().rule(80, t.with_meter(0)).port();
    port.set_meters(vec![Meter::new(8, 3100, NOW)]);
    let (_, _, segments) = run(&mut port, 2048);
    let verdicts: Vec<_> = segments.iter().map(|s| s.0).collect();
    assert_eq!(
        verdicts,
        [Verdict::Transmit(UPLINK), Verdict::Transmit(UPLINK), Verdict::Drop(DropReason::MeterExceeded)]
    );
}

#[test]
fn the_plain_way_refuses_to_encapsulate_a_super_frame() {
    let mut port = Toy::new().rule(80, Transposition::to_port(UPLINK).encapsulated(EncapId(0))).port();
    let (frame, offload) = whole();
    let mut buffer = vec![0; HEADROOM + frame.len()];
    buffer[HEADROOM..].copy_from_slice(&frame);
    let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(1)).unwrap();
    packet.offload = offload;
    port.process(std::slice::from_mut(&mut packet), NOW);
    assert_eq!(packet.verdict, Verdict::Drop(DropReason::BadOffload));
}
