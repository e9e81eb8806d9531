use crate::history::{History, LIMITS};
use crate::lease::Leases;
use crate::watchers::Watchers;
use crate::{Answer, Clock, Entry, Event, LeaseId, Limits, Range, Rev, Store, StoreError, Txn, TxnResult, Watch};
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// The embedded store: one SQLite file in WAL mode, synchronous on every commit, owned by one thread.
///
/// What has been answered is on the disk. Dropping the last handle ends the thread.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    jobs: Sender<Job>,
    path: PathBuf,
    watermark: u64,
}

/// Bytes that the file system must have left for operators' changes to be taken. What the controller itself has to keep is written on.
pub const WATERMARK: u64 = 256 << 20;
/// For another process that is about to end.
const LOCKED: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

struct Worker {
    history: History,
    leases: Leases,
    watchers: Watchers,
    clock: Clock,
    /// One process alone.
    _lock: File,
}

impl SqliteStore {
    /// Opens or creates the file. `clock` tells the time for leases.
    ///
    /// # Errors
    /// The file cannot be opened, or is damaged.
    pub async fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let (ready, opened) = oneshot::channel();
        let (path, file) = (path.to_owned(), path.to_owned());
        let spawned =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || match Worker::open(&file, clock) {
                Ok(mut worker) => {
                    if ready.send(Ok(())).is_ok() {
                        worker.run(&queue);
                    }
                }
                Err(e) => drop(ready.send(Err(e))),
            });
        drop(spawned.map_err(|_| StoreError::Closed)?);
        opened.await.map_err(|_| StoreError::Closed)??;
        Ok(Self { jobs, path, watermark: WATERMARK })
    }

    /// With other room to be left than [`WATERMARK`].
    #[must_use]
    pub fn with_watermark(self, watermark: u64) -> Self {
        Self { watermark, ..self }
    }

    /// Writes a copy of a store's file as it is at one moment, but for the keys `without`, also while a controller uses it. Blocks the
    /// thread.
    ///
    /// # Errors
    /// There is no store, or `to` is there already.
    pub fn backup(from: &Path, to: &Path, without: &[&str]) -> Result<(), StoreError> {
        let failed = |error| StoreError::Open { path: from.display().to_string(), error };
        let create = |error| StoreError::File { path: to.display().to_string(), error };
        let db = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        // Nobody else may read it; SQLite takes an empty file for a new one.
        drop(OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(create)?);
        db.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(failed)?;
        let failed = |error| StoreError::Open { path: to.display().to_string(), error };
        let copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        for key in without {
            copy.execute("DELETE FROM history WHERE key = ?1", [key]).map_err(failed)?;
        }
        copy.close().map_err(|(_, error)| failed(error))?;
        File::open(to).and_then(|f| f.sync_all()).map_err(create)
    }

    fn ask<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send(Box::new(move |worker| drop(reply.send(f(worker)))));
        Box::pin(async move {
            sent.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
    }
}

impl Worker {
    fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let history = History::open(path)?;
        let mut leases = Leases::default();
        for (id, ttl) in history.leases()? {
            leases.grant(id, ttl, clock());
        }
        Ok(Self { history, leases, watchers: Watchers::default(), clock, _lock: lock })
    }

    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let job = match self.leases.wait((self.clock)()) {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => queue.recv_timeout(wait),
            };
            match job {
                Ok(job) => job(self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.expire();
        }
    }

    fn expire(&mut self) {
        for id in self.leases.expired((self.clock)()) {
            if let Err(error) = self.end_lease(id) {
                tracing::error!(%error, lease = id.0, "a lease could not be ended");
                // It is not tried in a tight loop; a restart finds the lease in the file.
                let _ = self.leases.remove(id);
            }
        }
    }

    fn end_lease(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let (rev, events) = self.history.end_lease(id)?;
        self.announce(rev, &events);
        self.leases.remove(id)
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResult, StoreError> {
        for operation in txn.then.iter().chain(&txn.otherwise) {
            if let crate::Operation::Put { lease: Some(id), .. } = operation
                && !self.leases.contains(*id)
            {
                return Err(StoreError::NoLease(*id));
            }
        }
        let (result, events) = self.history.txn(txn)?;
        self.announce(result.rev, &events);
        Ok(result)
    }

    fn announce(&mut self, rev: Rev, events: &[Event]) {
        if !events.is_empty() {
            self.watchers.announce(rev, events);
        }
    }
}

/// Beside the file: SQLite itself lets several processes write in turn.
fn lock(path: &Path) -> Result<File, StoreError> {
    let beside = path.with_added_extension("lock");
    let failed = |error| StoreError::File { path: beside.display().to_string(), error };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside).map_err(failed)?;
    let pause = Duration::from_millis(20);
    for _ in 0..LOCKED.as_millis() / pause.as_millis() {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(StoreError::Locked(path.display().to_string()))
}

/// Bytes that are left for a file.
fn free(path: &Path) -> Result<u64, StoreError> {
    let failed = |e: rustix::io::Errno| StoreError::File { path: path.display().to_string(), error: e.into() };
    let found = rustix::fs::statvfs(path).map_err(failed)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

impl Store for SqliteStore {
    fn limits(&self) -> Limits {
        LIMITS
    }

    fn room(&self) -> Answer<'_, ()> {
        let room = free(&self.path).and_then(|free| {
            let path = self.path.display();
            let less = || format!("{} MiB are left for {path}: {} are needed", free >> 20, self.watermark >> 20);
            if free >= self.watermark { Ok(()) } else { Err(StoreError::Full(less())) }
        });
        Box::pin(std::future::ready(room))
    }

    fn get(&self, key: &str, at: Option<Rev>) -> Answer<'_, Option<Entry>> {
        let key = key.to_owned();
        self.ask(move |w| w.history.get(&key, at))
    }

    fn range(&self, prefix: &str, at: Option<Rev>) -> Answer<'_, Range> {
        let prefix = prefix.to_owned();
        self.ask(move |w| w.history.range(&prefix, at))
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnResult> {
        self.ask(move |w| w.txn(&txn))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Answer<'_, Watch> {
        let prefix = prefix.to_owned();
        self.ask(move |w| {
            let missed = w.history.since(&prefix, from)?;
            Ok(Watch { receiver: w.watchers.add(prefix, missed) })
        })
    }

    fn lease(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.ask(move |w| {
            let id = w.history.add_lease(ttl)?;
            w.leases.grant(id, ttl, (w.clock)());
            Ok(id)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.ask(move |w| w.leases.keep_alive(lease, (w.clock)()))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.ask(move |w| {
            if !w.leases.contains(lease) {
                return Err(StoreError::NoLease(lease));
            }
            w.end_lease(lease)
        })
    }

    fn compact(&self, rev: Rev) -> Answer<'_, ()> {
        self.ask(move |w| w.history.compact(rev))
    }
}
