//! One peer's session: the state machine of RFC 4271, 8, with both connections that two speakers may open at once.
mod collision;
mod negotiate;

use crate::prefix::Family;
use crate::wire::message::{self, MessageType};
use crate::wire::notification::{Notification, cease, code};
use crate::wire::open::{AddPath, GracefulRestart, Open};
use crate::wire::update::{Agreed, Update};
use penstock_model::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// We did.
    Active,
    /// The peer did.
    Passive,
}

impl Way {
    const fn other(self) -> Self {
        match self {
            Self::Active => Self::Passive,
            Self::Passive => Self::Active,
        }
    }
}

/// RFC 4271, 8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    #[default]
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What both speakers are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    pub local_as: u32,
    pub local_id: Ipv4Addr,
    pub remote_as: u32,
    pub hold_seconds: u16,
    pub families: BTreeSet<Family>,
    pub passive: bool,
    pub add_path: AddPath,
    pub restart_seconds: Option<u16>,
}

/// For the shell to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Connect,
    /// Give up the attempt to connect.
    CancelConnect,
    Transmit(Way, Vec<u8>),
    /// After what was to be transmitted.
    Close(Way),
}

/// For the table to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Up(Way),
    Update(Update),
    /// The peer wants everything again.
    Refresh(Family),
    Down(Down),
}

/// Whose word, or whose silence, ended a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Sent(Notification),
    Received(Notification),
    /// The connection is gone without a word.
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    pub reason: String,
    pub ending: Ending,
    /// The peer's routes may stand for so long (RFC 4724).
    pub keep: Option<Duration>,
}

/// What is known of a peer since its OPEN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The OPEN itself.
    pub open: Box<[u8]>,
    pub id: Ipv4Addr,
    pub agreed: Agreed,
    pub refresh: bool,
    pub hold: Duration,
    pub restart: Option<GracefulRestart>,
}

#[derive(Debug)]
struct Connection {
    state: SessionState,
    input: Vec<u8>,
    remote: Option<Remote>,
    hold_at: Option<Nanos>,
    keepalive_at: Option<Nanos>,
    /// When what is to be sent must have made progress (RFC 9687).
    send_at: Option<Nanos>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// Something went wrong: not at once again.
    Holding {
        until: Nanos,
    },
    Connecting {
        until: Nanos,
    },
    /// For the peer to connect, or for the time to try again.
    Waiting {
        until: Option<Nanos>,
    },
}

/// Counts since the session was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCounts {
    pub received: u64,
    pub sent: u64,
    pub updates_received: u64,
    pub updates_sent: u64,
    /// Messages whose routes counted as withdrawn (RFC 7606).
    pub malformed: u64,
    pub established: u64,
}

/// RFC 4271, 8.2.2: while the peer's OPEN is waited for.
const LARGE_HOLD: Duration = Duration::from_secs(240);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A session that lasted so long was good: the next failure is the first again.
const GOOD: Duration = Duration::from_secs(30);
/// After so many failures in a row a peer that connects is heard only so often. Not never: two that wait for each other would
/// not meet.
const PATIENCE: u32 = 4;
const AUDIENCE: Duration = Duration::from_secs(5);
const CANNOT_CONNECT: &str = "cannot connect: ";
const RECEIVED: &str = "received: ";
/// RFC 9687, 4: the larger of 8 minutes and twice the hold time.
const LEAST_SEND_HOLD: Duration = Duration::from_secs(480);

/// In: `start`, `stop`, `make_room`, `handle_connected`, `handle_connect_failed`, `handle_bytes`, `handle_written`, `handle_closed`,
/// `handle_timeout`, `send`. Out, after each of them: `poll_action` and `poll_event` until `None`, then `poll_timeout`.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    phase: Phase,
    connections: [Option<Connection>; 2],
    failures: u32,
    /// When the last connection was taken.
    heard_at: Nanos,
    chance: u64,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    counts: SessionCounts,
    established_at: Option<Nanos>,
    last_error: Option<String>,
}

