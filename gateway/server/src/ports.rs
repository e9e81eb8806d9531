//! The underlay interface, open, and what tells the kernel which packets are ours.
use crate::config::{GatewayConfig, PacketIoMode};
use crate::error::Error;
use penstock_bpf::{Obstacle, OwnedEndpoint, Steering};
use penstock_model::{Fallback, PortId, Protocol};
use penstock_netlink::Link;
use penstock_packet_io::{
    AfPacket, AfPacketOptions, AfXdp, AfXdpOptions, FrameKind, PacketIo, SilentProtocolListener, SilentUdpListener,
};
use penstock_wire::VXLAN_PORT;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const SOCKET: &str = "use Linux 6.1 or later with CONFIG_XDP_SOCKETS, run as root or with CAP_NET_RAW, and see that no other AF_XDP socket has the queue";
pub(crate) const UNDERLAY: PortId = PortId(0);

/// One socket for each receive queue, and how they came about: `af_xdp copy native`.
pub(crate) struct Opened {
    pub(crate) queues: Vec<Box<dyn PacketIo>>,
    pub(crate) mode: String,
    /// What goes a slower way than the best.
    pub(crate) fallback: Option<Fallback>,
    pub(crate) claim: Claim,
}

/// Which UDP ports of the underlay address are the gateway's.
pub(crate) enum Claim {
    /// The steering program takes them off the interface before the kernel sees them.
    Steering(Box<Steering>),
    /// The kernel sees them too and is kept from answering.
    Silence(Silence),
}

/// What keeps the kernel quiet where there is no steering program.
#[derive(Default)]
pub(crate) struct Silence {
    ports: BTreeMap<u16, SilentUdpListener>,
    gre: Option<SilentProtocolListener>,
}

/// # Errors
/// By which door the interface cannot be opened, and why.
pub(crate) fn open(config: &GatewayConfig, link: &Link) -> Result<Opened, Error> {
    match config.packet_io {
        PacketIoMode::AfXdp => open_xdp(link),
        PacketIoMode::AfPacket => open_packet(link),
        PacketIoMode::Auto => open_xdp(link).or_else(|reason| {
            tracing::warn!(%reason, "AF_XDP does not work here: packets go by AF_PACKET, which is slower");
            let fallback = match &reason {
                Error::Open { obstacle, .. } => fallback(link, "AF_XDP", obstacle),
                _ => None,
            };
            Ok(Opened { fallback, ..open_packet(link)? })
        }),
    }
}

fn open_xdp(link: &Link) -> Result<Opened, Error> {
    let failed = |obstacle: Obstacle| Error::Open { interface: link.name.clone(), mode: "AF_XDP", obstacle };
    let steering = Steering::attach(link.index).map_err(|e| failed(e.into()))?;
    let mut queues: Vec<Box<dyn PacketIo>> = Vec::new();
    let mut mode = "closed";
    for queue in 0..receive_queues(&link.name) {
        let io = AfXdp::open(link.index, queue, UNDERLAY, AfXdpOptions::default())
            .map_err(|e| failed(Obstacle::new(e.to_string(), SOCKET)))?;
        steering.register_socket(queue, io.fd()).map_err(|e| failed(e.into()))?;
        mode = io.capabilities().mode;
        queues.push(Box::new(io));
    }
    let mode = format!("{mode} {}", steering.mode());
    let fallback = steering.refusal().and_then(|obstacle| fallback(link, "native XDP", obstacle));
    Ok(Opened { queues, mode, fallback, claim: Claim::Steering(Box::new(steering)) })
}

fn open_packet(link: &Link) -> Result<Opened, Error> {
    let filter = Some([Protocol::UDP, Protocol::GRE].map(|p| FrameKind::IpProtocol(p.0)).to_vec());
    let options = AfPacketOptions { filter, ..AfPacketOptions::default() };
    let io = AfPacket::open(&link.name, UNDERLAY, &options).map_err(|e| Error::Open {
        interface: link.name.clone(),
        mode: "AF_PACKET",
        obstacle: Obstacle::new(e.to_string(), "run as root or with CAP_NET_RAW"),
    })?;
    let mode = io.capabilities().mode.to_owned();
    Ok(Opened { queues: vec![Box::new(io)], mode, fallback: None, claim: Claim::Silence(Silence::default()) })
}

/// For operators.
fn fallback(link: &Link, without: &str, obstacle: &Obstacle) -> Option<Fallback> {
    let (interface, without) = (link.name.clone(), without.to_owned());
    Some(Fallback { interface, without, reason: obstacle.reason.clone(), fix: obstacle.fix.clone()? })
}

/// Receive queues that the interface uses; 1 if the kernel does not say.
fn receive_queues(interface: &str) -> u32 {
    let entries = std::fs::read_dir(format!("/sys/class/net/{interface}/queues"));
    let count =
        entries.map_or(0, |list| list.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("rx-")).count());
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

impl Claim {
    /// Claims VXLAN, these ports of `own` and perhaps GRE, and nothing else.
    ///
    /// # Errors
    /// The kernel refuses the steering program's new endpoints.
    pub(crate) fn set(
        &mut self,
        own: IpAddr,
        listen_ports: impl Iterator<Item = u16>,
        takes_gre: bool,
    ) -> Result<(), Error> {
        let wanted: BTreeSet<u16> = listen_ports.chain([VXLAN_PORT]).collect();
        match self {
            Self::Steering(steering) => {
                let gre = takes_gre.then(|| OwnedEndpoint::protocol(own, Protocol::GRE.0));
                let ports = wanted.into_iter().map(|port| OwnedEndpoint::udp(own, port));
                Ok(steering.set_endpoints(ports.chain(gre))?)
            }
            Self::Silence(silence) => {
                silence.set(own, &wanted, takes_gre);
                Ok(())
            }
        }
    }
}

impl Silence {
    fn set(&mut self, own: IpAddr, ports: &BTreeSet<u16>, takes_gre: bool) {
        self.ports.retain(|port, _| ports.contains(port));
        for port in ports {
            if !self.ports.contains_key(port) {
                self.hold(SocketAddr::new(own, *port));
            }
        }
        if !takes_gre {
            self.gre = None;
        } else if self.gre.is_none() {
            self.gre = SilentProtocolListener::open(own, Protocol::GRE.0)
                .inspect_err(|error| tracing::warn!(%error, "the kernel may answer GRE with \"unreachable\""))
                .ok();
        }
    }

    fn hold(&mut self, address: SocketAddr) {
        match SilentUdpListener::bind(address) {
            Ok(listener) => {
                self.ports.insert(address.port(), listener);
            }
            Err(error) => {
                tracing::warn!(%error, port = address.port(), "the kernel may answer packets for this port with \"unreachable\"");
            }
        }
    }
}
