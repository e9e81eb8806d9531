//! One truth: what the host's programs make of a packet of a flow that was installed is what the engine makes of it, byte for
//! byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod frames;
#[path = "../kit/mod.rs"]
mod kit;

use arc_swap::ArcSwap;
use frames::{Dice, Ground, Sort, frame};
use penstock_bpf::testrun::{BufferResult, run_buffer};
use penstock_bpf::{FlowMap, HostPoint, HostReplay};
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_maps::{MARK, ReplayFlow, ReplayFlowKey};
use penstock_model::{DropReason, Epoch, HEADROOM, Mac, Nanos, Packet, PortId, Revision, Underlay, Verdict};
use penstock_policy::{Acl, AclAction, AclDirection, AclId, AclRule, PortRange};
use penstock_slb_host::{Hop, HostGoal, HostResolver, Notice, Policy, Surroundings, UnderlayFib, flow_table};
use std::net::IpAddr;
use std::sync::Arc;

const UNDERLAY: PortId = PortId(0);
/// Over each of two underlays.
const PACKETS: usize = 50_000;
const UNSPEC: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;
/// The loopback device: where test runs come in, and where all ports are.
const LOOPBACK: u32 = 1;

#[derive(Debug)]
struct Fib;

impl UnderlayFib for Fib {
    fn hop(&self, _: IpAddr) -> Option<Hop> {
        Some(Hop { eth_src: Mac([2, 9, 9, 9, 9, 1]), eth_dst: Mac([2, 9, 9, 9, 9, 2]) })
    }
}

/// The goal of the kit with the underlay's addresses of another family.
fn on(ground: Ground, mut goal: HostGoal) -> HostGoal {
    let moved = |a: &mut Underlay<IpAddr>| {
        if let IpAddr::V4(v4) = a.0 {
            a.0 = ground.address(v4.octets()[3]);
        }
    };
    goal.vteps.iter_mut().for_each(moved);
    goal.networks.iter_mut().flat_map(|n| &mut n.endpoints).for_each(|e| moved(&mut e.host));
    goal
}

fn build(goal: &HostGoal, previous: &Policy, ground: Ground) -> Policy {
    let here = Surroundings {
        local_ports: &(1..).map(PortId).zip(["c1", "c2", "c3"].map(str::to_owned)).collect::<Vec<_>>(),
        own: ground.address(1),
        underlay_port: UNDERLAY,
        fib: Arc::new(Fib),
        fib_generation: 1,
    };
    Policy::build(&on(ground, goal.clone()), &here, previous).unwrap()
}

/// A user space and a kernel that are told of each other.
struct Pair {
    policies: Arc<ArcSwap<Policy>>,
    engine: Port<HostResolver>,
    kernel: HostReplay,
    flows: FlowMap,
    now: Nanos,
    ground: Ground,
}

impl Pair {
    /// `None`, and says so, without the rights to load programs.
    fn new(ground: Ground) -> Option<Self> {
        if !kit::is_root() {
            return None;
        }
        let kernel = HostReplay::load(ground.address(1), 1 << 16, 4).unwrap();
        let policy = build(&kit::goal(), &Policy::empty(ground.address(1), UNDERLAY, Arc::new(Fib)), ground);
        kernel.set_generation(policy.generation()).unwrap();
        let policies = Arc::new(ArcSwap::from_pointee(policy));
        let resolver = HostResolver::new(Arc::clone(&policies), FlowHasher::new([7; 16])).with_notices();
        let engine = Port::new(resolver, flow_table(1 << 16, 3));
        let flows = kernel.flows().unwrap();
        Some(Self { policies, engine, kernel, flows, now: Nanos::from_secs(9), ground })
    }

