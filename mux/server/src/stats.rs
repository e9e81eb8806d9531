//! What workers publish about themselves, and what the sum of it says.

use penstock_bpf::Obstacle;
use penstock_engine::{Counter, FragmentCounts, Port};
use penstock_model::{BackendId, DropReason, Fallback, Ledger, LedgerReport, ServiceId};
use penstock_mux_proto::{MuxResolver, MuxStatus, Policy, Traffic, VipLimited};
use penstock_packet_io::{IoStats, PacketIo};
use std::collections::HashMap;
use std::sync::Mutex;

/// One worker's counts at one moment. Copied about ten times a second, not per packet.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    ledger: Ledger,
    flows: u64,
    resolved: u64,
    fragments: FragmentCounts,
    /// By service id.
    services: Vec<Counter>,
    /// By backend id.
    backends: Vec<Counter>,
    /// By interface, in the order of the configuration.
    io: Vec<IoStats>,
}

/// A snapshot that one thread writes and another reads.
pub(crate) type Shared = Mutex<Snapshot>;

/// Copies a worker's counts, unless somebody is reading them: then the next time will do. Allocates only to grow.
pub(crate) fn publish(shared: &Shared, engine: &Port<MuxResolver>, ports: &[Box<dyn PacketIo>]) {
    let Ok(mut s) = shared.try_lock() else { return };
    s.ledger.clone_from(engine.ledger());
    s.flows = engine.flows() as u64;
    s.resolved = engine.resolved();
    s.fragments = engine.resolver().fragments();
    copy(&mut s.services, engine.resolver().services());
    copy(&mut s.backends, engine.counters());
    s.io.clear();
    s.io.extend(ports.iter().map(|p| p.stats()));
}

fn copy(to: &mut Vec<Counter>, from: &[Counter]) {
    to.clear();
    to.extend_from_slice(from);
}

/// The sum over all workers.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) ledger: Ledger,
    pub(crate) flows: u64,
    pub(crate) resolved: u64,
    pub(crate) fragments: FragmentCounts,
    /// Of the packets in the ledger, those that the kernel forwarded by itself.
    replayed: u64,
    services: Vec<Counter>,
    backends: Vec<Counter>,
    pub(crate) io: Vec<IoStats>,
}

impl Totals {
    pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a Shared>) -> Self {
        let mut t = Self::default();
        for shared in workers {
            // A worker that died while it held the lock is reported elsewhere; its counts still stand.
            let s = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            t.ledger.add(&s.ledger);
            t.flows += s.flows;
            t.resolved += s.resolved;
            t.fragments.add(s.fragments);
            add(&mut t.services, &s.services);
            add(&mut t.backends, &s.backends);
            t.io.resize(t.io.len().max(s.io.len()), IoStats::default());
            t.io.iter_mut().zip(&s.io).for_each(|(mine, theirs)| mine.add(theirs));
        }
        t
    }
}

/// What the kernel's program has forwarded on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// Bytes as they left.
    pub(crate) sent: u64,
    /// By service id.
    pub(crate) services: Vec<Counter>,
    /// By backend id.
    pub(crate) backends: Vec<Counter>,
    /// Packets that it began to forward and lost.
    pub(crate) aborted: u64,
}

/// Whether the kernel forwards packets on an interface, and if not why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ReplayState {
    pub(crate) is_active: bool,
    pub(crate) obstacle: Option<Obstacle>,
}

impl std::fmt::Display for ReplayState {
    /// To be read after the way that packets take otherwise.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.is_active, &self.obstacle) {
            (true, _) => f.write_str(", kernel replay"),
            (false, Some(Obstacle { reason, .. })) => write!(f, ", no kernel replay: {reason}"),
            (false, None) => Ok(()),
        }
    }
}

/// For operators: nothing if it is as they wanted it.
pub(crate) fn fallback(interface: &str, without: &str, obstacle: &Obstacle) -> Option<Fallback> {
    let (interface, without) = (interface.to_owned(), without.to_owned());
    Some(Fallback { interface, without, reason: obstacle.reason.clone(), fix: obstacle.fix.clone()? })
}

impl Counted {
    pub(crate) fn packets(&self) -> u64 {
        self.services.iter().map(|c| c.packets).sum()
    }
}

impl Totals {
    /// Adds what the kernel forwarded by itself on the interface of a port.
    pub(crate) fn add_replayed(&mut self, port: usize, counted: &Counted) {
        let packets = counted.packets();
        self.replayed += packets;
        self.ledger.received += packets + counted.aborted;
        self.ledger.received_bytes += counted.services.iter().map(|c| c.bytes).sum::<u64>();
        self.ledger.transmitted += packets;
        self.ledger.transmitted_bytes += counted.sent;
        self.ledger.dropped[DropReason::TransmitFailed as usize] += counted.aborted;
        add(&mut self.services, &counted.services);
        add(&mut self.backends, &counted.backends);
        if let Some(io) = self.io.get_mut(port) {
            io.received += packets + counted.aborted;
            io.transmitted += packets;
        }
    }
}

