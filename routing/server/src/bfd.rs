//! BFD's threads: one for each family, with sockets of its own, which wait for nobody.
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_routing_proto::bfd::{BFD_PORT, BFD_SOURCE_PORTS, ControlPacket};
use penstock_routing_proto::{BfdGoal, BfdSession, BfdState, BfdStatus, Family};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a new goal may wait: longer than any packet does.
const LOOK: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(2);

/// A neighbour to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) local: Option<IpAddr>,
    pub(crate) goal: BfdGoal,
}

/// What a thread and the router share.
#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<BTreeMap<IpAddr, Watched>>,
    changed: AtomicBool,
    stop: AtomicBool,
    /// Nobody is watched, and all who were have been told.
    idle: AtomicBool,
    statuses: Mutex<BTreeMap<IpAddr, BfdStatus>>,
}

/// Whom it no longer watches it tells that this end goes on purpose; dropped before it is idle, only once.
#[derive(Debug)]
pub(crate) struct BfdThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl BfdThread {
    /// # Errors
    /// The port is taken, most likely by another daemon for BFD.
    pub(crate) fn start(
        family: Family,
        seed: u64,
        changes: mpsc::UnboundedSender<(IpAddr, BfdState)>,
    ) -> io::Result<Self> {
        let socket = receiver(family)?;
        let shared = Arc::new(Shared::default());
        let work = Work {
            family,
            socket,
            shared: shared.clone(),
            sessions: BTreeMap::new(),
            leaving: Vec::new(),
            changes,
            retry_at: None,
            chance: seed | 1,
        };
        let name = if family == Family::Ipv4 { "bfd-4" } else { "bfd-6" };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn watch(&self, wanted: BTreeMap<IpAddr, Watched>) {
        let mut current = lock(&self.shared.wanted);
        if *current != wanted {
            *current = wanted;
            self.shared.changed.store(true, Ordering::Release);
        }
    }

    /// Whether it has nothing to do, not even to tell those that it no longer watches.
    pub(crate) fn is_idle(&self) -> bool {
        let wanted = lock(&self.shared.wanted);
        wanted.is_empty() && !self.shared.changed.load(Ordering::Acquire) && self.shared.idle.load(Ordering::Acquire)
    }

    pub(crate) fn status(&self, peer: IpAddr) -> Option<BfdStatus> {
        lock(&self.shared.statuses).get(&peer).cloned()
    }
}

impl Drop for BfdThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("a BFD thread panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watch {
    session: BfdSession,
    watched: Watched,
    socket: UdpSocket,
    told: BfdState,
}

impl Watch {
    fn transmit(&mut self, now: Nanos) {
        while let Some(packet) = self.session.poll_transmit(now) {
            // A network that does not take it is what is measured here.
            drop(self.socket.send(&packet.encode()));
        }
    }
}

struct Work {
    family: Family,
    socket: UdpSocket,
    shared: Arc<Shared>,
    sessions: BTreeMap<IpAddr, Watch>,
    /// Stopped, until their neighbours have been told.
    leaving: Vec<(IpAddr, Watch)>,
    changes: mpsc::UnboundedSender<(IpAddr, BfdState)>,
    retry_at: Option<Nanos>,
    chance: u64,
}

impl Work {
    fn run(mut self) {
        let mut buffer = [0; 256];
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = MonotonicClock::now();
            if self.shared.changed.swap(false, Ordering::AcqRel) || self.retry_at.is_some_and(|at| at <= now) {
                self.retry_at = None;
                self.change();
            }
            let leaving = self.leaving.iter().map(|(_, w)| w);
            let next = self.sessions.values().chain(leaving).map(|w| w.session.poll_timeout()).min();
            let wait = next.map_or(LOOK, |at| at.since(now)).clamp(Duration::from_millis(1), LOOK);
            // Both only fail if the socket is broken, and then so is everything: time goes on.
            drop(self.socket.set_read_timeout(Some(wait)));
            let received = self.socket.recv_from(&mut buffer);
            let now = MonotonicClock::now();
            if let Ok((length, from)) = received {
                self.received(buffer.get(..length).unwrap_or_default(), from.ip().to_canonical(), now);
            }
            self.round(now);
        }
        self.say_goodbye();
    }

    fn received(&mut self, bytes: &[u8], from: IpAddr, now: Nanos) {
        if let (Some(packet), Some(watch)) = (ControlPacket::decode(bytes), self.sessions.get_mut(&from)) {
            watch.session.handle_packet(&packet, now);
        }
    }

