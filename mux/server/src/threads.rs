use crate::config::MuxConfig;
use crate::error::Error;
use crate::segments::Segments;
use crate::stats::{Shared, Snapshot};
use crate::worker::Worker;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowTable;
use penstock_mux_proto::{Foreign, MuxResolver, Policy};
use penstock_packet_io::{IdlePolicy, PacketIo, Poller, Waker, pin_this_thread};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// New flows that may wait for their second packet, of each worker: at 50 ms from SYN to ACK, 1.3 million connections a second.
const PROBATION: usize = 1 << 16;

/// The worker threads. Dropping it stops them and waits.
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    handles: Vec<JoinHandle<()>>,
    shared: Vec<Arc<Shared>>,
    ended: mpsc::UnboundedReceiver<Error>,
}

impl Threads {
    /// # Errors
    /// A thread or a secret cannot be had.
    pub(crate) fn start(
        workers: Vec<Vec<Box<dyn PacketIo>>>,
        foreign: Foreign,
        config: &MuxConfig,
        published: &Arc<ArcSwap<Policy>>,
    ) -> Result<Self, Error> {
        let (sender, ended) = mpsc::unbounded_channel();
        let mut threads = Self {
            stop: Arc::new(AtomicBool::new(false)),
            wakers: Vec::new(),
            handles: Vec::new(),
            shared: Vec::new(),
            ended,
        };
        let secret = secret().map_err(Error::Random)?;
        let count = workers.len();
        let capacity = (config.flow_capacity / count.max(1)).max(1);
        for (index, ports) in workers.into_iter().enumerate() {
            let resolver = MuxResolver::new(Arc::clone(published), secret, foreign);
            let flows = FlowTable::with_probation(capacity, PROBATION.min(capacity));
            let fds: Vec<_> = ports.iter().map(|p| p.fd()).collect();
            let worker = Worker {
                engine: Port::new(resolver, flows),
                ports,
                poller: Poller::new(&fds, IdlePolicy::default()).map_err(Error::Thread)?,
                shared: Arc::new(Mutex::new(Snapshot::default())),
                stop: Arc::clone(&threads.stop),
                segments: Segments::new(),
            };
            let pin = (count > 1).then_some(index);
            threads.spawn(index, worker, pin, sender.clone())?;
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        index: usize,
        worker: Worker,
        pin: Option<usize>,
        ended: mpsc::UnboundedSender<Error>,
    ) -> Result<(), Error> {
        self.wakers.push(worker.poller.waker());
        self.shared.push(Arc::clone(&worker.shared));
        let obituary = Obituary { worker: index, reason: "it panicked".to_owned(), ended };
        let body = move || {
            // Whole, so that it is dropped at the end of the thread and not before.
            let mut obituary = obituary;
            if let Some(core) = pin {
                pin_to(core);
            }
            obituary.reason = match worker.run() {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => error.to_string(),
            };
        };
        let handle = std::thread::Builder::new().name(format!("mux-{index}")).spawn(body).map_err(Error::Thread)?;
        self.handles.push(handle);
        Ok(())
    }

    pub(crate) fn shared(&self) -> impl Iterator<Item = &Shared> {
        self.shared.iter().map(Arc::as_ref)
    }

    /// Waits until a worker ends, which none does unless told.
    pub(crate) async fn ended(&mut self) -> Error {
        match self.ended.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wakers.iter().for_each(Waker::wake);
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a mux worker panicked");
            }
        }
    }
}

/// Tells of a worker's end, whichever way it ends.
struct Obituary {
    worker: usize,
    reason: String,
    ended: mpsc::UnboundedSender<Error>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let reason = std::mem::take(&mut self.reason);
        // Nobody listens any more when the mux itself stops.
        drop(self.ended.send(Error::Worker { worker: self.worker, reason }));
    }
}

fn pin_to(core: usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Err(error) = pin_this_thread(core % cores) {
        tracing::warn!(%error, core, "a worker could not be pinned");
    }
}

/// The secret of this start's flow tables.
fn secret() -> io::Result<[u64; 2]> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let value = u128::from_le_bytes(bytes);
    Ok([value as u64, (value >> 64) as u64])
}
