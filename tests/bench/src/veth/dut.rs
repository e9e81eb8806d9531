//! The four devices under test, each started for its window and stopped after it.
use super::goal::{VIP, goal, is_backend, nft_rules};
use super::nets::{DUT_ADDRESS, Nets, shell_in};
use super::traffic::{FRAME, Load};
use super::{DUT_CPU, GENERATOR_CPU, before_others};
use penstock_bpf::Steering;
use penstock_model::{Packet, PortId, Verdict};
use penstock_mux_proto::MuxStatus;
use penstock_mux_server::{MuxConfig, PacketIoMode};
use penstock_packet_io::{
    AfXdp, AfXdpOptions, Interface, OffloadSetting, PacketIo, interface_index, netns, pin_this_thread,
};
use penstock_wire::build::is_intact;
use penstock_wire::{parse, parse_vxlan};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);
/// Outer Ethernet, IPv4, UDP and VXLAN.
const ENCAPSULATION: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// `penstock_mux_server::run`, as the binary runs it.
    Penstock,
    /// Swaps the Ethernet addresses: the least that an AF_XDP forwarder can do on the same port code.
    Floor,
    /// The kernel's IPv4 forwarding.
    Kernel,
    /// The same with destination NAT to a hundred addresses, by hash.
    Nft,
}

impl Variant {
    pub(crate) const ALL: [Self; 4] = [Self::Penstock, Self::Floor, Self::Kernel, Self::Nft];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Penstock => "veth/penstock",
            Self::Floor => "veth/floor-afxdp",
            Self::Kernel => "veth/kernel-forward",
            Self::Nft => "veth/nft-dnat-jhash",
        }
    }
}

/// Length of what comes back.
pub(crate) fn frame_bytes(variant: Variant) -> usize {
    if variant == Variant::Penstock { FRAME + ENCAPSULATION } else { FRAME }
}

/// Whether a frame that comes back is what this variant should make of what it got.
pub(crate) fn is_right(variant: Variant, frame: &[u8]) -> bool {
    let Ok(headers) = parse(frame) else { return false };
    let destination = frame[30..34].first_chunk::<4>().copied().map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
    match variant {
        Variant::Penstock => parse_vxlan(frame, &headers).is_ok_and(|(_, inner)| {
            let at = usize::from(inner.l3);
            inner.ttl == 63 && frame[at + 16..at + 20] == VIP.octets() && is_intact(frame)
        }),
        Variant::Floor => destination == VIP && headers.ttl == 64,
        Variant::Kernel => destination == VIP && headers.ttl == 63 && is_intact(frame),
        Variant::Nft => is_backend(destination) && headers.ttl == 63 && is_intact(frame),
    }
}

/// One that runs. Dropping it stops it.
pub(crate) struct Running {
    variant: Variant,
    stop: Option<Box<dyn FnOnce()>>,
}

pub(crate) fn start(variant: Variant, nets: &Nets) -> Running {
    let stop: Box<dyn FnOnce()> = match variant {
        Variant::Penstock => mux(nets, false),
        Variant::Floor => floor(nets),
        Variant::Kernel => kernel(nets, None, true),
        Variant::Nft => kernel(nets, Some(nft_rules()), true),
    };
    Running { variant, stop: Some(stop) }
}

impl Running {
    /// Sends until connection tracking holds every flow, where there is any.
    pub(crate) fn await_flows(&self, nets: &Nets, load: &Load) {
        let start = Instant::now();
        while self.variant == Variant::Nft && tracked(nets) < load.flows {
            assert!(start.elapsed() < PATIENCE, "connection tracking holds {} of {} flows", tracked(nets), load.flows);
            load.send_for(Duration::from_millis(100));
        }
        self.check_flows(nets, load);
    }

