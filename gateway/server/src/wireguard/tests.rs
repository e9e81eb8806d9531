//! Two tables talk to each other: one is the gateway, the other plays the sites.
use super::table::{HopOf, TunnelTable};
use boringtun::x25519::{PublicKey, StaticSecret};
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_wire::checksum;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const GATEWAY: &str = "192.0.2.1";
const SITE: &str = "198.51.100.7";

fn public(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

fn tunnel(id: u32, private: [u8; 32], peer: [u8; 32], port: u16, endpoint: Option<&str>) -> Tunnel {
    Tunnel {
        id: TunnelId(id),
        name: format!("t{id}"),
        tenant: TenantId(1),
        prefixes: vec!["0.0.0.0/0".parse().unwrap()],
        kind: TunnelKind::WireGuard {
            private_key: Secret32(private),
            peer_public_key: public(peer),
            preshared_key: Some(Secret32([id as u8; 32])),
            listen_port: port,
            endpoint: endpoint.map(|e| e.parse().unwrap()),
            persistent_keepalive_seconds: None,
        },
        caps: Caps::default(),
        nat: TunnelNat::default(),
    }
}

fn hops() -> HopOf {
    Arc::new(|_| Some(UnderlayHop { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]) }))
}

fn table(own: &str, tunnels: &[Tunnel]) -> TunnelTable {
    let mut t = TunnelTable::new(own.parse().unwrap(), hops());
    t.apply(tunnels, Nanos::from_secs(1));
    t
}

/// A gateway with two tunnels on one port, and one site that has the first.
fn pair() -> (TunnelTable, TunnelTable) {
    let gateway = table(GATEWAY, &[tunnel(0, [1; 32], [2; 32], 51820, None), tunnel(1, [1; 32], [3; 32], 51820, None)]);
    let site = table(SITE, &[tunnel(0, [2; 32], [1; 32], 1000, Some("192.0.2.1:51820"))]);
    (gateway, site)
}

fn frames(from: &mut TunnelTable) -> Vec<Vec<u8>> {
    let all = from.outward.frames().map(<[u8]>::to_vec).collect();
    from.outward.clear();
    all
}

/// Gives a frame to a table as if it came from `source`, if one is named.
fn deliver(to: &mut TunnelTable, frame: &[u8], source: Option<SocketAddr>, now: Nanos) -> Verdict {
    let h = penstock_wire::parse(frame).unwrap();
    let from = source.unwrap_or(SocketAddr::new(h.src.to_ip(), h.src_port));
    let payload = &frame[usize::from(h.payload)..];
    to.handle_datagram(&Datagram { from, port: h.dst_port, tos: h.tos, payload }, now)
}

fn exchange(a: &mut TunnelTable, b: &mut TunnelTable, now: Nanos) {
    for _ in 0..6 {
        for frame in frames(a) {
            deliver(b, &frame, None, now);
        }
        for frame in frames(b) {
            deliver(a, &frame, None, now);
        }
    }
}

fn packet(mark: u8) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum::finish(checksum::sum(&p, 0)).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
    p.resize(40, mark);
    p
}

fn decrypted(t: &mut TunnelTable) -> Vec<(PortId, Vec<u8>)> {
    let all = t.inward.packets().map(|p| (p.port, p.frame()[14..].to_vec())).collect();
    t.inward.clear();
    all
}

const NOW: Nanos = Nanos::from_secs(1);

#[test]
fn a_site_and_the_gateway_shake_hands_and_packets_arrive_by_the_port_of_their_tunnel() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    assert_eq!(gateway.status()[0].state, TunnelState::Connected);
    assert_eq!(gateway.status()[1].state, TunnelState::Connecting);
    site.encrypt(TunnelId(0), &packet(7), NOW).unwrap();
    exchange(&mut site, &mut gateway, NOW);
    assert_eq!(decrypted(&mut gateway), [(Policy::port_of(TunnelId(0)), packet(7))]);
    gateway.encrypt(TunnelId(0), &packet(8), NOW).unwrap();
    exchange(&mut gateway, &mut site, NOW);
    assert_eq!(decrypted(&mut site), [(Policy::port_of(TunnelId(0)), packet(8))]);
    let status = gateway.status().remove(0);
    assert_eq!((status.received_bytes, status.transmitted_bytes), (40, 40));
    assert_eq!(status.endpoint, Some(PeerAddress::Socket("198.51.100.7:1000".parse().unwrap())));
}

