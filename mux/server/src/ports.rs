use crate::config::{MuxConfig, PacketIoMode};
use crate::control::Steer;
use crate::error::Error;
use crate::stats::{Counted, ReplayState, fallback};
use crate::steering::XdpSteering;
use penstock_bpf::Obstacle;
use penstock_model::{Fallback, PortId, Protocol};
use penstock_mux_proto::{Foreign, Policy};
use penstock_netlink::{Link, UnderlayView};
use penstock_packet_io::{AfPacket, AfPacketOptions, AfXdp, AfXdpOptions, FrameKind, Interface, PacketIo};

/// The interfaces, open.
pub(crate) struct Opened {
    /// For each worker its queue of every interface, by port id.
    pub(crate) workers: Vec<Vec<Box<dyn PacketIo>>>,
    /// How packets are read, by interface: `af_xdp copy native`.
    pub(crate) modes: Vec<String>,
    /// What goes a slower way than the best.
    pub(crate) fallbacks: Vec<Fallback>,
    pub(crate) steer: Box<dyn Steer + Send>,
    pub(crate) foreign: Foreign,
}

const SOCKET: &str = "use Linux 6.1 or later with CONFIG_XDP_SOCKETS, run as root or with CAP_NET_RAW, and see that no other AF_XDP socket has the queue";

/// Opens the interfaces as configured.
///
/// # Errors
/// Which interface cannot be opened, by which door, and why.
pub(crate) fn open(config: &MuxConfig, links: &[Link]) -> Result<Opened, Error> {
    match config.packet_io {
        PacketIoMode::AfXdp => open_xdp(config, links),
        PacketIoMode::AfPacket => open_packet(config, links),
        PacketIoMode::Auto => open_xdp(config, links).or_else(|reason| {
            tracing::warn!(%reason, "AF_XDP does not work here: packets go by AF_PACKET, which is slower");
            let fallbacks = match &reason {
                Error::Open { interface, obstacle, .. } => fallback(interface, "AF_XDP", obstacle),
                _ => None,
            };
            Ok(Opened { fallbacks: fallbacks.into_iter().collect(), ..open_packet(config, links)? })
        }),
    }
}

fn open_xdp(config: &MuxConfig, links: &[Link]) -> Result<Opened, Error> {
    let mut steering = XdpSteering::new(config.kernel_replay, config.pins());
    let mut queues = Vec::new();
    for (port, link) in (0u16..).zip(links) {
        let mode_error = |obstacle: Obstacle| Error::Open { interface: link.name.clone(), mode: "AF_XDP", obstacle };
        let no_socket = |error: &dyn std::fmt::Display| mode_error(Obstacle::new(error.to_string(), SOCKET));
        let present = Interface::open(&link.name).and_then(|i| i.receive_queues()).map_err(|e| no_socket(&e))?;
        let used = config.workers.unwrap_or(present).max(1);
        if used < present {
            let name = &link.name;
            tracing::warn!(interface = %name, used, present, "packets of the other receive queues pass the mux by: set `workers` to the number of queues, or the queues with `ethtool -L {name} combined {used}`");
        }
        steering.attach(PortId(port), link).map_err(mode_error)?;
        for queue in 0..used {
            let io =
                AfXdp::open(link.index, queue, PortId(port), AfXdpOptions::default()).map_err(|e| no_socket(&e))?;
            steering.serve(PortId(port), queue, &io).map_err(mode_error)?;
            queues.push((port, queue, io));
        }
    }
    let (mut modes, mut fallbacks) = (Vec::new(), Vec::new());
    for (port, link) in (0u16..).zip(links) {
        let mode = queues.iter().find(|(p, ..)| *p == port).map_or("closed", |(.., io)| io.capabilities().mode);
        let Some((program, refusal)) = steering.mode(PortId(port)) else { continue };
        modes.push(format!("{mode} {program}"));
        fallbacks.extend(refusal.and_then(|obstacle| fallback(&link.name, "native XDP", obstacle)));
        fallbacks
            .extend(steering.unpinned(PortId(port)).and_then(|o| fallback(&link.name, "forwarding over restarts", o)));
    }
    Ok(Opened { workers: by_worker(queues), modes, fallbacks, steer: Box::new(steering), foreign: Foreign::Drop })
}

/// Worker n gets queue n of each interface that has one.
fn by_worker(queues: Vec<(u16, u32, AfXdp)>) -> Vec<Vec<Box<dyn PacketIo>>> {
    let count = queues.iter().map(|(_, queue, _)| *queue as usize + 1).max().unwrap_or(0);
    let mut workers: Vec<Vec<Box<dyn PacketIo>>> = (0..count).map(|_| Vec::new()).collect();
    for (_, queue, io) in queues {
        if let Some(worker) = workers.get_mut(queue as usize) {
            worker.push(Box::new(io));
        }
    }
    workers
}

/// What an earlier process forwarded by in the kernel is taken away first. One worker: an AF_PACKET socket sees all queues of its interface.
fn open_packet(config: &MuxConfig, links: &[Link]) -> Result<Opened, Error> {
    links.iter().for_each(|link| config.pins().into_iter().for_each(|pins| pins.remove(link.index)));
    warn_if_the_kernel_forwards();
    let kinds = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6];
    let filter = Some(kinds.map(|p| FrameKind::IpProtocol(p.0)).to_vec());
    let options = AfPacketOptions { filter, ..AfPacketOptions::default() };
    let mut ports: Vec<Box<dyn PacketIo>> = Vec::new();
    for (port, link) in (0u16..).zip(links) {
        let io = AfPacket::open(&link.name, PortId(port), &options).map_err(|e| Error::Open {
            interface: link.name.clone(),
            mode: "AF_PACKET",
            obstacle: Obstacle::new(e.to_string(), "run as root or with CAP_NET_RAW"),
        })?;
        ports.push(Box::new(io));
    }
    let modes = links.iter().map(|_| "af_packet".to_owned()).collect();
    let steer = Box::new(NoSteering);
    Ok(Opened { workers: vec![ports], modes, fallbacks: Vec::new(), steer, foreign: Foreign::Pass })
}

/// AF_PACKET: the kernel sees every frame too. It drops those for virtual IPs, which it does not know, unless it forwards.
struct NoSteering;

impl Steer for NoSteering {
    fn publish(&mut self, _policy: &Policy, _view: &UnderlayView) -> Result<(), Error> {
        Ok(())
    }

    fn maintain(&mut self, _policy: &Policy, _view: &UnderlayView) -> Result<(), Error> {
        Ok(())
    }

    fn replays(&mut self) -> Vec<(ReplayState, Counted)> {
        Vec::new()
    }

    fn detach(&mut self) {}
}

fn warn_if_the_kernel_forwards() {
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let value = std::fs::read_to_string(format!("/proc/sys/{setting}"));
        if value.is_ok_and(|v| v.trim() != "0") {
            let name = setting.replace('/', ".");
            tracing::warn!(setting = %name, "the kernel forwards packets and would send those for virtual IPs on as well: set it to 0 on a mux without AF_XDP");
        }
    }
}