    /// What user space does to a frame; the kernel is told of what it finds out.
    fn decide(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(frame);
        let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), port).unwrap();
        self.engine.process(std::slice::from_mut(&mut packet), self.now);
        let answer = (packet.verdict, packet.frame().to_vec());
        while let Some(notice) = self.engine.resolver_mut().poll_notice() {
            match notice {
                Notice::Settled(replayed) => {
                    let entry = replayed.entry(self.policies.load().generation(), |_| Some(LOOPBACK));
                    let (key, flow) = entry.unwrap();
                    assert!(self.flows.install(&key, &flow).unwrap());
                }
                Notice::Unsettled(place) => self.flows.remove(&place.key(|_| Some(LOOPBACK)).unwrap()),
            }
        }
        answer
    }

    fn run(&self, port: PortId, frame: &[u8]) -> BufferResult {
        let point = if port == UNDERLAY { HostPoint::Underlay } else { HostPoint::Container };
        run_buffer(self.kernel.program(point).unwrap(), frame).unwrap()
    }

    fn entries(&mut self) -> Vec<(ReplayFlowKey, ReplayFlow)> {
        let mut all = Vec::new();
        while !self
            .flows
            .step(|flow, key, _| {
                all.push((*key, *flow));
                true
            })
            .unwrap()
        {}
        all
    }

    fn publish(&mut self, goal: &HostGoal) {
        let next = build(goal, &self.policies.load(), self.ground);
        let generation = next.generation();
        self.policies.store(Arc::new(next));
        self.kernel.set_generation(generation).unwrap();
    }
}

/// How the two agree about a frame.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Agreement {
    Replayed,
    Denied,
    /// To user space.
    Left,
    /// The kernel's own.
    Passed,
}

fn judge(frame: &[u8], ours: &(Verdict, Vec<u8>), kernel: &BufferResult) -> Result<Agreement, String> {
    match (kernel.action, kernel.mark, ours.0) {
        (REDIRECT, 0, Verdict::Transmit(_)) if kernel.output == ours.1 => Ok(Agreement::Replayed),
        (REDIRECT, 0, Verdict::Transmit(_)) => Err(format!("other bytes:\n{:02x?}\n{:02x?}", kernel.output, ours.1)),
        (DROP, 0, Verdict::Drop(DropReason::AclDenied)) => Ok(Agreement::Denied),
        (REDIRECT, MARK, _) if kernel.output == frame => Ok(Agreement::Left),
        (UNSPEC, 0, Verdict::Pass | Verdict::Drop(_)) if kernel.output == frame => Ok(Agreement::Passed),
        (action, mark, verdict) => Err(format!("action {action}, mark {mark:#x} where user space says {verdict:?}")),
    }
}

/// Lets the flows of all sorts settle: connections open anew, two packets in each direction, and one to be told of.
fn settle(pair: &mut Pair, dice: &mut Dice) {
    for client in 0..frames::CLIENTS {
        for sort in Sort::ALL.into_iter().filter(|s| s.opens()) {
            let (port, frame) = frames::opening(sort, client, dice.1);
            pair.decide(port, &frame);
        }
        for _ in 0..3 {
            for sort in Sort::ALL {
                let (port, frame) = frames::plain(sort, client, dice);
                pair.decide(port, &frame);
            }
        }
    }
}

#[test]
fn fifty_thousand_packets_become_the_same_in_the_kernel_over_ipv4() {
    compare(Ground::V4);
}

#[test]
fn fifty_thousand_packets_become_the_same_in_the_kernel_over_ipv6() {
    compare(Ground::V6);
}

