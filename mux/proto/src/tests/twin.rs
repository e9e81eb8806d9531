//! A slow mux beside the fast one: linear search, no entries, no prefetch.

use super::fixture::*;
use crate::{ALL_PORTS, Distribution, MuxGoal, Pool, Service};
use penstock_flow::FlowHasher;
use penstock_model::{Addr16, BackendId, DropReason, PoolId, Protocol};
use proptest::prelude::*;
use std::net::SocketAddr;

/// Whom a packet without any flow entry goes to, straight from the goal.
fn twin(
    goal: &MuxGoal,
    src: SocketAddr,
    vip: &str,
    protocol: Protocol,
    port: u16,
    opens: bool,
) -> Result<BackendId, DropReason> {
    let of_vip: Vec<&Service> = goal.services.iter().filter(|s| s.vip == ip(vip)).collect();
    if of_vip.is_empty() {
        return Err(DropReason::NotOurs);
    }
    let of_port = |port| of_vip.iter().find(|s| s.protocol == protocol && s.port == port);
    let service = of_port(port).or_else(|| of_port(ALL_PORTS)).ok_or(DropReason::NoServiceOnPort)?;
    let pool = goal.pools.iter().find(|p| p.id == service.pool).unwrap();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let (c, v) = (Addr16::from(src.ip()).0, Addr16::from(service.vip).0);
    let rest = match service.distribution {
        Distribution::Default => u64::from(protocol.0) << 32 | u64::from(src.port()) << 16 | u64::from(port),
        Distribution::SourceIp => 0,
        Distribution::SourceIpProtocol => u64::from(protocol.0) << 32,
    };
    let secret: Vec<u8> = goal.hash_seed.iter().flat_map(|w| w.to_le_bytes()).collect();
    let hasher = FlowHasher::new(secret.try_into().unwrap());
    let hash = hasher.hash5(&[word(&c[..8]), word(&c[8..]), word(&v[..8]), word(&v[8..]), rest]);
    let now = pool.table.owner(hash);
    let mut before = pool.previous.iter().filter_map(|t| t.owner(hash)).filter(|b| Some(*b) != now);
    let stays = before.next().filter(|_| !opens);
    stays.or(now).ok_or(DropReason::NoHealthyBackend)
}

fn pools() -> impl Strategy<Value = Vec<Pool>> {
    let members = || prop::collection::btree_set(1u32..=8, 0..6);
    let pool = (members(), members(), members(), any::<bool>());
    prop::collection::vec(pool, 1..4).prop_map(|list| {
        let make = |(i, (first, before, now, in_transition)): (usize, (_, _, _, bool))| {
            let ids = |s: std::collections::BTreeSet<u32>| s.into_iter().collect::<Vec<_>>();
            let older = table(&ids(first));
            let old = table_after(Some(&older), &ids(before));
            let new = table_after(Some(&old), &ids(now));
            Pool {
                id: PoolId(i as u32 * 5),
                name: format!("p{i}"),
                version: 3,
                table: new,
                previous: if in_transition { vec![old, older] } else { Vec::new() },
            }
        };
        list.into_iter().enumerate().map(make).collect()
    })
}

fn vip(n: u8) -> String {
    if n.is_multiple_of(2) { format!("203.0.113.{n}") } else { format!("2001:db8:100::{n:x}") }
}

fn goals() -> impl Strategy<Value = MuxGoal> {
    let frontends = prop::collection::btree_set((0u8..6, any::<bool>(), 0u16..5), 0..12);
    (pools(), frontends, any::<[u64; 2]>(), 0u8..3).prop_map(|(pools, frontends, seed, distribution)| {
        let one = |(i, (v, is_tcp, port)): (usize, (u8, bool, u16))| Service {
            pool: pools[i % pools.len()].id,
            distribution: [Distribution::Default, Distribution::SourceIp, Distribution::SourceIpProtocol]
                [usize::from(distribution)],
            ..service(i as u32 * 3, &vip(v), if is_tcp { Protocol::TCP } else { Protocol::UDP }, port)
        };
        let services = frontends.into_iter().enumerate().map(one).collect();
        MuxGoal { services, hash_seed: seed, pools, ..goal(&[]) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_mux_decides_as_its_slow_twin(
        goal in goals(),
        packets in prop::collection::vec((0u32..100_000, 0u8..7, any::<bool>(), 0u16..6, any::<bool>()), 1..40),
    ) {
        let mut seen = std::collections::HashSet::new();
        let mut mux = Mux::new(&goal);
        for (n, v, is_tcp, port, opens) in packets {
            let vip = vip(v);
            let src = if vip.contains(':') { client6(n) } else { client(n) };
            // The twin knows no flow entries: each flow is asked about once.
            if !seen.insert((src, v, is_tcp, port)) {
                continue;
            }
            let (frame, protocol) = if is_tcp {
                (tcp(src, &vip, port, if opens { SYN } else { ACK }), Protocol::TCP)
            } else {
                (udp(src, &vip, port), Protocol::UDP)
            };
            let expected = twin(&goal, src, &vip, protocol, port, is_tcp && opens);
            prop_assert_eq!(mux.send(&frame).map(|s| s.backend()), expected);
        }
    }

    #[test]
    fn no_frame_makes_the_mux_panic(
        mut frame in prop::collection::vec(any::<u8>(), 0..120),
        shape in 0u8..4,
        flip in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let whole = match shape {
            0 => None,
            1 => Some(tcp(client(1), VIP, 80, SYN)),
            2 => Some(udp(client6(1), VIP6, 53)),
            _ => Some(packet(ip("198.18.0.1"), ip(VIP), Protocol::ICMP, [vec![3, 4, 0, 0, 0, 0, 5, 20], frame.clone()].concat(), Some(2))),
        };
        if let Some(whole) = whole {
            frame = whole;
            for (at, with) in flip {
                *at.get_mut(&mut frame) ^= with;
            }
        }
        let mut mux = Mux::new(&changed(&goal(&[1, 2]), &[1, 2, 3], &[1, 2]));
        mux.run(&frame);
        prop_assert!(mux.port.ledger().balances());
        let _ = crate::explain(&std::sync::Arc::new(build(&goal(&[1]))), &frame, penstock_model::PortId(0));
    }
}
