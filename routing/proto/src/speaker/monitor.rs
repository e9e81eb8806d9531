//! What collectors are told (RFC 7854): of each peer that is up, what it told, and what the import policy made of it.
//!
//! A collector costs no copy of the table: first the table is walked as the collector takes it, then it is told of paths that
//! have changed since. What has changed and was not told is bounded: who takes too little is cut off, and begins anew.
use super::{Peer, Speaker};
use crate::bmp::{self, Statistics, View};
use crate::rib::{Path, PeerId, Refusal, Rib};
use crate::session::Ending;
use crate::wire::attributes::{Attributes, Dialect};
use crate::wire::update::{self, Agreed, Nlri};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// A collector, for as long as it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CollectorId(pub u32);

/// What of each peer a collector wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Views {
    pub pre_policy: bool,
    pub post_policy: bool,
}

/// What [`Speaker::fill_collector`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    Message(Vec<u8>),
    /// Part of the table was looked through, and there was nothing: to be called again.
    Again,
    /// All is said.
    Nothing,
    /// The collector takes too little: it is forgotten, and its connection is to be closed.
    CutOff,
}

/// Changed paths that a collector has not been told of, at most: some 60 bytes each.
const MOST_CHANGES: usize = 200_000;
/// Sessions that came and went, at most.
const MOST_EVENTS: usize = 4096;
/// Paths in one message, at most.
const GROUP: usize = 512;
/// Prefixes that are looked at in one go.
const SCAN: usize = 4096;

#[derive(Debug)]
pub(super) struct Monitor {
    views: Vec<View>,
    /// Before anything of routes: what is waiting of those is of sessions that these speak of.
    events: VecDeque<Vec<u8>>,
    walks: VecDeque<Walk>,
    changed: BTreeSet<(PeerId, View, Nlri)>,
    cut_off: bool,
}

/// Through all that a peer has in the table.
#[derive(Debug)]
struct Walk {
    peer: PeerId,
    view: View,
    /// The last path that was told, or prefix that was looked at.
    done: Option<Nlri>,
}

impl Monitor {
    pub(super) fn touch(&mut self, peer: PeerId, paths: &[Nlri]) {
        for view in &self.views {
            self.changed.extend(paths.iter().map(|n| (peer, *view, *n)));
        }
        self.check();
    }

    fn tell(&mut self, message: Vec<u8>) {
        self.events.push_back(message);
        self.check();
    }

    /// What waits is given up at once: it would not be told.
    fn check(&mut self) {
        self.cut_off |= self.changed.len() > MOST_CHANGES || self.events.len() > MOST_EVENTS;
        if self.cut_off {
            self.changed.clear();
            self.events.clear();
            self.walks.clear();
        }
    }

    fn forget(&mut self, peer: PeerId) {
        self.walks.retain(|w| w.peer != peer);
        self.changed.retain(|(p, ..)| *p != peer);
    }
}

/// Routes of a peer that were not taken, since it was configured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refused {
    by_policy: u32,
    loops: u32,
}

impl Refused {
    pub(super) fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Policy => self.by_policy = self.by_policy.wrapping_add(1),
            Refusal::Loop => self.loops = self.loops.wrapping_add(1),
            Refusal::ReflectionLoop | Refusal::FirstAs | Refusal::Martian | Refusal::NextHop => {}
        }
    }
}

/// One message's worth of a peer's paths: with equal attributes, or withdrawn.
#[derive(Default)]
struct Group {
    attributes: Option<Arc<Attributes>>,
    list: Vec<Nlri>,
}

impl Group {
    /// Whether the path goes into the same message.
    fn take(&mut self, n: Nlri, attributes: Option<&Arc<Attributes>>) -> bool {
        let Some(first) = self.list.first() else {
            (self.attributes, self.list) = (attributes.cloned(), vec![n]);
            return true;
        };
        let same = match (&self.attributes, attributes) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        let fits = same && first.prefix.family() == n.prefix.family() && self.list.len() < GROUP;
        if fits {
            self.list.push(n);
        }
        fits
    }
}

