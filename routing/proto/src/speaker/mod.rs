mod export;
mod import;
mod monitor;
mod report;

pub use monitor::{CollectorId, Filled, Views};

use crate::bfd::BfdState;
use crate::goal::{GoalError, PeerGoal, RouterGoal};
use crate::prefix::{Family, Prefix};
use crate::rib::{Path, PeerFacts, PeerId, Rib, Source};
use crate::session::{Action, Down, Event, Session, SessionConfig, SessionState, Way};
use crate::wire::attributes::Attributes;
use crate::wire::notification::{Notification, cease};
use crate::wire::open::AddPath;
use crate::wire::update::{Nlri, Update};
use penstock_model::Nanos;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// For the shell to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Connect(PeerId),
    CancelConnect(PeerId),
    Transmit(PeerId, Way, Vec<u8>),
    Close(PeerId, Way),
    /// For the log.
    State {
        peer: String,
        state: SessionState,
        reason: Option<String>,
    },
}

/// Both addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// After the peer sent too many prefixes (RFC 4271, 6.7: whether and when to try again is local).
const LIMIT_PAUSE: Duration = Duration::from_secs(300);

/// See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Speaker {
    goal: RouterGoal,
    id: Ipv4Addr,
    peers: BTreeMap<PeerId, Peer>,
    rib: Rib,
    own: BTreeSet<Prefix>,
    outputs: VecDeque<Output>,
    draining: bool,
    next_id: u32,
    chance: u64,
    /// Grows with each change of the table.
    changes: u64,
    monitors: BTreeMap<CollectorId, monitor::Monitor>,
}

#[derive(Debug)]
struct Peer {
    goal: PeerGoal,
    session: Session,
    /// Of the connections that each side opened.
    ends: [Option<Ends>; 2],
    /// While established.
    live: Option<Live>,
    reported: SessionState,
    /// Paths of the peer in the table.
    received: u32,
    /// Routes of before a restart of the peer, until then.
    stale_until: Option<Nanos>,
    /// Sent too much: not before.
    pause_until: Option<Nanos>,
    /// What BFD said of the peer last.
    bfd: Option<BfdState>,
    told_of_limit: bool,
    refused: monitor::Refused,
}

/// An established session.
#[derive(Debug)]
struct Live {
    facts: Arc<PeerFacts>,
    ends: Ends,
    /// Prefixes that the peer may have to be told of.
    dirty: BTreeSet<Prefix>,
    /// What the peer has been told; `None` where it wants to be told again.
    sent: BTreeMap<Nlri, Option<Arc<Attributes>>>,
    end_of_rib_due: BTreeSet<Family>,
}

