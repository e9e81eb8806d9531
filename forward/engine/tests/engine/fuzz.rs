use crate::toy::{Toy, UPLINK};
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, EncapId, Gso, HEADROOM, Mac, Nanos, Offload, Packet, PortId, Verdict, Vni};
use penstock_wire::build::{FrameBuilder, vxlan_frame};
use proptest::prelude::*;

fn seeds() -> Vec<Vec<u8>> {
    let inner = FrameBuilder::tcp("10.0.0.1:1", "10.0.0.2:80").payload(&[1; 40]).build();
    let a = std::net::IpAddr::from([10, 0, 0, 1]);
    vec![
        vxlan_frame(a, a, Vni::new(5).unwrap(), &inner),
        inner,
        FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:80").payload(&[8; 60]).build(),
        FrameBuilder::udp("10.0.0.1:9", "10.0.0.2:53").vlan(3).payload(&[8; 60]).build(),
        FrameBuilder::echo("10.0.0.1", "10.0.0.2", 80).payload(&[1; 16]).build(),
    ]
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let damaged = (prop::sample::select(seeds()), damage).prop_map(|(mut frame, damage)| {
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 4 => damaged]
}

/// Any decision, sensible or not.
fn transpositions() -> impl Strategy<Value = Transposition> {
    (any::<u16>(), any::<bool>(), 0u32..2, any::<u16>()).prop_map(|(flags, v4, encap, port)| {
        let address = if v4 { Addr16::from_v4([10, 0, 0, 9]) } else { Addr16([0x20; 16]) };
        let mut t = Transposition::to_port(UPLINK)
            .with_src(address)
            .with_dst(address)
            .with_src_port(port)
            .with_dst_port(port)
            .with_eth(Mac([1; 6]), Mac([2; 6]))
            .encapsulated(EncapId(encap))
            .with_counter(u32::from(port % 8));
        t.flags = Flags(flags);
        t
    })
}

fn offloads() -> impl Strategy<Value = Offload> {
    let gso = prop::sample::select(vec![Gso::None, Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp]);
    (any::<bool>(), any::<u16>(), any::<u16>(), gso, 0u16..100).prop_map(|(partial, start, offset, gso, size)| {
        Offload {
            partial_checksum: partial,
            checksum_start: start,
            checksum_offset: offset,
            gso,
            gso_size: size,
            ..Offload::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_sum_to_packets_in_whatever_comes_and_whatever_is_decided(
        frames in prop::collection::vec((frames(), offloads()), 1..130),
        rules in prop::collection::vec(transpositions(), 3),
        headroom in prop::sample::select(vec![0, 40, HEADROOM]),
    ) {
        let mut toy = Toy::new().rule(80, rules[0]).rule(1, rules[1]);
        toy.direct = rules[2];
        let mut port = toy.port();
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|(f, _)| [&vec![0; headroom][..], f].concat()).collect();
        let mut batch: Vec<_> = buffers
            .iter_mut()
            .zip(&frames)
            .map(|(b, (f, offload))| {
                let mut p = Packet::new(b, headroom, f.len(), PortId(1)).unwrap();
                p.offload = *offload;
                p
            })
            .collect();
        port.process(&mut batch, Nanos::from_secs(1));
        prop_assert!(port.ledger().balances());
        prop_assert_eq!(port.ledger().received, frames.len() as u64);
        prop_assert!(batch.iter().all(|p| p.verdict != Verdict::Pending));
        let transmitted = batch.iter().filter(|p| matches!(p.verdict, Verdict::Transmit(_)));
        let (n, bytes) = transmitted.fold((0, 0), |(n, b), p| (n + 1, b + p.len() as u64));
        prop_assert_eq!((port.ledger().transmitted, port.ledger().transmitted_bytes), (n, bytes));
        let mut scratch = [0; 512];
        for p in &mut batch {
            port.process_super(p, &mut scratch, Nanos::from_secs(1), &mut |s| assert_ne!(s.verdict, Verdict::Pending));
            prop_assert!(port.ledger().balances());
        }
        for (frame, _) in &frames {
            let before = port.ledger().clone();
            port.explain(frame, PortId(1), Nanos::from_secs(1));
            prop_assert_eq!(&before, port.ledger());
        }
    }
}