impl Speaker {
    /// A collector is connected: it is told everything, from the beginning.
    pub fn watch(&mut self, id: CollectorId, views: Views, name: &str, description: &str) {
        let views = [(View::PrePolicy, views.pre_policy), (View::PostPolicy, views.post_policy)];
        let views: Vec<View> = views.into_iter().filter_map(|(view, wanted)| wanted.then_some(view)).collect();
        let mut events = VecDeque::from([bmp::initiation(name, description)]);
        let mut walks = VecDeque::new();
        for (peer, p) in &self.peers {
            let Some(up) = p.up_message() else { continue };
            events.push_back(up);
            walks.extend(views.iter().map(|view| Walk { peer: *peer, view: *view, done: None }));
        }
        let monitor = Monitor { views, events, walks, changed: BTreeSet::new(), cut_off: false };
        self.monitors.insert(id, monitor);
    }

    /// It is gone.
    pub fn unwatch(&mut self, id: CollectorId) {
        self.monitors.remove(&id);
    }

    /// A collector hears what is counted of each peer.
    pub fn tell_statistics(&mut self, id: CollectorId) {
        let Some(monitor) = self.monitors.get_mut(&id) else { return };
        for peer in self.peers.values() {
            let Some(who) = peer.monitored() else { continue };
            let of = Statistics {
                refused_by_policy: peer.refused.by_policy,
                as_path_loops: peer.refused.loops,
                treated_as_withdrawn: u32::try_from(peer.session.counts().malformed).unwrap_or(u32::MAX),
                received: u64::from(peer.received),
            };
            monitor.tell(bmp::statistics(&who, &of));
        }
    }

    pub(super) fn tell_of_peer(&mut self, id: PeerId) {
        let Some(up) = self.peers.get(&id).and_then(Peer::up_message) else { return };
        self.monitors.values_mut().for_each(|m| m.tell(up.clone()));
    }

    /// While it still is what it was.
    pub(super) fn tell_of_end(&mut self, id: PeerId, ending: &Ending) {
        let Some(peer) = self.peers.get(&id).and_then(Peer::monitored) else { return };
        for monitor in self.monitors.values_mut() {
            monitor.forget(id);
            monitor.tell(bmp::peer_down(&peer, ending));
        }
    }

    /// The next message for a collector. To be called while its output has room.
    pub fn fill_collector(&mut self, id: CollectorId) -> Filled {
        let Some(monitor) = self.monitors.get_mut(&id) else { return Filled::Nothing };
        if monitor.cut_off {
            self.monitors.remove(&id);
            return Filled::CutOff;
        }
        if let Some(event) = monitor.events.pop_front() {
            return Filled::Message(event);
        }
        if let Some((peer, view, _)) = monitor.changed.first() {
            let (peer, view) = (*peer, *view);
            return self.tell_changes(id, peer, view);
        }
        self.walk(id)
    }

    fn tell_changes(&mut self, id: CollectorId, peer: PeerId, view: View) -> Filled {
        let Some(monitor) = self.monitors.get_mut(&id) else { return Filled::Nothing };
        let mut group = Group::default();
        for (p, v, n) in monitor.changed.iter().take(GROUP) {
            if (*p, *v) != (peer, view) || !group.take(*n, find(&self.rib, peer, view, *n)) {
                break;
            }
        }
        let said = self.peers.get(&peer).and_then(|p| p.routes_message(view, &group));
        let (message, told) = said.map_or((None, group.list.len()), |(m, told)| (Some(m), told));
        for n in group.list.iter().take(told) {
            monitor.changed.remove(&(peer, view, *n));
        }
        message.map_or(Filled::Again, Filled::Message)
    }

    fn walk(&mut self, id: CollectorId) -> Filled {
        let Some(monitor) = self.monitors.get_mut(&id) else { return Filled::Nothing };
        let Some(walk) = monitor.walks.front_mut() else { return Filled::Nothing };
        let Some(peer) = self.peers.get(&walk.peer) else {
            monitor.walks.pop_front();
            return Filled::Again;
        };
        let (group, seen) = walk.gather(&self.rib);
        let Some(seen) = seen else {
            monitor.events.extend(peer.end_of_walk(walk.view));
            monitor.walks.pop_front();
            return Filled::Again;
        };
        if group.list.is_empty() {
            walk.done = Some(seen);
            return Filled::Again;
        }
        let Some((message, told)) = peer.routes_message(walk.view, &group) else {
            walk.done = Some(seen);
            return Filled::Again;
        };
        walk.done = group.list.get(told.saturating_sub(1)).copied();
        Filled::Message(message)
    }
}

