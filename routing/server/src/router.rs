use crate::bfd::{BfdThread, Watched};
use crate::collector::{CollectorConfig, Collectors, Told};
use crate::connection::{Connection, Happened, What};
use crate::dumps::{Ask, DumpSocket};
use crate::metrics::{self, Recorder};
use crate::sockets::KernelTcp;
use crate::transport::{Stream, Transport};
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_routing_proto::{
    BfdState, Chosen, Family, Output, PeerGoal, PeerId, Prefix, RouterGoal, RouterStatus, SessionState, Speaker, Way,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Where and how to listen, and how to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// BGP identifier where the goal gives none.
    pub id: Ipv4Addr,
    /// Where peers may connect; nowhere if empty.
    pub listen: Vec<SocketAddr>,
    /// How long peers are given to prefer others before routes are withdrawn (RFC 8326).
    pub drain: Duration,
    /// For the operators of the peers, at the end (RFC 9003).
    pub farewell: String,
    /// Routes that the status shows, at most.
    pub shown_routes: usize,
    /// Who sees what peers tell (RFC 7854).
    pub collectors: Vec<CollectorConfig>,
    /// Where the table is to be had as an MRT file; nowhere if left out.
    pub dump_socket: Option<PathBuf>,
    /// What the router is, for collectors.
    pub description: String,
}

/// What a router is told.
#[derive(Debug)]
pub struct Inputs {
    pub goal: watch::Receiver<Arc<RouterGoal>>,
    /// Own prefixes: those that work.
    pub own: watch::Receiver<Arc<BTreeSet<Prefix>>>,
}

/// Where a router tells what it is, and what it has chosen.
pub struct Outputs {
    pub status: watch::Sender<RouterStatus>,
    /// Called with all that peers have that is used, soon after it changes.
    pub chosen: Option<Box<dyn FnMut(Vec<Chosen>) + Send>>,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outputs")
    }
}

/// What a peer's connection may have waiting. The rest waits as prefixes, which cost less.
const QUEUE: usize = 64 * 1024;
const REPORT: Duration = Duration::from_secs(1);
const EVENTS: usize = 256;
/// Changes of what is used within this time are told together.
const GATHER: Duration = Duration::from_millis(50);
/// For withdrawals to go out.
const WITHDRAWAL: Duration = Duration::from_millis(300);
/// For BFD to say goodbye; with slow timers it does so once.
const BFD_FAREWELL: Duration = Duration::from_secs(1);

/// Speaks with the peers of the newest goal until `shutdown`, then leaves: asks peers to prefer others, waits, withdraws and
/// ends the sessions with words. When it returns, no peer sends packets here because of it.
///
/// # Errors
/// There is no randomness. An address that cannot be listened on is in the status, and peers are connected to.
pub async fn run(
    config: ServerConfig,
    inputs: Inputs,
    status: watch::Sender<RouterStatus>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let tcp = KernelTcp::new(config.listen.clone());
    run_over(tcp, config, inputs, Outputs { status, chosen: None }, shutdown).await
}

