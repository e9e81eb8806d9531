//! WireGuard through the gateway at 1,400 bytes, in memory, one core, against the cipher alone.
//!
//! `tunnel/wireguard`: a VXLAN frame of a host becomes a finished WireGuard datagram: parse, flow table, decapsulate, hop limit,
//! checksum check, tunnel MTU, padding, encryption, outer headers with UDP checksum, up to where the frame is given to `send`; the
//! copy into a transmit buffer is packet I/O and is not timed, as in `core`. `tunnel/wireguard-in`: the other direction, datagram to finished VXLAN frame, replay check and
//! access list included. `tunnel/boringtun`: its `encapsulate` alone. `tunnel/raw-aead`: ChaCha20-Poly1305 sealed in place by the
//! version of `ring` that `boringtun` uses; `tunnel/raw-aead-ring-0.17`: by the newest.
//!
//! Rounds of all of them are interleaved, so that a change of the machine's speed meets all alike.
use crate::report::{Report, Row};
use arc_swap::ArcSwap;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use penstock_engine::EncapTemplate;
use penstock_gateway_proto::{Caps, GatewayGoal, Policy, Secret32, Tunnel, TunnelKind, TunnelNat, UnderlayHop};
use penstock_gateway_server::DataPath;
use penstock_model::{
    BATCH, Epoch, HEADROOM, Mac, Nanos, Overlay, Packet, PortId, Protocol, TenantId, TunnelId, Underlay, Vni,
};
use penstock_policy::{
    Acl, AclAction, AclDirection, AclId, AclRule, Endpoint, NextHop, PortRange, Route, VirtualNetwork,
};
use penstock_wire::build::FrameBuilder;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LEN: usize = 1400;
/// Many short rounds: one that the scheduler interrupts does not move the median.
const ROUNDS: usize = 301;
const BATCHES: usize = 4;
/// Buffers that `boringtun` alone writes to in turn: 256 KiB.
const RING: usize = 128;
const SLOT: usize = 2048;
const NOW: Nanos = Nanos::from_secs(100);
const UNDERLAY: PortId = PortId(0);
const GATEWAY: &str = "192.0.2.1";
const HOST: &str = "192.0.2.2";
const SITE_OUTSIDE: &str = "198.51.100.1";
const CONTAINER: &str = "10.1.0.4:80";
const SITE: &str = "10.200.0.7:40000";

/// Spends one round on a subject and says how long it took.
type Subject = Box<dyn FnMut(&mut Ways) -> Duration>;

pub(crate) fn run(report: &mut Report) {
    let names =
        ["tunnel/wireguard", "tunnel/wireguard-in", "tunnel/boringtun", "tunnel/raw-aead", "tunnel/raw-aead-ring-0.17"];
    if !names.iter().any(|n| report.wants(n)) {
        return;
    }
    let mut ways = Ways::new();
    let mut subjects: [Subject; 5] = [
        Box::new(Ways::outward),
        Box::new(Ways::inward),
        Box::new(|w| w.boringtun()),
        Box::new(raw_old()),
        Box::new(raw_new()),
    ];
    let mut costs = vec![Vec::new(); names.len()];
    for round in 0..=ROUNDS {
        for (subject, cost) in subjects.iter_mut().zip(&mut costs) {
            let spent = subject(&mut ways);
            if round > 0 {
                cost.push(spent.as_nanos() as f64 / (BATCHES * BATCH) as f64);
            }
        }
    }
    for cost in &mut costs {
        cost.sort_by(f64::total_cmp);
    }
    for (name, cost) in names.iter().zip(&costs) {
        if report.wants(name) {
            report.add(row(name, cost));
        }
    }
    let median = |i: usize| costs[i][ROUNDS / 2];
    report.note(format!(
        "tunnel: one core, {LEN}-byte IP packets; the gateway's way out goes at {:.0} % of the cipher's own rate, the way in at {:.0} %.",
        100.0 * median(3) / median(0),
        100.0 * median(3) / median(1),
    ));
}

fn row(name: &str, sorted: &[f64]) -> Row {
    let median = sorted[sorted.len() / 2];
    Row {
        name: name.to_owned(),
        flows: name.starts_with("tunnel/wireguard").then_some(1),
        packet_bytes: Some(LEN as u64),
        ns_per_packet: Some(median),
        pps: Some(1e9 / median),
        gbits: None,
        bytes_per_flow: None,
        range: Some((sorted[0], sorted[sorted.len() - 1])),
        ..Row::default()
    }
}

/// A gateway and a site that have shaken hands, and a pair of `Tunn`s that have too.
struct Ways {
    gateway: DataPath,
    site: DataPath,
    /// As a host sends it.
    overlay: Vec<u8>,
    /// As the site has it before encryption: VXLAN too, for its own data path.
    site_overlay: Vec<u8>,
    tunn: Tunn,
    buffers: Vec<Vec<u8>>,
    /// Where `boringtun` alone writes to.
    ring: Vec<Vec<u8>>,
}

