//! One WireGuard tunnel: `boringtun`'s `Tunn` with the limits that it lacks.
use super::buffers::{Frames, OUT_HEADROOM, SLOT};
use super::limits::{self, Budget};
use super::outer::{self, Outer};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use penstock_gateway_proto::{PeerAddress, Tunnel, TunnelKind, TunnelState, TunnelStatus, UnderlayHop};
use penstock_model::{DropReason, HEADROOM, Nanos, PortId, TunnelId};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Packets that wait for a handshake, at most: enough for a first ping or SYN and its fellows. `Tunn` itself would keep 256.
const MAX_WAITING: usize = 4;
/// How often timers of a tunnel are looked at while something may be due within seconds.
const BUSY: Duration = Duration::from_millis(250);
/// Keepalive and rekey timeouts (10 s + 5 s, whitepaper section 6.1) lie within this of the last packet.
const BUSY_FOR: Duration = Duration::from_secs(20);
const KEEPALIVE_TICK: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);
/// When a handshake was given up (90 s without an answer), a tunnel that is ours to begin tries again after this.
const RETRY: Duration = Duration::from_secs(15);

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// What of a goal's tunnel makes it another tunnel when it changes.
#[derive(PartialEq, Eq)]
pub(crate) struct Identity {
    private: Zeroizing<[u8; 32]>,
    preshared: Option<Zeroizing<[u8; 32]>>,
    pub(crate) peer: [u8; 32],
    pub(crate) port: u16,
    keepalive: Option<u16>,
    endpoint: Option<SocketAddr>,
}

impl Identity {
    /// `None` if it is no WireGuard tunnel.
    pub(crate) fn of(tunnel: &Tunnel) -> Option<Self> {
        let TunnelKind::WireGuard {
            private_key,
            peer_public_key,
            preshared_key,
            listen_port,
            endpoint,
            persistent_keepalive_seconds,
        } = &tunnel.kind
        else {
            return None;
        };
        Some(Self {
            private: Zeroizing::new(private_key.0),
            preshared: preshared_key.as_ref().map(|k| Zeroizing::new(k.0)),
            peer: *peer_public_key,
            port: *listen_port,
            keepalive: *persistent_keepalive_seconds,
            endpoint: *endpoint,
        })
    }

    pub(crate) fn private(&self) -> StaticSecret {
        StaticSecret::from(*self.private)
    }
}

/// What a tunnel needs of its surroundings to send.
pub(crate) struct Sender<'a> {
    pub(crate) out: &'a mut Frames,
    pub(crate) own: IpAddr,
    pub(crate) identification: &'a mut u16,
    pub(crate) hop_of: &'a dyn Fn(IpAddr) -> Option<UnderlayHop>,
}

/// What came of a datagram.
pub(crate) enum Received {
    /// A bare IP packet of so many bytes lies in the buffer at [`HEADROOM`].
    Packet(usize),
    Nothing,
}

pub(crate) struct WgTunnel {
    pub(crate) id: TunnelId,
    pub(crate) name: String,
    pub(crate) identity: Identity,
    tunn: Tunn,
    /// Where the peer was when it last authenticated itself, or where it is said to be.
    endpoint: Option<SocketAddr>,
    hop: Option<UnderlayHop>,
    has_session: bool,
    /// The key of the present session is used up: `Tunn` is not to send with it.
    is_exhausted: bool,
    handshaking: bool,
    gave_up: Option<Nanos>,
    last_tick: Nanos,
    last_packet: Nanos,
    waiting: VecDeque<Box<[u8]>>,
    received_bytes: u64,
    transmitted_bytes: u64,
    /// When timers are to be looked at next: entries of the heap that say otherwise are stale.
    pub(crate) due: Nanos,
}

impl std::fmt::Debug for WgTunnel {
    /// Keys are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WgTunnel({:?} {} {:?})", self.id, self.name, self.state())
    }
}

