//! What a site, or anybody who can reach the gateway's tunnel port, may send.
//!
//! A program of records: raw datagrams of a stranger, packets that an authenticated but hostile site encrypts, genuine
//! datagrams changed on the way, overlay packets towards the site, and the passing of time.
use crate::gateway::check;
use crate::gateway_kit::{GATEWAY, HOST, UNDERLAY, build, goal, ip, vxlan};
use crate::program::{Record, records};
use crate::wireguard::{HopOf, TunnelTable};
use arc_swap::ArcSwap;
use boringtun::x25519::{PublicKey, StaticSecret};
use penstock_engine::Port;
use penstock_flow::{FlowHasher, FlowTable};
use penstock_gateway_proto::{
    Datagram, GatewayGoal, GatewayResolver, Policy, Secret32, Tunnel, TunnelInput, TunnelKind, UnderlayHop,
};
use penstock_model::{HEADROOM, Mac, Nanos, Packet, PortId, Protocol, TunnelId, Verdict};
use penstock_wire::build::FrameBuilder;
use penstock_wire::parse;
use std::net::SocketAddr;
use std::sync::Arc;

const SITE: &str = "198.51.100.7";
/// The site has this tunnel; tenant 2's it has not.
const OURS: TunnelId = TunnelId(1);
const GATEWAY_KEY: [u8; 32] = [7; 32];
const SITE_KEY: [u8; 32] = [2; 32];

/// Plays a program to a gateway whose site has shaken hands.
pub fn run(data: &[u8]) {
    let mut world = World::new();
    world.exchange();
    for record in records(data) {
        world.now = Nanos(world.now.0 + record.seconds() * 1_000_000_000);
        world.step(&record);
        let ledger = world.gateway.ledger();
        assert!(ledger.balances());
    }
}

struct World {
    gateway: Port<GatewayResolver<TunnelTable>>,
    site: TunnelTable,
    now: Nanos,
}

impl World {
    fn new() -> Self {
        let now = Nanos::from_secs(1);
        let goal = keyed();
        let mut table = TunnelTable::new(ip(GATEWAY), hops());
        table.apply(&goal.tunnels, now);
        let published = Arc::new(ArcSwap::from_pointee(build(&goal, None).unwrap()));
        let resolver = GatewayResolver::new(published, FlowHasher::new([3; 16]), table);
        let mut site = TunnelTable::new(ip(SITE), hops());
        site.apply(&[site_tunnel(&goal.tunnels[0])], now);
        Self { gateway: Port::new(resolver, FlowTable::new(256)), site, now }
    }

    fn step(&mut self, record: &Record<'_>) {
        match record.control() & 0x07 {
            // A stranger's datagram, from one of a few addresses.
            0 => self.datagram(record.frame, stranger(record)),
            // Genuine, changed on the way: the first two bytes say where, the third how.
            1 => {
                if let [low, high, mask, packet @ ..] = record.frame {
                    let at = usize::from(u16::from_le_bytes([*low, *high]));
                    self.arrive_from_site(packet, Some((at, *mask)));
                }
            }
            // A packet that the site encrypts, whatever it is.
            2 | 3 => self.arrive_from_site(record.frame, None),
            // From a host of the fabric, for the site.
            4 if record.frame.is_empty() => {}
            4 => self.frame(&vxlan(HOST, 1, record.frame), UNDERLAY),
            // A frame on the underlay.
            5 => self.frame(record.frame, UNDERLAY),
            _ => {
                self.gateway.resolver_mut().tunnels_mut().handle_timeout(self.now);
                self.site.handle_timeout(self.now);
            }
        }
        self.exchange();
    }

    fn arrive_from_site(&mut self, packet: &[u8], change: Option<(usize, u8)>) {
        if self.site.encrypt(OURS, packet, self.now).is_err() {
            return;
        }
        for mut frame in sent(&mut self.site) {
            let at = parse(&frame).map_or(0, |h| usize::from(h.payload));
            if let Some((offset, mask)) = change {
                let len = frame.len() - at;
                frame[at + offset % len.max(1)] ^= mask;
            }
            self.datagram(&frame[at..], SocketAddr::new(ip(SITE), 1000));
        }
    }

