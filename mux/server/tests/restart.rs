//! A mux that dies and starts again: the kernel forwards what is settled meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use penstock_bpf::testrun::run_once;
use penstock_bpf::{BpfError, Occupant, Pins, Steering, occupants};
use penstock_model::{Mac, PortId, Underlay};
use penstock_mux_proto::{MuxStatus, NextHopInfo, Policy};
use penstock_mux_server::{BgpConfig, MuxConfig, PacketIoMode, run};
use penstock_packet_io::{interface_index, netns};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::capture::{Arrived, Capture, wait_for};
use support::goal::goal;
use support::{Lab, MUX, VIP4, frame};
use tokio::sync::watch;

const NAMESPACE: &str = "PST_MUX_NAMESPACE";
const BPFFS: &str = "PST_MUX_BPFFS";
const WAY: &str = "PST_MUX_WAY";
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The process of [`Process::start`]: a mux until its standard input ends.
#[test]
#[ignore = "started by the others as a process of its own"]
fn a_mux() {
    let variable = |name: &str| std::env::var(name).unwrap();
    netns::enter(&variable(NAMESPACE)).unwrap();
    let packet_io = if variable(WAY) == "xdp" { PacketIoMode::AfXdp } else { PacketIoMode::AfPacket };
    let config = MuxConfig {
        interfaces: vec!["m0".to_owned()],
        underlay_address: MUX.parse().unwrap(),
        packet_io,
        workers: None,
        flow_capacity: 1 << 10,
        kernel_replay: true,
        bpffs: variable(BPFFS).into(),
        bgp: BgpConfig { drain_seconds: 0.0, ..BgpConfig::default() },
    };
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        stop.send_replace(true);
    });
    let (_goal, goals) = watch::channel(Some(Arc::new(goal(7))));
    let (status, _statuses) = watch::channel(MuxStatus::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(config, goals, status, stopped)).unwrap();
}

struct Process(Child);

