use crate::toy::{DIRECT, KERNEL, Toy, UPLINK, ledger, send};
use penstock_engine::{Counter, Ending};
use penstock_flow::{Meter, Transposition};
use penstock_model::{DropReason, EncapId, Epoch, Nanos, PortId, TunnelId, Verdict};
use penstock_wire::build::FrameBuilder;

fn web() -> Vec<u8> {
    FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(&[1; 46]).build()
}

#[test]
fn the_whole_ledger_is_right_after_every_packet() {
    let to_tunnel = Transposition::to_tunnel(TunnelId(5));
    let mut port = Toy::new()
        .rule(80, Transposition::to_port(PortId(2)))
        .rule(81, Transposition::drop(DropReason::AclDenied))
        .rule(82, to_tunnel)
        .rule(83, Transposition::to_port(UPLINK).encapsulated(EncapId(9)))
        .port();
    let to = |p: u16| FrameBuilder::udp("192.0.2.1:1000", &format!("198.51.100.1:{p}")).payload(&[1; 58]).build();
    assert_eq!(send(&mut port, &to(80), 1).0, Verdict::Transmit(PortId(2)));
    assert_eq!(*port.ledger(), ledger((1, 100), (1, 100), [0; 3], &[]));
    assert_eq!(send(&mut port, &to(81), 1).0, Verdict::Drop(DropReason::AclDenied));
    assert_eq!(*port.ledger(), ledger((2, 200), (1, 100), [0; 3], &[(DropReason::AclDenied, 1)]));
    assert_eq!(send(&mut port, &to(82), 1).0, Verdict::Tunnel(TunnelId(5)));
    assert_eq!(*port.ledger(), ledger((3, 300), (1, 100), [1, 0, 0], &[(DropReason::AclDenied, 1)]));
    assert_eq!(send(&mut port, &to(KERNEL), 1).0, Verdict::Pass);
    assert_eq!(*port.ledger(), ledger((4, 400), (1, 100), [1, 1, 0], &[(DropReason::AclDenied, 1)]));
    assert_eq!(send(&mut port, &to(83), 1).0, Verdict::Drop(DropReason::NextHopUnresolved));
    assert_eq!(send(&mut port, &to(84), 1).0, Verdict::Drop(DropReason::NoServiceOnPort));
    assert_eq!(send(&mut port, &to(80)[..20], 1).0, Verdict::Drop(DropReason::TruncatedIpv4));
    assert_eq!(send(&mut port, &to(DIRECT), 1).0, Verdict::Transmit(UPLINK));
    let arp = penstock_wire::arp::Arp::request(penstock_model::Mac([2; 6]), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    assert_eq!(send(&mut port, &arp.to_frame(), 1).0, Verdict::Consumed);
    let drops = [
        (DropReason::AclDenied, 1),
        (DropReason::NextHopUnresolved, 1),
        (DropReason::NoServiceOnPort, 1),
        (DropReason::TruncatedIpv4, 1),
    ];
    assert_eq!(*port.ledger(), ledger((9, 400 + 300 + 20 - 100 + 100 + 42), (2, 200), [1, 1, 1], &drops));
    assert_eq!(port.flows(), 4, "what was dropped without a decision is not remembered; a denied flow is");
}

#[test]
fn a_rule_change_in_mid_flow_sees_exactly_one_more_packet_on_the_slow_path() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(2))).port();
    for _ in 0..3 {
        assert_eq!(send(&mut port, &web(), 1).0, Verdict::Transmit(PortId(2)));
    }
    assert_eq!(port.resolver().asked, [false]);
    port.resolver_mut().rules.insert(80, Transposition::to_port(PortId(3)));
    assert_eq!(send(&mut port, &web(), 1).0, Verdict::Transmit(PortId(2)), "not before its epoch is published");
    port.resolver_mut().epoch = Epoch(2);
    for _ in 0..3 {
        assert_eq!(send(&mut port, &web(), 2).0, Verdict::Transmit(PortId(3)));
    }
    assert_eq!(port.resolver().asked, [false, true]);
    assert_eq!((port.flows(), port.resolved()), (1, 2));
}

#[test]
fn a_flow_of_two_tenants_with_the_same_addresses_is_two_flows() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(2))).port();
    let mut batch_of_two = |ports: [u16; 2]| {
        let frame = web();
        let mut buffers = [vec![0; 300], vec![0; 300]];
        let mut batch: Vec<_> = buffers
            .iter_mut()
            .zip(ports)
            .map(|(b, p)| {
                b[128..128 + frame.len()].copy_from_slice(&frame);
                penstock_model::Packet::new(b, 128, frame.len(), PortId(p)).unwrap()
            })
            .collect();
        port.process(&mut batch, Nanos::from_secs(1));
        port.flows()
    };
    assert_eq!(batch_of_two([1, 1]), 1);
    assert_eq!(batch_of_two([1, 2]), 2);
}

