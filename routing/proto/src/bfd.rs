//! Bidirectional forwarding detection (RFC 5880), asynchronous, one hop (RFC 5881): is the neighbour's data plane alive?
use crate::goal::BfdGoal;
use crate::wire::reader::Reader;
use penstock_model::Nanos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// UDP port of control packets (RFC 5881, 4).
pub const BFD_PORT: u16 = 3784;
/// Their source port lies in this range.
pub const BFD_SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// RFC 5880, 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum BfdState {
    AdminDown,
    #[default]
    Down,
    Init,
    Up,
}

impl fmt::Display for BfdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "admin down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        })
    }
}

/// RFC 5880, 4.1: why the session was last not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    const NONE: Self = Self(0);
    const TIME_EXPIRED: Self = Self(1);
    const NEIGHBOR_DOWN: Self = Self(3);
    const ADMIN_DOWN: Self = Self(7);

    #[must_use]
    pub const fn words(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => return None,
        })
    }
}

/// A control packet without authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPacket {
    pub state: BfdState,
    pub diagnostic: Diagnostic,
    pub poll: bool,
    pub r#final: bool,
    pub multiplier: u8,
    pub my_discriminator: u32,
    pub your_discriminator: u32,
    /// Microseconds.
    pub desired_tx: u32,
    pub required_rx: u32,
    pub required_echo_rx: u32,
}

/// Bytes of a control packet.
pub const CONTROL_BYTES: usize = 24;

impl ControlPacket {
    /// `None` for what must be discarded (RFC 5880, 6.8.6), and for what asks for what we do not offer.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let [first, flags, multiplier, length] = r.array().ok()?;
        let (version, authenticated, demand, multipoint) =
            (first >> 5, flags & 0x04 != 0, flags & 0x02 != 0, flags & 0x01 != 0);
        let fits = usize::from(length) >= CONTROL_BYTES && usize::from(length) <= bytes.len();
        if version != 1 || !fits || multiplier == 0 || authenticated || multipoint || demand {
            return None;
        }
        let state = match flags >> 6 {
            0 => BfdState::AdminDown,
            1 => BfdState::Down,
            2 => BfdState::Init,
            _ => BfdState::Up,
        };
        let packet = Self {
            state,
            diagnostic: Diagnostic(first & 0x1f),
            poll: flags & 0x20 != 0,
            r#final: flags & 0x10 != 0,
            multiplier,
            my_discriminator: r.u32().ok()?,
            your_discriminator: r.u32().ok()?,
            desired_tx: r.u32().ok()?,
            required_rx: r.u32().ok()?,
            required_echo_rx: r.u32().ok()?,
        };
        let unbound = packet.your_discriminator == 0 && !matches!(state, BfdState::Down | BfdState::AdminDown);
        (packet.my_discriminator != 0 && !unbound).then_some(packet)
    }

    #[must_use]
    pub fn encode(&self) -> [u8; CONTROL_BYTES] {
        let state = match self.state {
            BfdState::AdminDown => 0,
            BfdState::Down => 1,
            BfdState::Init => 2,
            BfdState::Up => 3,
        };
        let flags = state << 6 | u8::from(self.poll) << 5 | u8::from(self.r#final) << 4;
        let mut out = [0; CONTROL_BYTES];
        let head = [1 << 5 | (self.diagnostic.0 & 0x1f), flags, self.multiplier, 24];
        let words =
            [self.my_discriminator, self.your_discriminator, self.desired_tx, self.required_rx, self.required_echo_rx];
        let bytes = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        out.iter_mut().zip(bytes).for_each(|(o, b)| *o = b);
        out
    }
}

/// While not up, no faster than this (RFC 5880, 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// At least so many packets say that this end goes: some may be lost.
const FAREWELLS: u32 = 3;

/// In: `handle_packet`, `handle_timeout`, `set`, `stop`. Out, after each: `poll_transmit` until `None`, `poll_timeout`;
/// `verdict` says whether the neighbour is there. After `stop`, goes on until `is_over`.
#[derive(Debug)]
pub struct BfdSession {
    config: BfdGoal,
    state: BfdState,
    diagnostic: Diagnostic,
    /// Stopped, and to be spoken of until then.
    over_at: Option<Nanos>,
    discriminator: u32,
    remote: Option<ControlPacket>,
    /// Own intervals that are in force, to send and to be sent to.
    desired: Duration,
    required: Duration,
    /// What comes of `desired` and of what the neighbour takes.
    interval: Duration,
    polling: bool,
    answer: bool,
    transmit_at: Nanos,
    detect_at: Option<Nanos>,
    chance: u64,
    received: u64,
    sent: u64,
    downs: u64,
}

impl BfdSession {
    /// `discriminator` must be unique on this node and not 0.
    #[must_use]
    pub fn new(config: BfdGoal, discriminator: u32, seed: u64, now: Nanos) -> Self {
        Self {
            config,
            state: BfdState::Down,
            diagnostic: Diagnostic::NONE,
            over_at: None,
            discriminator: discriminator.max(1),
            remote: None,
            desired: SLOW,
            required: Duration::from_millis(u64::from(config.interval_ms)),
            interval: SLOW,
            polling: false,
            answer: false,
            transmit_at: now,
            detect_at: None,
            chance: seed | 1,
            received: 0,
            sent: 0,
            downs: 0,
        }
    }

    #[must_use]
    pub fn state(&self) -> BfdState {
        self.state
    }

