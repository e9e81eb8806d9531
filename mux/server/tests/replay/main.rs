//! One truth: what the kernel program makes of a packet is what the engine makes of it, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod frames;
#[path = "../support/mod.rs"]
mod support;

use arc_swap::ArcSwap;
use frames::{Dice, PORTS, VIPS, frame, has_fragment_header};
use penstock_bpf::Steering;
use penstock_bpf::testrun::run_once;
use penstock_engine::{Counter, Port};
use penstock_flow::FlowTable;
use penstock_maps::{ReplayImage, ReplayTraffic};
use penstock_model::{
    BackendId, Dip, HEADROOM, Ledger, Mac, Nanos, Overlay, Packet, PoolId, PortId, Protocol, ServiceId, Underlay,
    Verdict, Vni,
};
use penstock_mux_proto::{
    Backend, Distribution, Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy, Pool, Service, VipLimit, VipRate,
};
use penstock_packet_io::{AfXdp, AfXdpOptions, PacketIo, interface_index};
use penstock_spread::SlotTable;
use penstock_wire::{Fragment, ethertype};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use support::Lab;

const OWN: PortId = PortId(3);
const OTHER: PortId = PortId(4);
const MTU: u32 = 1600;
const PACKETS: usize = 100_000;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// Which of the virtual IPs has a limit, which these packets are far from.
const LIMITED: usize = 1;

/// Four virtual IPs with TCP and UDP on some ports each, over pools of every kind.
fn goal(own: IpAddr) -> MuxGoal {
    let host = |id: u32| if own.is_ipv4() { format!("198.51.100.{id}") } else { format!("2001:db8:3::{id}") };
    let backend = |id: u32| Backend {
        id: BackendId(id),
        name: format!("web-{id}"),
        dip: Dip { vni: Vni::new(70_000 + id).unwrap(), addr: Overlay("10.1.0.5".parse().unwrap()) },
        mac: Mac([2, 0x50, 0, 0, 9, id as u8]),
        host: Underlay(host(id).parse().unwrap()),
    };
    let all: Vec<_> = (0..8).map(|id| (BackendId(id), 1)).collect();
    let whole = SlotTable::build(None, &all);
    let fewer = SlotTable::build(Some(&whole), &all[..7]);
    let pool = |id, table: &SlotTable, previous: Option<&SlotTable>| Pool {
        id: PoolId(id),
        name: format!("pool-{id}"),
        version: 1,
        table: table.clone(),
        previous: previous.cloned().into_iter().collect(),
    };
    let mut services = Vec::new();
    for (v, vip) in VIPS.iter().enumerate() {
        for (p, port) in PORTS[..3].iter().enumerate() {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let id = services.len() as u32;
                let distribution =
                    [Distribution::Default, Distribution::SourceIp, Distribution::SourceIpProtocol][(v + p) % 3];
                services.push(Service {
                    id: ServiceId(id),
                    name: format!("rule-{id}"),
                    vip: vip.parse().unwrap(),
                    protocol,
                    port: *port,
                    pool: PoolId((v as u32 + p as u32) % 3),
                    distribution,
                });
            }
        }
    }
    MuxGoal {
        hash_seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        services,
        pools: vec![
            pool(0, &whole, None),
            pool(1, &fewer, Some(&whole)),
            pool(2, &SlotTable::build(None, &all[2..6]), None),
        ],
        backends: (0..8).map(backend).collect(),
        limits: vec![VipLimit {
            vip: VIPS[LIMITED].parse().unwrap(),
            packets_per_second: Some(VipRate::MAX),
            new_flows_per_second: Some(VipRate::MAX),
        }],
        ..MuxGoal::default()
    }
}

/// Backend 3 lies beyond another port, and where backend 5 lies is not known yet.
fn policy(own: &str) -> Arc<Policy> {
    let own: IpAddr = own.parse().unwrap();
    let next_hop = |host: Underlay<IpAddr>| {
        let last = match host.0 {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let out = if last == 3 { OTHER } else { OWN };
        (last != 5).then_some(NextHopInfo {
            eth_src: Mac([2, 1, 1, 1, 1, 1]),
            eth_dst: Mac([4, 2, 2, 2, 2, last]),
            out,
        })
    };
    Arc::new(Policy::build(&goal(own), next_hop, Underlay(own)).unwrap())
}

/// User space: for each packet an engine that has seen none before, so that no answer depends on an earlier one.
struct Engine {
    published: Arc<ArcSwap<Policy>>,
}

/// What user space does to a frame, and whether it needs the flow table for it.
#[derive(Debug, PartialEq)]
struct Answer {
    verdict: Verdict,
    frame: Vec<u8>,
    is_tracked: bool,
    /// What it counted, by id.
    services: Vec<Counter>,
    backends: Vec<Counter>,
    ledger: Ledger,
}

impl Engine {
    fn new(policy: &Arc<Policy>) -> Self {
        Self { published: Arc::new(ArcSwap::from(Arc::clone(policy))) }
    }

    /// The short way that most packets go and the long way have one answer.
    fn process(&self, frame: &[u8]) -> Answer {
        let long = self.process_by(frame, MuxResolver::without_express);
        assert_eq!(self.process_by(frame, |resolver| resolver), long, "{frame:02x?}");
        long
    }

    fn process_by(&self, frame: &[u8], way: fn(MuxResolver) -> MuxResolver) -> Answer {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(frame);
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), OWN).unwrap();
        let resolver = MuxResolver::new(Arc::clone(&self.published), [5, 6], Foreign::Pass);
        let mut port = Port::new(way(resolver), FlowTable::new(16));
        port.ensure_counters(self.published.load().backend_counters());
        port.process(std::slice::from_mut(&mut packet), Nanos::from_secs(1));
        Answer {
            verdict: packet.verdict,
            frame: packet.frame().to_vec(),
            is_tracked: port.resolved() + port.flows() as u64 > 0,
            services: port.resolver().services().to_vec(),
            backends: port.counters().to_vec(),
            ledger: port.ledger().clone(),
        }
    }
}