#[test]
fn the_peer_of_a_flow_is_known_before_its_first_packet_and_kept_with_it() {
    let mut toy = Toy::new().rule(80, Transposition::to_port(PortId(2)));
    toy.with_peer = true;
    let mut port = toy.port();
    let reply = FrameBuilder::tcp("198.51.100.1:80", "192.0.2.1:1000").build();
    assert_eq!(send(&mut port, &reply, 1).0, Verdict::Drop(DropReason::NoServiceOnPort));
    send(&mut port, &web(), 1);
    assert_eq!((port.flows(), port.flow_table().established()), (2, 0));
    send(&mut port, &web(), 1);
    assert_eq!((port.flows(), port.flow_table().established()), (2, 2), "the second packet establishes both");
    assert_eq!(send(&mut port, &reply, 1).0, Verdict::Transmit(PortId(1)));
    assert_eq!(port.resolver().asked, [false, false], "the reply was not asked about again");
}

#[test]
fn an_idle_flow_is_decided_again_and_a_sweep_forgets_it() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(2))).port();
    send(&mut port, &web(), 1);
    send(&mut port, &web(), 50);
    send(&mut port, &web(), 150);
    assert_eq!(port.resolver().asked, [false, false]);
    for _ in 0..100 {
        port.maintain(Nanos::from_secs(400));
    }
    assert_eq!(port.flows(), 0);
}

#[test]
fn packets_and_bytes_are_counted_where_the_decision_says() {
    let counted = Transposition::to_port(PortId(2)).with_counter(3);
    let beyond = Transposition::to_port(PortId(2)).with_counter(4);
    let mut port = Toy::new().rule(80, counted).rule(81, beyond).port();
    for _ in 0..5 {
        send(&mut port, &web(), 1);
        send(&mut port, &FrameBuilder::udp("192.0.2.1:1", "192.0.2.2:81").build(), 1);
    }
    let zero = Counter::default();
    assert_eq!(port.counters(), [zero, zero, zero, Counter { packets: 5, bytes: 500 }]);
}

#[test]
fn what_exceeds_the_meter_is_dropped_for_that_reason() {
    let mut port = Toy::new().rule(80, Transposition::to_port(PortId(2)).with_meter(0)).port();
    port.set_meters(vec![Meter::new(800, 250, Nanos(0))]);
    let verdicts: Vec<_> = (0..4).map(|_| send(&mut port, &web(), 0).0).collect();
    let (ok, no) = (Verdict::Transmit(PortId(2)), Verdict::Drop(DropReason::MeterExceeded));
    assert_eq!(verdicts, [ok, ok, no, no]);
    assert_eq!(send(&mut port, &web(), 1).0, ok, "100 bytes a second later");
}

#[test]
fn an_explanation_is_what_would_happen_and_leaves_no_trace() {
    let t = Transposition::to_port(UPLINK).with_ttl_decrement().encapsulated(EncapId(0)).with_counter(1);
    let mut port = Toy::new().rule(80, t).port();
    let explained = port.explain(&web(), PortId(1), Nanos::from_secs(1));
    assert_eq!((port.flows(), port.counters()[1], port.ledger().received), (0, Counter::default(), 0));
    let layers: Vec<_> = explained.steps.iter().map(|s| s.layer.as_str()).collect();
    assert_eq!(layers, ["flow", "toy"]);
    let (verdict, frame) = send(&mut port, &web(), 1);
    assert_eq!((verdict, &frame), (Verdict::Transmit(UPLINK), &explained.frame));
    assert_eq!(explained.ending, Ending::Transmit(UPLINK));
    let again = port.explain(&web(), PortId(1), Nanos::from_secs(1));
    assert!(again.steps[0].text.starts_with("an entry decides"));
    assert_eq!(again.frame, frame);
    let denied = port.explain(&FrameBuilder::udp("192.0.2.1:1", "192.0.2.2:7").build(), PortId(1), Nanos(0));
    assert_eq!(denied.ending, Ending::Drop(DropReason::NoServiceOnPort));
    assert_eq!(denied.steps.last().map(|s| s.text.as_str()), Some(DropReason::NoServiceOnPort.sentence()));
}

#[test]
fn bytes_are_counted_without_the_padding_of_short_frames() {
    let mut port = Toy::new().rule(80, Transposition::to_port(UPLINK).with_counter(2)).port();
    let short = FrameBuilder::udp("192.0.2.1:1", "192.0.2.2:80").payload(b"abc").padded().build();
    assert!(short.len() >= 60);
    assert_eq!(send(&mut port, &short, 1).0, Verdict::Transmit(UPLINK));
    assert_eq!(port.counters()[2], Counter { packets: 1, bytes: 14 + 20 + 8 + 3 });
}
