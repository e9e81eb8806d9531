//! The mux: 100 virtual IPs of either family with a pool of eight backends each, on 16 hosts.
use super::measure::{measure, report};
use super::pool::Pool;
use super::{FLOWS, OPENING_ROUNDS, Random};
use crate::report::Report;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowTable;
use penstock_model::{
    BackendId, Dip, Mac, Nanos, Overlay, Packet, PoolId, PortId, Protocol, Revision, ServiceId, Underlay, Vni,
};
use penstock_mux_proto::{Backend, Distribution, Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy, Service};
use penstock_spread::SlotTable;
use penstock_wire::build::{FrameBuilder, is_intact};
use penstock_wire::geneve::{GENEVE_PORT, parse_geneve};
use penstock_wire::{TcpFlags, parse, parse_vxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const VIPS: u32 = 100;
const BACKENDS: u32 = 8;
const NOW: Nanos = Nanos::from_secs(100);
/// What a 64-byte packet is without its check sequence.
const SHORT: usize = 60;

/// Stateless: the slot tables never changed.
pub(crate) fn stateless(out: &mut Report) {
    for flows in FLOWS {
        let name = "core/vip-stateless";
        if out.wants(name) {
            let mut mux = Mux::new(false, 1024);
            let cost = mux.cost(&Traffic::random(flows, SHORT, false));
            report(out, name, Some(flows), 64, cost, None);
        }
    }
}

/// Every slot is changing hands, so that every packet goes by its entry in the flow table, which is full, and the
/// encapsulation names the next owner.
pub(crate) fn established(out: &mut Report) {
    for flows in FLOWS {
        let name = "core/vip-flow";
        if out.wants(name) {
            established_of(out, name, flows, SHORT, false);
        }
    }
}

fn established_of(out: &mut Report, name: &str, flows: u64, len: usize, v6: bool) {
    let mut mux = Mux::new(true, flows as usize);
    mux.open_all(flows, v6);
    let cost = mux.cost(&Traffic::random(flows, len, v6));
    let bytes = mux.port.flow_table().bytes() as f64 / flows as f64;
    let packet = if len == SHORT { 64 } else { len as u64 };
    report(out, name, Some(flows), packet, cost, Some(bytes));
    assert!(mux.port.flow_table().established() as u64 >= flows - flows / 1000, "the flows are not established");
}

/// Every packet opens a flow that is to be remembered; one million are established beside.
pub(crate) fn new_flows(out: &mut Report) {
    let name = "core/new-flow";
    if out.wants(name) {
        let flows = 1_000_000;
        let mut mux = Mux::new(true, 2 * flows as usize);
        mux.open_all(flows, false);
        let before = (mux.port.resolved(), mux.port.ledger().received);
        let cost = mux.cost(&Traffic::opening(flows));
        let after = (mux.port.resolved(), mux.port.ledger().received);
        assert_eq!(after.0 - before.0, after.1 - before.1, "every packet was decided anew");
        report(out, name, Some(flows), 64, cost, None);
    }
}

pub(crate) fn other_packets(out: &mut Report) {
    let flows = 1_000_000;
    for (suffix, len, v6) in [("-ipv6", 78, true), ("", 1400, false)] {
        let packet = if v6 { 78 } else { len as u64 };
        let name = format!("core/vip-stateless{suffix}");
        if out.wants(&name) {
            let cost = Mux::new(false, 1024).cost(&Traffic::random(flows, len, v6));
            report(out, &name, Some(flows), packet, cost, None);
        }
        let name = format!("core/vip-flow{suffix}");
        if out.wants(&name) {
            established_of(out, &name, flows, len, v6);
        }
    }
}

/// A mux with its engine.
pub(crate) struct Mux {
    pub(crate) port: Port<MuxResolver>,
    pub(crate) pool: Pool,
    writer: [Writer; 2],
    random: Random,
    opened: u64,
}

/// Which packets come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    flows: u64,
    len: usize,
    v6: bool,
    opening: bool,
}

impl Traffic {
    /// Flows below `flows` in random order.
    pub(crate) fn random(flows: u64, len: usize, v6: bool) -> Self {
        Self { flows, len, v6, opening: false }
    }