/// What the kernel's counters have to say by id, summed up from the engine's.
#[derive(Default)]
struct Expected(Vec<ReplayTraffic>);

impl Expected {
    fn add(&mut self, counted: &[Counter], sent: usize) {
        const NOTHING: ReplayTraffic = ReplayTraffic { packets: 0, bytes: 0, sent: 0 };
        self.0.resize(self.0.len().max(counted.len()), NOTHING);
        for (sum, one) in self.0.iter_mut().zip(counted).filter(|(_, one)| one.packets > 0) {
            sum.packets += one.packets;
            sum.bytes += one.bytes;
            sum.sent += sent as u64;
        }
    }
}

/// Whether the kernel has to replay this itself: all that user space would send by the same port without its flow table, but
/// for what is said to go to user space, as is what goes to a virtual IP with a limit.
fn is_replayable(frame: &[u8], answer: &Answer) -> bool {
    let Ok(h) = penstock_wire::parse(frame) else { return false };
    let is_plain = matches!(h.protocol, Protocol::TCP | Protocol::UDP) && h.fragment == Fragment::No;
    let has_fragment =
        h.ethertype == ethertype::IPV6 && is_plain && has_fragment_header(frame, usize::from(h.l3), usize::from(h.l4));
    answer.verdict == Verdict::Transmit(OWN)
        && is_plain
        && !has_fragment
        && h.dst.to_ip().to_string() != VIPS[LIMITED]
        && !answer.is_tracked
        && answer.frame.len() as u32 - 14 <= MTU
}

/// What went wrong, if kernel and engine do not agree about a frame.
fn disagreement(frame: &[u8], answer: &Answer, action: u32, output: &[u8]) -> Option<String> {
    let must = is_replayable(frame, answer);
    match action {
        XDP_TX if !must => Some(format!("the kernel sends what user space answers with {:?}", answer.verdict)),
        XDP_TX if output != answer.frame => Some(format!("other bytes:\n{output:02x?}\n{:02x?}", answer.frame)),
        XDP_TX => None,
        _ if must => Some(format!("the kernel does not replay it: action {action}")),
        XDP_REDIRECT if answer.verdict == Verdict::Pass => Some("not ours, but it goes to user space".to_owned()),
        XDP_REDIRECT => (!output.starts_with(frame)).then(|| "user space gets other bytes".to_owned()),
        XDP_PASS if matches!(answer.verdict, Verdict::Pass | Verdict::Drop(_)) && output == frame => None,
        _ => Some(format!("action {action} where user space answers with {:?}", answer.verdict)),
    }
}

/// A steering program with its socket, on one end of a veth whose other end takes frames.
fn steering() -> (Steering, AfXdp) {
    let ifindex = interface_index("m0").unwrap();
    let mut steering = Steering::attach(ifindex).unwrap();
    let socket = AfXdp::open(ifindex, 0, OWN, AfXdpOptions::default()).unwrap();
    steering.register_socket(0, socket.fd()).unwrap();
    steering.set_vips(VIPS.iter().map(|v| v.parse().unwrap())).unwrap();
    (steering, socket)
}

/// Frames that were captured on the wire, made out to a virtual IP.
fn captured() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/parser");
    let read = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path()).unwrap();
    let mut all: Vec<Vec<u8>> = std::fs::read_dir(folder).unwrap().map(read).filter(|f| f.len() >= 14).collect();
    for i in 0..all.len() {
        let mut frame = all[i].clone();
        let vip: IpAddr = VIPS[i % 4].parse().unwrap();
        match (vip, &frame[12..14]) {
            (IpAddr::V4(vip), [8, 0]) if frame.len() > 38 => frame[30..34].copy_from_slice(&vip.octets()),
            (IpAddr::V6(vip), [0x86, 0xdd]) if frame.len() > 58 => frame[38..54].copy_from_slice(&vip.octets()),
            _ => continue,
        }
        all.push(frame);
    }
    all
}

/// Bytes of the template that are written anew for each packet: type of service, lengths, source port, inner Ethernet type.
const WRITTEN: [usize; 9] = [15, 16, 17, 34, 35, 38, 39, 62, 63];