impl Session {
    /// `seed` spreads the retries of many speakers over time.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            phase: Phase::Stopped,
            connections: [None, None],
            failures: 0,
            heard_at: Nanos(0),
            chance: seed | 1,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            counts: SessionCounts::default(),
            established_at: None,
            last_error: None,
        }
    }

    #[must_use]
    pub fn state(&self) -> SessionState {
        let open = self.connections.iter().flatten().map(|c| c.state).max();
        open.unwrap_or(match self.phase {
            Phase::Stopped | Phase::Holding { .. } => SessionState::Idle,
            Phase::Connecting { .. } => SessionState::Connect,
            Phase::Waiting { .. } => SessionState::Active,
        })
    }

    #[must_use]
    pub fn counts(&self) -> SessionCounts {
        self.counts
    }

    #[must_use]
    pub fn established_at(&self) -> Option<Nanos> {
        self.established_at
    }

    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The established connection's peer.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        self.established().and_then(|(_, c)| c.remote.as_ref())
    }

    fn established(&self) -> Option<(Way, &Connection)> {
        [Way::Active, Way::Passive].into_iter().find_map(|way| {
            let c = self.connections.get(way as usize)?.as_ref()?;
            (c.state == SessionState::Established).then_some((way, c))
        })
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let phase = match self.phase {
            Phase::Holding { until } | Phase::Connecting { until } => Some(until),
            Phase::Waiting { until } => until,
            Phase::Stopped => None,
        };
        let connections = self.connections.iter().flatten();
        connections.flat_map(|c| [c.hold_at, c.keepalive_at, c.send_at]).chain([phase]).flatten().min()
    }

    pub fn start(&mut self, now: Nanos) {
        if self.phase == Phase::Stopped {
            self.try_again(now);
        }
    }

    /// Ends the session for good, or until `start`.
    pub fn stop(&mut self, notification: &Notification, now: Nanos) {
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.actions.push_back(Action::CancelConnect);
        }
        for way in [Way::Active, Way::Passive] {
            self.end(way, Ending::Sent(notification.clone()), &format!("stopped: {notification}"), false, now);
        }
        self.phase = Phase::Stopped;
    }

    /// Ends the session and tries again after the usual wait.
    pub fn reset(&mut self, notification: &Notification, now: Nanos) {
        for way in [Way::Active, Way::Passive] {
            self.end(way, Ending::Sent(notification.clone()), &notification.to_string(), false, now);
        }
    }

    /// A connection is there, and no other of the same way: see `make_room`.
    pub fn handle_connected(&mut self, way: Way, now: Nanos) {
        if way == Way::Active && matches!(self.phase, Phase::Connecting { .. }) {
            self.phase = Phase::Waiting { until: None };
        }
        if !self.welcomes(way, now) {
            self.actions.push_back(Action::Close(way));
            return;
        }
        self.heard_at = now;
        let connection = Connection {
            state: SessionState::OpenSent,
            input: Vec::new(),
            remote: None,
            hold_at: Some(now.plus(LARGE_HOLD)),
            keepalive_at: None,
            send_at: None,
        };
        if let Some(slot) = self.connections.get_mut(way as usize) {
            *slot = Some(connection);
        }
        self.transmit(way, self.sent_open(), now);
    }

    fn is_open(&self, way: Way) -> bool {
        self.connections.get(way as usize).is_some_and(Option::is_some)
    }

    pub fn handle_connect_failed(&mut self, reason: &str, now: Nanos) {
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.cannot_connect(reason);
            self.wait_for_retry(now);
        }
    }

    /// Unless there is more to tell: why the last session ended.
    fn cannot_connect(&mut self, reason: &str) {
        if self.last_error.as_ref().is_none_or(|e| e.starts_with(CANNOT_CONNECT)) {
            self.last_error = Some(format!("{CANNOT_CONNECT}{reason}"));
        }
    }

    /// A connection is closed, by whom ever.
    pub fn handle_closed(&mut self, way: Way, reason: &str, now: Nanos) {
        self.end(way, Ending::Closed, reason, true, now);
    }

    /// Something of what was to be sent has gone out; `all` of it or not.
    pub fn handle_written(&mut self, way: Way, all: bool, now: Nanos) {
        let limit = self.send_hold(way);
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.send_at = if all { None } else { limit.map(|l| now.plus(l)) };
        }
    }

    fn send_hold(&self, way: Way) -> Option<Duration> {
        let hold = self.connections.get(way as usize)?.as_ref()?.remote.as_ref().map(|r| r.hold)?;
        (!hold.is_zero()).then(|| LEAST_SEND_HOLD.max(hold * 2))
    }

    /// An UPDATE or ROUTE-REFRESH for the established connection.
    pub fn send(&mut self, message: Vec<u8>, now: Nanos) {
        let Some((way, c)) = self.established() else { return };
        let hold = c.remote.as_ref().map_or(Duration::ZERO, |r| r.hold);
        self.counts.updates_sent += 1;
        self.transmit(way, message, now);
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.keepalive_at = keepalive_at(hold, now);
        }
    }

    fn transmit(&mut self, way: Way, message: Vec<u8>, now: Nanos) {
        let limit = self.send_hold(way);
        self.counts.sent += 1;
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.send_at = c.send_at.or_else(|| limit.map(|l| now.plus(l)));
        }
        self.actions.push_back(Action::Transmit(way, message));
    }

    pub fn handle_bytes(&mut self, way: Way, bytes: &[u8], now: Nanos) {
        let Some(Some(c)) = self.connections.get_mut(way as usize) else { return };
        let mut input = std::mem::take(&mut c.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while self.is_open(way) {
            match message::split(input.get(at..).unwrap_or_default()) {
                Ok(Some((kind, body, length))) => {
                    self.counts.received += 1;
                    if let Err(n) = self.message(way, kind, body, now) {
                        let reason = format!("sent: {n}");
                        self.end(way, Ending::Sent(n), &reason, true, now);
                    }
                    at += length;
                }
                Ok(None) => break,
                Err(n) => {
                    let reason = format!("sent: {n}");
                    self.end(way, Ending::Sent(n), &reason, true, now);
                }
            }
        }
        input.drain(..at.min(input.len()));
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.input = input;
        }
    }

    /// # Errors
    /// What the session ends with.
    fn message(&mut self, way: Way, kind: MessageType, body: &[u8], now: Nanos) -> Result<(), Notification> {
        use MessageType as M;
        use SessionState as S;
        let state = self.connections.get(way as usize).and_then(Option::as_ref).map_or(S::Idle, |c| c.state);
        match (state, kind) {
            (_, M::Notification) => {
                let n = message::decode_notification(body);
                self.received_notification(way, n, now);
            }
            (S::OpenSent, M::Open) => self.received_open(way, body, now)?,
            (S::OpenConfirm, M::Keepalive) => self.up(way, now),
            (S::Established, M::Keepalive) => {}
            (S::Established, M::Update) => self.update(way, body)?,
            (S::Established, M::RouteRefresh) => {
                if let Some(family) = message::decode_route_refresh(body) {
                    self.events.push_back(Event::Refresh(family));
                }
            }
            // RFC 6608: which state it was.
            (S::OpenSent, _) => return Err(Notification::new(code::FSM, 1)),
            (S::OpenConfirm, _) => return Err(Notification::new(code::FSM, 2)),
            _ => return Err(Notification::new(code::FSM, 3)),
        }
        if let Some(Some(c)) = self.connections.get_mut(way as usize)
            && let Some(remote) = &c.remote
        {
            c.hold_at = (!remote.hold.is_zero()).then(|| now.plus(remote.hold));
        }
        Ok(())
    }

    fn update(&mut self, way: Way, body: &[u8]) -> Result<(), Notification> {
        let Some(Some(c)) = self.connections.get(way as usize) else { return Ok(()) };
        let Some(remote) = &c.remote else { return Ok(()) };
        let update = Update::decode(body, &remote.agreed)?;
        self.counts.updates_received += 1;
        if let Some(why) = update.malformed {
            self.counts.malformed += 1;
            self.last_error = Some(format!("routes count as withdrawn: {why}"));
        }
        self.events.push_back(Event::Update(update));
        Ok(())
    }

    fn received_notification(&mut self, way: Way, n: Notification, now: Nanos) {
        let both = self.remote().and_then(|r| r.restart.as_ref()).is_some_and(|r| r.notification);
        let hard = n.code == code::CEASE && n.subcode == cease::HARD_RESET;
        let reason = format!("{RECEIVED}{n}");
        self.end(way, Ending::Received(n), &reason, both && !hard, now);
    }

    fn received_open(&mut self, way: Way, body: &[u8], now: Nanos) -> Result<(), Notification> {
        let open = Open::decode(body)?;
        let c = &self.config;
        if open.asn != c.remote_as {
            return Err(Notification::new(code::OPEN, 2));
        }
        if open.id == c.local_id && open.asn == c.local_as {
            return Err(Notification::new(code::OPEN, 3));
        }
        let remote = self.negotiate(&open, body);
        if remote.agreed.families.is_empty() {
            return Err(Notification::new(code::OPEN, 7));
        }
        if !self.survives_collision(way, &open, now) {
            return Err(Notification::new(code::CEASE, cease::COLLISION));
        }
        let hold = remote.hold;
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.state = SessionState::OpenConfirm;
            c.remote = Some(remote);
            c.keepalive_at = keepalive_at(hold, now);
            // Also where the session will have none: the KEEPALIVE that opens it must come.
            c.hold_at = Some(now.plus(if hold.is_zero() { LARGE_HOLD } else { hold }));
        }
        self.transmit(way, message::keepalive(), now);
        Ok(())
    }

    fn up(&mut self, way: Way, now: Nanos) {
        if let Some(Some(c)) = self.connections.get_mut(way as usize) {
            c.state = SessionState::Established;
        }
        let collision = Notification::new(code::CEASE, cease::COLLISION);
        self.end(way.other(), Ending::Sent(collision), "connection collision", false, now);
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.actions.push_back(Action::CancelConnect);
        }
        self.phase = Phase::Waiting { until: None };
        self.established_at = Some(now);
        self.last_error = None;
        self.counts.established += 1;
        self.events.push_back(Event::Up(way));
    }

    pub fn handle_timeout(&mut self, now: Nanos) {
        let due = |at: Option<Nanos>| at.is_some_and(|at| at <= now);
        for way in [Way::Active, Way::Passive] {
            let Some(Some(c)) = self.connections.get_mut(way as usize) else { continue };
            let hold = c.remote.as_ref().map_or(Duration::ZERO, |r| r.hold);
            if due(c.hold_at) {
                let n = Notification::new(code::HOLD_TIMER, 0);
                self.end(way, Ending::Sent(n), "hold timer expired", true, now);
            } else if due(c.send_at) {
                let n = Notification::new(code::SEND_HOLD_TIMER, 0);
                self.end(way, Ending::Sent(n), "send hold timer expired: the peer takes nothing", true, now);
            } else if due(c.keepalive_at) {
                c.keepalive_at = keepalive_at(hold, now);
                self.transmit(way, message::keepalive(), now);
            }
        }
        match self.phase {
            Phase::Connecting { until } if until <= now => {
                self.actions.push_back(Action::CancelConnect);
                self.cannot_connect("no answer");
                self.wait_for_retry(now);
            }
            Phase::Holding { until } | Phase::Waiting { until: Some(until) } if until <= now => self.try_again(now),
            _ => {}
        }
    }

    fn try_again(&mut self, now: Nanos) {
        let open = self.connections.iter().any(Option::is_some);
        if self.config.passive || open {
            self.phase = Phase::Waiting { until: None };
        } else {
            self.phase = Phase::Connecting { until: now.plus(CONNECT_TIMEOUT) };
            self.actions.push_back(Action::Connect);
        }
    }

    fn wait_for_retry(&mut self, now: Nanos) {
        self.failures = self.failures.saturating_add(1);
        let until = Some(now.plus(self.pause()));
        self.phase = Phase::Waiting { until };
    }

    /// Longer with each failure, and never quite the same.
    fn pause(&mut self) -> Duration {
        // xorshift64
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let longest = FIRST_RETRY.saturating_mul(1 << self.failures.clamp(1, 7).saturating_sub(1)).min(LAST_RETRY);
        longest.mul_f64(0.75 + (self.chance % 256) as f64 / 1024.0)
    }

    fn end(&mut self, way: Way, ending: Ending, reason: &str, may_keep: bool, now: Nanos) {
        let Some(c) = self.connections.get_mut(way as usize).and_then(Option::take) else { return };
        let said = if let Ending::Sent(n) = &ending { Some(n) } else { None };
        let collision = said.is_some_and(|n| n.code == code::CEASE && n.subcode == cease::COLLISION);
        let telling = said.is_some() || reason.starts_with(RECEIVED);
        if let Some(n) = said {
            self.counts.sent += 1;
            self.actions.push_back(Action::Transmit(way, message::notification(n)));
        }
        self.actions.push_back(Action::Close(way));
        let was_up = c.state == SessionState::Established;
        if was_up {
            let lasted = self.established_at.take().map_or(Duration::ZERO, |at| now.since(at));
            if lasted >= GOOD {
                self.failures = 0;
            }
            let keep = c.remote.as_ref().filter(|_| may_keep).and_then(|r| self.restart_time(r));
            self.events.push_back(Event::Down(Down { reason: reason.to_owned(), ending, keep }));
        }
        if (was_up || telling || self.last_error.is_none()) && !collision {
            self.last_error = Some(reason.to_owned());
        }
        if self.connections.iter().all(Option::is_none)
            && !matches!(self.phase, Phase::Stopped | Phase::Connecting { .. })
        {
            self.failures = self.failures.saturating_add(1);
            self.phase = Phase::Holding { until: now.plus(self.pause()) };
        }
    }
}

fn keepalive_at(hold: Duration, now: Nanos) -> Option<Nanos> {
    (!hold.is_zero()).then(|| now.plus(hold / 3))
}