fn compare(ground: Ground) {
    let Some(mut pair) = Pair::new(ground) else { return };
    let mut dice = Dice(0x7e57, ground);
    settle(&mut pair, &mut dice);
    let mut counts = [0usize; 4];
    let mut sorts = [0usize; Sort::ALL.len()];
    for n in 0..PACKETS {
        let (sort, port, bytes) = frame(&mut dice);
        let kernel = pair.run(port, &bytes);
        let ours = pair.decide(port, &bytes);
        match judge(&bytes, &ours, &kernel) {
            Ok(agreement) => {
                counts[agreement as usize] += 1;
                sorts[sort as usize] += usize::from(agreement == Agreement::Replayed);
            }
            Err(why) => panic!("packet {n}, {sort:?}: {why}\n{bytes:02x?}"),
        }
        if n % 2000 == 0 {
            // Connections that a segment has ended begin again.
            settle(&mut pair, &mut dice);
        }
    }
    println!("replayed, denied, left, passed: {counts:?}; replayed by sort: {sorts:?}");
    assert!(counts[Agreement::Replayed as usize] > PACKETS / 3, "{counts:?}");
    for sort in Sort::ALL {
        assert!(sorts[sort as usize] > 100, "{sort:?}: {sorts:?}");
    }
}

#[test]
fn a_wrong_byte_in_any_field_of_a_flow_would_be_found() {
    let Some(mut pair) = Pair::new(Ground::V4) else { return };
    let mut dice = Dice(3, Ground::V4);
    settle(&mut pair, &mut dice);
    let sort = Sort::ToVip4;
    let (port, bytes) = frames::plain(sort, 1, &mut dice);
    let ours = pair.decide(port, &bytes);
    assert_eq!(judge(&bytes, &ours, &pair.run(port, &bytes)), Ok(Agreement::Replayed));
    let entry = pair.entries().into_iter().find(|(key, _)| frames::is_of(key, sort, 1)).unwrap();
    type Wrong = fn(&mut ReplayFlow);
    let wrong: [(&str, Wrong); 8] = [
        ("source", |f| f.src[1] ^= 1 << 40),
        ("destination", |f| f.dst[1] ^= 1 << 40),
        ("addresses' sum", |f| f.address_sum ^= 4),
        ("header's sum", |f| f.header_sum ^= 4),
        ("ports' sum", |f| f.port_sum ^= 4),
        ("ports", |f| f.ports[3] ^= 1),
        ("Ethernet", |f| f.eth[11] ^= 1),
        ("hop limit", |f| f.flags ^= penstock_maps::FLOW_TTL),
    ];
    for (what, change) in wrong {
        let mut flow = entry.1;
        change(&mut flow);
        assert!(pair.flows.install(&entry.0, &flow).unwrap());
        assert!(judge(&bytes, &ours, &pair.run(port, &bytes)).is_err(), "{what}");
    }
    for (what, change) in [
        ("generation", (|f| f.generation += 1) as Wrong),
        ("underlay source", |f| f.outer[1] ^= 1 << 40),
        ("Ethernet destination that it comes with", |f| f.mac[0] ^= 1),
    ] {
        let mut flow = entry.1;
        change(&mut flow);
        assert!(pair.flows.install(&entry.0, &flow).unwrap());
        assert_eq!(judge(&bytes, &ours, &pair.run(port, &bytes)), Ok(Agreement::Left), "{what}");
    }
}

#[test]
fn a_wrong_byte_in_the_encapsulation_of_a_flow_would_be_found() {
    /// Type of service, both lengths, inner type: the program writes them.
    const WRITTEN: [usize; 7] = [15, 16, 17, 38, 39, 62, 63];
    let Some(mut pair) = Pair::new(Ground::V4) else { return };
    let mut dice = Dice(6, Ground::V4);
    settle(&mut pair, &mut dice);
    let sort = Sort::ToPeer4;
    let (port, bytes) = frames::plain(sort, 1, &mut dice);
    let ours = pair.decide(port, &bytes);
    let (key, flow) = pair.entries().into_iter().find(|(key, _)| frames::is_of(key, sort, 1)).unwrap();
    for at in 0..64 {
        let mut wrong = flow;
        wrong.headers[at] ^= 0x10;
        assert!(pair.flows.install(&key, &wrong).unwrap());
        let verdict = judge(&bytes, &ours, &pair.run(port, &bytes));
        assert_eq!(verdict == Ok(Agreement::Replayed), WRITTEN.contains(&at), "byte {at}: {verdict:?}");
    }
}

