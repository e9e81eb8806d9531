//! Writes the corpus: `seeds <folder> [pcap file ...]`.
//!
//! Real frames (from captures) seed the parser as they are, and the engine of each node by every port. Frames made for the
//! nodes' own goals seed what strangers' frames do not reach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// The coverage pass instruments this binary too; its symbols are libFuzzer's.
use libfuzzer_sys as _;
use penstock_fuzz::host_kit::{self, CLIENT, MUX, PORTS, VIP, VIP6};
use penstock_fuzz::gateway::{GRE_KEY, PEER};
use penstock_fuzz::program::push;
use penstock_fuzz::{gateway_kit, host_kit as host};
use penstock_model::{Mac, Protocol, Vni};
use penstock_slb_host::ROUTER_MAC;
use penstock_wire::build::{FrameBuilder, vxlan_frame};
use penstock_wire::gre::GreOptions;
use penstock_wire::{TcpFlags, arp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let mut args = env::args_os().skip(1).map(PathBuf::from);
    let folder = args.next().expect("usage: seeds <folder> [pcap file ...]");
    let captured: Vec<Vec<u8>> = args.flat_map(|path| pcap(&fs::read(path).unwrap())).collect();
    let kinds = one_of_each_kind(&captured);
    write(&folder, "parser", kinds.iter().map(|(name, frame)| (name.clone(), frame.clone())).chain(made()));
    let programs = [("mux", 0u8, mux()), ("host", 1, hosts()), ("gateway", 2, gateway())];
    write(
        &folder,
        "engine",
        programs.into_iter().flat_map(|(name, kind, frames)| engine_seeds(name, kind, &frames, &kinds)),
    );
    write(&folder, "tunnel", tunnel(&kinds));
}

