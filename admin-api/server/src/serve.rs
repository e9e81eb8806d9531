//! HTTPS: with client certificates, or (where the configuration has a second address) with tokens.
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_southbound::Identity;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at once; each costs some 100 KiB.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(15);
/// In which a client has to say who it is, from the handshake on.
const UNKNOWN: Duration = Duration::from_secs(10);
/// Without a request.
const IDLE: Duration = Duration::from_secs(120);
/// Between two looks at whether a connection is idle.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at whether a client of HTTP/2 is there, and for its answer.
const ALIVE: Duration = Duration::from_secs(20);
/// For requests under way when the controller stops, and when a connection is ended.
const GRACE: Duration = Duration::from_secs(3);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// What a connection is used for: one that nobody is known on, or that stands idle, is ended.
#[derive(Debug)]
pub(crate) struct Usage(Mutex<Used>);

#[derive(Debug)]
struct Used {
    is_known: bool,
    /// Requests and streams under way.
    open: usize,
    since: Nanos,
}

impl Usage {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Used { is_known: false, open: 0, since: MonotonicClock::now() })))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A good certificate or token was shown.
    pub(crate) fn know(&self) {
        self.used().is_known = true;
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Using {
        self.used().open += 1;
        Using(self.clone())
    }

    /// When to end the connection, as it is used now.
    fn due(&self) -> Option<Nanos> {
        match &*self.used() {
            Used { is_known: false, since, .. } => Some(since.plus(UNKNOWN)),
            Used { open: 0, since, .. } => Some(since.plus(IDLE)),
            Used { .. } => None,
        }
    }
}

/// A request or stream under way.
#[derive(Debug)]
pub(crate) struct Using(Arc<Usage>);

impl Clone for Using {
    fn clone(&self) -> Self {
        self.0.begin()
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.open = used.open.saturating_sub(1);
        if used.is_known {
            used.since = MonotonicClock::now();
        }
    }
}

/// Serves until `shutdown` is true.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let stop = shutdown.clone();
    loop {
        // All slots may be taken, by clients that do nothing: stopping does not wait for one.
        let next = async { (slots.clone().acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let Ok(slot) = slot else { break };
        match accepted {
            Ok((stream, peer)) => {
                let router = router.clone().layer(Extension(Peer(peer.ip())));
                let connection = connection(stream, tls.clone(), router, stop.clone());
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, %peer, "northbound connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: waiting is all that helps.
                tracing::warn!(%error, "northbound connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The handshake has asked for one where there must be one.
    let router = match certificate {
        Some(certificate) => router.layer(Extension(Arc::new(Identity::of(certificate)?))),
        None => router,
    };
    let usage = Usage::new();
    let service = TowerToHyperService::new(router.layer(Extension(usage.clone())));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_pending_accept_reset_streams(32)
        // What clients may send before anybody has looked at it.
        .initial_connection_window_size(256 << 10)
        .initial_stream_window_size(128 << 10)
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopped(&mut shutdown) => {}
        () = unused(&usage) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(GRACE, connection).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn unused(usage: &Usage) {
    loop {
        let left = usage.due().map(|due| due.since(MonotonicClock::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return;
        }
        tokio::time::sleep(left.unwrap_or(LOOK).min(LOOK)).await;
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone means stop, too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
