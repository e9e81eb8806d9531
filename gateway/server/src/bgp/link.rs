//! Between the worker and the routers' TCP: bounded both ways, and neither waits for the other. What is lost is sent again.
use arc_swap::ArcSwap;
use penstock_gateway_proto::RouterPacket;
use penstock_model::{DropReason, TunnelId, Verdict};
use penstock_packet_io::Waker;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;

/// Packets that wait for a router, of each peer.
const INWARD: usize = 64;
/// Packets of all routers that wait for the worker.
const OUTWARD: usize = 512;

/// A session's place: the tunnel, and its two ends inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) tunnel: TunnelId,
    pub(crate) own: IpAddr,
    pub(crate) peer: IpAddr,
}

/// A link, and which of those that there were for the session.
type Open = HashMap<Ends, (u64, mpsc::Sender<Vec<u8>>)>;

/// Who takes packets of which session.
#[derive(Debug, Default)]
pub(crate) struct Links {
    open: ArcSwap<Open>,
    serial: AtomicU64,
}

impl Links {
    /// A packet for a router: only its peers, each through its own tunnel, are heard.
    pub(crate) fn deliver(&self, packet: &RouterPacket<'_>) -> Verdict {
        let ends = Ends { tunnel: packet.tunnel, own: packet.to, peer: packet.from };
        match self.open.load().get(&ends).map(|(_, link)| link.try_reserve()) {
            Some(Ok(place)) => {
                // The one copy that the worker makes: as many as there is room for, of the size of a frame.
                place.send(packet.bytes.to_vec());
                Verdict::Consumed
            }
            Some(Err(_)) => Verdict::Drop(DropReason::NoBuffer),
            None => Verdict::Drop(DropReason::UnknownPeer),
        }
    }

    /// In place of an earlier one. With the number to close it by.
    pub(crate) fn open(&self, ends: Ends) -> (u64, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(INWARD);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.change(|open| drop(open.insert(ends, (serial, sender.clone()))));
        (serial, receiver)
    }

    /// Nothing happens if there is another in its place.
    pub(crate) fn close(&self, ends: Ends, serial: u64) {
        self.change(|open| {
            if open.get(&ends).is_some_and(|(s, _)| *s == serial) {
                open.remove(&ends);
            }
        });
    }

    fn change(&self, change: impl Fn(&mut Open)) {
        self.open.rcu(|open| {
            let mut open = Open::clone(open);
            change(&mut open);
            open
        });
    }
}

/// Packets of routers, for the worker.
#[derive(Debug, Clone)]
pub(crate) struct Outward {
    packets: blocking::SyncSender<(TunnelId, Vec<u8>)>,
    waker: Waker,
}

/// The worker's end of it.
pub(crate) type FromRouters = blocking::Receiver<(TunnelId, Vec<u8>)>;

pub(crate) fn outward(waker: Waker) -> (Outward, FromRouters) {
    let (packets, receiver) = blocking::sync_channel(OUTWARD);
    (Outward { packets, waker }, receiver)
}

impl Outward {
    pub(crate) fn send(&self, tunnel: TunnelId, packet: Vec<u8>) {
        // Full, or nobody there: as if the network had lost it.
        if self.packets.try_send((tunnel, packet)).is_ok() {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_heard_through_its_own_tunnel_alone_and_as_far_as_there_is_room() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let links = Links::default();
        let ends = |tunnel| Ends { tunnel: TunnelId(tunnel), own: ip("10.1.0.254"), peer: ip("10.200.0.7") };
        let (first, mut heard) = links.open(ends(1));
        let packet =
            |tunnel, from| RouterPacket { tunnel: TunnelId(tunnel), from: ip(from), to: ip("10.1.0.254"), bytes: &[7] };
        assert_eq!(links.deliver(&packet(1, "10.200.0.7")), Verdict::Consumed);
        assert_eq!(links.deliver(&packet(2, "10.200.0.7")), Verdict::Drop(DropReason::UnknownPeer));
        assert_eq!(links.deliver(&packet(1, "10.200.0.8")), Verdict::Drop(DropReason::UnknownPeer));
        assert_eq!(heard.try_recv(), Ok(vec![7]));
        let all: Vec<Verdict> = (0..=INWARD).map(|_| links.deliver(&packet(1, "10.200.0.7"))).collect();
        assert_eq!(all[INWARD], Verdict::Drop(DropReason::NoBuffer));

        let (_, mut heard) = links.open(ends(1));
        links.close(ends(1), first);
        assert_eq!(links.deliver(&packet(1, "10.200.0.7")), Verdict::Consumed, "the second one stands");
        assert_eq!(heard.try_recv(), Ok(vec![7]));
    }
}