    /// A new flow each, from `flows` on.
    fn opening(flows: u64) -> Self {
        Self { flows, len: SHORT, v6: false, opening: true }
    }
}

impl Mux {
    pub(crate) fn new(in_transition: bool, capacity: usize) -> Self {
        let policy = Policy::build(&goal(in_transition), next_hop, Underlay(IpAddr::from([192, 0, 2, 1]))).unwrap();
        let counters = policy.backend_counters();
        let published = Arc::new(ArcSwap::from_pointee(policy));
        let resolver = MuxResolver::new(published, [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], Foreign::Drop);
        let mut port = Port::new(resolver, FlowTable::new(capacity));
        port.ensure_counters(counters);
        let writer = [Writer::new(false), Writer::new(true)];
        Self { port, pool: Pool::new(PortId(0)), writer, random: Random::new(), opened: 0 }
    }

    /// Writes a round of frames.
    pub(crate) fn fill(&mut self, traffic: &Traffic) {
        let Self { pool, writer, random, opened, .. } = self;
        let writer = &writer[usize::from(traffic.v6)];
        pool.fill(|buffer| {
            let flow = if traffic.opening {
                *opened += 1;
                traffic.flows + *opened
            } else {
                random.below(traffic.flows)
            };
            writer.write(buffer, flow, traffic.len, traffic.opening)
        });
    }

    fn cost(&mut self, traffic: &Traffic) -> super::measure::Cost {
        let cost = measure(|| {
            self.fill(traffic);
            self.pool.run(|batch| self.port.process(batch, NOW))
        });
        self.check(traffic);
        cost
    }

    /// What was measured was the right thing: every packet left, whole and encapsulated.
    fn check(&mut self, traffic: &Traffic) {
        self.fill(traffic);
        self.pool.run(|batch| {
            self.port.process(batch, NOW);
            batch.iter().for_each(assert_finished);
        });
        let ledger = self.port.ledger();
        assert!(ledger.balances() && ledger.transmitted == ledger.received, "{ledger:?}");
    }

    /// Establishes flows `0..flows`: two packets each.
    fn open_all(&mut self, flows: u64, v6: bool) {
        let mut next = 0;
        while next < flows {
            for _ in 0..OPENING_ROUNDS {
                let mut flow = next;
                let writer = &self.writer[usize::from(v6)];
                self.pool.fill(|buffer| {
                    flow += 1;
                    writer.write(buffer, (flow - 1).min(flows - 1), SHORT, false)
                });
                self.pool.run(|batch| self.port.process(batch, NOW));
            }
            next += Pool::PACKETS as u64;
        }
    }
}

fn assert_finished(packet: &Packet<'_>) {
    let outer = parse(packet.frame()).unwrap();
    // While slots change hands the encapsulation names the next owner.
    let inner = match outer.dst_port {
        GENEVE_PORT => parse_geneve(packet.frame(), &outer).unwrap().1,
        _ => parse_vxlan(packet.frame(), &outer).unwrap().1,
    };
    assert!(is_intact(packet.frame()) && is_intact(&packet.frame()[usize::from(inner.l2)..]));
    assert_eq!(inner.dst_port, 80);
}

/// Writes the frame of a flow over a template.
#[derive(Debug)]
struct Writer {
    v6: bool,
    template: Vec<u8>,
}

impl Writer {
    fn new(v6: bool) -> Self {
        let (client, vip): (IpAddr, IpAddr) =
            if v6 { (client6(0).into(), vip6(0).into()) } else { (client4(0).into(), vip4(0).into()) };
        let builder = FrameBuilder::between(SocketAddr::new(client, 1), SocketAddr::new(vip, 80), Protocol::TCP);
        Self { v6, template: builder.payload(&[0; 1346]).build() }
    }