    pub(crate) fn check_flows(&self, nets: &Nets, load: &Load) {
        if self.variant == Variant::Nft {
            assert_eq!(tracked(nets), load.flows, "connection tracking holds all flows and nothing else");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

fn tracked(nets: &Nets) -> u32 {
    let read = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    netns::run_in(nets.dut(), read).unwrap().unwrap().trim().parse().unwrap()
}

/// The mux's threads inherit namespace and processor from the one that starts it. With `replay` the kernel has to forward.
pub(crate) fn mux(nets: &Nets, replay: bool) -> Box<dyn FnOnce()> {
    let (stop, stopped) = watch::channel(false);
    let (_goal, goal) = watch::channel(Some(Arc::new(goal())));
    let (status, mut seen) = watch::channel(MuxStatus::default());
    let config = MuxConfig {
        interfaces: vec![nets.dut_port().to_owned()],
        underlay_address: DUT_ADDRESS.parse().unwrap(),
        packet_io: PacketIoMode::AfXdp,
        workers: None,
        flow_capacity: 1 << 20,
        kernel_replay: replay,
        bpffs: std::path::PathBuf::new(),
        bgp: penstock_mux_server::BgpConfig::default(),
    };
    let thread = in_dut(nets, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(penstock_mux_server::run(config, goal, status, stopped)).unwrap();
    });
    let start = Instant::now();
    while seen.borrow_and_update().applied != goal_revision() {
        assert!(start.elapsed() < PATIENCE && !thread.is_finished(), "the mux does not start: {:?}", seen.borrow());
        std::thread::sleep(Duration::from_millis(5));
    }
    Box::new(move || {
        stop.send_replace(true);
        thread.join().unwrap();
        let ledger = &seen.borrow().ledger;
        assert!(ledger.dropped.is_empty(), "the mux dropped what it should have forwarded: {ledger:?}");
        let replayed = seen.borrow().replayed;
        assert_eq!(replayed, if replay { ledger.transmitted } else { 0 }, "{:?}", seen.borrow().packet_io);
    })
}

fn goal_revision() -> penstock_model::Revision {
    goal().revision
}

fn floor(nets: &Nets) -> Box<dyn FnOnce()> {
    const PORT: PortId = PortId(0);
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, opened) = mpsc::channel();
    let (name, stopped) = (nets.dut_port().to_owned(), Arc::clone(&stop));
    let thread = in_dut(nets, move || {
        let ifindex = interface_index(&name).unwrap();
        let mut steering = Steering::attach(ifindex).unwrap();
        let mut port = AfXdp::open(ifindex, 0, PORT, AfXdpOptions::default()).unwrap();
        steering.register_socket(0, port.fd()).unwrap();
        steering.set_vips([VIP.into()]).unwrap();
        ready.send(()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            port.poll(&mut |batch| batch.iter_mut().for_each(|p| swap(p, PORT))).unwrap();
            port.flush().unwrap();
        }
    });
    opened.recv().unwrap();
    Box::new(move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    })
}

fn swap(packet: &mut Packet<'_>, out: PortId) {
    if let Some((to, rest)) = packet.frame_mut().split_at_mut_checked(6) {
        to.swap_with_slice(&mut rest[..6]);
    }
    packet.verdict = Verdict::Transmit(out);
}

fn in_dut(nets: &Nets, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let dut = nets.dut().to_owned();
    std::thread::spawn(move || {
        netns::enter(&dut).unwrap();
        pin_this_thread(DUT_CPU).unwrap();
        before_others(None);
        work();
    })
}

/// The kernel forwards already; what is to be arranged is that it does so on its own processor, and translates.
///
/// GRO brings up the interface's NAPI, without which a veth takes no frames of the generator; UDP is not merged by it. Without
/// `threaded` the generator's processor does all.
pub(crate) fn kernel(nets: &Nets, rules: Option<String>, threaded: bool) -> Box<dyn FnOnce()> {
    set_gro(nets.dut(), nets.dut_port(), true);
    if threaded {
        receive_by_thread(nets);
    }
    let dut = nets.dut().to_owned();
    let translates = rules.is_some();
    if let Some(rules) = rules {
        shell_in(&dut, "nft -f -", Some(&rules));
    }
    let undo = undo_receive_by_thread(nets);
    Box::new(move || {
        if translates {
            shell_in(&dut, "nft delete table ip bench", None);
        }
        undo();
    })
}

/// Whoever brings up the interface's NAPI has done so.
pub(crate) fn receive_by_thread(nets: &Nets) {
    let port = nets.dut_port();
    shell_in(nets.dut(), &format!("echo 1 > /sys/class/net/{port}/threaded"), None);
    let start = Instant::now();
    while !pin_napi(port) {
        assert!(start.elapsed() < PATIENCE, "the NAPI thread of {port} does not appear");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn undo_receive_by_thread(nets: &Nets) -> impl FnOnce() + use<> {
    let (dut, port) = (nets.dut().to_owned(), nets.dut_port().to_owned());
    move || {
        shell_in(&dut, &format!("echo 0 > /sys/class/net/{port}/threaded"), None);
        set_gro(&dut, &port, false);
    }
}

fn set_gro(ns: &str, port: &str, on: bool) {
    let set = || Interface::open(port).unwrap().set_offload(OffloadSetting::GenericReceive, on).unwrap();
    netns::run_in(ns, set).unwrap();
}

/// Whether there is one.
fn pin_napi(port: &str) -> bool {
    let name = format!("napi/{port}-");
    let mut cpu = CpuSet::new();
    cpu.set(DUT_CPU);
    let mut found = false;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            let thread = Pid::from_raw(pid);
            found |= sched_setaffinity(thread, &cpu).is_ok();
            before_others(thread);
        }
    }
    found
}

const _: () = assert!(GENERATOR_CPU != DUT_CPU);