impl Ways {
    fn new() -> Self {
        let mut gateway = path(GATEWAY, &goal(false));
        let mut site = path(SITE_OUTSIDE, &goal(true));
        gateway.set_tunnels(&goal(false).tunnels, NOW);
        site.set_tunnels(&goal(true).tunnels, NOW);
        for _ in 0..4 {
            pass(&mut site, &mut gateway);
            pass(&mut gateway, &mut site);
        }
        let overlay = vxlan(HOST, GATEWAY, 5001, CONTAINER, SITE);
        let site_overlay = vxlan(HOST, SITE_OUTSIDE, 5001, SITE, CONTAINER);
        let rows = |n| vec![vec![0u8; SLOT]; n];
        let mut ways =
            Self { gateway, site, overlay, site_overlay, tunn: tunn(), buffers: rows(BATCH), ring: rows(RING) };
        ways.outward();
        let tunnelled = ways.gateway.ledger().tunnelled;
        assert_eq!(tunnelled as usize, BATCHES * BATCH, "{:?}", ways.gateway.ledger());
        let before = ways.gateway.ledger().transmitted;
        ways.inward();
        let ledger = ways.gateway.ledger();
        assert_eq!((ledger.transmitted - before) as usize, BATCHES * BATCH, "{ledger:?}");
        ways
    }

    /// Overlay to tunnel.
    fn outward(&mut self) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..BATCHES {
            fill(&mut self.buffers, std::iter::repeat_n(&self.overlay[..], BATCH));
            let start = Instant::now();
            self.gateway.handle_batch(&mut batch(&mut self.buffers, self.overlay.len()), NOW);
            self.gateway.poll_transmit(NOW, |frame| {
                std::hint::black_box(frame);
            });
            spent += start.elapsed();
        }
        spent
    }

    /// Tunnel to overlay: the site encrypts outside the measured time, as no datagram counts twice.
    fn inward(&mut self) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..BATCHES {
            fill(&mut self.buffers, std::iter::repeat_n(&self.site_overlay[..], BATCH));
            self.site.handle_batch(&mut batch(&mut self.buffers, self.site_overlay.len()), NOW);
            let mut datagrams: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
            self.site.poll_transmit(NOW, |frame| datagrams.push(frame.to_vec()));
            assert_eq!(datagrams.len(), BATCH);
            fill(&mut self.buffers, datagrams.iter().map(Vec::as_slice));
            let start = Instant::now();
            self.gateway.handle_batch(&mut batch(&mut self.buffers, datagrams[0].len()), NOW);
            self.gateway.poll_transmit(NOW, |frame| {
                std::hint::black_box(frame);
            });
            spent += start.elapsed();
        }
        spent
    }

    fn boringtun(&mut self) -> Duration {
        let start = Instant::now();
        for (place, buffer) in (0..BATCHES).flat_map(|_| &self.buffers.as_slice()[..BATCH]).enumerate() {
            let out = &mut self.ring[place % RING];
            assert!(matches!(self.tunn.encapsulate(&buffer[..LEN], out), TunnResult::WriteToNetwork(_)));
        }
        start.elapsed()
    }
}

fn fill<'a>(buffers: &mut [Vec<u8>], frames: impl Iterator<Item = &'a [u8]>) {
    for (buffer, frame) in buffers.iter_mut().zip(frames) {
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    }
}

fn batch(buffers: &mut [Vec<u8>], len: usize) -> arrayvec::ArrayVec<Packet<'_>, BATCH> {
    buffers.iter_mut().map(|b| Packet::new(b, HEADROOM, len, UNDERLAY).unwrap()).collect()
}

/// Carries what `from` has to send to `to`.
fn pass(from: &mut DataPath, to: &mut DataPath) {
    let mut frames = Vec::new();
    from.poll_transmit(NOW, |f| frames.push(f.to_vec()));
    for frame in frames {
        let mut buffer = vec![0; SLOT];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
        to.handle_batch(&mut [Packet::new(&mut buffer, HEADROOM, frame.len(), UNDERLAY).unwrap()], NOW);
    }
}

fn path(own: &str, goal: &GatewayGoal) -> DataPath {
    let hop = |_| Some(UnderlayHop { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 0, 2]) });
    let policy = Policy::build(goal, Underlay(own.parse().unwrap()), UNDERLAY, hop, None).unwrap();
    DataPath::new(Arc::new(ArcSwap::from_pointee(policy)), own.parse().unwrap(), hop, 1024, [3; 16])
}