impl Speaker {
    /// `id`: the BGP identifier where the goal gives none. `seed` spreads retries.
    #[must_use]
    pub fn new(id: Ipv4Addr, seed: u64) -> Self {
        Self {
            goal: RouterGoal::default(),
            id,
            peers: BTreeMap::new(),
            rib: Rib::default(),
            own: BTreeSet::new(),
            outputs: VecDeque::new(),
            draining: false,
            next_id: 0,
            chance: seed,
            changes: 0,
            monitors: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn rib(&self) -> &Rib {
        &self.rib
    }

    fn id(&self) -> Ipv4Addr {
        self.goal.id.unwrap_or(self.id)
    }

    fn cluster(&self) -> Ipv4Addr {
        self.goal.cluster_id.unwrap_or(self.id())
    }

    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &PeerGoal)> {
        self.peers.iter().map(|(id, p)| (*id, &p.goal))
    }

    #[must_use]
    pub fn peer(&self, id: PeerId) -> Option<&PeerGoal> {
        self.peers.get(&id).map(|p| &p.goal)
    }

    /// The peer that a connection from `address` is of.
    #[must_use]
    pub fn peer_at(&self, address: IpAddr) -> Option<PeerId> {
        self.peers.iter().find(|(_, p)| p.goal.address == address.to_canonical()).map(|(id, _)| *id)
    }

    /// Peers come, go and change; sessions are kept where the change allows it ([`PeerGoal::keeps_session`]).
    ///
    /// # Errors
    /// The goal is refused by field, and nothing is changed.
    pub fn apply(&mut self, goal: &RouterGoal, now: Nanos) -> Result<(), GoalError> {
        goal.check()?;
        let identity = |g: &RouterGoal| (g.local_as, g.id, g.cluster_id);
        let reborn = identity(goal) != identity(&self.goal);
        self.goal = goal.clone();
        let wanted: BTreeMap<&str, &PeerGoal> = goal.peers.iter().map(|p| (p.name.as_str(), p)).collect();
        let present: Vec<(PeerId, PeerGoal)> = self.peers.iter().map(|(id, p)| (*id, p.goal.clone())).collect();
        for (id, old) in &present {
            match wanted.get(old.name.as_str()) {
                Some(new) if !reborn && new.keeps_session(old) => self.change(*id, old, new, now),
                Some(_) => self.remove(*id, cease::CONFIGURATION_CHANGE, "configuration changed", now),
                None => self.remove(*id, cease::PEER_DECONFIGURED, "peer removed", now),
            }
        }
        for peer in &goal.peers {
            if !self.peers.values().any(|p| p.goal.name == peer.name) {
                self.add(peer, now);
            }
        }
        self.collect(now);
        Ok(())
    }

    fn add(&mut self, goal: &PeerGoal, now: Nanos) {
        let id = PeerId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let config = SessionConfig {
            local_as: self.goal.local_as,
            local_id: self.id(),
            remote_as: goal.remote_as,
            hold_seconds: goal.hold_seconds,
            families: goal.families(),
            passive: goal.passive,
            add_path: AddPath { receive: goal.add_path.receive, send: goal.add_path.send },
            restart_seconds: goal.restart_seconds,
        };
        let mut session = Session::new(config, self.chance.wrapping_add(u64::from(id.0).wrapping_mul(0x9e37_79b9)));
        if !self.draining {
            session.start(now);
        }
        let peer = Peer {
            goal: goal.clone(),
            session,
            ends: [None, None],
            refused: monitor::Refused::default(),
            live: None,
            reported: SessionState::Idle,
            received: 0,
            stale_until: None,
            pause_until: None,
            bfd: None,
            told_of_limit: false,
        };
        self.peers.insert(id, peer);
    }

    fn remove(&mut self, id: PeerId, subcode: u8, reason: &str, now: Nanos) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.session.stop(&Notification::new(crate::wire::notification::code::CEASE, subcode), now);
        self.collect(now);
        self.forget_routes(id, |_, _| true);
        if let Some(peer) = self.peers.remove(&id) {
            let reason = Some(reason.to_owned());
            self.outputs.push_back(Output::State { peer: peer.goal.name, state: SessionState::Idle, reason });
        }
    }