fn add(to: &mut Vec<Counter>, from: &[Counter]) {
    to.resize(to.len().max(from.len()), Counter::default());
    for (mine, theirs) in to.iter_mut().zip(from) {
        mine.packets += theirs.packets;
        mine.bytes += theirs.bytes;
    }
}

/// Who a counter belongs to. Ids are given again when their holder has left; the counts before that are not the new
/// holder's.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    services: HashMap<u32, (String, Counter)>,
    backends: HashMap<u32, (String, Counter)>,
}

/// The name of a counter's holder, and what was counted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<Id> {
    pub(crate) name: String,
    pub(crate) traffic: Traffic<Id>,
}

impl Holders {
    pub(crate) fn services(&mut self, policy: &Policy, totals: &Totals) -> Vec<Named<ServiceId>> {
        let list = policy.services().map(|s| (s.id.0, s.name.as_str()));
        named(&mut self.services, list, &totals.services, ServiceId)
    }

    pub(crate) fn backends(&mut self, policy: &Policy, totals: &Totals) -> Vec<Named<BackendId>> {
        let list = policy.backends().map(|b| (b.id.0, b.name.as_str()));
        named(&mut self.backends, list, &totals.backends, BackendId)
    }
}

fn named<'a, Id>(
    known: &mut HashMap<u32, (String, Counter)>,
    list: impl Iterator<Item = (u32, &'a str)>,
    counted: &[Counter],
    id: impl Fn(u32) -> Id,
) -> Vec<Named<Id>> {
    let mut out: Vec<(u32, Named<Id>)> = Vec::new();
    for (n, name) in list {
        let now = counted.get(n as usize).copied().unwrap_or_default();
        let since = match known.get(&n) {
            Some((holder, since)) if holder == name => *since,
            Some(_) => now,
            None => Counter::default(),
        };
        known.insert(n, (name.to_owned(), since));
        let traffic = Traffic { id: id(n), packets: now.packets - since.packets, bytes: now.bytes - since.bytes };
        out.push((n, Named { name: name.to_owned(), traffic }));
    }
    out.sort_by_key(|(n, _)| *n);
    out.into_iter().map(|(_, named)| named).collect()
}

/// The report to the controller.
pub(crate) fn status(
    policy: &Policy,
    totals: &Totals,
    packet_io: Vec<String>,
    services: &[Named<ServiceId>],
    backends: &[Named<BackendId>],
    goal_error: Option<String>,
) -> MuxStatus {
    let limited = policy.limit_counts().into_iter().filter(|(_, counts)| !counts.is_zero());
    MuxStatus {
        applied: policy.revision(),
        packet_io,
        fallbacks: Vec::new(),
        ledger: LedgerReport::from(&totals.ledger),
        replayed: totals.replayed,
        flows: totals.flows,
        services: services.iter().map(|n| n.traffic.clone()).collect(),
        backends: backends.iter().map(|n| n.traffic.clone()).collect(),
        limited: limited.map(|(vip, counts)| VipLimited { vip, counts }).collect(),
        goal_error,
        router: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> Counter {
        Counter { packets, bytes: packets * 100 }
    }

    #[test]
    fn the_next_holder_of_an_id_begins_at_zero() {
        let mut known = HashMap::new();
        let mut packets = |name: &'static str, counted: u64| {
            named(&mut known, [(1, name)].into_iter(), &[count(0), count(counted)], BackendId)[0].traffic.packets
        };
        assert_eq!((packets("web-1", 5), packets("web-1", 9)), (5, 9));
        assert_eq!((packets("web-2", 9), packets("web-2", 12)), (0, 3));
    }

    #[test]
    fn what_the_kernel_forwarded_is_in_all_sums() {
        let mut t = Totals { services: vec![count(1)], io: vec![IoStats::default(); 2], ..Totals::default() };
        let counted = Counted { sent: 900, services: vec![count(2), count(4)], backends: vec![count(6)], aborted: 2 };
        t.add_replayed(1, &counted);
        assert_eq!((&t.services, &t.backends), (&vec![count(3), count(4)], &vec![count(6)]));
        assert_eq!((t.ledger.received, t.ledger.received_bytes), (8, 600));
        assert_eq!((t.ledger.transmitted, t.ledger.transmitted_bytes), (6, 900));
        assert_eq!(t.ledger.dropped_for(DropReason::TransmitFailed), 2);
        assert_eq!((t.io[0].received, t.io[1].received, t.io[1].transmitted), (0, 8, 6));
        assert!(t.ledger.balances());
    }

    #[test]
    fn totals_add_up_over_workers_of_different_ages() {
        let make = |services: Vec<Counter>, received| {
            let io = vec![IoStats { received, ..IoStats::default() }];
            Mutex::new(Snapshot { services, io, flows: 2, ..Snapshot::default() })
        };
        let (a, b) = (make(vec![count(1)], 3), make(vec![count(2), count(7)], 4));
        let t = Totals::of([&a, &b].into_iter());
        assert_eq!(t.services, [count(3), count(7)]);
        assert_eq!((t.flows, t.io[0].received), (4, 7));
    }
}