    /// What those who rely on the neighbour are to hear: the state, but that a neighbour which says that it goes on purpose is
    /// not down (RFC 5882, 3.2).
    #[must_use]
    pub fn verdict(&self) -> BfdState {
        let on_purpose = self.remote.is_some_and(|r| r.state == BfdState::AdminDown);
        if on_purpose && self.state == BfdState::Down { BfdState::AdminDown } else { self.state }
    }

    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// Packets received and sent, and how often it went from up to down.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.received, self.sent, self.downs)
    }

    /// The peer's interval, or ours if we ask for longer, times the peer's multiplier (RFC 5880, 6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        match &self.remote {
            Some(r) => self.required.max(Duration::from_micros(u64::from(r.desired_tx))) * u32::from(r.multiplier),
            None => self.required * u32::from(self.config.multiplier),
        }
    }

    fn own_interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.config.interval_ms))
    }

    /// What this end would send at.
    fn wanted_interval(&self) -> Duration {
        if self.state == BfdState::Up { self.own_interval() } else { self.own_interval().max(SLOW) }
    }

    /// Tells the neighbour that this end goes on purpose: no failure. It is told for its detection time, as often as before
    /// (RFC 5880, 6.8.16); once if it was not heard.
    pub fn stop(&mut self, now: Nanos) {
        let times = self.remote.map_or(0, |_| u32::from(self.config.multiplier).max(FAREWELLS));
        self.over_at = Some(now.plus(self.interval * times));
        self.detect_at = None;
        self.enter_down(BfdState::AdminDown, Diagnostic::ADMIN_DOWN, now);
    }

    /// Whether it was stopped and the neighbour has been told.
    #[must_use]
    pub fn is_over(&self, now: Nanos) -> bool {
        self.over_at.is_some_and(|at| at <= now)
    }

    /// Other timers, agreed on by a poll if the session is up.
    pub fn set(&mut self, config: BfdGoal, now: Nanos) {
        if config != self.config {
            self.config = config;
            self.polling = self.state == BfdState::Up;
            self.renew_interval(now);
            self.transmit_at = now;
        }
    }

    pub fn handle_packet(&mut self, packet: &ControlPacket, now: Nanos) {
        if self.over_at.is_some() || (packet.your_discriminator != 0 && packet.your_discriminator != self.discriminator)
        {
            return;
        }
        self.received += 1;
        self.remote = Some(*packet);
        if packet.r#final {
            self.polling = false;
        }
        self.advance(packet, now);
        self.renew_interval(now);
        // Whatever state: a neighbour that falls silent is forgotten.
        self.detect_at = Some(now.plus(self.detection_time()));
        if packet.poll {
            self.answer = true;
            self.transmit_at = now;
        }
    }

    /// RFC 5880, 6.8.6.
    fn advance(&mut self, packet: &ControlPacket, now: Nanos) {
        use BfdState as S;
        match (self.state, packet.state) {
            (S::Down, S::AdminDown) => {}
            (S::Up | S::Init, S::AdminDown) => self.enter_down(S::Down, Diagnostic::NEIGHBOR_DOWN, now),
            (S::Down, S::Down) => self.enter(S::Init, now),
            (S::Down, S::Init) | (S::Init, S::Init | S::Up) => {
                self.diagnostic = Diagnostic::NONE;
                self.enter(S::Up, now);
            }
            (S::Up, S::Down) => self.enter_down(S::Down, Diagnostic::NEIGHBOR_DOWN, now),
            _ => {}
        }
    }

    fn enter_down(&mut self, state: BfdState, diagnostic: Diagnostic, now: Nanos) {
        if self.state == BfdState::Up {
            self.downs += 1;
        }
        self.diagnostic = diagnostic;
        self.enter(state, now);
    }

    /// The neighbour is to hear of it at once.
    fn enter(&mut self, state: BfdState, now: Nanos) {
        if state != self.state {
            self.polling = state == BfdState::Up;
            self.state = state;
            self.transmit_at = now;
        }
    }

    fn renew_interval(&mut self, now: Nanos) {
        let (desired, required) = (self.wanted_interval(), self.own_interval());
        if self.state == BfdState::Up && self.polling {
            // To send more slowly, and to expect more, waits until the neighbour has agreed (RFC 5880, 6.8.3): until then it
            // may not know.
            self.desired = self.desired.min(desired);
            self.required = self.required.max(required);
        } else {
            (self.desired, self.required) = (desired, required);
        }
        let asked = self.remote.map_or(SLOW, |r| Duration::from_micros(u64::from(r.required_rx)));
        let interval = self.desired.max(asked);
        if interval < self.interval {
            self.transmit_at = self.transmit_at.min(now.plus(interval));
        }
        self.interval = interval;
    }

    pub fn handle_timeout(&mut self, now: Nanos) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            self.remote = None;
            if matches!(self.state, BfdState::Up | BfdState::Init) {
                self.enter_down(BfdState::Down, Diagnostic::TIME_EXPIRED, now);
            }
            self.renew_interval(now);
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Nanos {
        self.detect_at.map_or(self.transmit_at, |at| at.min(self.transmit_at))
    }

    /// A packet that is due.
    pub fn poll_transmit(&mut self, now: Nanos) -> Option<ControlPacket> {
        if self.transmit_at > now {
            return None;
        }
        // Up to a quarter less, so that neighbours do not fall into step; with a multiplier of 1 at least a tenth
        // (RFC 5880, 6.8.7).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let part = (self.chance % 1024) as f64 / 1024.0;
        let less = if self.config.multiplier == 1 { 0.10 + part * 0.15 } else { part * 0.25 };
        self.transmit_at = now.plus(self.interval.mul_f64(1.0 - less));
        self.sent += 1;
        let r#final = std::mem::take(&mut self.answer);
        let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        Some(ControlPacket {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: self.polling && !r#final,
            r#final,
            multiplier: self.config.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map_or(0, |r| r.my_discriminator),
            desired_tx: micros(self.wanted_interval()),
            required_rx: micros(self.own_interval()),
            required_echo_rx: 0,
        })
    }
}