/// Kinds that a kernel without VLAN, or a neighbour table that is warm, does not send.
fn made() -> Vec<(String, Vec<u8>)> {
    let question = arp::Arp::request(Mac([2; 6]), "192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let tagged = |to: &str, from: &str| FrameBuilder::tcp(from, to).vlan(7).build();
    vec![
        ("made-arp".to_owned(), question.to_frame().to_vec()),
        ("made-vlan-v4".to_owned(), tagged("192.0.2.2:80", "192.0.2.1:4000")),
        ("made-vlan-v6".to_owned(), tagged("[2001:db8::2]:80", "[2001:db8::1]:4000")),
        ("made-padded".to_owned(), FrameBuilder::udp("192.0.2.1:9", "192.0.2.2:9").padded().build()),
    ]
}

/// (control byte, frame)
type Step = (u8, Vec<u8>);

const NEXT_POLICY: u8 = 0x20;
const PARTIAL: u8 = 0x08;
const GSO: u8 = 0x10;

fn engine_seeds(name: &str, kind: u8, own: &[Step], real: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (n, steps) in own.chunks(4).enumerate() {
        let mut program = vec![kind];
        for (control, frame) in steps {
            push(&mut program, *control, frame);
            push(&mut program, control | NEXT_POLICY, frame);
            push(&mut program, control | PARTIAL | GSO, frame);
        }
        seeds.push((format!("{name}-{n}"), program));
    }
    let mut program = vec![kind];
    for (n, frame) in real.values().filter(|f| f.len() < 400).enumerate() {
        push(&mut program, n as u8 % 8, frame);
    }
    seeds.push((format!("{name}-real"), program));
    seeds
}

fn mux() -> Vec<Step> {
    let mut steps = Vec::new();
    for vip in ["203.0.113.10", "[2001:db8:100::10]"] {
        let client = if vip.starts_with('[') { "[2001:db8:c::7]:40000" } else { "198.51.100.77:40000" };
        for port in [80, 443, 22] {
            let to = format!("{vip}:{port}");
            steps.push((0, FrameBuilder::tcp(client, &to).flags(TcpFlags::SYN).build()));
            steps.push((0, FrameBuilder::tcp(client, &to).flags(TcpFlags::ACK).payload(b"GET / HTTP/1.1").build()));
        }
        steps.push((0, FrameBuilder::udp(client, &format!("{vip}:53")).payload(b"who is there").build()));
        steps.push((0, FrameBuilder::tcp(client, &format!("{vip}:80")).partial_checksum().build()));
        let bare = |s: &str| s.trim_matches(['[', ']']).to_owned();
        let from = bare(client.rsplit_once(':').unwrap().0);
        steps.push((0, FrameBuilder::echo(&from, &bare(vip), 7).build()));
    }
    steps
}

fn hosts() -> Vec<Step> {
    let mux_mac = Mac([2, 0x50, 0x53, 0x54, 0, 2]);
    let mut steps = Vec::new();
    for (client, vip, dip) in [(CLIENT, VIP, "10.0.0.2:8080"), (host::CLIENT6, VIP6, "[fd00::2]:8080")] {
        for flags in [TcpFlags::SYN, TcpFlags::ACK] {
            let inner = FrameBuilder::tcp(client, vip).eth(mux_mac, host::mac(1, 2)).flags(flags).build();
            steps.push((0, vxlan_frame(host::ip(MUX), host::ip(host::HOST), host::vni(1), &inner)));
            let answer = FrameBuilder::tcp(dip, client).eth(host::mac(1, 2), ROUTER_MAC).flags(flags | TcpFlags::ACK);
            steps.push((1, answer.build()));
        }
    }
    for (n, (tenant, container)) in PORTS.iter().enumerate() {
        let control = n as u8 + 1;
        let own = format!("10.0.{}.{container}", container / 100);
        let mac = host::mac(*tenant, *container);
        for to in ["10.0.0.3:5", "10.0.0.12:5", "172.16.0.9:7", "10.0.1.102:25", "203.0.113.7:40000"] {
            steps
                .push((control, FrameBuilder::udp(&format!("{own}:9"), to).eth(mac, ROUTER_MAC).payload(b"x").build()));
        }
        steps.push((control, FrameBuilder::echo(&own, "10.0.0.1", 3).eth(mac, ROUTER_MAC).build()));
        let question = arp::Arp::request(mac, own.parse().unwrap(), "10.0.0.1".parse().unwrap());
        steps.push((control, question.to_frame().to_vec()));
    }
    let back = FrameBuilder::udp("10.0.0.12:5", "10.0.0.2:9").eth(ROUTER_MAC, host_kit::mac(2, 2)).build();
    steps.push((0, vxlan_frame(host::ip(host::OTHER_HOST), host::ip(host::HOST), host::vni(2), &back)));
    steps
}

fn gateway() -> Vec<Step> {
    use gateway_kit::{CONTAINER, GATEWAY, HOST, SITE};
    let mut steps = Vec::new();
    let at = |ip: &str, port: u16| format!("{ip}:{port}");
    for tenant in [1u8, 2] {
        for port in [80, 25, 443] {
            let there = FrameBuilder::tcp(&at(SITE, 4000), &at(CONTAINER, port)).flags(TcpFlags::SYN);
            let back = FrameBuilder::tcp(&at(CONTAINER, port), &at(SITE, 4000)).flags(TcpFlags::SYN | TcpFlags::ACK);
            let vni = Vni::new(5000 + u32::from(tenant)).unwrap();
            steps.push((tenant, there.build()));
            steps.push((0, vxlan_frame(HOST.parse().unwrap(), GATEWAY.parse().unwrap(), vni, &back.build())));
        }
        steps.push((0, gre(u32::from(tenant), &FrameBuilder::echo(SITE, CONTAINER, 9).build()[14..])));
        let syn = FrameBuilder::tcp(&at(SITE, 4001), &at(CONTAINER, 80)).flags(TcpFlags::SYN).build();
        steps.push((0, gre(u32::from(tenant), &syn[14..])));
        steps.push((tenant, FrameBuilder::echo(SITE, CONTAINER, 9).build()));
        steps.push((tenant, FrameBuilder::echo(SITE, "10.1.0.1", 9).build()));
    }
    steps
}

/// A packet by a tenant's GRE connection.
fn gre(tenant: u32, packet: &[u8]) -> Vec<u8> {
    let options = GreOptions { key: Some(GRE_KEY + tenant), checksum: tenant == 2 };
    let mut inside = vec![0; options.header_len()];
    inside.extend(packet);
    assert!(options.write(&mut inside, 0x0800));
    let outer = gateway_kit::v4(PEER, gateway_kit::GATEWAY, Protocol::GRE, &inside);
    gateway_kit::ethernet(&outer)
}

/// The tunnel's programs: see `penstock_fuzz::tunnel` for what the controls mean.
fn tunnel(real: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    use gateway_kit::{CONTAINER, SITE};
    let packet = |frame: Vec<u8>| frame[14..].to_vec();
    let there =
        packet(FrameBuilder::tcp(&format!("{SITE}:4000"), &format!("{CONTAINER}:80")).flags(TcpFlags::SYN).build());
    let back =
        packet(FrameBuilder::tcp(&format!("{CONTAINER}:80"), &format!("{SITE}:4000")).flags(TcpFlags::SYN).build());
    let spoofed = packet(FrameBuilder::udp("10.9.9.9:1", &format!("{CONTAINER}:53")).build());
    let ping = packet(FrameBuilder::echo(SITE, CONTAINER, 1).build());
    let mut seeds = Vec::new();
    let mut session = Vec::new();
    for (control, bytes) in
        [(2, &there), (4, &back), (2, &spoofed), (3, &ping), (0x46, &ping), (0x86, &ping), (2, &there)]
    {
        push(&mut session, control, bytes);
    }
    seeds.push(("session".to_owned(), session));
    for (name, place) in [("type", 0u16), ("receiver", 4), ("counter", 8), ("data", 20)] {
        let mut program = Vec::new();
        push(&mut program, 1, &[&place.to_le_bytes()[..], &[1], &there].concat());
        push(&mut program, 2, &there);
        seeds.push((format!("changed-{name}"), program));
    }
    for (name, frame) in real {
        let is_wireguard = name.contains("wireguard");
        if is_wireguard || frame.len() < 120 {
            let mut program = Vec::new();
            push(
                &mut program,
                if is_wireguard { 0 } else { 2 },
                &frame[if is_wireguard { 42 } else { 14 }.min(frame.len())..],
            );
            push(&mut program, 5, frame);
            seeds.push((format!("real-{name}"), program));
        }
    }
    seeds
}

/// The smallest frame of each kind, named after it.
fn one_of_each_kind(frames: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let mut kinds: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for frame in frames.iter().filter(|f| f.len() <= 1600) {
        let name = kind(frame);
        if kinds.get(&name).is_none_or(|known| frame.len() < known.len()) {
            kinds.insert(name, frame.clone());
        }
    }
    kinds
}

fn kind(frame: &[u8]) -> String {
    let Ok(h) = penstock_wire::parse(frame) else {
        return format!("other-{:02x}{:02x}", frame.get(12).unwrap_or(&0), frame.get(13).unwrap_or(&0));
    };
    let family = match (h.is_v4(), h.is_v6()) {
        (true, _) => "v4",
        (_, true) => "v6",
        _ => return "arp".to_owned(),
    };
    let tagged = if h.l3 > h.l2 + 14 { "vlan-" } else { "" };
    let port = h.dst_port.min(h.src_port);
    let what = match h.protocol {
        Protocol::TCP => format!("tcp-{:02x}", h.tcp_flags.0),
        Protocol::UDP if h.dst_port == penstock_wire::VXLAN_PORT => {
            let inside =
                penstock_wire::parse_vxlan(frame, &h).map_or(String::new(), |(_, inner)| format!("{}", inner.protocol));
            format!("vxlan-{inside}")
        }
        Protocol::UDP if port == 51820 || h.dst_port == 51820 => {
            format!("wireguard-{}", frame.get(usize::from(h.payload)).unwrap_or(&0))
        }
        Protocol::UDP => "udp".to_owned(),
        Protocol::ICMP | Protocol::ICMPV6 => format!("icmp-{}-{}", h.icmp_type, h.icmp_code),
        other => format!("{other}"),
    };
    format!("{tagged}{family}-{what}-{:?}", h.fragment).to_lowercase()
}

fn write(folder: &Path, target: &str, seeds: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let folder = folder.join(target);
    fs::create_dir_all(&folder).unwrap();
    let (mut count, mut bytes) = (0, 0);
    for (name, seed) in seeds {
        fs::write(folder.join(name), &seed).unwrap();
        (count, bytes) = (count + 1, bytes + seed.len());
    }
    println!("{target}: {count} seeds, {bytes} bytes");
}

/// The frames of a capture in the classic pcap format, little endian, Ethernet.
fn pcap(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| file.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    assert!(matches!(word(0), Some(0xa1b2_c3d4 | 0xa1b2_3c4d)), "not a pcap file");
    assert_eq!(word(20), Some(1), "not Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(len) = word(at + 8) {
        let Some(frame) = file.get(at + 16..at + 16 + len as usize) else { break };
        frames.push(frame.to_vec());
        at += 16 + len as usize;
    }
    frames
}
