//! Frames of every kind that can reach a host, usual and malformed, from a seed.

use crate::kit::{CONTAINER_MAC, PEER_MAC};
use penstock_maps::ReplayFlowKey;
use penstock_model::{Addr16, Mac, PortId, Protocol, Vni};
use penstock_wire::TcpFlags;
use penstock_wire::build::FrameBuilder;
use std::net::{IpAddr, SocketAddr};

pub(crate) const CLIENTS: u16 = 16;
const FIRST_PORT: u16 = 40_000;

/// The family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    V4,
    V6,
}

impl Ground {
    /// The address of the host (1), the other host or the mux (3).
    pub(crate) fn address(self, n: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([10, 9, 0, n]),
            Self::V6 => IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, u16::from(n)]),
        }
    }
}

/// What a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    ToVip4,
    ToVip6,
    FromContainer4,
    FromContainer6,
    /// UDP from the other host to a container's own address.
    FromPeer,
    /// TCP to another container of this host.
    ToNeighbour4,
    /// UDP.
    ToNeighbour6,
    /// TCP to a container of the other host: to be encapsulated.
    ToPeer4,
    ToPeer6,
}

impl Sort {
    pub(crate) const ALL: [Self; 9] = [
        Self::ToVip4,
        Self::ToVip6,
        Self::FromContainer4,
        Self::FromContainer6,
        Self::FromPeer,
        Self::ToNeighbour4,
        Self::ToNeighbour6,
        Self::ToPeer4,
        Self::ToPeer6,
    ];

    /// The first packet of a connection is one of these.
    pub(crate) fn opens(self) -> bool {
        matches!(self, Self::ToVip4 | Self::ToVip6 | Self::ToNeighbour4 | Self::ToPeer4 | Self::ToPeer6)
    }

    fn is_encapsulated(self) -> bool {
        matches!(self, Self::ToVip4 | Self::ToVip6 | Self::FromPeer)
    }

    fn ends(self, client: u16) -> (SocketAddr, SocketAddr, Protocol) {
        let port = FIRST_PORT + client;
        let far = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
        let near = |s: &str| s.parse().unwrap();
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        match self {
            Self::ToVip4 => (far("203.0.113.7"), near("198.51.100.1:80"), tcp),
            Self::ToVip6 => (far("2001:db8:c::7"), near("[2001:db8:f::1]:80"), tcp),
            Self::FromContainer4 => (near("10.0.0.2:8080"), far("203.0.113.7"), tcp),
            Self::FromContainer6 => (near("[fd00::2]:8080"), far("2001:db8:c::7"), tcp),
            Self::FromPeer => (far("10.0.0.12"), near("10.0.0.2:53"), udp),
            Self::ToNeighbour4 => (far("10.0.0.2"), near("10.0.0.3:80"), tcp),
            Self::ToNeighbour6 => (far("fd00::2"), near("[fd00::3]:53"), udp),
            Self::ToPeer4 => (far("10.0.0.2"), near("10.0.0.12:80"), tcp),
            Self::ToPeer6 => (far("fd00::2"), near("[fd00::12]:80"), tcp),
        }
    }
}

/// Whether the key is of that flow.
pub(crate) fn is_of(key: &ReplayFlowKey, sort: Sort, client: u16) -> bool {
    let (src, dst, protocol) = sort.ends(client);
    let bytes = |ip: IpAddr| Addr16::from(ip).0;
    let ports = [src.port(), dst.port()].map(u16::to_be_bytes).concat();
    let same = |words: [u64; 2], bytes: [u8; 16]| words.map(u64::to_ne_bytes).concat() == bytes;
    key.ports[..] == ports
        && key.protocol == u32::from(protocol.0)
        && same(key.src, bytes(src.ip()))
        && same(key.dst, bytes(dst.ip()))
}

/// splitmix64.
pub(crate) struct Dice(pub u64, pub Ground);