    fn round(&mut self, now: Nanos) {
        let mut statuses = BTreeMap::new();
        let mut changes = Vec::new();
        for (peer, watch) in &mut self.sessions {
            watch.session.handle_timeout(now);
            let state = watch.session.verdict();
            if state != watch.told {
                watch.told = state;
                changes.push((*peer, state));
            }
            watch.transmit(now);
            statuses.insert(*peer, status(&watch.session));
        }
        for (_, watch) in &mut self.leaving {
            watch.transmit(now);
        }
        self.leaving.retain(|(_, w)| !w.session.is_over(now));
        let idle = self.sessions.is_empty() && self.leaving.is_empty();
        self.shared.idle.store(idle, Ordering::Release);
        self.publish(statuses, &changes);
        for change in changes {
            // The router that is not there any more needs no news.
            let _ = self.changes.send(change);
        }
    }

    /// Before the changes are told: who is told of one reads what led to it.
    fn publish(&self, statuses: BTreeMap<IpAddr, BfdStatus>, changes: &[(IpAddr, BfdState)]) {
        let statuses_now = &self.shared.statuses;
        // Without changes, whoever reads it now will do so again.
        let current = if changes.is_empty() { statuses_now.try_lock().ok() } else { Some(lock(statuses_now)) };
        if let Some(mut current) = current {
            *current = statuses;
        }
    }

    fn change(&mut self) {
        let wanted = lock(&self.shared.wanted).clone();
        let now = MonotonicClock::now();
        let stays = |peer: &IpAddr, w: &Watch| wanted.get(peer).is_some_and(|new| new.local == w.watched.local);
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sessions).into_iter().partition(|(peer, w)| stays(peer, w));
        self.sessions.extend(stay);
        for (peer, mut watch) in go {
            watch.session.stop(now);
            self.leaving.push((peer, watch));
        }
        for (peer, watched) in wanted {
            if let Some(watch) = self.sessions.get_mut(&peer) {
                watch.watched = watched;
                watch.session.set(watched.goal, now);
                continue;
            }
            // Who comes back between the same addresses is not told any more that it goes.
            self.leaving.retain(|(left, w)| *left != peer || w.watched.local != watched.local);
            let (discriminator, seed) = (self.fresh_discriminator(), self.chance());
            match sender(self.family, watched.local, peer) {
                Ok(socket) => {
                    let session = BfdSession::new(watched.goal, discriminator, seed, now);
                    self.sessions.insert(peer, Watch { session, watched, socket, told: BfdState::Down });
                }
                Err(error) => {
                    tracing::warn!(%peer, %error, "BFD cannot send to the peer; tried again");
                    // The address may not be there yet.
                    self.retry_at = Some(now.plus(RETRY));
                }
            }
        }
    }

    fn chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    fn fresh_discriminator(&mut self) -> u32 {
        loop {
            let fresh = (self.chance() >> 32) as u32;
            if fresh != 0 && self.sessions.values().all(|w| w.session.discriminator() != fresh) {
                return fresh;
            }
        }
    }

    fn say_goodbye(&mut self) {
        let now = MonotonicClock::now();
        for watch in self.sessions.values_mut() {
            watch.session.stop(now);
            watch.transmit(now);
        }
    }
}

fn status(session: &BfdSession) -> BfdStatus {
    let (received, sent, downs) = session.counts();
    BfdStatus {
        state: session.verdict(),
        detection_ms: u64::try_from(session.detection_time().as_millis()).unwrap_or(u64::MAX),
        received,
        sent,
        downs,
        diagnostic: session.diagnostic().words().map(str::to_owned),
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Takes only what comes from next door: packets with a TTL of 255 (RFC 5881, 5).
fn receiver(family: Family) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(any(family), BFD_PORT);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if family == Family::Ipv6 {
        socket.set_only_v6(true)?;
    }
    let ttl_at = if family == Family::Ipv4 { 8 } else { 7 };
    socket.attach_filter(&only_largest_ttl(ttl_at))?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// A classic socket filter: the byte of the network header must be 255.
fn only_largest_ttl(at: u32) -> [SockFilter; 4] {
    /// Offsets from here on are in the network header (linux/filter.h, `SKF_NET_OFF`).
    const NETWORK_HEADER: u32 = (-0x10_0000_i32) as u32;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK_HEADER + at),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 255),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn sender(family: Family, local: Option<IpAddr>, peer: IpAddr) -> io::Result<UdpSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in BFD_SOURCE_PORTS {
        let address = SocketAddr::new(local.unwrap_or(any(family)), port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        match socket.bind(&address.into()) {
            Ok(()) => {
                match family {
                    Family::Ipv4 => socket.set_ttl_v4(255)?,
                    Family::Ipv6 => socket.set_unicast_hops_v6(255)?,
                }
                socket.connect(&SocketAddr::new(peer, BFD_PORT).into())?;
                socket.set_nonblocking(true)?;
                return Ok(socket.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
