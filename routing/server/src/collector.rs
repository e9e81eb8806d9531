//! Connections to collectors of the BGP monitoring protocol (RFC 7854): a task each, which the speaker never waits for.
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_routing_proto::{CollectorId, CollectorStatus, Filled, Speaker, Views, bmp};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Where all that peers tell is to be seen.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorConfig {
    pub address: SocketAddr,
    /// Routes as peers told them, those that the import policy refuses among them.
    #[serde(default = "yes")]
    pub pre_policy: bool,
    /// Routes as the import policy left them.
    #[serde(default = "yes")]
    pub post_policy: bool,
    /// Seconds between reports of what is counted; 0: none.
    #[serde(default = "a_minute")]
    pub statistics_seconds: u32,
}

fn yes() -> bool {
    true
}

fn a_minute() -> u32 {
    60
}

impl CollectorConfig {
    fn views(&self) -> Views {
        Views { pre_policy: self.pre_policy, post_policy: self.post_policy }
    }
}

/// Told to the router.
pub(crate) struct Told {
    which: CollectorId,
    what: News,
}

enum News {
    Connected(Line),
    /// Something has gone out.
    Room,
    Closed(String),
}

/// What is to be sent goes here. Dropped, the connection is closed after it.
struct Line {
    output: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

impl Line {
    fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < QUEUE
    }

    fn send(&self, message: Vec<u8>) {
        self.queued.fetch_add(message.len(), Ordering::Relaxed);
        // A task that has ended has said so.
        drop(self.output.send(message));
    }
}

/// A configured collector.
struct Collector {
    config: CollectorConfig,
    line: Option<Line>,
    status: CollectorStatus,
    statistics_at: Nanos,
    task: JoinHandle<()>,
}

/// News that waits for the router.
const EVENTS: usize = 64;
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// What waits to go out to one collector. The rest waits as paths, which cost less.
const QUEUE: usize = 64 * 1024;
/// Messages for one collector before others have a turn.
const TURN: usize = 16;
/// A connection that lasted so long was good.
const GOOD: Duration = Duration::from_secs(30);
/// A message that is waiting must go out within this time.
const STALL: Duration = Duration::from_secs(60);
/// For the last words.
const FAREWELL: Duration = Duration::from_secs(1);

impl Collector {
    fn start(which: CollectorId, config: CollectorConfig, events: mpsc::Sender<Told>) -> Self {
        let status =
            CollectorStatus { address: config.address, connected: false, messages: 0, cut_off: 0, last_error: None };
        let task = tokio::spawn(keep_connected(which, config.address, events));
        Self { config, line: None, status, statistics_at: Nanos(0), task }
    }

    fn send(&mut self, message: Vec<u8>) {
        if let Some(line) = &self.line {
            line.send(message);
            self.status.messages += 1;
        }
    }

    /// Whether it could take more of what there is.
    fn feed(&mut self, id: CollectorId, speaker: &mut Speaker) -> bool {
        for _ in 0..TURN {
            if !self.line.as_ref().is_some_and(Line::has_room) {
                return false;
            }
            match speaker.fill_collector(id) {
                Filled::Message(message) => self.send(message),
                Filled::Again => {}
                Filled::Nothing => return false,
                Filled::CutOff => {
                    tracing::warn!(collector = %self.config.address, "BMP: it takes too little, and is cut off");
                    self.line = None;
                    self.status.connected = false;
                    self.status.cut_off += 1;
                    self.status.last_error = Some("it took too little and was cut off".to_owned());
                    return false;
                }
            }
        }
        true
    }

    /// Says why nothing more comes (RFC 7854, 4.5), and goes.
    async fn leave(mut self, words: String) {
        self.send(bmp::termination(&words));
        if self.line.take().is_none() || tokio::time::timeout(FAREWELL, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// All of them.
pub(crate) struct Collectors {
    all: Vec<Collector>,
    events: mpsc::Receiver<Told>,
    /// Of the node that is watched.
    name: String,
    description: String,
    /// There is more to say that could be sent.
    more: bool,
}

impl Collectors {
    pub(crate) fn start(configs: &[CollectorConfig], description: &str) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let start =
            |(n, config): (u32, &CollectorConfig)| Collector::start(CollectorId(n), config.clone(), sender.clone());
        let all = (0..).zip(configs).map(start).collect();
        Self { all, events, name: host_name(), description: description.to_owned(), more: false }
    }

    /// What happened to one of them; `None`: there is more to say. May be dropped before it is ready, and loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        tokio::select! {
            Some(told) = self.events.recv() => Some(told),
            // Whoever sends gets a turn first.
            () = tokio::task::yield_now(), if self.more => None,
            else => std::future::pending().await,
        }
    }