#[test]
fn a_datagram_counts_once() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    site.encrypt(TunnelId(0), &packet(7), NOW).unwrap();
    let frame = frames(&mut site).remove(0);
    assert_eq!(deliver(&mut gateway, &frame, None, NOW), Verdict::Consumed);
    assert_eq!(deliver(&mut gateway, &frame, None, NOW), Verdict::Drop(DropReason::TunnelReplay));
    let mut forged = frame;
    *forged.last_mut().unwrap() ^= 1;
    forged[42 + 8] ^= 4; // another counter
    assert_eq!(deliver(&mut gateway, &forged, None, NOW), Verdict::Drop(DropReason::TunnelAuthFailed));
}

#[test]
fn the_endpoint_follows_what_authenticates_and_nothing_else() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    site.encrypt(TunnelId(0), &packet(7), NOW).unwrap();
    let frame = frames(&mut site).remove(0);
    let elsewhere: SocketAddr = "203.0.113.9:4444".parse().unwrap();
    let mut forged = frame.clone();
    *forged.last_mut().unwrap() ^= 1;
    deliver(&mut gateway, &forged, Some(elsewhere), NOW);
    assert_eq!(gateway.endpoint_of(TunnelId(0)), Some("198.51.100.7:1000".parse().unwrap()));
    deliver(&mut gateway, &frame, Some(elsewhere), NOW);
    assert_eq!(gateway.endpoint_of(TunnelId(0)), Some(elsewhere));
    gateway.encrypt(TunnelId(0), &packet(8), NOW).unwrap();
    let answer = penstock_wire::parse(&frames(&mut gateway)[0]).unwrap();
    assert_eq!((answer.dst.to_ip(), answer.dst_port), (elsewhere.ip(), 4444));
    deliver(&mut gateway, &frame, Some("203.0.113.1:1".parse().unwrap()), NOW);
    assert_eq!(gateway.endpoint_of(TunnelId(0)), Some(elsewhere), "a replay moves nothing");
}

#[test]
fn packets_wait_for_the_handshake_but_only_a_few() {
    let (mut gateway, mut site) = pair();
    let sent = (0..300).filter(|n| site.encrypt(TunnelId(0), &packet(*n as u8), NOW).is_ok()).count();
    assert_eq!(sent, 4);
    assert_eq!(gateway.encrypt(TunnelId(0), &packet(1), NOW), Err(DropReason::TunnelNotReady));
    exchange(&mut site, &mut gateway, NOW);
    let marks: Vec<u8> = decrypted(&mut gateway).iter().map(|(_, p)| p[39]).collect();
    assert_eq!(marks, [0, 1, 2, 3]);
}

#[test]
fn a_stranger_is_not_answered() {
    let (mut gateway, _) = pair();
    let mut stranger = table("203.0.113.5", &[tunnel(0, [9; 32], [1; 32], 1, Some("192.0.2.1:51820"))]);
    let frame = frames(&mut stranger).remove(0);
    assert_eq!(deliver(&mut gateway, &frame, None, NOW), Verdict::Drop(DropReason::UnknownPeer));
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1; // mac2 is not looked at unless there is load
    damaged[60] ^= 1;
    assert_eq!(deliver(&mut gateway, &damaged, None, NOW), Verdict::Drop(DropReason::TunnelAuthFailed));
    assert!(frames(&mut gateway).is_empty());
}

