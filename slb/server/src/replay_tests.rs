use super::*;
use arc_swap::ArcSwap;
use penstock_bpf::testrun::run_buffer;
use penstock_flow::FlowHasher;
use penstock_model::{Epoch, HEADROOM, Mac, Overlay, Packet, TenantId, Underlay, Vni};
use penstock_policy::{Endpoint, VirtualNetwork};
use penstock_slb_host::{Hop, HostGoal, Policy, Surroundings, UnderlayFib, flow_table};
use penstock_wire::build::FrameBuilder;
use std::net::IpAddr;
use std::sync::Arc;

/// Containers 2 and 3 of one network, both here.
const CONTAINERS: [u8; 2] = [2, 3];
const LOOPBACK: u32 = 1;

#[derive(Debug)]
struct Blind;

impl UnderlayFib for Blind {
    fn hop(&self, _: IpAddr) -> Option<Hop> {
        None
    }
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn policy(previous: Option<&Policy>) -> Policy {
    let (tenant, vni, host) = (TenantId(1), Vni::new(7).unwrap(), Underlay(IpAddr::from([10, 9, 0, 1])));
    let endpoint = |n| {
        let (addr, network_interface) = (Overlay(address(n)), format!("c{n}"));
        Endpoint { addr, mac: mac(n), host, acl: None, network_interface }
    };
    let port = |n| penstock_slb_host::Port {
        network_interface: format!("c{n}"),
        tenant,
        vni,
        mac: mac(n),
        addresses: vec![ipnetwork::IpNetwork::new(address(n), 24).unwrap()],
        acl: None,
        forwards: false,
    };
    let network = VirtualNetwork {
        name: "net".to_owned(),
        tenant,
        vni,
        epoch: Epoch(1),
        prefixes: vec!["10.0.0.0/24".parse().unwrap()],
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        endpoints: CONTAINERS.map(endpoint).to_vec(),
        routes: vec![],
        tables: vec![],
    };
    let goal = HostGoal { networks: vec![network], ports: CONTAINERS.map(port).to_vec(), ..HostGoal::default() };
    let here = Surroundings {
        local_ports: &[(PortId(1), "c2".to_owned()), (PortId(2), "c3".to_owned())],
        own: host.0,
        underlay_port: UNDERLAY,
        fib: Arc::new(Blind),
        fib_generation: 1,
    };
    let empty = Policy::empty(host.0, UNDERLAY, Arc::new(Blind));
    Policy::build(&goal, &here, previous.unwrap_or(&empty)).unwrap()
}

struct Lab {
    kernel: HostReplay,
    engine: Port<HostResolver>,
    flows: FlowReplay,
    policies: Arc<ArcSwap<Policy>>,
}

impl Lab {
    /// `None`, and says so, without the rights to load programs.
    fn new() -> Option<Self> {
        let kernel = HostReplay::load(IpAddr::from([10, 9, 0, 1]), 64, 3);
        let kernel = kernel.inspect_err(|error| println!("skipped: {error}")).ok()?;
        let policies = Arc::new(ArcSwap::from_pointee(policy(None)));
        let generation = policies.load().generation();
        kernel.set_generation(generation).unwrap();
        let resolver = HostResolver::new(policies.clone(), FlowHasher::new([7; 16])).with_notices();
        let mut flows = FlowReplay::new(kernel.flows().unwrap(), 3, 64);
        flows.follow(generation);
        flows.set_port(PortId(1), Some(LOOPBACK));
        flows.set_port(PortId(2), Some(LOOPBACK));
        Some(Self { kernel, engine: Port::new(resolver, flow_table(1024, 2)), flows, policies })
    }

    /// From container 2 to container 3, in user space.
    fn send(&mut self, frame: &[u8], now: Nanos) {
        let mut buffer = [vec![0; HEADROOM], frame.to_vec()].concat();
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(1)).unwrap();
        self.engine.process(std::slice::from_mut(&mut packet), now);
        self.flows.take_notices(self.engine.resolver_mut(), now);
    }

    fn is_replayed(&self, frame: &[u8]) -> bool {
        run_buffer(self.kernel.program(HostPoint::Container).unwrap(), frame).unwrap().mark == 0
    }
}

fn frame() -> Vec<u8> {
    FrameBuilder::tcp("10.0.0.2:40000", "10.0.0.3:80").eth(mac(2), mac(3)).build()
}

const AT: fn(u64) -> Nanos = Nanos::from_secs;

/// Longer than any flow is remembered without packets.
const LONG: u64 = 10_000;