impl Walk {
    /// The next paths that go into one message, and the last that was looked at: `None` at the end of the table.
    fn gather(&self, rib: &Rib) -> (Group, Option<Nlri>) {
        let (mut group, mut seen) = (Group::default(), None);
        let first = self.done.map(|n| n.prefix);
        for (prefix, entry) in rib.from(first).take(SCAN) {
            let mut paths: Vec<(Nlri, &Arc<Attributes>)> = entry
                .paths()
                .iter()
                .filter(|p| p.source.peer() == Some(self.peer))
                .filter_map(|p| Some((Nlri { prefix, path_id: p.path_id }, shown(p, self.view)?)))
                .filter(|(n, _)| self.done.is_none_or(|done| *n > done))
                .collect();
            paths.sort_by_key(|(n, _)| *n);
            for (n, attributes) in paths {
                if !group.take(n, Some(attributes)) {
                    return (group, Some(n));
                }
                seen = Some(n);
            }
            let last = Nlri { prefix, path_id: u32::MAX };
            if self.done.is_none_or(|done| last > done) {
                seen = Some(last);
            }
        }
        (group, seen)
    }
}

/// A path as a view has it. Stale ones are of an earlier session, whose end collectors have heard of.
fn shown(path: &Path, view: View) -> Option<&Arc<Attributes>> {
    match view {
        _ if path.stale => None,
        View::PrePolicy => Some(&path.told),
        View::PostPolicy => path.used.as_ref().ok(),
    }
}

fn find(rib: &Rib, peer: PeerId, view: View, n: Nlri) -> Option<&Arc<Attributes>> {
    let paths = rib.entry(n.prefix)?.paths();
    shown(paths.iter().find(|p| p.source.peer() == Some(peer) && p.path_id == n.path_id)?, view)
}

impl Peer {
    /// `None` while it is not up.
    fn monitored(&self) -> Option<bmp::Peer> {
        let live = self.live.as_ref()?;
        Some(bmp::Peer { address: self.goal.address, asn: self.goal.remote_as, id: live.facts.id })
    }

    fn up_message(&self) -> Option<Vec<u8>> {
        let ends = self.live.as_ref()?.ends;
        let received = &self.session.remote()?.open;
        Some(bmp::peer_up(&self.monitored()?, ends.local, ends.remote, &self.session.sent_open(), received))
    }

    /// As the peer's own UPDATEs are, but always with four-byte AS numbers. What the policy left has a preference, whosever it is.
    fn monitored_agreement(&self, view: View) -> Option<Agreed> {
        let agreed = &self.session.remote()?.agreed;
        let external = view == View::PrePolicy && agreed.dialect.external;
        Some(Agreed {
            dialect: Dialect { four_byte_as: true, external },
            paths_sent: agreed.paths_received.clone(),
            ..agreed.clone()
        })
    }

    /// How many of the group's paths it tells.
    fn routes_message(&self, view: View, group: &Group) -> Option<(Vec<u8>, usize)> {
        let (who, agreed) = (self.monitored()?, self.monitored_agreement(view)?);
        let announced = group.attributes.as_ref().and_then(|a| update::announce(a, &group.list, &agreed));
        let (message, told) = announced.unwrap_or_else(|| update::withdraw(&group.list, &agreed));
        Some((bmp::route_monitoring(&who, view, &message), told))
    }

    fn end_of_walk(&self, view: View) -> Vec<Vec<u8>> {
        let (Some(who), Some(remote)) = (self.monitored(), self.session.remote()) else { return Vec::new() };
        let families = remote.agreed.families.iter();
        families.map(|f| bmp::route_monitoring(&who, view, &update::end_of_rib(*f))).collect()
    }
}