/// Denies TCP to port 8080 of the first container.
fn closed() -> HostGoal {
    let mut goal = kit::goal();
    goal.revision = Revision(2);
    goal.acls = vec![Acl {
        name: "closed".into(),
        rules: vec![AclRule {
            name: "no-web".into(),
            priority: 100,
            action: AclAction::Deny,
            direction: AclDirection::Inbound,
            protocol: None,
            src: vec![],
            dst: vec![],
            src_ports: PortRange::ANY,
            dst_ports: PortRange { first: 8080, last: 8080 },
            log: false,
        }],
    }];
    goal.ports[0].acl = Some(AclId(0));
    goal.networks[0].epoch = Epoch(2);
    goal
}

#[test]
fn a_new_policy_takes_effect_at_the_next_packet_and_denied_flows_are_dropped_and_counted_in_the_kernel() {
    let Some(mut pair) = Pair::new(Ground::V4) else { return };
    let mut dice = Dice(4, Ground::V4);
    settle(&mut pair, &mut dice);
    let frames =
        |dice: &mut Dice| [Sort::ToVip4, Sort::ToVip6, Sort::FromContainer4].map(|s| frames::plain(s, 2, dice));
    for (port, bytes) in frames(&mut dice) {
        let kernel = pair.run(port, &bytes);
        let ours = pair.decide(port, &bytes);
        assert_eq!(judge(&bytes, &ours, &kernel), Ok(Agreement::Replayed));
    }
    pair.publish(&closed());
    for round in 0..3 {
        for (port, bytes) in frames(&mut dice) {
            let kernel = pair.run(port, &bytes);
            let ours = pair.decide(port, &bytes);
            assert_eq!(ours.0, Verdict::Drop(DropReason::AclDenied));
            // The first packet is decided by user space and the second one tells of it.
            let expected = if round < 2 { Agreement::Left } else { Agreement::Denied };
            assert_eq!(judge(&bytes, &ours, &kernel), Ok(expected), "round {round}");
        }
    }
    let tallies = pair.kernel.tallies().unwrap();
    assert_eq!((tallies[0].denied, tallies[1].denied), (2, 1));
    assert_eq!((tallies[0].received, tallies[1].received), (4, 2));
    assert_eq!((tallies[0].sent, tallies[1].sent), (1, 2));
}

#[test]
fn a_connection_that_ends_is_user_spaces_at_once_and_one_that_somebody_forges_a_syn_for_is_not() {
    let Some(mut pair) = Pair::new(Ground::V4) else { return };
    let mut dice = Dice(5, Ground::V4);
    for (flags, expected) in [(0x02u8, 0), (0x01, MARK), (0x04, MARK)] {
        settle(&mut pair, &mut dice);
        let (port, bytes) = frames::plain(Sort::ToVip4, 1, &mut dice);
        assert_eq!(pair.run(port, &bytes).mark, 0);
        let turn = frames::with_flags(&bytes, flags | (0x10 * u8::from(flags != 2)));
        assert_eq!(pair.run(port, &turn).mark, MARK, "flags {flags:#x}");
        pair.decide(port, &turn);
        for sort in [Sort::ToVip4, Sort::FromContainer4] {
            let (port, bytes) = frames::plain(sort, 1, &mut dice);
            assert_eq!(pair.run(port, &bytes).mark, expected, "{sort:?} after flags {flags:#x}");
        }
    }
    // The connection has been reset: this SYN begins it again, and user space has it until it is established.
    let (port, bytes) = frames::plain(Sort::ToVip4, 1, &mut dice);
    pair.decide(port, &frames::with_flags(&bytes, 0x02));
    for sort in [Sort::ToVip4, Sort::FromContainer4] {
        let (port, bytes) = frames::plain(sort, 1, &mut dice);
        assert_eq!(pair.run(port, &bytes).mark, MARK, "{sort:?} of one that begins again");
    }
}
