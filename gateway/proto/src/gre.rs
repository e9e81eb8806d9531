//! GRE connections: whose is a packet, and what is written in front of one.
use crate::error::GoalError;
use crate::policy::{UnderlayHop, WAY_MTU};
use crate::{Tunnel, TunnelKind};
use penstock_model::{Addr16, DropReason, Packet, Protocol, TunnelId, Underlay};
use penstock_wire::gre::GreOptions;
use penstock_wire::{checksum, ecn, ethertype};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const TTL: u8 = 64;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// The GRE connections of one policy. About 150 bytes each.
#[derive(Debug, Default)]
pub(crate) struct GreTunnels {
    /// By the peer's underlay address and the key that its packets carry: a connection without a key is one of its own.
    by_peer: BTreeMap<(Addr16, Option<u32>), TunnelId>,
    /// By tunnel id.
    ways: Vec<Option<GreWay>>,
}

/// The outside of one connection.
#[derive(Debug)]
struct GreWay {
    peer: IpAddr,
    options: GreOptions,
    /// `None` while the underlay next hop is not resolved.
    template: Option<Template>,
}

impl GreTunnels {
    /// # Errors
    /// Two connections that could not be told apart, or a peer that this gateway cannot reach.
    pub(crate) fn build(
        tunnels: &[Tunnel],
        own: Underlay<IpAddr>,
        next_hop: impl Fn(IpAddr) -> Option<UnderlayHop>,
    ) -> Result<Self, GoalError> {
        let mut all = Self::default();
        for (i, tunnel) in tunnels.iter().enumerate() {
            let TunnelKind::Gre { peer, key, checksum } = &tunnel.kind else { continue };
            let at = |field: &str| format!("tunnels[{i}].kind.{field}");
            if peer.0.is_ipv4() != own.0.is_ipv4() || *peer == own {
                let problem = format!("{} cannot be the peer of the gateway at {}", peer.0, own.0);
                return Err(GoalError::new(at("peer"), problem));
            }
            if let Some(other) = all.by_peer.insert((Addr16::from(peer.0), *key), tunnel.id) {
                return Err(GoalError::new(at("key"), format!("tunnel {other} has the same peer and the same key")));
            }
            let place = tunnel.id.0 as usize;
            if all.ways.len() <= place {
                all.ways.resize_with(place + 1, || None);
            }
            if let Some(slot) = all.ways.get_mut(place) {
                let options = GreOptions { key: *key, checksum: *checksum };
                let template = next_hop(peer.0).and_then(|hop| Template::new(own.0, peer.0, hop));
                *slot = Some(GreWay { peer: peer.0, options, template });
            }
        }
        Ok(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_peer.is_empty()
    }

    pub(crate) fn peers(&self) -> BTreeSet<IpAddr> {
        self.ways.iter().flatten().map(|way| way.peer).collect()
    }

    /// The connection that a packet from `peer` with this key belongs to.
    #[inline]
    pub(crate) fn find(&self, peer: Addr16, key: Option<u32>) -> Option<TunnelId> {
        self.by_peer.get(&(peer, key)).copied()
    }

    fn way(&self, tunnel: TunnelId) -> Option<&GreWay> {
        self.ways.get(tunnel.0 as usize)?.as_ref()
    }

    /// The peer, and whether it can be reached now.
    pub(crate) fn state(&self, tunnel: TunnelId) -> Option<(IpAddr, bool)> {
        self.way(tunnel).map(|way| (way.peer, way.template.is_some()))
    }

    /// Bytes of the longest IP packet that goes in whole.
    pub(crate) fn mtu(&self, tunnel: TunnelId) -> Option<usize> {
        self.way(tunnel).map(|way| WAY_MTU - way.options.header_len() - if way.peer.is_ipv4() { IPV4 } else { IPV6 })
    }

    /// Ethernet addresses of the way to a connection's peer.
    pub(crate) fn hop(&self, tunnel: TunnelId) -> Option<[u8; 12]> {
        self.way(tunnel)?.template.as_ref()?.bytes.first_chunk::<12>().copied()
    }

    /// Writes everything in front of a bare IP packet that goes out by this connection; `None` if it is no GRE connection.
    pub(crate) fn encapsulate(
        &self,
        tunnel: TunnelId,
        packet: &mut Packet<'_>,
        identification: u16,
    ) -> Option<Result<(), DropReason>> {
        Some(self.way(tunnel)?.encapsulate(packet, identification))
    }
}

impl GreWay {
    fn encapsulate(&self, packet: &mut Packet<'_>, identification: u16) -> Result<(), DropReason> {
        let template = self.template.as_ref().ok_or(DropReason::NextHopUnresolved)?;
        let kind = match packet.frame().first().map(|b| b >> 4) {
            Some(4) => ethertype::IPV4,
            Some(6) => ethertype::IPV6,
            _ => return Err(DropReason::UnknownEtherType),
        };
        let tos = ecn::tos(packet.frame());
        let outside = template.len();
        let frame = packet.push_front(outside + self.options.header_len()).ok_or(DropReason::TooLarge)?;
        let (headers, gre) = frame.split_at_mut_checked(outside).ok_or(DropReason::TooLarge)?;
        if !self.options.write(gre, kind) {
            return Err(DropReason::TooLarge);
        }
        template.write(headers, gre.len(), tos, identification)
    }
}

/// Ethernet and IP header of a connection, but for what depends on the packet.
#[derive(Debug)]
struct Template {
    bytes: [u8; ETHERNET + IPV6],
    is_v4: bool,
}

impl Template {
    /// `None` if the addresses are of two families.
    fn new(own: IpAddr, peer: IpAddr, hop: UnderlayHop) -> Option<Self> {
        let mut bytes = [0; ETHERNET + IPV6];
        bytes[..6].copy_from_slice(&hop.eth_dst.0);
        bytes[6..12].copy_from_slice(&hop.eth_src.0);
        match (own, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
                // The don't-fragment bit is not set: a path that is narrower than it should be is slow and not dead (RFC 7588).
                bytes[22] = TTL;
                bytes[23] = Protocol::GRE.0;
                bytes[26..30].copy_from_slice(&own.octets());
                bytes[30..34].copy_from_slice(&peer.octets());
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                bytes[20] = Protocol::GRE.0;
                bytes[21] = TTL;
                bytes[22..38].copy_from_slice(&own.octets());
                bytes[38..54].copy_from_slice(&peer.octets());
            }
            _ => return None,
        }
        Some(Self { bytes, is_v4: own.is_ipv4() })
    }

