//! One TCP connection: two tasks, and a queue between them and the router whose length the router bounds.
use crate::transport::{Duplex, Stream};
use penstock_routing_proto::{PeerId, Way};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Told to the router.
pub(crate) struct Happened {
    pub(crate) peer: PeerId,
    pub(crate) way: Way,
    /// Which connection, or attempt at one: what an earlier one says comes too late.
    pub(crate) serial: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    Connected(io::Result<Stream>),
    Bytes(Vec<u8>),
    Written,
    Closed(String),
}

const READ: usize = 16 * 1024;
/// Time for the last words to go out, and for the other side to have read them.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) serial: u64,
    output: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Connection {
    pub(crate) fn start(stream: Stream, peer: PeerId, way: Way, serial: u64, events: mpsc::Sender<Happened>) -> Self {
        let (read, write) = tokio::io::split(stream.bytes);
        let (output, waiting) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let tell = Teller { peer, way, serial, events };
        let reader = tokio::spawn(read_all(read, tell.clone()));
        let writer = tokio::spawn(write_all(write, waiting, queued.clone(), tell));
        Self { serial, output, queued, reader, writer }
    }

    /// Bytes that have not gone out.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    pub(crate) fn send(&self, bytes: Vec<u8>) {
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        // A writer that has ended has said so.
        drop(self.output.send(bytes));
    }

    /// After what was sent. The other side gets the time to read it: to close with something unread would reset the
    /// connection and take the last words back.
    pub(crate) fn close(self) -> JoinHandle<()> {
        let Self { output, reader, mut writer, .. } = self;
        drop(output);
        tokio::spawn(async move {
            if tokio::time::timeout(FAREWELL, &mut writer).await.is_err() {
                writer.abort();
            }
            let mut reader = reader;
            if tokio::time::timeout(FAREWELL, &mut reader).await.is_err() {
                reader.abort();
            }
        })
    }
}

#[derive(Clone)]
struct Teller {
    peer: PeerId,
    way: Way,
    serial: u64,
    events: mpsc::Sender<Happened>,
}

impl Teller {
    /// False if nobody listens any more.
    async fn tell(&self, what: What) -> bool {
        let (peer, way, serial) = (self.peer, self.way, self.serial);
        self.events.send(Happened { peer, way, serial, what }).await.is_ok()
    }
}

async fn read_all(mut read: ReadHalf<Box<dyn Duplex>>, tell: Teller) {
    let mut buffer = vec![0; READ];
    let reason = loop {
        match read.read(&mut buffer).await {
            Ok(0) => break "the peer closed the connection".to_owned(),
            Ok(n) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                if !tell.tell(What::Bytes(bytes)).await {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    tell.tell(What::Closed(reason)).await;
}

async fn write_all(
    mut write: WriteHalf<Box<dyn Duplex>>,
    mut waiting: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    tell: Teller,
) {
    while let Some(bytes) = waiting.recv().await {
        if let Err(error) = write.write_all(&bytes).await {
            tell.tell(What::Closed(error.to_string())).await;
            return;
        }
        queued.fetch_sub(bytes.len(), Ordering::Relaxed);
        if !tell.tell(What::Written).await {
            return;
        }
    }
    // An error means that the peer was faster.
    drop(write.shutdown().await);
}