/// The gateway has the container and a tunnel to the site; seen from the site it is the other way round.
fn goal(is_site: bool) -> GatewayGoal {
    let addr = |s: &str| s.parse::<SocketAddr>().unwrap().ip();
    let (inside, outside) = if is_site { (SITE, "10.1.0.0/16") } else { (CONTAINER, "10.200.0.0/16") };
    let prefix = if is_site { "10.200.0.0/16" } else { "10.1.0.0/16" };
    let (mine, theirs) = if is_site { ([2; 32], [1; 32]) } else { ([1; 32], [2; 32]) };
    GatewayGoal {
        vteps: vec![Underlay(HOST.parse().unwrap())],
        networks: vec![VirtualNetwork {
            name: "net".into(),
            tenant: TenantId(1),
            vni: Vni::new(5001).unwrap(),
            epoch: Epoch(1),
            prefixes: vec![prefix.parse().unwrap()],
            subnets: vec![prefix.parse().unwrap()],
            endpoints: vec![Endpoint {
                addr: Overlay(addr(inside)),
                mac: Mac([2, 0, 0, 0, 1, 1]),
                host: Underlay(HOST.parse().unwrap()),
                acl: Some(AclId(0)),
                network_interface: "nic".into(),
            }],
            routes: vec![Route { prefix: outside.parse().unwrap(), next_hop: NextHop::Tunnel(TunnelId(0)) }],
            tables: Vec::new(),
        }],
        acls: vec![Acl {
            name: "acl".into(),
            rules: vec![AclRule {
                name: "all".into(),
                priority: 1,
                action: AclAction::Allow,
                direction: AclDirection::Inbound,
                protocol: None,
                src: vec![],
                dst: vec![],
                src_ports: PortRange::ANY,
                dst_ports: PortRange::ANY,
                log: false,
            }],
        }],
        tunnels: vec![Tunnel {
            id: TunnelId(0),
            name: "site".into(),
            tenant: TenantId(1),
            prefixes: vec![outside.parse().unwrap()],
            kind: TunnelKind::WireGuard {
                private_key: Secret32(mine),
                peer_public_key: PublicKey::from(&StaticSecret::from(theirs)).to_bytes(),
                preshared_key: None,
                listen_port: 51820,
                endpoint: is_site.then(|| SocketAddr::new(GATEWAY.parse().unwrap(), 51820)),
                persistent_keepalive_seconds: None,
            },
            caps: Caps::default(),
            nat: TunnelNat::default(),
        }],
        ..GatewayGoal::default()
    }
}

/// A frame of a host: VXLAN around a TCP packet of `LEN` bytes.
fn vxlan(from: &str, to: &str, vni: u32, src: &str, dst: &str) -> Vec<u8> {
    let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let inner = FrameBuilder::between(src, dst, Protocol::TCP).payload(&[0x5a; LEN - 40]).build();
    assert_eq!(inner.len(), 14 + LEN);
    let pa = |s: &str| Underlay(s.parse::<IpAddr>().unwrap());
    let template =
        EncapTemplate::vxlan(pa(from), pa(to), Vni::new(vni).unwrap(), Mac([2; 6]), Mac([2; 6]), UNDERLAY).unwrap();
    let mut frame = template.bytes().to_vec();
    frame.extend(inner);
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    frame[24..26].fill(0);
    let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A `Tunn` with a session, its peer forgotten.
fn tunn() -> Tunn {
    let (a, b) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
    let (public_a, public_b) = (PublicKey::from(&a), PublicKey::from(&b));
    let mut a = Tunn::new(a, public_b, None, None, 1, None).unwrap();
    let mut b = Tunn::new(b, public_a, None, None, 2, None).unwrap();
    let (mut one, mut two) = ([0; 256], [0; 256]);
    let TunnResult::WriteToNetwork(init) = a.format_handshake_initiation(&mut one, false) else { panic!() };
    let TunnResult::WriteToNetwork(response) = b.decapsulate(None, init, &mut two) else { panic!() };
    let response = response.to_vec();
    assert!(matches!(a.decapsulate(None, &response, &mut one), TunnResult::WriteToNetwork(_)));
    a
}

macro_rules! raw {
    ($name:ident, $ring:ident) => {
        fn $name() -> impl FnMut(&mut Ways) -> Duration {
            use $ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
            let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
            let mut counter = 0u64;
            move |ways| {
                let start = Instant::now();
                for buffer in (0..BATCHES * BATCH).map(|i| i % BATCH) {
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&counter.to_le_bytes());
                    counter += 1;
                    let data = &mut ways.buffers[buffer][..LEN];
                    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), data);
                    let _sealed = std::hint::black_box(tag.unwrap());
                }
                start.elapsed()
            }
        }
    };
}

raw!(raw_old, ring_016);
raw!(raw_new, ring);