    fn len(&self) -> usize {
        ETHERNET + if self.is_v4 { IPV4 } else { IPV6 }
    }

    /// Writes the headers of `payload` bytes: DSCP and ECN are those of the inner packet (RFC 2983 section 3.1, RFC 6040
    /// section 4.1 normal mode).
    fn write(&self, to: &mut [u8], payload: usize, tos: u8, identification: u16) -> Result<(), DropReason> {
        let length = payload + if self.is_v4 { IPV4 } else { 0 };
        let [hi, lo] = u16::try_from(length).map_err(|_| DropReason::TooLarge)?.to_be_bytes();
        if self.is_v4 {
            let to = to.first_chunk_mut::<{ ETHERNET + IPV4 }>().ok_or(DropReason::TooLarge)?;
            to.copy_from_slice(&self.bytes[..ETHERNET + IPV4]);
            to[15] = tos;
            [to[16], to[17]] = [hi, lo];
            [to[18], to[19]] = identification.to_be_bytes();
            [to[24], to[25]] = checksum::finish(checksum::sum(&to[ETHERNET..], 0)).to_be_bytes();
        } else {
            let to = to.first_chunk_mut::<{ ETHERNET + IPV6 }>().ok_or(DropReason::TooLarge)?;
            *to = self.bytes;
            to[14] |= tos >> 4;
            to[15] |= tos << 4;
            [to[18], to[19]] = [hi, lo];
        }
        Ok(())
    }
}
