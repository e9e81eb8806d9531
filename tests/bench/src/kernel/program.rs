use crate::report::{Report, Row};
use crate::veth::goal::{PORT, VIP, goal};
use crate::veth::nets::{DUT_ADDRESS, Nets};
use crate::veth::{DUT_CPU, PACKET_BYTES, before_others, verdict};
use penstock_bpf::testrun::Flows;
use penstock_bpf::{Steering, Stopwatch, Target};
use penstock_model::{Mac, PortId, Protocol, ServiceId, Underlay};
use penstock_mux_proto::{MuxGoal, NextHopInfo, Policy, Service};
use penstock_packet_io::{interface_index, netns, pin_this_thread};
use penstock_wire::build::FrameBuilder;
use std::net::IpAddr;

const ROUNDS: usize = 7;
const RUNS: u32 = 1 << 20;
const FLOWS: [u32; 3] = [1, 1 << 14, 1 << 20];
const VIP6: &str = "2001:db8:100::10";
const MTU: u32 = 1600;
const XDP_TX: u32 = 3;
/// Virtual IPs beside the one that is measured.
const OTHERS: u32 = 10_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The frames that are measured: name, bytes.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let (v4, v6) = (format!("{VIP}:{PORT}"), format!("[{VIP6}]:{PORT}"));
    let tcp = |from, to: &str, flags| FrameBuilder::tcp(from, to).flags(flags).payload(b"123456").build();
    vec![
        ("kernel/program", FrameBuilder::udp("198.18.0.1:1", &v4).payload(&[0; 18]).build()),
        ("kernel/program-tcp", tcp("198.18.0.1:1", &v4, ACK)),
        ("kernel/program-syn", tcp("198.18.0.1:1", &v4, SYN)),
        ("kernel/program-ipv6", tcp("[2001:db8::1]:1", &v6, ACK)),
    ]
}

/// The goal of the live measurement, for both families and transports, among ten thousand other virtual IPs.
fn policy() -> Policy {
    let base = goal();
    let service =
        |id: u32, vip: IpAddr, protocol| Service { id: ServiceId(id), vip, protocol, ..base.services[0].clone() };
    let mut services: Vec<Service> = [VIP.into(), VIP6.parse().unwrap()]
        .into_iter()
        .flat_map(|vip: IpAddr| [(vip, Protocol::TCP), (vip, Protocol::UDP)])
        .zip(0..)
        .map(|((vip, protocol), id)| service(id, vip, protocol))
        .collect();
    let other = |n: u32| IpAddr::from((0x0b00_0000 + n).to_be_bytes());
    services.extend((0..OTHERS).map(|n| service(4 + n, other(n), Protocol::TCP)));
    let goal = MuxGoal { services, ..base.clone() };
    let hop = NextHopInfo { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]), out: PortId(0) };
    Policy::build(&goal, |_| Some(hop), Underlay(DUT_ADDRESS.parse().unwrap())).unwrap()
}

pub(super) fn run(report: &mut Report) {
    let wanted: Vec<_> = frames().into_iter().filter(|(name, _)| report.wants(name)).collect();
    let wants_floor = report.wants("kernel/program-floor");
    if wanted.is_empty() && !wants_floor {
        return;
    }
    let nets = Nets::new();
    let image = policy().replay_image(PortId(0), MTU);
    let rows = netns::run_in(nets.dut(), || {
        pin_this_thread(DUT_CPU).unwrap();
        before_others(None);
        let mut steering = Steering::attach(interface_index(nets.dut_port()).unwrap()).unwrap();
        steering.replay(&image).unwrap();
        let mut rows = Vec::new();
        for (name, frame) in &wanted {
            rows.extend(FLOWS.map(|flows| time(name, frame, flows, Target::Program(steering.program().unwrap()))));
        }
        if wants_floor {
            rows.push(time("kernel/program-floor", &frames()[0].1, 1, Target::Floor));
        }
        rows
    });
    rows.unwrap().into_iter().for_each(|row| report.add(row));
    report.note(format!(
        "kernel: program times are less those of an empty program, with {} virtual IPs; median of {ROUNDS} rounds of {RUNS} runs.",
        OTHERS + 2
    ));
}

/// Each round takes the time of the empty program too, as the machine is not equally fast in all of them.
fn time(name: &str, frame: &[u8], flows: u32, target: Target<'_>) -> Row {
    let order =
        Flows { count: flows, stride: 7919, base_address: [198, 18, 0, 1].into(), ports: 256, first_port: 20_000 };
    let watch = Stopwatch::new(order, frame).unwrap();
    let net = || {
        let (empty, _) = watch.time(Target::Empty, RUNS).unwrap();
        let (nanos, action) = watch.time(target, RUNS).unwrap();
        assert_eq!(action, XDP_TX, "{name}: the program does not send");
        f64::from(nanos) - f64::from(empty)
    };
    let nanos: Vec<f64> = (0..ROUNDS).map(|_| net()).collect();
    let (least, median, most) = verdict::spread(&nanos);
    Row {
        name: name.to_owned(),
        flows: Some(flows.into()),
        packet_bytes: Some(PACKET_BYTES),
        ns_per_packet: Some(median),
        range: Some((least, most)),
        ..Row::default()
    }
}