impl Dice {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// A packet of a flow that nothing is wrong with, and the port that it comes by.
pub(crate) fn plain(sort: Sort, client: u16, dice: &mut Dice) -> (PortId, Vec<u8>) {
    let payload: Vec<u8> = (0..dice.below(300)).map(|_| dice.word() as u8).collect();
    finish(sort, inner(sort, client).payload(&payload).tos(dice.word() as u8).build(), dice.1)
}

/// The SYN of a connection.
pub(crate) fn opening(sort: Sort, client: u16, ground: Ground) -> (PortId, Vec<u8>) {
    finish(sort, inner(sort, client).flags(TcpFlags::SYN).build(), ground)
}

fn inner(sort: Sort, client: u16) -> FrameBuilder {
    let (src, dst, protocol) = sort.ends(client);
    let container: Mac = CONTAINER_MAC[0].parse().unwrap();
    let other: Mac = PEER_MAC.parse().unwrap();
    let (from, to) = if sort.is_encapsulated() { (other, container) } else { (container, other) };
    FrameBuilder::between(src, dst, protocol).eth(from, to)
}

fn finish(sort: Sort, inner: Vec<u8>, ground: Ground) -> (PortId, Vec<u8>) {
    if sort.is_encapsulated() { (PortId(0), vxlan(&inner, ground)) } else { (PortId(1), inner) }
}

fn vxlan(inner: &[u8], ground: Ground) -> Vec<u8> {
    let (src, dst) = (SocketAddr::new(ground.address(3), 50_000), SocketAddr::new(ground.address(1), 4789));
    let vni = Vni::new(5001).unwrap();
    let payload = [&penstock_wire::vxlan::header(vni)[..], inner].concat();
    FrameBuilder::between(src, dst, Protocol::UDP).no_checksum().payload(&payload).build()
}

/// A TCP frame that came encapsulated, with other flags; its checksum is wrong then, which is the receiver's affair.
pub(crate) fn with_flags(frame: &[u8], flags: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let ip = 50 + 14;
    let l4 = if frame[ip] >> 4 == 4 { ip + 20 } else { ip + 40 };
    frame[l4 + 13] = flags;
    frame
}

/// A frame of a flow that is known or not, with something that is unusual or wrong in most of them.
pub(crate) fn frame(dice: &mut Dice) -> (Sort, PortId, Vec<u8>) {
    let sort = dice.pick(&Sort::ALL);
    // Some clients have no flow.
    let client = dice.below(usize::from(CLIENTS) + 2) as u16;
    let length = match dice.below(4) {
        0 => 0,
        1 => 1300 + dice.below(150),
        _ => dice.below(200),
    };
    let payload: Vec<u8> = (0..length).map(|_| dice.word() as u8).collect();
    let mut builder = inner(sort, client).payload(&payload).tos(dice.word() as u8).identification(dice.word() as u16);
    if dice.one_in(60) {
        builder = builder.flags(dice.pick(&[TcpFlags::SYN, 0x12, 0x11, 0x14, 0x04]));
    } else {
        builder = builder.flags(dice.pick(&[0x10, 0x18, 0x30, 0xd0]));
    }
    match dice.below(16) {
        0 => builder = builder.ttl(dice.below(3) as u8),
        1 => builder = builder.no_checksum(),
        2 => builder = builder.padded(),
        3 => builder = builder.vlan(7),
        4 => builder = builder.partial_checksum(),
        5 => builder = builder.tcp_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
        _ => {}
    }
    let (port, mut bytes) = finish(sort, builder.build(), dice.1);
    if dice.one_in(4) {
        damage(dice, &mut bytes);
    }
    (sort, port, bytes)
}

fn damage(dice: &mut Dice, frame: &mut Vec<u8>) {
    for _ in 0..=dice.below(2) {
        let at = dice.below(frame.len().min(150));
        frame[at] = if dice.one_in(2) { frame[at] ^ 1 << dice.below(8) } else { dice.word() as u8 };
    }
    match dice.below(6) {
        // Test runs take none that are shorter than Ethernet and IPv6.
        0 => frame.truncate(54 + dice.below(frame.len().max(55) - 54)),
        1 => frame.resize(frame.len() + dice.below(20), 0),
        _ => {}
    }
    // So that what else is wrong is looked at: the outer header, and the one that stands first in an IPv4 frame of a container.
    if frame[12..14] == [8, 0] && frame.len() >= 34 && dice.one_in(2) {
        frame[24..26].fill(0);
        let sum = penstock_wire::checksum::finish(penstock_wire::checksum::sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}
