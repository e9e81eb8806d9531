//! The whole data path of a gateway with GRE connections: one a tenant, all to one peer, told apart by key; 16 tenants with an
//! access list each.
use super::gateway::{self, TENANT, ip, site};
use super::measure::{measure, report};
use super::pool::Pool;
use super::{FLOWS, OPENING_ROUNDS, Random};
use crate::report::Report;
use arc_swap::ArcSwap;
use penstock_engine::EncapTemplate;
use penstock_gateway_proto::{Policy, TunnelKind, UnderlayHop};
use penstock_gateway_server::DataPath;
use penstock_model::{Mac, Nanos, Packet, PortId, Protocol, Underlay, Verdict, Vni};
use penstock_wire::build::{FrameBuilder, is_intact};
use penstock_wire::checksum::{finish, sum};
use penstock_wire::gre::GreOptions;
use std::net::SocketAddr;
use std::sync::Arc;

const UNDERLAY: PortId = PortId(0);
const NOW: Nanos = Nanos::from_secs(100);
const OWN: [u8; 4] = [192, 0, 2, 1];
const HOST: [u8; 4] = [192, 0, 2, 10];
const PEER: [u8; 4] = [198, 51, 100, 9];
/// Bytes of the inner IP packet: the smallest, and one of bulk data.
const SIZES: [usize; 2] = [46, 1400];

/// GRE to VXLAN, and back.
pub(crate) fn run(out: &mut Report) {
    for (name, template) in [("core/gre-in", from_site as fn(usize) -> Frame), ("core/gre-out", from_host)] {
        for (flows, len) in [(FLOWS[0], SIZES[0]), (FLOWS[1], SIZES[0]), (FLOWS[1], SIZES[1])] {
            if out.wants(name) {
                one(out, name, &template(len), flows);
            }
        }
    }
}

fn one(out: &mut Report, name: &str, frame: &Frame, flows: u64) {
    // Two directions a flow, and as much again for what is not established.
    let mut path = path(4 * flows as usize);
    let mut pool = Pool::new(UNDERLAY);
    // One flow after the other: a tenant's share of probation is small, and all flows here are of one.
    let mut next = 0;
    while next < flows {
        let mut packet = 0;
        pool.fill(|buffer| {
            packet += 1;
            frame.write(buffer, (next + (packet - 1) / OPENING_ROUNDS as u64).min(flows - 1))
        });
        pool.run(|batch| path.handle_batch(batch, NOW));
        next += Pool::PACKETS as u64 / OPENING_ROUNDS as u64;
    }
    let mut random = Random::new();
    let before = (path.resolved(), path.ledger().received);
    let cost = measure(|| {
        pool.fill(|buffer| frame.write(buffer, random.below(flows)));
        pool.run(|batch| path.handle_batch(batch, NOW))
    });
    let (resolved, received) = (path.resolved() - before.0, path.ledger().received - before.1);
    assert!(resolved * 1000 < received, "{resolved} of {received} packets were not decided by the flow table");
    pool.fill(|buffer| frame.write(buffer, random.below(flows)));
    pool.run(|batch| {
        path.handle_batch(batch, NOW);
        batch.iter().for_each(assert_finished);
    });
    let bytes = path.flow_table_bytes() as f64 / flows as f64;
    report(out, name, Some(flows), frame.bytes.len() as u64, cost, Some(bytes));
}

fn assert_finished(packet: &Packet<'_>) {
    assert_eq!(packet.verdict, Verdict::Transmit(UNDERLAY));
    assert!(is_intact(packet.frame()));
}

/// A frame in which the site's address and port are those of a flow.
struct Frame {
    bytes: Vec<u8>,
    /// Where the inner IP header begins; and in it the site's address, and in the TCP header its port.
    l3: usize,
    address: usize,
    port: usize,
}

impl Frame {
    fn write(&self, buffer: &mut [u8], flow: u64) -> usize {
        let len = self.bytes.len();
        buffer[..len].copy_from_slice(&self.bytes);
        let l4 = self.l3 + 20;
        let at = self.l3 + self.address;
        buffer[at..at + 4].copy_from_slice(&site(flow).octets());
        let at = l4 + self.port;
        buffer[at..at + 2].copy_from_slice(&(1024 + (flow / 60_000) as u16).to_be_bytes());
        buffer[self.l3 + 10..self.l3 + 12].fill(0);
        let header = finish(sum(&buffer[self.l3..l4], 0)).to_be_bytes();
        buffer[self.l3 + 10..self.l3 + 12].copy_from_slice(&header);
        buffer[l4 + 16..l4 + 18].fill(0);
        let tcp = sum(&buffer[l4..len], sum(&buffer[self.l3 + 12..l4], 6 + (len - l4) as u64));
        buffer[l4 + 16..l4 + 18].copy_from_slice(&finish(tcp).to_be_bytes());
        len
    }
}

fn from_site(len: usize) -> Frame {
    let options = GreOptions { key: Some(TENANT), checksum: false };
    let mut inside = vec![0; options.header_len()];
    inside.extend(packet(SocketAddr::new(site(0).into(), 1), container(), len));
    assert!(options.write(&mut inside, 0x0800));
    let mut bytes = FrameBuilder::between(SocketAddr::new(ip(PEER), 0), SocketAddr::new(ip(OWN), 0), Protocol::GRE)
        .payload(&inside)
        .build();
    // The builder puts 8 bytes of its own between the IP header and the payload of a protocol that it does not know.
    bytes.drain(34..42);
    lengthen(&mut bytes);
    Frame { bytes, l3: 14 + 20 + 8, address: 12, port: 0 }
}

fn from_host(len: usize) -> Frame {
    let (own, host) = (Underlay(ip(OWN)), Underlay(ip(HOST)));
    let vni = Vni::new(5000 + TENANT).unwrap();
    let template = EncapTemplate::vxlan(host, own, vni, Mac([2; 6]), Mac([2; 6]), UNDERLAY).unwrap();
    let mut bytes = template.bytes().to_vec();
    bytes.extend([2; 12]);
    bytes.extend([0x08, 0x00]);
    bytes.extend(packet(container(), SocketAddr::new(site(0).into(), 1), len));
    let udp = (bytes.len() - 34) as u16;
    bytes[38..40].copy_from_slice(&udp.to_be_bytes());
    lengthen(&mut bytes);
    Frame { bytes, l3: 64, address: 16, port: 2 }
}

fn container() -> SocketAddr {
    SocketAddr::new(ip([10, 1, 0, 4]), 80)
}

fn packet(from: SocketAddr, to: SocketAddr, len: usize) -> Vec<u8> {
    FrameBuilder::between(from, to, Protocol::TCP).payload(&vec![0x5a; len - 40]).build().split_off(14)
}

/// The outer IP header says how long the frame is.
fn lengthen(frame: &mut [u8]) {
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].fill(0);
    let header = finish(sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
}

fn path(entries: usize) -> DataPath {
    let hop = |_| Some(UnderlayHop { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 0, 2]) });
    let mut goal = gateway::goal();
    for tunnel in &mut goal.tunnels {
        tunnel.kind = TunnelKind::Gre { peer: Underlay(ip(PEER)), key: Some(tunnel.id.0), checksum: false };
    }
    // Inbound rules say what sites may open; what containers open is all allowed.
    let policy = Policy::build(&goal, Underlay(ip(OWN)), UNDERLAY, hop, None).unwrap();
    DataPath::new(Arc::new(ArcSwap::from_pointee(policy)), ip(OWN), hop, entries.next_power_of_two(), [3; 16])
}