impl Process {
    fn start(lab: &Lab, bpffs: &Path, way: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_mux", "--ignored", "--nocapture"])
            .envs([(NAMESPACE, lab.ns("m").as_str()), (BPFFS, bpffs.to_str().unwrap()), (WAY, way)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// It is told to stop, or stops by itself: whether all was well, and what it said.
    fn end(mut self) -> (bool, String) {
        drop(self.0.stdin.take());
        let status = wait_for("the mux to end", || self.0.try_wait().unwrap());
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.success(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A BPF file system of the test's own, which ends with it.
struct BpfFs(PathBuf);

impl BpfFs {
    /// `None`, and says so, where none may be mounted.
    fn mount(tag: &str) -> Option<Self> {
        remove_those_of_dead_processes();
        let path = std::env::temp_dir().join(format!("pst-bpffs-{tag}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let fs = Self(path);
        let done = Command::new("mount").args(["-t", "bpf", "-o", "mode=700", "bpf"]).arg(&fs.0).status().unwrap();
        if !done.success() {
            println!("skipped: no BPF file system may be mounted");
        }
        done.success().then_some(fs)
    }

    fn pins(&self) -> usize {
        std::fs::read_dir(self.0.join("penstock")).map_or(0, Iterator::count)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
    let _ = std::fs::remove_dir(path);
}

fn remove_those_of_dead_processes() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("pst-bpffs-").and_then(|rest| rest.rsplit('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            unmount(&entry.path());
        }
    }
}

/// The program on the mux's interface.
fn program(lab: &Lab) -> Option<Occupant> {
    lab.in_ns("m", || occupants(interface_index("m0").unwrap()).unwrap()).into_iter().next()
}

fn replaying(lab: &Lab, other_than: u32) -> Occupant {
    wait_for("the kernel to forward", || {
        program(lab).filter(|p| p.name.as_deref() == Some("penstock_mux") && p.id != other_than)
    })
}

/// A thousand numbered datagrams a second of eight flows, until `stop` or for a minute; how many.
fn send(lab: &Lab, stop: &AtomicBool) -> u32 {
    lab.in_ns("c", || {
        let socket = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((VIP4, 7777)).unwrap();
            socket
        };
        let sockets: Vec<_> = (0..8).map(socket).collect();
        let mut number = 0u32;
        while !stop.load(Ordering::Relaxed) && number < 60_000 {
            sockets[number as usize % sockets.len()].send(&number.to_be_bytes()).unwrap();
            number += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        number
    })
}

/// The numbers that arrived, how often each.
fn numbers(frames: &[Arrived]) -> BTreeMap<u32, u32> {
    let mut all = BTreeMap::new();
    for (_, bytes) in frames {
        if let Some(number) = frame::read(bytes).and_then(|f| f.inner.payload.try_into().ok()) {
            *all.entry(u32::from_be_bytes(number)).or_default() += 1;
        }
    }
    all
}

#[test]
fn no_packet_of_a_settled_flow_is_lost_while_the_process_is_killed_and_starts_again() {
    let Some(lab) = Lab::new("rk") else { return };
    let Some(bpffs) = BpfFs::mount("rk") else { return };
    lab.take_frames_of_programs(true);
    let first = Process::start(&lab, &bpffs.0, "xdp");
    replaying(&lab, 0);
    // The router asks once where the mux is.
    wait_for("the way to be known", || {
        let capture = Capture::start(&lab);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| send(&lab, &stop));
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
        (!numbers(&capture.frames()).is_empty()).then_some(())
    });

    let capture = Capture::start(&lab);
    let stop = AtomicBool::new(false);
    let (sent, second, programs) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&lab, &stop));
        std::thread::sleep(Duration::from_millis(500));
        first.kill();
        let before = program(&lab);
        std::thread::sleep(Duration::from_millis(1500));
        let without = program(&lab);
        let second = Process::start(&lab, &bpffs.0, "xdp");
        let after = replaying(&lab, before.as_ref().map_or(0, |p| p.id));
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), second, [before, without, Some(after)])
    });
    let arrived = numbers(&capture.frames_of(sent as usize));
    println!("{sent} sent over a restart, {} arrived; {programs:?}", arrived.len());
    assert_eq!(programs[0], programs[1], "it stays while nobody is there");
    let lost: Vec<u32> = (0..sent).filter(|n| arrived.get(n) != Some(&1)).collect();
    assert!(sent > 200 && lost.is_empty(), "{} of {sent} lost or doubled: {lost:?}", lost.len());

    let (is_well, said) = second.end();
    assert!(is_well, "{said}");
    assert_eq!((program(&lab), bpffs.pins()), (None, 0), "who is told to stop leaves nothing");
}

#[test]
fn an_interface_has_one_process_and_without_xdp_nothing_of_the_process_before_stays() {
    let Some(lab) = Lab::new("ro") else { return };
    let Some(bpffs) = BpfFs::mount("ro") else { return };
    lab.take_frames_of_programs(true);
    let first = Process::start(&lab, &bpffs.0, "xdp");
    replaying(&lab, 0);
    let (is_well, said) = Process::start(&lab, &bpffs.0, "xdp").end();
    assert!(!is_well && said.contains("m0 is served by another Penstock process"), "{said}");
    let by_packet = Process::start(&lab, &bpffs.0, "packet");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((program(&lab).is_some(), bpffs.pins()), (true, 1), "what another process has is its own");
    by_packet.kill();
    first.kill();
    assert!(program(&lab).is_some());
    let by_packet = Process::start(&lab, &bpffs.0, "packet");
    wait_for("the program to be gone", || (program(&lab).is_none() && bpffs.pins() == 0).then_some(()));
    assert!(by_packet.end().0);
}

/// Ethernet, IPv4, UDP to the virtual IP.
fn datagram() -> Vec<u8> {
    let mut f = vec![0u8; 60];
    f[12..14].copy_from_slice(&[0x08, 0x00]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    f[26..30].copy_from_slice(&[198, 18, 0, 2]);
    f[30..34].copy_from_slice(&[203, 0, 113, 10]);
    f[34..40].copy_from_slice(&[0x1f, 0x40, 0x1e, 0x61, 0, 26]);
    let sum: u32 = f[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    f[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    f
}

#[test]
fn a_program_whose_process_is_gone_forwards_for_its_lease_and_no_longer() {
    let Some(lab) = Lab::new("rl") else { return };
    let Some(bpffs) = BpfFs::mount("rl") else { return };
    lab.take_frames_of_programs(true);
    let next_hop = |_| Some(NextHopInfo { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]), out: PortId(0) });
    let policy = Policy::build(&goal(7), next_hop, Underlay(MUX.parse().unwrap())).unwrap();
    let image = policy.replay_image(PortId(0), 1600);
    let in_mux = lab.ns("m");
    netns::run_in(&in_mux, || {
        let index = interface_index("m0").unwrap();
        let attach = |lease| Steering::attach_pinned(index, &Pins::new(&bpffs.0, lease));
        let action = |s: &Steering| run_once(s.program().unwrap(), &datagram()).unwrap().action;
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(3600));

        let mut steering = attach(short).unwrap();
        assert!(steering.unpinned().is_none() && !steering.has_predecessor());
        steering.replay_by(&image, penstock_bpf::WayOut::Answer).unwrap();
        let mut seen = action(&steering);
        for _ in 0..100 {
            // Of a thread that was not run for so long the lease had ended.
            if seen == XDP_TX {
                break;
            }
            steering.renew().unwrap();
            seen = action(&steering);
        }
        assert_eq!(seen, XDP_TX);
        std::thread::sleep(short * 2);
        assert_eq!(action(&steering), XDP_PASS, "there is no socket: the kernel's stack has it");
        steering.renew().unwrap();
        wait_for("it to forward again", || {
            steering.renew().unwrap();
            (action(&steering) == XDP_TX).then_some(())
        });

        // Its process ends, and another begins: until that has something better, the program stays.
        let program = occupants(index).unwrap();
        drop(steering);
        assert_eq!(occupants(index).unwrap(), program);
        let mut next = attach(long).unwrap();
        assert!(next.has_predecessor());
        assert!(matches!(attach(long), Err(BpfError::Occupied { .. })), "two at once");
        assert_eq!(occupants(index).unwrap(), program);
        next.replay_by(&image, penstock_bpf::WayOut::Answer).unwrap();
        assert!(!next.has_predecessor() && action(&next) == XDP_TX);
        assert_ne!(occupants(index).unwrap(), program);
        drop(next);

        // One that replays nothing takes it away.
        let mut third = attach(long).unwrap();
        third.stop_replay().unwrap();
        assert_eq!(occupants(index).unwrap()[0].name.as_deref(), Some("penstock_steer"));
        drop(third);
        assert_eq!(bpffs.pins(), 1);
    })
    .unwrap();

    // Of an interface that is gone nothing stays once a process starts.
    lab.ip("r", "link del rm");
    lab.ip("r", "link add rm type veth peer name m0 netns PEER".replace("PEER", &in_mux).as_str());
    netns::run_in(&in_mux, || {
        let index = interface_index("m0").unwrap();
        let again = Steering::attach_pinned(index, &Pins::new(&bpffs.0, Duration::from_secs(1))).unwrap();
        assert!(!again.has_predecessor());
        assert_eq!(bpffs.pins(), 1);
        again.detach();
        assert_eq!((bpffs.pins(), occupants(index).unwrap()), (0, Vec::new()));
    })
    .unwrap();
}

#[test]
fn where_nothing_can_be_pinned_the_reason_is_told_with_the_fix_and_the_mux_works() {
    let Some(lab) = Lab::new("rn") else { return };
    lab.in_ns("m", || {
        let index = interface_index("m0").unwrap();
        let pins = Pins::new(std::env::temp_dir(), Duration::from_secs(1));
        let steering = Steering::attach_pinned(index, &pins).unwrap();
        let told = steering.unpinned().unwrap();
        assert!(told.reason.contains("it is no BPF file system"), "{told}");
        assert!(told.fix.as_deref().is_some_and(|fix| fix.starts_with("mount -t bpf")), "{told}");
        drop(steering);
        assert_eq!(occupants(index).unwrap(), [], "it ends with its process");
    });
}
