//! The underlay interface, open, and what tells the kernel which packets are ours.
use crate::config::{GatewayConfig, PacketIoMode};
use crate::error::Error;
use penstock_bpf::{OwnedEndpoint, Steering};
use penstock_model::{PortId, Protocol};
use penstock_netlink::Link;
use penstock_packet_io::{AfPacket, AfPacketOptions, AfXdp, AfXdpOptions, FrameKind, PacketIo, SilentUdpListener};
use penstock_wire::VXLAN_PORT;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub(crate) const UNDERLAY: PortId = PortId(0);

/// One socket for each receive queue, and how they came about: `eth0: af_xdp copy`.
pub(crate) struct Opened {
    pub(crate) queues: Vec<Box<dyn PacketIo>>,
    pub(crate) mode: String,
    pub(crate) claim: Claim,
}

/// Which UDP ports of the underlay address are the gateway's.
pub(crate) enum Claim {
    /// The steering program takes them off the interface before the kernel sees them.
    Steering(Box<Steering>),
    /// The kernel sees them too and is kept from answering.
    Silence(BTreeMap<u16, SilentUdpListener>),
}

/// # Errors
/// By which door the interface cannot be opened, and why.
pub(crate) fn open(config: &GatewayConfig, link: &Link) -> Result<Opened, Error> {
    match config.packet_io {
        PacketIoMode::AfXdp => open_xdp(link),
        PacketIoMode::AfPacket => open_packet(link),
        PacketIoMode::Auto => open_xdp(link).or_else(|reason| {
            tracing::warn!(%reason, "AF_XDP does not work here: packets go by AF_PACKET, which is slower");
            open_packet(link)
        }),
    }
}

fn open_xdp(link: &Link) -> Result<Opened, Error> {
    let failed = |reason: String| Error::Open { interface: link.name.clone(), mode: "AF_XDP", reason };
    let steering = Steering::attach(link.index).map_err(|e| failed(e.to_string()))?;
    let mut queues: Vec<Box<dyn PacketIo>> = Vec::new();
    let mut mode = "closed";
    for queue in 0..receive_queues(&link.name) {
        let io =
            AfXdp::open(link.index, queue, UNDERLAY, AfXdpOptions::default()).map_err(|e| failed(e.to_string()))?;
        steering.register_socket(queue, io.fd()).map_err(|e| failed(e.to_string()))?;
        mode = io.capabilities().mode;
        queues.push(Box::new(io));
    }
    let mode = format!("{}: {mode}", link.name);
    Ok(Opened { queues, mode, claim: Claim::Steering(Box::new(steering)) })
}

fn open_packet(link: &Link) -> Result<Opened, Error> {
    let filter = Some(vec![FrameKind::IpProtocol(Protocol::UDP.0)]);
    let options = AfPacketOptions { filter, ..AfPacketOptions::default() };
    let io = AfPacket::open(&link.name, UNDERLAY, &options).map_err(|e| Error::Open {
        interface: link.name.clone(),
        mode: "AF_PACKET",
        reason: e.to_string(),
    })?;
    let mode = format!("{}: {}", link.name, io.capabilities().mode);
    Ok(Opened { queues: vec![Box::new(io)], mode, claim: Claim::Silence(BTreeMap::new()) })
}

/// Receive queues that the interface uses; 1 if the kernel does not say.
fn receive_queues(interface: &str) -> u32 {
    let entries = std::fs::read_dir(format!("/sys/class/net/{interface}/queues"));
    let count =
        entries.map_or(0, |list| list.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("rx-")).count());
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

impl Claim {
    /// Claims VXLAN and these ports of `own`, and no others.
    ///
    /// # Errors
    /// The kernel refuses the steering program's new endpoints.
    pub(crate) fn set(&mut self, own: IpAddr, listen_ports: impl Iterator<Item = u16>) -> Result<(), Error> {
        let wanted: BTreeSet<u16> = listen_ports.chain([VXLAN_PORT]).collect();
        match self {
            Self::Steering(steering) => {
                Ok(steering.set_endpoints(wanted.into_iter().map(|port| OwnedEndpoint::udp(own, port)))?)
            }
            Self::Silence(listeners) => {
                listeners.retain(|port, _| wanted.contains(port));
                for port in wanted {
                    if !listeners.contains_key(&port) {
                        silence(listeners, SocketAddr::new(own, port));
                    }
                }
                Ok(())
            }
        }
    }
}

fn silence(listeners: &mut BTreeMap<u16, SilentUdpListener>, address: SocketAddr) {
    match SilentUdpListener::bind(address) {
        Ok(listener) => {
            listeners.insert(address.port(), listener);
        }
        Err(error) => {
            tracing::warn!(%error, port = address.port(), "the kernel may answer packets for this port with \"unreachable\"");
        }
    }
}