    /// A datagram on the tunnel port, by way of the engine as it comes off the wire.
    fn datagram(&mut self, payload: &[u8], from: SocketAddr) {
        let to = SocketAddr::new(ip(GATEWAY), 51820);
        let frame = FrameBuilder::between(from, to, Protocol::UDP).payload(payload).build();
        self.frame(&frame, UNDERLAY);
    }

    /// One round of the worker: the frame, then what was decrypted, then what is for the tunnel.
    fn frame(&mut self, frame: &[u8], port: PortId) {
        self.process(frame, port);
        let decrypted: Vec<(PortId, Vec<u8>)> = {
            let inward = &mut self.gateway.resolver_mut().tunnels_mut().inward;
            let all = inward.packets().map(|p| (p.port, p.frame().to_vec())).collect();
            inward.clear();
            all
        };
        for (port, frame) in decrypted {
            assert_eq!(port, Policy::port_of(OURS), "only this site has keys");
            self.process(&frame, port);
        }
    }

    fn process(&mut self, frame: &[u8], port: PortId) {
        let mut buffer = vec![0; HEADROOM + frame.len() + 64];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut batch = [Packet::new(&mut buffer, HEADROOM, frame.len(), port).unwrap()];
        self.gateway.process(&mut batch, self.now);
        let [packet] = batch;
        assert_ne!(packet.verdict, Verdict::Pending);
        check(port, crate::check::see(frame).as_ref(), packet.verdict, packet.frame());
        if let Verdict::Tunnel(tunnel) = packet.verdict {
            let _ = self.gateway.resolver_mut().tunnels_mut().encrypt(tunnel, packet.frame(), self.now);
        }
    }

    /// Carries handshakes and answers to and fro.
    fn exchange(&mut self) {
        for _ in 0..3 {
            for frame in sent(&mut self.site) {
                let h = parse(&frame).expect("what leaves is a packet");
                if h.dst.to_ip() == ip(GATEWAY) {
                    self.frame(&frame, UNDERLAY);
                }
            }
            for frame in sent(self.gateway.resolver_mut().tunnels_mut()) {
                let h = parse(&frame).expect("what leaves is a packet");
                let payload = &frame[usize::from(h.payload)..h.end as usize];
                let from = SocketAddr::new(h.src.to_ip(), h.src_port);
                if h.dst.to_ip() == ip(SITE) && h.dst_port == 1000 {
                    self.site.handle_datagram(&Datagram { from, port: 1000, tos: h.tos, payload }, self.now);
                }
            }
            self.site.inward.clear();
        }
    }
}

fn sent(table: &mut TunnelTable) -> Vec<Vec<u8>> {
    let all = table.outward.frames().map(<[u8]>::to_vec).collect();
    table.outward.clear();
    all
}

fn stranger(record: &Record<'_>) -> SocketAddr {
    let last = record.frame.last().copied().unwrap_or(0) % 4;
    SocketAddr::new(ip(&format!("203.0.113.{}", 1 + last)), 4000)
}

fn hops() -> HopOf {
    Arc::new(|_| Some(UnderlayHop { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]) }))
}

fn public(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

/// The kit's goal with keys that somebody has.
fn keyed() -> GatewayGoal {
    let mut goal = goal();
    for tunnel in &mut goal.tunnels {
        let peer = if tunnel.id == OURS { SITE_KEY } else { [9; 32] };
        set_keys(tunnel, GATEWAY_KEY, public(peer), 51820, None);
    }
    goal
}

fn site_tunnel(of: &Tunnel) -> Tunnel {
    let mut tunnel = of.clone();
    let endpoint = Some(SocketAddr::new(ip(GATEWAY), 51820));
    set_keys(&mut tunnel, SITE_KEY, public(GATEWAY_KEY), 1000, endpoint);
    tunnel
}

fn set_keys(tunnel: &mut Tunnel, private: [u8; 32], peer: [u8; 32], port: u16, at: Option<SocketAddr>) {
    let TunnelKind::WireGuard { private_key, peer_public_key, listen_port, endpoint, .. } = &mut tunnel.kind else { panic!() };
    *private_key = Secret32(private);
    *peer_public_key = peer;
    *listen_port = port;
    *endpoint = at;
}