    /// The frame is `len` bytes long, or what its headers need, and has right checksums.
    fn write(&self, buffer: &mut [u8], flow: u64, len: usize, opens: bool) -> usize {
        let builder_len = len.max(if self.v6 { 74 } else { 54 });
        let l4 = if self.v6 { 54 } else { 34 };
        buffer[..l4 + 20].copy_from_slice(&self.template[..l4 + 20]);
        buffer[l4 + 20..builder_len].fill(0);
        let vip = (flow % u64::from(VIPS)) as u32;
        // A packet of 60 bytes is one of 54 and padding.
        let ip_end = if builder_len <= SHORT && !self.v6 { 54 } else { builder_len };
        let length = (ip_end - l4) as u16;
        let port = 1024 + (flow % 60_000) as u16;
        buffer[l4..l4 + 2].copy_from_slice(&port.to_be_bytes());
        if opens {
            buffer[l4 + 13] = TcpFlags::SYN;
        }
        let seed = 6 + u64::from(length);
        let pseudo = if self.v6 {
            buffer[18..20].copy_from_slice(&length.to_be_bytes());
            buffer[22..38].copy_from_slice(&client6(flow).octets());
            buffer[38..54].copy_from_slice(&vip6(vip).octets());
            penstock_wire::checksum::sum(&buffer[22..54], seed)
        } else {
            buffer[16..18].copy_from_slice(&(length + 20).to_be_bytes());
            buffer[26..30].copy_from_slice(&client4(flow).octets());
            buffer[30..34].copy_from_slice(&vip4(vip).octets());
            buffer[24..26].fill(0);
            let header = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&buffer[14..34], 0));
            buffer[24..26].copy_from_slice(&header.to_be_bytes());
            penstock_wire::checksum::sum(&buffer[26..34], seed)
        };
        buffer[l4 + 16..l4 + 18].fill(0);
        let checksum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&buffer[l4..ip_end], pseudo));
        buffer[l4 + 16..l4 + 18].copy_from_slice(&checksum.to_be_bytes());
        builder_len
    }
}

/// 11.0.0.0 and what follows: some 200 million addresses.
fn client4(flow: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + (flow % 0x0c00_0000) as u32)
}

fn client6(flow: u64) -> Ipv6Addr {
    Ipv6Addr::from(0x2001_0db8_0001_0000_0000_0000_0000_0000 | u128::from(flow))
}

fn vip4(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xcb00_7100 + n)
}

fn vip6(n: u32) -> Ipv6Addr {
    Ipv6Addr::from(0x2001_0db8_0100_0000_0000_0000_0000_0000 | u128::from(n))
}

fn next_hop(_: Underlay<IpAddr>) -> Option<NextHopInfo> {
    Some(NextHopInfo { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 0, 2]), out: PortId(0) })
}

fn goal(in_transition: bool) -> MuxGoal {
    let members = |pool: u32, half: u32| -> Vec<_> {
        (0..BACKENDS).map(|b| (BackendId((pool * 2 + half) * BACKENDS + b), 1)).collect()
    };
    let pool = |n: u32| penstock_mux_proto::Pool {
        id: PoolId(n),
        name: format!("pool{n}"),
        version: 2,
        table: SlotTable::build(None, &members(n, 0)),
        previous: in_transition.then(|| SlotTable::build(None, &members(n, 1))).into_iter().collect(),
    };
    let service = |n: u32, vip: IpAddr| Service {
        id: ServiceId(n),
        name: format!("rule{n}"),
        vip,
        protocol: Protocol::TCP,
        port: 80,
        pool: PoolId(n % VIPS),
        distribution: Distribution::Default,
    };
    MuxGoal {
        revision: Revision(1),
        hash_seed: [11, 22],
        services: (0..VIPS).flat_map(|n| [service(n, vip4(n).into()), service(n + VIPS, vip6(n).into())]).collect(),
        pools: (0..VIPS).map(pool).collect(),
        backends: (0..VIPS * 2 * BACKENDS).map(backend).collect(),
        snat: Vec::new(),
        router: None,
        draining: false,
        limits: Vec::new(),
    }
}

fn backend(n: u32) -> Backend {
    let [_, _, a, b] = n.to_be_bytes();
    Backend {
        id: BackendId(n),
        name: format!("nic{n}"),
        dip: Dip { vni: Vni::new(5000 + n % 4).unwrap(), addr: Overlay(IpAddr::from([10, 1, a, b])) },
        mac: Mac([2, 1, 0, 0, a, b]),
        host: Underlay(IpAddr::from([198, 51, 100, (n % 16) as u8 + 1])),
    }
}