/// As [`run`], with the peers that `transport` reaches.
///
/// # Errors
/// There is no randomness.
pub async fn run_over<T: Transport>(
    transport: T,
    config: ServerConfig,
    mut inputs: Inputs,
    outputs: Outputs,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut router = Router::new(transport, config, outputs)?;
    let mut tick = tokio::time::interval(REPORT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    inputs.goal.mark_changed();
    inputs.own.mark_changed();
    let (mut goals_end, mut own_ends) = (false, false);
    loop {
        router.pump();
        let tell = router.tell_chosen(MonotonicClock::now());
        let wake = [router.speaker.poll_timeout(), tell].into_iter().flatten().min();
        tokio::select! {
            changed = inputs.goal.changed(), if !goals_end => {
                goals_end = changed.is_err();
                let goal = inputs.goal.borrow_and_update().clone();
                router.apply(&goal);
            }
            changed = inputs.own.changed(), if !own_ends => {
                own_ends = changed.is_err();
                let own = inputs.own.borrow_and_update().clone();
                router.speaker.announce((*own).clone());
            }
            happened = router.next() => router.handle(happened),
            () = sleep_until(wake) => router.speaker.handle_timeout(MonotonicClock::now()),
            _ = tick.tick() => router.report(),
            () = stopped(&mut shutdown) => break,
        }
    }
    router.leave().await;
    Ok(())
}

async fn sleep_until(wake: Option<Nanos>) {
    match wake {
        Some(at) => tokio::time::sleep(at.since(MonotonicClock::now())).await,
        None => std::future::pending().await,
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    drop(shutdown.wait_for(|stop| *stop).await.map(|_| ()));
}

enum Next<I> {
    Accepted(I, IpAddr),
    Connection(Happened),
    Bfd(IpAddr, BfdState),
    Collector(Option<Told>),
    Dump(Ask),
}

struct Router<T> {
    config: ServerConfig,
    speaker: Speaker,
    transport: T,
    peers: Vec<PeerGoal>,
    connections: BTreeMap<(PeerId, Way), Connection>,
    attempts: BTreeMap<PeerId, (u64, AbortHandle)>,
    farewells: Vec<JoinHandle<()>>,
    serial: u64,
    events: mpsc::Sender<Happened>,
    happened: mpsc::Receiver<Happened>,
    bfd: BTreeMap<Family, BfdThread>,
    bfd_changes: mpsc::UnboundedReceiver<(IpAddr, BfdState)>,
    bfd_sender: mpsc::UnboundedSender<(IpAddr, BfdState)>,
    goal_error: Option<String>,
    bfd_error: Option<String>,
    seed: u64,
    recorder: Recorder,
    collectors: Collectors,
    /// Its error is in the status.
    dumps: Result<Option<DumpSocket>, String>,
    asks: mpsc::Receiver<Ask>,
    outputs: Outputs,
    /// The table's state that was told last, and when.
    told: (u64, Nanos),
}

impl<T: Transport> Router<T> {
    fn new(transport: T, config: ServerConfig, outputs: Outputs) -> io::Result<Self> {
        metrics::describe();
        let seed = seed()?;
        let (events, happened) = mpsc::channel(EVENTS);
        let (bfd_sender, bfd_changes) = mpsc::unbounded_channel();
        let (asking, asks) = mpsc::channel(1);
        let dumps = config.dump_socket.as_ref().map(|path| DumpSocket::open(path, asking)).transpose();
        let dumps = dumps.map_err(|error| {
            tracing::error!(%error, "MRT: the socket for dumps cannot be made");
            format!("the socket for dumps: {error}")
        });
        Ok(Self {
            speaker: Speaker::new(config.id, seed),
            collectors: Collectors::start(&config.collectors, &config.description),
            dumps,
            asks,
            config,
            transport,
            peers: Vec::new(),
            connections: BTreeMap::new(),
            attempts: BTreeMap::new(),
            farewells: Vec::new(),
            serial: 0,
            events,
            happened,
            bfd: BTreeMap::new(),
            bfd_changes,
            bfd_sender,
            goal_error: None,
            bfd_error: None,
            seed,
            recorder: Recorder::default(),
            outputs,
            told: (0, Nanos(0)),
        })
    }

    async fn next(&mut self) -> Next<T::Incoming> {
        let Self { transport, happened, bfd_changes, collectors, asks, .. } = self;
        tokio::select! {
            accepted = transport.accept() => Next::Accepted(accepted.0, accepted.1),
            Some(event) = happened.recv() => Next::Connection(event),
            Some((peer, state)) = bfd_changes.recv() => Next::Bfd(peer, state),
            told = collectors.next() => Next::Collector(told),
            Some(ask) = asks.recv() => Next::Dump(ask),
        }
    }

    fn apply(&mut self, goal: &RouterGoal) {
        if let Err(error) = self.speaker.apply(goal, MonotonicClock::now()) {
            tracing::error!(%error, "router goal refused; the last one stays in force");
            self.goal_error = Some(error.to_string());
            return;
        }
        self.goal_error = None;
        self.transport.follow(&goal.peers);
        self.peers.clone_from(&goal.peers);
        self.watch_peers();
    }

    fn watch_peers(&mut self) {
        self.bfd_error = None;
        for family in Family::ALL {
            let watched: BTreeMap<IpAddr, Watched> = self
                .peers
                .iter()
                .filter(|p| Family::of(p.address) == family)
                .filter_map(|p| Some((p.address, Watched { local: p.local_address, goal: p.bfd? })))
                .collect();
            if !watched.is_empty() && !self.bfd.contains_key(&family) {
                match BfdThread::start(family, self.seed, self.bfd_sender.clone()) {
                    Ok(thread) => drop(self.bfd.insert(family, thread)),
                    Err(error) => {
                        tracing::error!(%error, "BFD cannot be spoken here: only hold timers watch the peers");
                        self.bfd_error = Some(format!("BFD: {error}"));
                    }
                }
            }
            if let Some(thread) = self.bfd.get(&family) {
                thread.watch(watched);
            }
        }
    }

    fn handle(&mut self, next: Next<T::Incoming>) {
        match next {
            Next::Accepted(incoming, from) => self.accepted(incoming, from),
            Next::Connection(event) => self.happened(event),
            Next::Collector(Some(told)) => self.collectors.handle(told, &mut self.speaker),
            Next::Collector(None) => {}
            Next::Dump(ask) => ask.answer(&self.speaker),
            Next::Bfd(address, state) => {
                let Some(id) = self.speaker.peer_at(address) else { return };
                tracing::info!(peer = %address, %state, "BFD");
                self.speaker.handle_bfd(id, state, MonotonicClock::now());
                self.report();
            }
        }
    }

    fn accepted(&mut self, incoming: T::Incoming, from: IpAddr) {
        let Some(id) = self.speaker.peer_at(from) else {
            tracing::debug!(%from, "a connection of no peer");
            return;
        };
        let Some(peer) = self.speaker.peer(id) else { return };
        match self.transport.take(incoming, peer) {
            Ok(stream) => self.connected(id, Way::Passive, stream),
            Err(error) => {
                tracing::warn!(peer = %peer.name, %error, "a connection of the peer cannot be used");
            }
        }
    }

    fn connected(&mut self, id: PeerId, way: Way, stream: Stream) {
        if !self.speaker.make_room(id, way, MonotonicClock::now()) {
            tracing::debug!(peer = ?id, ?way, "a connection that is not taken now");
            return;
        }
        // Outputs name a connection by its peer and way: what is said of an earlier one is done before there is another.
        self.pump();
        self.serial += 1;
        let ends = stream.ends;
        let connection = Connection::start(stream, id, way, self.serial, self.events.clone());
        self.connections.insert((id, way), connection);
        self.speaker.handle_connected(id, way, ends, MonotonicClock::now());
    }

    fn happened(&mut self, event: Happened) {
        let Happened { peer, way, serial, what } = event;
        let now = MonotonicClock::now();
        if let What::Connected(result) = what {
            if self.attempts.get(&peer).is_none_or(|(s, _)| *s != serial) {
                return;
            }
            self.attempts.remove(&peer);
            match result {
                Ok(stream) => self.connected(peer, way, stream),
                Err(error) => self.speaker.handle_connect_failed(peer, &error.to_string(), now),
            }
            return;
        }
        let Some(connection) = self.connections.get(&(peer, way)).filter(|c| c.serial == serial) else { return };
        match what {
            What::Bytes(bytes) => self.speaker.handle_bytes(peer, way, &bytes, now),
            What::Written => self.speaker.handle_written(peer, way, connection.queued() == 0, now),
            What::Closed(reason) => self.speaker.handle_closed(peer, way, &reason, now),
            What::Connected(_) => {}
        }
    }

    /// Does what the speaker says, and lets it say more while there is room.
    fn pump(&mut self) {
        loop {
            while let Some(output) = self.speaker.poll_output() {
                self.carry_out(output);
            }
            let room: Vec<PeerId> =
                self.connections.iter().filter(|(_, c)| c.queued() < QUEUE).map(|((id, _), _)| *id).collect();
            let now = MonotonicClock::now();
            if !room.into_iter().fold(false, |any, id| self.speaker.fill(id, now) | any) {
                return self.collectors.feed(&mut self.speaker);
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect(id) => self.connect(id),
            Output::CancelConnect(id) => {
                if let Some((_, attempt)) = self.attempts.remove(&id) {
                    attempt.abort();
                }
            }
            Output::Transmit(id, way, bytes) => {
                if let Some(connection) = self.connections.get(&(id, way)) {
                    connection.send(bytes);
                }
            }
            Output::Close(id, way) => {
                if let Some(connection) = self.connections.remove(&(id, way)) {
                    self.farewells.retain(|f| !f.is_finished());
                    self.farewells.push(connection.close());
                }
            }
            Output::State { peer, state, reason } => {
                let reason = reason.unwrap_or_default();
                if state == SessionState::Established {
                    tracing::info!(peer, reason, "BGP session established");
                } else {
                    tracing::warn!(peer, reason, "BGP session down");
                }
            }
        }
    }

    fn connect(&mut self, id: PeerId) {
        let Some(peer) = self.speaker.peer(id).cloned() else { return };
        self.serial += 1;
        let (serial, events) = (self.serial, self.events.clone());
        let connecting = self.transport.connect(peer);
        let attempt = tokio::spawn(async move {
            let what = What::Connected(connecting.await);
            // A router that is gone needs no connection.
            drop(events.send(Happened { peer: id, way: Way::Active, serial, what }).await);
        });
        self.attempts.insert(id, (serial, attempt.abort_handle()));
    }

    /// Tells what is used if that has changed; or when it is to be told.
    fn tell_chosen(&mut self, now: Nanos) -> Option<Nanos> {
        let state = self.speaker.changes();
        let (Some(tell), true) = (&mut self.outputs.chosen, state != self.told.0) else { return None };
        let due = self.told.1.plus(GATHER);
        if now < due {
            return Some(due);
        }
        self.told = (state, now);
        tell(self.speaker.chosen());
        None
    }

    fn report(&mut self) {
        self.transport.try_again();
        self.bfd.retain(|_, thread| !thread.is_idle());
        self.collectors.tell_statistics(&mut self.speaker, MonotonicClock::now());
        let mut status = self.speaker.status(self.config.shown_routes, MonotonicClock::now());
        for peer in &mut status.peers {
            peer.bfd = self.bfd.get(&Family::of(peer.address)).and_then(|t| t.status(peer.address));
        }
        status.collectors = self.collectors.statuses();
        let less = self.goal_error.clone().or_else(|| self.bfd_error.clone()).or_else(|| self.transport.error());
        status.error = less.or_else(|| self.dumps.as_ref().err().cloned());
        self.recorder.record(&status, self.outputs.chosen.is_none());
        self.outputs.status.send_replace(status);
    }

    async fn leave(&mut self) {
        if self.speaker.is_established() {
            tracing::info!(seconds = self.config.drain.as_secs_f32(), "BGP: peers are asked to prefer others");
            self.speaker.drain();
            self.report();
            self.go_on(self.config.drain, false).await;
            self.speaker.announce(BTreeSet::new());
            self.go_on(WITHDRAWAL, true).await;
        }
        let farewell = self.config.farewell.clone();
        self.speaker.shut_down(&farewell, MonotonicClock::now());
        self.pump();
        self.report();
        for farewell in self.farewells.drain(..) {
            // It ends by itself.
            drop(farewell.await);
        }
        self.collectors.leave(&farewell).await;
        self.report();
        self.leave_bfd().await;
        tracing::info!("BGP stops");
    }

    /// Neighbours that hear of it, and do not only miss packets, do not take it for a failure (RFC 5882, 3.2).
    async fn leave_bfd(&mut self) {
        self.bfd.values().for_each(|thread| thread.watch(BTreeMap::new()));
        let end = MonotonicClock::now().plus(BFD_FAREWELL);
        while self.bfd.values().any(|thread| !thread.is_idle()) && MonotonicClock::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.bfd.clear();
    }

    /// Everything as usual for so long; or, with `settle`, until there is nothing more to tell.
    async fn go_on(&mut self, time: Duration, settle: bool) {
        let end = MonotonicClock::now().plus(time);
        loop {
            self.pump();
            let written = self.connections.values().all(|c| c.queued() == 0);
            let now = MonotonicClock::now();
            if now >= end || (settle && written && self.speaker.is_settled()) {
                return;
            }
            let wake = self.speaker.poll_timeout().map_or(end, |at| at.min(end));
            tokio::select! {
                next = self.next() => self.handle(next),
                () = sleep_until(Some(wake)) => self.speaker.handle_timeout(MonotonicClock::now()),
            }
        }
    }
}

fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