    /// What needs no new session.
    fn change(&mut self, id: PeerId, old: &PeerGoal, new: &PeerGoal, now: Nanos) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.goal = new.clone();
        let nothing = |p: &PeerGoal| p.takes_nothing(self.goal.local_as);
        let (nothing_before, nothing_now) = (nothing(old), nothing(new));
        if new.reflector_client != old.reflector_client
            && let Some(live) = &mut peer.live
        {
            live.facts = Arc::new(PeerFacts { client: new.reflector_client, ..(*live.facts).clone() });
        }
        match (nothing_before, nothing_now) {
            (false, true) => self.forget_routes(id, |_, _| true),
            // What was not taken was not kept.
            (true, false) => self.ask_again(id, now),
            (false, false) if new.import != old.import => self.judge_again(id),
            _ => {}
        }
        let told = |p: &PeerGoal| (p.export.clone(), p.reflector_client, p.other_next_hop);
        if told(new) != told(old) {
            self.tell_all_again(id);
        }
    }

    fn ask_again(&mut self, id: PeerId, now: Nanos) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(remote) = peer.session.remote() else { return };
        if !remote.refresh {
            // A peer that cannot be asked tells everything to a new session only.
            let n = Notification::new(crate::wire::notification::code::CEASE, cease::CONFIGURATION_CHANGE);
            return peer.session.reset(&n, now);
        }
        for family in remote.agreed.families.clone() {
            let request = crate::wire::message::route_refresh(family);
            peer.session.send(request, now);
        }
    }

    fn tell_all_again(&mut self, id: PeerId) {
        let Some(Peer { session, live: Some(live), .. }) = self.peers.get_mut(&id) else { return };
        let Some(remote) = session.remote() else { return };
        for family in &remote.agreed.families {
            live.dirty.extend(self.rib.prefixes(*family));
        }
        live.dirty.extend(live.sent.keys().map(|n| n.prefix));
    }

    /// The prefixes that this node is the destination of, all of them.
    pub fn announce(&mut self, own: BTreeSet<Prefix>) {
        let changed: Vec<Prefix> = self.own.symmetric_difference(&own).copied().collect();
        for prefix in &changed {
            if own.contains(prefix) {
                // The next hop is the session's own address, in place of this one.
                let told = Arc::new(Attributes::local(match prefix.family() {
                    Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    Family::Ipv6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
                }));
                let path = Path { source: Source::Own, path_id: 0, used: Ok(told.clone()), told, stale: false };
                self.rib.insert(*prefix, path);
            } else {
                self.rib.remove(*prefix, None, 0);
            }
        }
        self.own = own;
        self.spread(changed.iter().copied());
    }

    /// Prefixes whose paths have changed: peers may have to hear of it.
    fn spread(&mut self, prefixes: impl ExactSizeIterator<Item = Prefix> + Clone) {
        self.changes += u64::from(prefixes.len() > 0);
        for live in self.peers.values_mut().filter_map(|p| p.live.as_mut()) {
            live.dirty.extend(prefixes.clone());
        }
    }

    /// As `spread`, of paths that are a peer's: who watches hears of it, too.
    fn spread_of(&mut self, id: PeerId, paths: &[Nlri]) {
        self.spread(paths.iter().map(|n| n.prefix));
        self.monitors.values_mut().for_each(|m| m.touch(id, paths));
    }

    /// Asks all peers to prefer others, while everything still works (RFC 8326).
    pub fn drain(&mut self) {
        self.draining = true;
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_all_again(id));
    }

    /// Whether peers have been sent all that they are to be told.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.peers.values().filter_map(|p| p.live.as_ref()).all(|l| l.dirty.is_empty())
    }

    #[must_use]
    pub fn is_established(&self) -> bool {
        self.peers.values().any(|p| p.live.is_some())
    }

    /// Ends all sessions with words for the peers' operators (RFC 9003).
    pub fn shut_down(&mut self, text: &str, now: Nanos) {
        self.draining = true;
        let n = Notification::shutdown(cease::ADMIN_SHUTDOWN, text);
        for peer in self.peers.values_mut() {
            peer.session.stop(&n, now);
        }
        self.collect(now);
    }

    /// A connection was opened, by whom `way` says: is it taken? If not, it is to be closed, and nothing else changes. If so, the
    /// outputs come first, for they may close an earlier one, then [`Self::handle_connected`].
    #[must_use]
    pub fn make_room(&mut self, id: PeerId, way: Way, now: Nanos) -> bool {
        let mut taken = false;
        self.with(id, now, |peer| taken = peer.session.make_room(way, now));
        taken
    }

    /// The connection is where outputs go from now on. [`Self::make_room`] said yes before.
    pub fn handle_connected(&mut self, id: PeerId, way: Way, ends: Ends, now: Nanos) {
        self.with(id, now, |peer| {
            if let Some(of_way) = peer.ends.get_mut(way as usize) {
                *of_way = Some(ends);
            }
            peer.session.handle_connected(way, now);
        });
    }

    pub fn handle_connect_failed(&mut self, id: PeerId, reason: &str, now: Nanos) {
        self.with(id, now, |peer| peer.session.handle_connect_failed(reason, now));
    }

    pub fn handle_bytes(&mut self, id: PeerId, way: Way, bytes: &[u8], now: Nanos) {
        self.with(id, now, |peer| peer.session.handle_bytes(way, bytes, now));
    }

    pub fn handle_written(&mut self, id: PeerId, way: Way, all: bool, now: Nanos) {
        self.with(id, now, |peer| peer.session.handle_written(way, all, now));
    }

    pub fn handle_closed(&mut self, id: PeerId, way: Way, reason: &str, now: Nanos) {
        self.with(id, now, |peer| peer.session.handle_closed(way, reason, now));
    }

    /// What BFD says of a peer ([`crate::BfdSession::verdict`]). A failure ends the session at once, and no restart keeps its
    /// routes (RFC 5882, 4.3). A neighbour that ends BFD on purpose has not failed (RFC 5882, 3.2).
    pub fn handle_bfd(&mut self, id: PeerId, state: BfdState, now: Nanos) {
        self.with(id, now, |peer| {
            let before = peer.bfd.replace(state);
            // BFD goes on where the peer's session was configured anew: then it was up before anything was said of this one.
            let was_up = !matches!(before, Some(BfdState::Init | BfdState::AdminDown));
            if was_up && state == BfdState::Down {
                let n = Notification::new(crate::wire::notification::code::CEASE, cease::BFD_DOWN);
                peer.session.reset(&n, now);
            }
        });
    }

    pub fn handle_timeout(&mut self, now: Nanos) {
        let due = |at: Option<Nanos>| at.is_some_and(|at| at <= now);
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.session.handle_timeout(now);
            if due(peer.pause_until) {
                peer.pause_until = None;
                if !self.draining {
                    peer.session.start(now);
                }
            }
            if due(peer.stale_until) {
                peer.stale_until = None;
                self.forget_routes(id, |_, p| p.stale);
            }
        }
        self.collect(now);
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.peers.values().flat_map(|p| [p.session.poll_timeout(), p.stale_until, p.pause_until]).flatten().min()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn with(&mut self, id: PeerId, now: Nanos, f: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(&id) {
            f(peer);
        }
        self.collect_one(id, now);
    }

    fn collect(&mut self, now: Nanos) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.collect_one(id, now));
    }

    /// Takes in what a session says.
    fn collect_one(&mut self, id: PeerId, now: Nanos) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            if let Some(event) = peer.session.poll_event() {
                match event {
                    Event::Up(way) => self.up(id, way),
                    Event::Down(down) => self.down(id, &down, now),
                    Event::Update(update) => self.update(id, update, now),
                    Event::Refresh(family) => self.refresh(id, family),
                }
                continue;
            }
            match peer.session.poll_action() {
                Some(Action::Connect) => self.outputs.push_back(Output::Connect(id)),
                Some(Action::CancelConnect) => self.outputs.push_back(Output::CancelConnect(id)),
                Some(Action::Transmit(way, bytes)) => self.outputs.push_back(Output::Transmit(id, way, bytes)),
                Some(Action::Close(way)) => self.outputs.push_back(Output::Close(id, way)),
                None => break,
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let state = peer.session.state();
        let worth = |s: SessionState| s == SessionState::Established;
        if worth(state) != worth(peer.reported) {
            let reason = peer.session.last_error().map(str::to_owned);
            self.outputs.push_back(Output::State { peer: peer.goal.name.clone(), state, reason });
        }
        peer.reported = state;
    }

    fn up(&mut self, id: PeerId, way: Way) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(remote) = peer.session.remote() else { return };
        let facts = PeerFacts {
            peer: id,
            external: remote.agreed.dialect.external,
            client: peer.goal.reflector_client,
            id: remote.id,
            address: peer.goal.address,
        };
        let end_of_rib_due = remote.agreed.families.clone();
        // Families of before the restart that the peer no longer keeps (RFC 4724, 4.2).
        let kept = remote.restart.as_ref().map(|r| r.families.clone()).unwrap_or_default();
        let Some(ends) = peer.ends.get(way as usize).copied().flatten() else { return };
        peer.live =
            Some(Live { facts: Arc::new(facts), ends, dirty: BTreeSet::new(), sent: BTreeMap::new(), end_of_rib_due });
        peer.told_of_limit = false;
        if peer.stale_until.is_some() {
            self.forget_routes(id, |prefix, path| path.stale && kept.get(&prefix.family()) != Some(&true));
        }
        self.tell_all_again(id);
        self.tell_of_peer(id);
    }

    fn down(&mut self, id: PeerId, down: &Down, now: Nanos) {
        self.tell_of_end(id, &down.ending);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.live = None;
        match down.keep {
            Some(time) if peer.received > 0 => {
                // Stale twice over: what did not come again after the last restart does not stand a second time.
                self.forget_routes(id, |_, p| p.stale);
                self.rib.mark_stale(id);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.stale_until = Some(now.plus(time));
                }
            }
            _ => {
                peer.stale_until = None;
                self.forget_routes(id, |_, _| true);
            }
        }
    }

    fn forget_routes(&mut self, id: PeerId, gone: impl Fn(Prefix, &Path) -> bool) {
        let removed = self.rib.remove_of(id, gone);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.received = peer.received.saturating_sub(u32::try_from(removed.len()).unwrap_or(u32::MAX));
        }
        self.spread_of(id, &removed);
    }

    fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(Peer { live: Some(live), .. }) = self.peers.get_mut(&id) {
            // It still has to hear of the end of what it was told, also where that end has not gone out yet.
            let of_family = live.sent.iter_mut().filter(|(n, _)| n.prefix.family() == family);
            of_family.for_each(|(_, told)| *told = None);
            live.dirty.extend(self.rib.prefixes(family));
        }
    }

    fn update(&mut self, id: PeerId, update: Update, now: Nanos) {
        if let Some(family) = update.end_of_rib {
            self.forget_routes(id, |prefix, path| path.stale && prefix.family() == family);
        }
        let mut changed = Vec::new();
        self.forget(id, &update.withdrawn, &mut changed);
        for (attributes, list) in update.announced {
            if self.is_too_long(id, &attributes) {
                self.forget(id, &list, &mut changed);
            } else {
                self.learn(id, &attributes, &list, &mut changed);
            }
        }
        self.spread_of(id, &changed);
        self.check_limit(id, now);
    }

    /// RFC 4486: too many prefixes end the session for a while.
    fn check_limit(&mut self, id: PeerId, now: Nanos) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(limit) = peer.goal.max_prefixes else { return };
        if peer.received > limit {
            let family = Family::of(peer.goal.address).afi().to_be_bytes();
            let data = [&family[..], &[1], &limit.to_be_bytes()].concat();
            let n = Notification::with(crate::wire::notification::code::CEASE, cease::MAX_PREFIXES, &data);
            peer.session.stop(&n, now);
            peer.pause_until = Some(now.plus(LIMIT_PAUSE));
        } else if peer.received > limit / 5 * 4 && !peer.told_of_limit {
            peer.told_of_limit = true;
            let reason = Some(format!("{} of at most {limit} prefixes", peer.received));
            self.outputs.push_back(Output::State {
                peer: peer.goal.name.clone(),
                state: SessionState::Established,
                reason,
            });
        }
    }
}
