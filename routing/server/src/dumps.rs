//! The table as an MRT file, for whoever connects to a socket in the file system: who runs the router, and root.
use penstock_clock::WallClock;
use penstock_routing_proto::{Dump, Speaker};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Whoever reads asks for the next piece: a router waits for nobody, and keeps nothing.
pub(crate) struct Ask {
    dump: Dump,
    answer: oneshot::Sender<(Dump, Option<Vec<u8>>)>,
}

impl Ask {
    pub(crate) fn answer(mut self, speaker: &Speaker) {
        let since = WallClock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let piece = self.dump.next_piece(speaker, u32::try_from(since.as_secs()).unwrap_or(u32::MAX));
        // Who asked may be gone.
        drop(self.answer.send((self.dump, piece)));
    }
}

/// At once; further ones wait.
const DUMPS: usize = 4;
const BACKLOG: i32 = 16;
/// A reader that takes nothing for so long is left.
const STALL: Duration = Duration::from_secs(60);

/// The socket; gone when dropped.
pub(crate) struct DumpSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl DumpSocket {
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open(path: &Path, asks: mpsc::Sender<Ask>) -> io::Result<Self> {
        let listener = listen(path)?;
        Ok(Self { path: path.to_owned(), task: tokio::spawn(serve(listener, asks)) })
    }
}

impl Drop for DumpSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Nothing more can be done about one that stays.
        drop(std::fs::remove_file(&self.path));
    }
}

/// For its owner alone, before anybody can connect.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let places = Arc::new(Semaphore::new(DUMPS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asks = asks.clone();
                tokio::spawn(async move {
                    if let Err(error) = send(stream, &asks).await {
                        tracing::warn!(%error, "MRT: a dump was not taken to its end");
                    }
                    drop(place);
                });
            }
            // No descriptor is free, say.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn send(mut stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let mut dump = Dump::default();
    loop {
        let (answer, answered) = oneshot::channel();
        if asks.send(Ask { dump, answer }).await.is_err() {
            return Err(io::Error::other("the router has ended"));
        }
        let (rest, piece) = answered.await.map_err(io::Error::other)?;
        let Some(piece) = piece else { return stream.shutdown().await };
        tokio::time::timeout(STALL, stream.write_all(&piece)).await??;
        dump = rest;
    }
}