impl WgTunnel {
    /// `index`: the 24 bits by which the peer's messages name this tunnel.
    ///
    /// # Errors
    /// The keys cannot be used.
    pub(crate) fn new(
        tunnel: &Tunnel,
        identity: Identity,
        index: u32,
        limiter: Arc<RateLimiter>,
        now: Nanos,
    ) -> Result<Self, &'static str> {
        let preshared = identity.preshared.as_ref().map(|k| **k);
        let peer = PublicKey::from(identity.peer);
        let tunn = Tunn::new(identity.private(), peer, preshared, identity.keepalive, index, Some(limiter))?;
        Ok(Self {
            id: tunnel.id,
            name: tunnel.name.clone(),
            endpoint: identity.endpoint,
            identity,
            tunn,
            hop: None,
            has_session: false,
            is_exhausted: false,
            handshaking: false,
            gave_up: None,
            last_tick: now,
            last_packet: now,
            waiting: VecDeque::new(),
            received_bytes: 0,
            transmitted_bytes: 0,
            due: now,
        })
    }

    /// The way to the peer is looked up again when the underlay has changed.
    pub(crate) fn forget_hop(&mut self) {
        self.hop = None;
    }

    /// Begins a handshake if none is under way and the peer's place is known.
    pub(crate) fn begin(&mut self, sender: &mut Sender<'_>) {
        if self.endpoint.is_none() {
            return;
        }
        self.make(sender, |tunn, dst| tunn.format_handshake_initiation(dst, false));
    }

    /// Encrypts an IP packet into a datagram, or keeps it until there is a session.
    ///
    /// # Errors
    /// Why the packet goes nowhere.
    pub(crate) fn encrypt(&mut self, packet: &[u8], sender: &mut Sender<'_>, now: Nanos) -> Result<(), DropReason> {
        self.touch(sender, now);
        if !self.has_session || self.is_exhausted {
            return self.keep(packet, sender);
        }
        self.seal(packet, sender)
    }

    fn seal(&mut self, packet: &[u8], sender: &mut Sender<'_>) -> Result<(), DropReason> {
        let endpoint = self.endpoint.ok_or(DropReason::TunnelNotReady)?;
        let hop = self.hop(endpoint, sender).ok_or(DropReason::NextHopUnresolved)?;
        if packet.len() + 32 + OUT_HEADROOM > SLOT {
            return Err(DropReason::TooLarge);
        }
        let buffer = sender.out.buffer()?;
        let room = buffer.get_mut(OUT_HEADROOM..).ok_or(DropReason::NoBuffer)?;
        let message = match self.tunn.encapsulate(packet, room) {
            TunnResult::WriteToNetwork(message) => message,
            TunnResult::Done => return Ok(()),
            _ => return Err(DropReason::TunnelNotReady),
        };
        let len = message.len();
        let budget = limits::counter(message).map_or(Budget::Fresh, limits::budget);
        if budget == Budget::Exhausted {
            self.is_exhausted = true;
            return Err(DropReason::TunnelNotReady);
        }
        self.emit(endpoint, hop, len, penstock_wire::ecn::tos(packet), sender)?;
        self.transmitted_bytes += packet.len() as u64;
        if budget == Budget::Rekey {
            self.begin(sender);
        }
        Ok(())
    }

    fn keep(&mut self, packet: &[u8], sender: &mut Sender<'_>) -> Result<(), DropReason> {
        if self.endpoint.is_none() || self.waiting.len() >= MAX_WAITING {
            return Err(DropReason::TunnelNotReady);
        }
        self.waiting.push_back(packet.into());
        self.begin(sender);
        Ok(())
    }

    /// Takes a datagram that names this tunnel. `buffer` receives what it decrypts to, at [`HEADROOM`].
    ///
    /// # Errors
    /// Why it is worth nothing.
    pub(crate) fn receive(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        buffer: &mut [u8],
        sender: &mut Sender<'_>,
        now: Nanos,
    ) -> Result<Received, DropReason> {
        if limits::counter(datagram).is_some_and(|c| c >= limits::REJECT_AFTER_MESSAGES) {
            return Err(DropReason::TunnelReplay);
        }
        let room = buffer.get_mut(HEADROOM..).ok_or(DropReason::NoBuffer)?;
        if room.len() < datagram.len().max(148) + 32 {
            return Err(DropReason::TooLarge);
        }
        self.touch(sender, now);
        let kind = datagram.first().copied().unwrap_or_default();
        let (answer, received) = match self.tunn.decapsulate(Some(from.ip()), datagram, room) {
            TunnResult::Done => (None, Received::Nothing),
            TunnResult::WriteToTunnelV4(packet, _) => (None, Received::Packet(packet.len())),
            TunnResult::WriteToTunnelV6(packet, _) => (None, Received::Packet(packet.len())),
            TunnResult::WriteToNetwork(message) => (Some(message.len()), Received::Nothing),
            TunnResult::Err(error) => return Err(reason(&error)),
        };
        let answer = answer.and_then(|len| room.get(..len));
        if answer.and_then(<[u8]>::first) == Some(&COOKIE) {
            // Nothing is authenticated yet: the answer goes where the question came from, and that is all.
            return self.answer_unknown(answer.unwrap_or_default(), from, sender).map(|()| Received::Nothing);
        }
        if kind != COOKIE {
            self.roam(from);
        }
        if let Some(message) = answer {
            self.send_message(message, sender);
        }
        self.after_authenticated(kind, sender);
        if let Received::Packet(len) = received {
            self.received_bytes += len as u64;
        }
        Ok(received)
    }

    /// The peer has proved by its key that it is where this came from (whitepaper section 2.1).
    fn roam(&mut self, from: SocketAddr) {
        if self.endpoint != Some(from) {
            self.endpoint = Some(from);
            self.hop = None;
        }
    }

    fn after_authenticated(&mut self, kind: u8, sender: &mut Sender<'_>) {
        if matches!(kind, RESPONSE | INITIATION) {
            self.handshaking = false;
            self.is_exhausted = false;
            self.gave_up = None;
        }
        if !self.has_session && matches!(kind, RESPONSE | DATA) {
            self.has_session = self.tunn.time_since_last_handshake().is_some();
        }
        if self.has_session && !self.is_exhausted {
            while let Some(packet) = self.waiting.pop_front() {
                if self.seal(&packet, sender).is_err() {
                    break;
                }
            }
        }
    }

    /// `Tunn` stamps events with the time of its last `update_timers`, so that has to be near before anything happens.
    fn touch(&mut self, sender: &mut Sender<'_>, now: Nanos) {
        self.last_packet = now;
        if now.since(self.last_tick) >= BUSY {
            self.tick(sender, now);
        }
        let soon = now.plus(BUSY);
        if self.due > soon {
            self.due = soon;
        }
    }

    /// Looks at the timers; afterwards [`WgTunnel::due`] says when to do so again.
    pub(crate) fn tick(&mut self, sender: &mut Sender<'_>, now: Nanos) {
        self.last_tick = now;
        if !self.make(sender, Tunn::update_timers) && self.tunn.is_expired() {
            self.handshaking = false;
            self.waiting.clear();
            let since = *self.gave_up.get_or_insert(now);
            if self.identity.endpoint.is_some() && now.since(since) >= RETRY {
                self.gave_up = Some(now);
                self.begin(sender);
            }
        }
        self.has_session = self.tunn.time_since_last_handshake().is_some();
        let is_busy = self.handshaking || now.since(self.last_packet) < BUSY_FOR;
        self.due = now.plus(match (is_busy, self.identity.keepalive) {
            (true, _) => BUSY,
            (false, Some(_)) => KEEPALIVE_TICK,
            (false, None) => IDLE,
        });
    }

    /// Lets `Tunn` make a message of its own and sends it. False if it reports an error.
    fn make(
        &mut self,
        sender: &mut Sender<'_>,
        message: impl for<'b> FnOnce(&mut Tunn, &'b mut [u8]) -> TunnResult<'b>,
    ) -> bool {
        let mut room = [0u8; 256];
        match message(&mut self.tunn, &mut room) {
            TunnResult::WriteToNetwork(message) => {
                if message.first() == Some(&INITIATION) {
                    self.handshaking = true;
                }
                self.send_message(message, sender);
                true
            }
            TunnResult::Err(_) => false,
            _ => true,
        }
    }

    /// Sends a message of the protocol itself. One that cannot leave now is lost like any datagram: timers repeat it.
    fn send_message(&mut self, message: &[u8], sender: &mut Sender<'_>) {
        let Some(endpoint) = self.endpoint else { return };
        let Some(hop) = self.hop(endpoint, sender) else { return };
        if put(message, sender.out).is_ok() {
            let _sent_or_lost = self.emit(endpoint, hop, message.len(), 0, sender);
        }
    }

    fn answer_unknown(&mut self, message: &[u8], to: SocketAddr, sender: &mut Sender<'_>) -> Result<(), DropReason> {
        let hop = (sender.hop_of)(to.ip()).ok_or(DropReason::NextHopUnresolved)?;
        put(message, sender.out)?;
        self.emit(to, hop, message.len(), 0, sender)
    }

    fn hop(&mut self, endpoint: SocketAddr, sender: &Sender<'_>) -> Option<UnderlayHop> {
        if self.hop.is_none() {
            self.hop = (sender.hop_of)(endpoint.ip());
        }
        self.hop
    }

    /// Finishes the datagram whose `len` bytes of payload lie in the next buffer.
    fn emit(
        &self,
        to: SocketAddr,
        hop: UnderlayHop,
        len: usize,
        tos: u8,
        sender: &mut Sender<'_>,
    ) -> Result<(), DropReason> {
        *sender.identification = sender.identification.wrapping_add(1);
        let outer = Outer {
            from: sender.own,
            from_port: self.identity.port,
            to,
            hop,
            tos,
            identification: *sender.identification,
        };
        let buffer = sender.out.buffer()?;
        let start = outer::write(buffer, OUT_HEADROOM, len, &outer).ok_or(DropReason::TooLarge)?;
        sender.out.commit(start, OUT_HEADROOM + len - start, PortId(0));
        Ok(())
    }

    fn state(&self) -> TunnelState {
        match (self.has_session, self.gave_up) {
            (true, _) => TunnelState::Connected,
            (false, Some(_)) => TunnelState::Failed,
            (false, None) => TunnelState::Connecting,
        }
    }

    pub(crate) fn status(&self) -> TunnelStatus {
        TunnelStatus {
            id: self.id,
            name: self.name.clone(),
            state: self.state(),
            endpoint: self.endpoint.map(PeerAddress::Socket),
            handshake_age_seconds: self.tunn.time_since_last_handshake().map(|d| d.as_secs()),
            received_bytes: self.received_bytes,
            transmitted_bytes: self.transmitted_bytes,
        }
    }
}

