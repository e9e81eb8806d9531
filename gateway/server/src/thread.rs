//! The worker thread: started, stopped, and missed when it ends.
use crate::error::Error;
use crate::stats::Shared;
use crate::worker::Worker;
use penstock_packet_io::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Dropping it stops the worker and waits.
pub(crate) struct WorkerThread {
    stop: Arc<AtomicBool>,
    waker: Waker,
    handle: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    ended: oneshot::Receiver<String>,
}

impl WorkerThread {
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(worker: Worker) -> Result<Self, Error> {
        let (stop, waker, shared) = (Arc::clone(&worker.stop), worker.poller.waker(), Arc::clone(&worker.shared));
        let (sender, ended) = oneshot::channel();
        let body = move || {
            let reason = match worker.run() {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            // Nobody listens any more when the gateway itself stops.
            drop(sender.send(reason));
        };
        let handle = std::thread::Builder::new().name("gateway-0".into()).spawn(body).map_err(Error::Thread)?;
        Ok(Self { stop, waker, handle: Some(handle), shared, ended })
    }

    /// Lets the worker see at once what was published.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits until the worker ends, which it does not unless told.
    pub(crate) async fn ended(&mut self) -> Error {
        Error::Worker((&mut self.ended).await.unwrap_or_else(|_| "it panicked".to_owned()))
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if self.handle.take().is_some_and(|h| h.join().is_err()) {
            tracing::error!("the gateway worker panicked");
        }
    }
}
