//! Real packets of a kernel, through a mux, onto a host's interface: in network namespaces, as root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use penstock_model::{BackendId, PoolId, Revision, ServiceId, Underlay};
use penstock_mux_proto::{Backend, MuxGoal, MuxStatus};
use penstock_mux_server::{BgpConfig, Error, MuxConfig, PacketIoMode, run};
use penstock_packet_io::netns;
use penstock_spread::SlotTable;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::capture::{Arrived, Capture, wait_for};
use support::frame::{self, Vxlan};
use support::goal::{BACKENDS, goal, mac, vni};
use support::{HOST, Lab, MUX, VIP4, VIP6};
use tokio::sync::watch;

/// What a mux says that has the kernel forward what it can.
const KERNEL: &str = ", kernel replay";
/// So long after a change no worker has to have had a flow entry before the kernel forwards all slots again.
const QUIET: Duration = Duration::from_secs(5);

/// A mux in its namespace, on a thread of its own.
struct RunningMux {
    goal: watch::Sender<Option<Arc<MuxGoal>>>,
    status: watch::Receiver<MuxStatus>,
    shutdown: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl RunningMux {
    fn start(lab: &Lab, packet_io: PacketIoMode) -> Self {
        Self::with_workers(lab, packet_io, None)
    }

    fn with_workers(lab: &Lab, packet_io: PacketIoMode, workers: Option<u32>) -> Self {
        let (goal, goals) = watch::channel(None);
        let (statuses, status) = watch::channel(MuxStatus::default());
        let (shutdown, stop) = watch::channel(false);
        let config = MuxConfig {
            interfaces: vec!["m0".to_owned()],
            underlay_address: MUX.parse().unwrap(),
            packet_io,
            workers,
            flow_capacity: 1 << 16,
            kernel_replay: true,
            bpffs: std::path::PathBuf::new(),
            bgp: BgpConfig::default(),
        };
        let ns = lab.ns("m");
        let thread = std::thread::spawn(move || {
            netns::enter(&ns).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let end = runtime.block_on(run(config, goals, statuses, stop));
            println!("the mux ended: {end:?}");
            end
        });
        Self { goal, status, shutdown, thread: Some(thread) }
    }

    fn set(&self, goal: MuxGoal) {
        self.goal.send_replace(Some(Arc::new(goal)));
    }

    fn until(&self, what: &str, reached: impl Fn(&MuxStatus) -> bool) -> MuxStatus {
        wait_for(what, || Some(self.status.borrow().clone()).filter(|s| reached(s)))
    }

    fn ended(&mut self) -> Result<(), Error> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for RunningMux {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens connections that nobody answers: one SYN each, from the kernel.
fn connect(lab: &Lab, to: &str, port: u16, count: usize) {
    let addr = SocketAddr::new(to.parse().unwrap(), port);
    lab.in_ns("c", || {
        for _ in 0..count {
            let e = TcpStream::connect_timeout(&addr, Duration::from_millis(1)).unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{e}");
        }
    });
}

fn datagrams(lab: &Lab, to: &str, port: u16, count: usize, payload: &[u8]) {
    let addr = SocketAddr::new(to.parse().unwrap(), port);
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    lab.in_ns("c", || {
        for _ in 0..count {
            UdpSocket::bind(any).unwrap().send_to(payload, addr).unwrap();
        }
    });
}

/// Starts a mux and waits until it can forward.
fn ready(lab: &Lab, packet_io: PacketIoMode) -> RunningMux {
    wait_until_ready(lab, RunningMux::start(lab, packet_io))
}

fn wait_until_ready(lab: &Lab, mux: RunningMux) -> RunningMux {
    mux.set(goal(7));
    mux.until("the goal to be applied", |s| s.applied == Revision(7));
    // IPv6 neighbours take a second after an interface has come up; what waits for them comes in a burst.
    wait_for("packets of both families to be forwarded", || {
        datagrams(lab, VIP4, 7777, 1, b"first");
        datagrams(lab, VIP6, 7777, 1, b"first");
        let status = mux.status.borrow();
        let forwarded = |id| status.services.iter().any(|t| t.id == ServiceId(id) && t.packets > 0);
        (forwarded(1) && forwarded(3)).then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    mux
}

fn check_all(lab: &Lab, frames: &[Vxlan]) {
    let (router, own) = (lab.mac("r", "rh"), lab.mac("h", "h0"));
    for f in frames {
        // The router has moved the frame on: its addresses are those of the last hop.
        assert_eq!((f.eth_src, f.eth_dst), (router, own));
        assert_eq!((f.src.to_string(), f.dst.to_string()), (MUX.to_owned(), HOST.to_owned()));
        let backend = (0..BACKENDS).find(|b| mac(*b).0 == f.inner.eth_dst).expect("the address of a backend");
        assert_eq!(f.vni, vni(backend));
        assert_eq!(f.inner.eth_src, [0x02, 0x50, 0x53, 0x54, 0, 2]);
        assert_eq!(f.inner.hop_limit, 62, "the router and the mux count one each");
        let (client, vip) = if f.inner.dst.is_ipv4() { ("198.18.0.2", VIP4) } else { ("2001:db8:1::2", VIP6) };
        assert_eq!((f.inner.src.to_string(), f.inner.dst.to_string()), (client.to_owned(), vip.to_owned()));
        assert!(f.src_port >= 49_152, "source port {} is not in the dynamic range", f.src_port);
    }
}

fn forwards(tag: &str, packet_io: PacketIoMode, mode: &str) {
    let Some(lab) = Lab::new(tag) else { return };
    lab.take_frames_of_programs(mode == KERNEL);
    let mux = ready(&lab, packet_io);
    let status = mux.until("a report", |s| !s.packet_io.is_empty());
    println!("{:?}", status.packet_io);
    assert!(status.packet_io[0].contains(mode), "{:?}", status.packet_io);

    let before = mux.until("a report", |_| true);
    let capture = Capture::start(&lab);
    connect(&lab, VIP4, 80, 200);
    connect(&lab, VIP6, 80, 100);
    datagrams(&lab, VIP4, 7777, 100, b"question");
    datagrams(&lab, VIP6, 7777, 100, b"question six");
    datagrams(&lab, VIP4, 7777, 5, &[7; 1472]);
    let raw: Vec<Vec<u8>> = capture.frames_of(505).into_iter().map(|(_, f)| f).collect();
    let frames: Vec<Vxlan> = raw.iter().filter_map(|f| frame::read(f)).collect();
    check_all(&lab, &frames);

    println!("{:?}", mux.until("a fresh report", |s| s.ledger.received > before.ledger.received).ledger);
    let of = |protocol: u8, v4: bool| -> Vec<&Vxlan> {
        frames.iter().filter(|f| f.inner.protocol == protocol && f.inner.dst.is_ipv4() == v4).collect()
    };
    let seen = (of(6, true).len(), of(6, false).len(), of(17, true).len(), of(17, false).len());
    assert_eq!(seen, (200, 100, 105, 100), "TCP and UDP of both families");
    assert!(of(6, true).iter().all(|f| f.inner.flags == 0x02 && f.inner.dst_port == 80));
    assert!(of(17, false).iter().all(|f| f.inner.payload == b"question six" && f.inner.dst_port == 7777));
    assert_eq!(of(17, true).iter().filter(|f| f.inner.payload == [7; 1472]).count(), 5, "full client frames fit");

    let mut spread = BTreeMap::new();
    of(6, true).iter().for_each(|f| *spread.entry(f.inner.eth_dst).or_insert(0) += 1);
    println!("connections by backend: {spread:?}");
    assert!(spread.len() == BACKENDS as usize && spread.values().all(|n| (15..=85).contains(n)), "{spread:?}");
    let ports: HashSet<u16> = frames.iter().map(|f| f.src_port).collect();
    assert!(ports.len() > 300, "{} outer source ports for 505 flows", ports.len());

    let after = mux.until("the counts to arrive", |s| s.ledger.transmitted >= before.ledger.transmitted + 505);
    let offered = |s: &MuxStatus, id: u32| s.services.iter().find(|t| t.id == ServiceId(id)).map_or(0, |t| t.packets);
    assert_eq!((offered(&after, 0), offered(&after, 2)), (200, 100));
    assert_eq!(after.backends.iter().map(|t| t.packets).sum::<u64>(), after.ledger.transmitted);
    let replayed = after.replayed - before.replayed;
    assert_eq!(replayed, if mode == KERNEL { after.ledger.transmitted - before.ledger.transmitted } else { 0 });
    let l = &after.ledger;
    assert_eq!(l.received, l.transmitted + l.passed + l.consumed + l.dropped.values().sum::<u64>());
    dissect(tag, &raw, frames.len());
}

/// What `tshark` says of the same frames, where it is installed.
fn dissect(tag: &str, raw: &[Vec<u8>], expected: usize) {
    let path = std::env::temp_dir().join(format!("pst-mux-{tag}{}.pcap", std::process::id()));
    std::fs::write(&path, frame::pcap(raw)).unwrap();
    let out = Command::new("tshark")
        .args(["-r", path.to_str().unwrap(), "-Y", "vxlan", "-T", "fields", "-e", "vxlan.vni", "-e", "_ws.malformed"])
        .args(["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        // A client's port may by chance be one that some protocol is known by, which the payload is not of.
        .args(["-d", "udp.port==7777,data"])
        .args(["-e", "tcp.checksum.status", "-e", "udp.checksum.status", "-e", "ip.checksum.status"])
        .output();
    let _ = std::fs::remove_file(&path);
    let Ok(out) = out else {
        println!("tshark is not installed: its opinion was not asked");
        return;
    };
    let text = String::from_utf8_lossy(&out.stdout);
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.len(), expected, "{}", String::from_utf8_lossy(&out.stderr));
    let vnis: BTreeSet<&str> = rows.iter().map(|r| r[0]).collect();
    assert_eq!(vnis.into_iter().collect::<Vec<_>>(), ["70001", "70002"]);
    for row in rows {
        assert_eq!(row[1], "", "malformed");
        // 0 is bad; 1 good, 2 unverified, 3 not present (the outer UDP checksum is zero, RFC 7348 section 4.1).
        assert!(row[2..].iter().all(|statuses| statuses.split(',').all(|s| s != "0")), "{row:?}");
    }
}

#[test]
fn packets_of_a_kernel_arrive_as_vxlan_by_af_packet() {
    forwards("p", PacketIoMode::AfPacket, "af_packet");
}

#[test]
fn packets_of_a_kernel_arrive_as_vxlan_by_af_xdp() {
    forwards("x", PacketIoMode::AfXdp, "af_xdp");
}

#[test]
fn packets_of_a_kernel_arrive_as_vxlan_by_the_kernel_itself() {
    forwards("k", PacketIoMode::AfXdp, KERNEL);
}

#[test]
fn an_interface_that_somebody_else_has_is_served_by_af_packet_and_the_reason_is_told_with_the_fix() {
    let Some(lab) = Lab::new("o") else { return };
    let other = lab.in_ns("m", || penstock_bpf::Steering::attach_to("m0").unwrap());
    let mux = ready(&lab, PacketIoMode::Auto);
    let status = mux.until("a report", |s| !s.packet_io.is_empty());
    assert_eq!(status.packet_io, ["m0: af_packet"]);
    let [fallback] = &status.fallbacks[..] else { panic!("{:?}", status.fallbacks) };
    assert_eq!((fallback.interface.as_str(), fallback.without.as_str()), ("m0", "AF_XDP"));
    assert!(fallback.reason.contains("m0 has the XDP program \"penstock_steer\""), "{fallback:?}");
    assert!(fallback.fix.starts_with("stop the other Penstock process"), "{fallback:?}");
    drop(other);
}

#[test]
fn a_peer_that_takes_no_frames_is_told_as_what_kernel_replay_lacks() {
    let Some(lab) = Lab::new("g") else { return };
    lab.take_frames_of_programs(false);
    let mux = ready(&lab, PacketIoMode::AfXdp);
    let status = mux.until("the obstacle", |s| !s.fallbacks.is_empty());
    let told: Vec<_> = status.fallbacks.iter().map(|f| (f.interface.as_str(), f.without.as_str())).collect();
    assert_eq!(told, [("m0", "kernel replay")]);
    assert!(status.fallbacks[0].fix.contains("gro on"), "{:?}", status.fallbacks);
    lab.take_frames_of_programs(true);
    mux.until("it to be helped", |s| s.fallbacks.is_empty() && s.packet_io[0].ends_with(KERNEL));
}

/// A veth whose peer loses its XDP program and keeps GRO takes frames by another way than before.
#[test]
fn no_frame_stays_in_the_kernel_after_the_program_at_the_other_end_is_gone() {
    let Some(lab) = Lab::new("w") else { return };
    lab.take_frames_of_programs(true);
    // It owns nothing, so it passes everything.
    let peer = lab.in_ns("r", || penstock_bpf::Steering::attach_to("rm").unwrap());
    let mux = ready(&lab, PacketIoMode::AfXdp);
    mux.until("the kernel to forward", |s| s.packet_io.iter().any(|m| m.contains(KERNEL)));
    let arrived = |frames: fn(Capture) -> Vec<Arrived>| {
        let capture = Capture::start(&lab);
        datagrams(&lab, VIP4, 7777, 100, b"where?");
        let frames = frames(capture);
        frames.iter().filter(|(_, f)| frame::read(f).is_some_and(|v| v.inner.payload == b"where?")).count()
    };
    assert_eq!(arrived(|capture| capture.frames_of(100)), 100);
    drop(peer);
    // The interface is looked at now and then: until then frames may be lost.
    wait_for("frames to arrive again", || (arrived(Capture::frames) == 100).then_some(()));
    let before = mux.status.borrow().replayed;
    assert_eq!(arrived(|capture| capture.frames_of(100)), 100);
    mux.until("the kernel to have forwarded them", |s| s.replayed >= before + 100);
}

/// A pool whose table changes: its slots that moved go to user space until no worker knows a flow of them any more. Meanwhile
/// no packet is lost, whichever engine it meets.
#[test]
fn the_kernel_forwards_all_slots_again_when_those_that_moved_have_no_flows() {
    let Some(lab) = Lab::new("a") else { return };
    lab.take_frames_of_programs(true);
    let mux = ready(&lab, PacketIoMode::AfXdp);
    let next = one_backend_less();
    let capture = Capture::start(&lab);
    datagrams(&lab, VIP4, 7777, 200, b"before");
    let changed = Instant::now();
    mux.set(next);
    datagrams(&lab, VIP4, 7777, 200, b"meanwhile");
    let first = mux.until("the next goal", |s| s.applied == Revision(8));
    let moved = replayed_of_400(&lab, &mux);
    assert!(
        (200..380).contains(&moved) || changed.elapsed() > QUIET,
        "a quarter of the slots has moved: {moved} of 400 replayed, {:?}",
        first.packet_io
    );
    wait_for("all slots to be replayed", || (replayed_of_400(&lab, &mux) == 400).then_some(()));
    let frames = capture.frames();
    let read: Vec<Vxlan> = frames.iter().filter_map(|(_, f)| frame::read(f)).collect();
    let count = |payload: &[u8]| read.iter().filter(|v| v.inner.payload == payload).count();
    assert_eq!((count(b"before"), count(b"meanwhile")), (200, 200));
}

fn one_backend_less() -> MuxGoal {
    let mut next = goal(8);
    let pool = &mut next.pools[0];
    pool.version = 2;
    let members: Vec<_> = (0..BACKENDS - 1).map(|id| (BackendId(id), 1)).collect();
    pool.table = SlotTable::build(Some(&pool.table), &members);
    next
}

#[test]
fn slots_that_moved_return_to_the_kernel_though_next_hops_change_meanwhile() {
    let Some(lab) = Lab::new("b") else { return };
    lab.take_frames_of_programs(true);
    let mux = ready(&lab, PacketIoMode::AfXdp);
    let mut next = one_backend_less();
    let neighbour = "192.0.2.77";
    next.backends.push(Backend {
        id: BackendId(BACKENDS),
        host: Underlay(neighbour.parse().unwrap()),
        ..next.backends[0].clone()
    });
    let changed = Instant::now();
    mux.set(next);
    mux.until("the next goal", |s| s.applied == Revision(8));
    let moved = replayed_of_400(&lab, &mux);
    assert!(moved < 380 || changed.elapsed() > QUIET, "{moved} of 400 replayed");
    let mut changes = 0;
    wait_for("all slots to be replayed", || {
        changes += 1;
        lab.ip("m", &format!("neigh replace {neighbour} lladdr 02:00:00:00:00:{changes:02} nud permanent dev m0"));
        std::thread::sleep(Duration::from_millis(500));
        (changes > 8 && replayed_of_400(&lab, &mux) == 400).then_some(())
    });
}

/// Of 400 flows those whose packet the kernel forwarded.
fn replayed_of_400(lab: &Lab, mux: &RunningMux) -> u64 {
    let before = mux.status.borrow().clone();
    datagrams(lab, VIP4, 7777, 400, b"who?");
    let all = |s: &MuxStatus| s.ledger.received >= before.ledger.received + 400;
    mux.until("the counts", all).replayed - before.replayed
}

#[test]
fn by_default_a_worker_serves_each_queue_and_fewer_lose_packets() {
    let Some(lab) = Lab::with_queues("q", 2) else { return };
    let arrived = |workers: Option<u32>| {
        let mux = wait_until_ready(&lab, RunningMux::with_workers(&lab, PacketIoMode::AfXdp, workers));
        let capture = Capture::start(&lab);
        connect(&lab, VIP4, 80, 200);
        // One queue's share is not known beforehand.
        let frames = if workers.is_none() { capture.frames_of(200) } else { capture.frames() };
        drop(mux);
        frames.iter().filter(|(_, f)| frame::read(f).is_some_and(|v| v.inner.protocol == 6)).count()
    };
    let (one, two) = (arrived(Some(1)), arrived(None));
    println!("of 200 connections {one} came through one queue, {two} through both");
    assert!((20..180).contains(&one) && two == 200, "{one} and {two}");
}

fn ping(lab: &Lab, vip: &str) -> String {
    let out = Command::new("ip")
        .args(["netns", "exec", &lab.ns("c"), "ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", vip])
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn virtual_ips_answer_ping_and_closed_ports_are_counted() {
    let Some(lab) = Lab::new("i") else { return };
    let mux = ready(&lab, PacketIoMode::Auto);
    for vip in [VIP4, VIP6] {
        let out = ping(&lab, vip);
        assert!(out.contains(" 3 received"), "{out}");
    }
    connect(&lab, VIP4, 81, 3);
    let s =
        mux.until("the drops to be counted", |s| s.ledger.dropped.get("no_service_on_port").is_some_and(|n| *n >= 3));
    println!("{:?}", s.ledger);
}

#[test]
fn the_first_packet_is_forwarded_within_a_second_of_the_start() {
    let Some(lab) = Lab::new("s") else { return };
    let capture = Capture::start(&lab);
    let start = Instant::now();
    let mux = RunningMux::start(&lab, PacketIoMode::Auto);
    mux.set(goal(1));
    while start.elapsed() < Duration::from_millis(1500) {
        datagrams(&lab, VIP4, 7777, 1, b"now?");
        std::thread::sleep(Duration::from_millis(5));
    }
    let first = capture.frames().into_iter().find(|(_, f)| frame::read(f).is_some()).map(|(at, _)| at - start);
    println!("first packet after {first:?} by {:?}", mux.status.borrow().packet_io);
    assert!(first.is_some_and(|t| t < Duration::from_secs(1)), "{first:?}");
}

#[test]
fn a_wrong_goal_is_refused_and_the_last_one_goes_on() {
    let Some(lab) = Lab::new("g") else { return };
    let mux = ready(&lab, PacketIoMode::Auto);
    let mut wrong = goal(8);
    wrong.services[1].pool = PoolId(99);
    mux.set(wrong);
    let s = mux.until("the refusal", |s| s.goal_error.is_some());
    assert_eq!(s.applied, Revision(7));
    assert_eq!(s.goal_error.as_deref(), Some("mux goal, services[1].pool: there is no pool 99"));
    let capture = Capture::start(&lab);
    datagrams(&lab, VIP4, 7777, 10, b"still there?");
    assert_eq!(capture.frames_of(10).iter().filter(|(_, f)| frame::read(f).is_some()).count(), 10);
    mux.set(MuxGoal { services: Vec::new(), ..goal(9) });
    let s = mux.until("the next goal", |s| s.applied == Revision(9));
    assert_eq!(s.goal_error, None);
    let capture = Capture::start(&lab);
    datagrams(&lab, VIP4, 7777, 10, b"gone");
    assert_eq!(capture.frames().iter().filter(|(_, f)| frame::read(f).is_some()).count(), 0);
}

#[test]
fn a_mux_whose_interface_goes_away_ends_with_an_error() {
    for (tag, packet_io) in [("d", PacketIoMode::AfPacket), ("e", PacketIoMode::Auto)] {
        let Some(lab) = Lab::new(tag) else { return };
        let mut mux = ready(&lab, packet_io);
        lab.ip("m", "link del m0");
        let error = mux.ended().unwrap_err().to_string();
        println!("{error}");
        let either = error.starts_with("worker 0 ended") || error == "mux interface \"m0\" was removed";
        assert!(either, "{error}");
    }
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let Some(lab) = Lab::new("n") else { return };
    lab.ip("m", "link set m0 name m1");
    let mut mux = RunningMux::start(&lab, PacketIoMode::Auto);
    assert_eq!(mux.ended().unwrap_err().to_string(), "mux interface \"m0\" does not exist");
}