#[test]
fn one_flooding_source_is_limited_and_others_still_shake_hands() {
    let (mut gateway, mut site) = pair();
    let mut flooder = table("203.0.113.5", &[tunnel(0, [9; 32], [1; 32], 1, Some("192.0.2.1:51820"))]);
    let frame = frames(&mut flooder).remove(0);
    let limited = (0..1000)
        .filter(|_| deliver(&mut gateway, &frame, None, NOW) == Verdict::Drop(DropReason::TunnelLimited))
        .count();
    assert_eq!(limited, 960);
    exchange(&mut site, &mut gateway, NOW);
    assert_eq!(gateway.status()[0].state, TunnelState::Connected);
}

#[test]
fn forged_sources_meet_the_cookie_and_a_true_one_gets_through_with_it() {
    let (mut gateway, mut site) = pair();
    let mut flooder = table("203.0.113.5", &[tunnel(0, [9; 32], [1; 32], 1, Some("192.0.2.1:51820"))]);
    let frame = frames(&mut flooder).remove(0);
    for n in 0..1000u32 {
        let source = SocketAddr::new(IpAddr::from((0x0b00_0000 + n).to_be_bytes()), 9);
        deliver(&mut gateway, &frame, Some(source), NOW);
        gateway.outward.clear();
    }
    let initiation = frames(&mut site).remove(0);
    assert_eq!(deliver(&mut gateway, &initiation, None, NOW), Verdict::Drop(DropReason::TunnelLimited));
    let cookie = frames(&mut gateway).remove(0);
    assert_eq!(deliver(&mut site, &cookie, None, NOW), Verdict::Consumed);
    assert!(decrypted(&mut gateway).is_empty());
}

#[test]
fn no_bytes_of_any_length_bring_it_down() {
    let (mut gateway, mut site) = pair();
    let mut seed = 0x1234_5678_9abc_def0u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let from: SocketAddr = "203.0.113.9:4444".parse().unwrap();
    for n in 0..20_000u64 {
        let len = [0, 1, 4, 16, 31, 32, 33, 64, 92, 148, 149, 1500, 3900][n as usize % 13];
        let mut payload: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        if let Some(head) = payload.first_chunk_mut::<4>() {
            *head = [(n % 6) as u8, 0, 0, 0];
        }
        let verdict = gateway.handle_datagram(&Datagram { from, port: 51820, tos: n as u8, payload: &payload }, NOW);
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
    }
    exchange(&mut site, &mut gateway, NOW);
    assert_eq!(gateway.status()[0].state, TunnelState::Connected);
}

#[test]
fn an_unchanged_tunnel_keeps_its_session_when_the_goal_changes() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    let kept = tunnel(0, [1; 32], [2; 32], 51820, None);
    gateway.apply(&[kept], NOW);
    assert_eq!(gateway.status().len(), 1);
    assert_eq!(gateway.status()[0].state, TunnelState::Connected);
    gateway.apply(&[tunnel(0, [1; 32], [5; 32], 51820, None)], NOW);
    assert_eq!(gateway.status()[0].state, TunnelState::Connecting, "another peer is another tunnel");
    gateway.apply(&[], NOW);
    site.encrypt(TunnelId(0), &packet(1), NOW).unwrap();
    let frame = frames(&mut site).remove(0);
    assert_eq!(deliver(&mut gateway, &frame, None, NOW), Verdict::Drop(DropReason::UnknownPeer));
}

#[test]
fn a_used_up_counter_is_not_accepted() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    site.encrypt(TunnelId(0), &packet(1), NOW).unwrap();
    let mut frame = frames(&mut site).remove(0);
    frame[42 + 8..42 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(deliver(&mut gateway, &frame, None, NOW), Verdict::Drop(DropReason::TunnelReplay));
}

#[test]
fn idle_tunnels_are_looked_at_seldom() {
    let (mut gateway, mut site) = pair();
    exchange(&mut site, &mut gateway, NOW);
    let mut now = NOW;
    let mut looks = 0;
    while now < Nanos::from_secs(100) {
        now = gateway.poll_timeout().unwrap().max(now);
        gateway.handle_timeout(now);
        looks += 1;
    }
    assert!(looks < 2 * (100 / 10 + 22 * 4), "{looks}");
}