/// A lab with an established flow, which the kernel replays, at 100 seconds.
fn settled() -> Option<Lab> {
    let mut lab = Lab::new()?;
    for _ in 0..3 {
        lab.send(&frame(), AT(100));
    }
    assert!(lab.is_replayed(&frame()));
    assert_eq!(lab.engine.resolved(), 1);
    Some(lab)
}

#[test]
fn a_flow_whose_packets_the_kernel_replays_is_not_forgotten() {
    let Some(mut lab) = settled() else { return };
    for at in (200..LONG).step_by(600) {
        assert!(lab.is_replayed(&frame()));
        lab.flows.sweep(&mut lab.engine, AT(at));
        assert_eq!(lab.flows.counts(), (1, 0));
    }
    lab.send(&frame(), AT(LONG));
    assert_eq!(lab.engine.resolved(), 1);
}

#[test]
fn a_flow_that_user_space_has_forgotten_is_taken_from_the_kernel() {
    let Some(mut lab) = settled() else { return };
    lab.flows.sweep(&mut lab.engine, AT(LONG));
    assert!(!lab.is_replayed(&frame()));
    lab.send(&frame(), AT(LONG));
    assert_eq!(lab.engine.resolved(), 2);
}

#[test]
fn a_flow_that_would_leave_by_a_device_that_is_gone_is_taken_from_the_kernel() {
    let Some(mut lab) = settled() else { return };
    lab.flows.set_port(PortId(2), Some(LOOPBACK + 1));
    lab.flows.sweep(&mut lab.engine, AT(101));
    assert!(!lab.is_replayed(&frame()));
}

#[test]
fn a_device_that_changes_has_all_flows_looked_at_at_once() {
    let Some(mut lab) = settled() else { return };
    lab.flows.sweep(&mut lab.engine, AT(100));
    assert!(lab.is_replayed(&frame()));
    lab.flows.set_port(PortId(2), Some(LOOPBACK + 1));
    lab.flows.sweep(&mut lab.engine, AT(100));
    assert!(!lab.is_replayed(&frame()));
}

#[test]
fn flows_of_a_new_policy_are_installed_once_its_ports_are_known() {
    let Some(mut lab) = settled() else { return };
    let next = policy(Some(&lab.policies.load()));
    let generation = next.generation();
    lab.policies.store(Arc::new(next));
    lab.kernel.set_generation(generation).unwrap();
    assert!(!lab.is_replayed(&frame()));
    lab.send(&frame(), AT(100));
    assert!(!lab.is_replayed(&frame()), "its device may be another by now");
    lab.flows.follow(generation);
    lab.send(&frame(), AT(100));
    assert!(lab.is_replayed(&frame()));
}

#[test]
fn all_flows_of_a_map_of_any_size_are_looked_at_within_ten_seconds_also_by_a_worker_that_sleeps() {
    for capacity in [1, 64, 131_072, 1 << 20, 16 << 20] {
        let (pace, steps) = (Pace::of(capacity), capacity.div_ceil(FlowMap::STEP));
        assert!(pace.every * steps as u32 <= Duration::from_secs(10), "{capacity}: {pace:?}");
        let rounds = steps.div_ceil(pace.most) as u32;
        assert!(rounds * penstock_packet_io::IdlePolicy::default().longest_sleep <= Duration::from_secs(10));
        assert!(pace.most * FlowMap::STEP <= (64 * FlowMap::STEP).max(capacity / 50), "a small share at once");
    }
}

#[test]
fn a_flow_is_installed_again_once_a_second_at_most() {
    let Some(mut lab) = settled() else { return };
    let entry = |lab: &mut Lab| {
        let mut seen = None;
        let mut look = |flow: &penstock_maps::ReplayFlow, _: &ReplayFlowKey, _| {
            seen = Some(flow.seen);
            true
        };
        lab.flows.map.step(&mut look).unwrap();
        seen.unwrap()
    };
    let installed = entry(&mut lab);
    lab.send(&frame(), Nanos::from_millis(100_900));
    assert_eq!(entry(&mut lab), installed);
    lab.send(&frame(), AT(101));
    assert!(entry(&mut lab) > installed);
}

#[test]
fn more_flows_than_there_is_room_for_stay_in_user_space_and_are_counted() {
    let Some(mut lab) = settled() else { return };
    for port in 1..=80 {
        let one = FrameBuilder::tcp(&format!("10.0.0.2:{port}"), "10.0.0.3:80").eth(mac(2), mac(3)).build();
        for _ in 0..3 {
            lab.send(&one, AT(100));
        }
    }
    lab.flows.sweep(&mut lab.engine, AT(100));
    let (flows, refused) = lab.flows.counts();
    assert_eq!(flows as u64 + refused, 81);
    assert!(refused >= 17, "{flows} flows, {refused} refused");
}