/// Copies a message into the next buffer, where the payload of a datagram stands.
fn put(message: &[u8], out: &mut Frames) -> Result<(), DropReason> {
    let room = out.buffer()?.get_mut(OUT_HEADROOM..OUT_HEADROOM + message.len()).ok_or(DropReason::TooLarge)?;
    room.copy_from_slice(message);
    Ok(())
}

/// The reason that people know for an error of the protocol.
pub(crate) fn reason(error: &WireGuardError) -> DropReason {
    use WireGuardError as E;
    match error {
        E::InvalidAeadTag | E::InvalidMac | E::WrongKey => DropReason::TunnelAuthFailed,
        E::InvalidCounter | E::DuplicateCounter | E::WrongTai64nTimestamp => DropReason::TunnelReplay,
        E::NoCurrentSession | E::ConnectionExpired | E::UnexpectedPacket => DropReason::TunnelNotReady,
        E::WrongIndex => DropReason::UnknownPeer,
        E::UnderLoad => DropReason::TunnelLimited,
        E::DestinationBufferTooSmall => DropReason::NoBuffer,
        E::IncorrectPacketLength | E::WrongPacketType | E::InvalidTai64nTimestamp | E::InvalidPacket => {
            DropReason::BadTunnelHeader
        }
        E::LockFailed => DropReason::Unsupported,
    }
}
