//! How a tenant's router reaches its peers.
use super::link::{Ends, Links, Outward};
use super::stack::Stack;
use super::wire::Wire;
use penstock_clock::MonotonicClock;
use penstock_gateway_proto::TUNNEL_MTU;
use penstock_model::TunnelId;
use penstock_routing_proto::PeerGoal;
use penstock_routing_server::{Stream, Transport};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

const BGP_PORT: u16 = 179;
/// Connections that wait to be taken, of all peers of a router.
const ACCEPTED: usize = 16;

pub(super) type Sites = BTreeMap<String, TunnelId>;

/// TCP inside the tunnels of one tenant.
pub(super) struct TunnelTcp {
    links: Arc<Links>,
    outward: Outward,
    /// The tunnel of each peer, by its name: as new as the goal.
    sites: watch::Receiver<Arc<Sites>>,
    wires: BTreeMap<IpAddr, Opened>,
    accepted: mpsc::Sender<(Stream, IpAddr)>,
    opened: mpsc::Receiver<(Stream, IpAddr)>,
}

struct Opened {
    ends: Ends,
    /// The link's number.
    serial: u64,
    wire: Arc<Wire>,
}

impl TunnelTcp {
    pub(super) fn new(links: Arc<Links>, outward: Outward, sites: watch::Receiver<Arc<Sites>>) -> Self {
        let (accepted, opened) = mpsc::channel(ACCEPTED);
        Self { links, outward, sites, wires: BTreeMap::new(), accepted, opened }
    }

    fn open(&self, ends: Ends) -> Opened {
        let (serial, packets) = self.links.open(ends);
        // `RandomState` is seeded by the operating system; its output for a fresh value is as good as random here.
        let seed = RandomState::new().hash_one(ends);
        let stack = Stack::new(ends.own, ends.peer, TUNNEL_MTU, seed, MonotonicClock::now());
        let wire = Wire::new(ends.tunnel, stack, self.outward.clone());
        tokio::spawn(Arc::clone(&wire).drive(packets, self.accepted.clone(), ends.peer));
        Opened { ends, serial, wire }
    }
}

impl Transport for TunnelTcp {
    type Incoming = Stream;

    fn follow(&mut self, peers: &[PeerGoal]) {
        let sites = self.sites.borrow().clone();
        let wanted: BTreeMap<IpAddr, Ends> = peers
            .iter()
            .filter_map(|p| {
                let (own, tunnel) = (p.local_address?, *sites.get(&p.name)?);
                Some((p.address, Ends { tunnel, own, peer: p.address }))
            })
            .collect();
        let links = &self.links;
        self.wires.retain(|peer, opened| {
            let stays = wanted.get(peer) == Some(&opened.ends);
            if !stays {
                links.close(opened.ends, opened.serial);
            }
            stays
        });
        for (peer, ends) in wanted {
            if !self.wires.contains_key(&peer) {
                self.wires.insert(peer, self.open(ends));
            }
        }
    }

    async fn accept(&mut self) -> (Stream, IpAddr) {
        match self.opened.recv().await {
            Some(opened) => opened,
            None => std::future::pending().await,
        }
    }

    fn take(&self, incoming: Stream, _peer: &PeerGoal) -> io::Result<Stream> {
        Ok(incoming)
    }

    fn connect(&self, peer: PeerGoal) -> impl Future<Output = io::Result<Stream>> + Send + 'static {
        let wire = self.wires.get(&peer.address).map(|opened| Arc::clone(&opened.wire));
        async move {
            let wire = wire.ok_or_else(|| io::Error::other("no tunnel leads to the peer"))?;
            wire.connect(peer.port.unwrap_or(BGP_PORT)).await
        }
    }
}

impl Drop for TunnelTcp {
    fn drop(&mut self) {
        self.wires.values().for_each(|opened| self.links.close(opened.ends, opened.serial));
    }
}