    pub(crate) fn handle(&mut self, told: Told, speaker: &mut Speaker) {
        let Some(collector) = self.all.get_mut(told.which.0 as usize) else { return };
        match told.what {
            News::Connected(line) => {
                tracing::info!(collector = %collector.config.address, "BMP: connected");
                collector.line = Some(line);
                collector.status.connected = true;
                speaker.watch(told.which, collector.config.views(), &self.name, &self.description);
            }
            News::Room => {}
            News::Closed(reason) => {
                tracing::warn!(collector = %collector.config.address, reason, "BMP: not connected");
                speaker.unwatch(told.which);
                collector.line = None;
                collector.status.connected = false;
                collector.status.last_error = Some(reason);
            }
        }
    }

    /// Hands out what there is to say, as far as there is room.
    pub(crate) fn feed(&mut self, speaker: &mut Speaker) {
        self.more = false;
        for (id, collector) in (0..).map(CollectorId).zip(&mut self.all) {
            self.more |= collector.feed(id, speaker);
        }
    }

    /// About once a second.
    pub(crate) fn tell_statistics(&mut self, speaker: &mut Speaker, now: Nanos) {
        for (id, collector) in (0..).map(CollectorId).zip(&mut self.all) {
            let every = Duration::from_secs(u64::from(collector.config.statistics_seconds));
            if !every.is_zero() && collector.line.is_some() && collector.statistics_at <= now {
                collector.statistics_at = now.plus(every);
                speaker.tell_statistics(id);
            }
        }
    }

    pub(crate) fn statuses(&self) -> Vec<CollectorStatus> {
        self.all.iter().map(|c| c.status.clone()).collect()
    }

    /// Tells all of them that nothing more comes.
    pub(crate) async fn leave(&mut self, words: &str) {
        let leaving: Vec<_> = self.all.drain(..).map(|c| tokio::spawn(c.leave(words.to_owned()))).collect();
        for collector in leaving {
            // It ends by itself.
            drop(collector.await);
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_connected(which: CollectorId, address: SocketAddr, events: mpsc::Sender<Told>) {
    let mut pause = FIRST_RETRY;
    loop {
        let ended = match connect(address).await {
            Ok(stream) => {
                let since = MonotonicClock::now();
                let (read, write) = stream.into_split();
                let (output, waiting) = mpsc::unbounded_channel();
                let queued = Arc::new(AtomicUsize::new(0));
                let line = Line { output, queued: Arc::clone(&queued) };
                if events.send(Told { which, what: News::Connected(line) }).await.is_err() {
                    return;
                }
                let sending = Sending { which, write, waiting, queued, events: &events };
                let ended = tokio::select! {
                    ended = sending.all() => ended,
                    reason = closed(read) => Some(reason),
                };
                if MonotonicClock::now().since(since) >= GOOD {
                    pause = FIRST_RETRY;
                }
                ended
            }
            Err(error) => Some(format!("cannot connect: {error}")),
        };
        // A router that has let go of the line needs not to be told that it is gone.
        if let Some(reason) = ended
            && events.send(Told { which, what: News::Closed(reason) }).await.is_err()
        {
            return;
        }
        if events.is_closed() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

struct Sending<'a> {
    which: CollectorId,
    write: OwnedWriteHalf,
    waiting: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    events: &'a mpsc::Sender<Told>,
}

impl Sending<'_> {
    /// Until the router has no more to say: `None`; or why it does not go on.
    async fn all(mut self) -> Option<String> {
        while let Some(message) = self.waiting.recv().await {
            match tokio::time::timeout(STALL, self.write.write_all(&message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(error.to_string()),
                Err(_) => return Some("the collector takes nothing".to_owned()),
            }
            self.queued.fetch_sub(message.len(), Ordering::Relaxed);
            if self.events.send(Told { which: self.which, what: News::Room }).await.is_err() {
                return None;
            }
        }
        // An error means that the collector was faster.
        drop(self.write.shutdown().await);
        None
    }
}

/// A collector has nothing to say (RFC 7854, 3.2); what it says is not looked at.
async fn closed(mut read: OwnedReadHalf) -> String {
    let mut buffer = [0; 256];
    loop {
        match read.read(&mut buffer).await {
            Ok(0) => return "the collector closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}