/// A change to one thing that the program reads, each of which must show.
fn spoil(image: &mut ReplayImage, n: usize) -> Option<String> {
    const HEADERS: usize = 64;
    match n {
        0..HEADERS => {
            let (word, bit) = (n / 8, n % 8 * 8);
            image.backends.iter_mut().for_each(|b| b.headers[word] ^= 1 << bit);
            (!WRITTEN.contains(&n)).then(|| format!("byte {n} of the headers"))
        }
        64 => {
            image.config.keys[0] ^= 1 << 40;
            Some("the first key".to_owned())
        }
        65 => {
            image.config.keys[1] ^= 1;
            Some("the second key".to_owned())
        }
        66 => {
            image.config.keys[4] ^= 1 << 63;
            Some("the last key".to_owned())
        }
        67 => {
            image.services.iter_mut().for_each(|s| s.vip_hash ^= 1);
            Some("the virtual IPs' hashes".to_owned())
        }
        68 => {
            image.services.iter_mut().for_each(|s| s.distribution = 2 - s.distribution);
            Some("the distributions".to_owned())
        }
        69 => {
            image.pools.rotate_left(1);
            Some("the pools".to_owned())
        }
        70 => {
            image.services.iter_mut().filter(|s| s.tail != 0).for_each(|s| s.tail ^= 1 << 16);
            Some("the ports".to_owned())
        }
        71 => {
            image.config.mtu -= 1000;
            Some("the MTU".to_owned())
        }
        _ => None,
    }
}

#[test]
fn a_wrong_byte_in_what_the_program_reads_or_writes_is_found() {
    let Some(lab) = Lab::new("rpm") else { return };
    lab.in_ns("m", || {
        let policy = policy("192.0.2.2");
        let (mut steering, _socket) = steering();
        let (engine, mut dice) = (Engine::new(&policy), Dice(1));
        let frames: Vec<_> = std::iter::repeat_with(|| frame(&mut dice)).take(1500).collect();
        let answers: Vec<_> = frames.iter().map(|f| engine.process(f)).collect();
        for n in 0..72 {
            let mut image = policy.replay_image(OWN, MTU);
            let spoilt = spoil(&mut image, n);
            steering.replay(&image).unwrap();
            let finds = frames.iter().zip(&answers).any(|(frame, answer)| {
                let run = run_once(steering.program().unwrap(), frame).unwrap();
                disagreement(frame, answer, run.action, &run.output).is_some()
            });
            assert_eq!(finds, spoilt.is_some(), "{spoilt:?} (change {n})");
        }
        let sent = frames.iter().zip(&answers).find(|(f, a)| is_replayable(f, a)).unwrap();
        for at in 0..sent.1.frame.len() {
            let mut output = sent.1.frame.clone();
            output[at] ^= 1;
            assert!(disagreement(sent.0, sent.1, XDP_TX, &output).is_some(), "byte {at} of what is sent");
        }
    });
}

fn agrees(tag: &str, own: &str, seed: u64) {
    let Some(lab) = Lab::new(tag) else { return };
    lab.in_ns("m", || {
        let policy = policy(own);
        let (mut steering, _socket) = steering();
        steering.replay(&policy.replay_image(OWN, MTU)).unwrap();
        let (engine, mut dice) = (Engine::new(&policy), Dice(seed));
        let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut services, mut backends) = (Expected::default(), Expected::default());
        let generated = std::iter::repeat_with(|| frame(&mut dice)).take(PACKETS);
        for (n, frame) in captured().into_iter().chain(generated).enumerate() {
            let answer = engine.process(&frame);
            let run = run_once(steering.program().unwrap(), &frame).unwrap();
            if let Some(what) = disagreement(&frame, &answer, run.action, &run.output) {
                panic!("frame {n} of seed {seed}: {what}\n{frame:02x?}");
            }
            *seen.entry(run.action).or_default() += 1;
            if run.action == XDP_TX {
                services.add(&answer.services, run.output.len());
                backends.add(&answer.backends, run.output.len());
            }
        }
        println!("{seen:?}");
        for action in [XDP_PASS, XDP_TX, XDP_REDIRECT] {
            assert!(
                seen.get(&action).is_some_and(|n| *n as usize > PACKETS / 20),
                "hardly any action {action}: {seen:?}"
            );
        }
        let counted = steering.replayed().unwrap();
        assert_eq!(counted.services, services.0, "the kernel counts for each service what the engine does");
        assert_eq!(counted.backends, backends.0, "and for each backend");
        assert_eq!(counted.aborted, 0);
        assert!(counted.backends.iter().filter(|t| t.packets > 0).count() > 4);
    });
}

#[test]
fn a_hundred_thousand_packets_leave_the_kernel_as_they_leave_the_engine() {
    agrees("rp4", "192.0.2.2", 20_261_124);
}

#[test]
fn the_same_holds_over_an_ipv6_underlay() {
    agrees("rp6", "2001:db8:2::2", 42);
}
