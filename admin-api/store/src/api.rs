use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// A revision of the whole store: grows by one with each transaction that changes something.
pub type Rev = u64;

/// What one transaction may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub operations: usize,
    /// Of keys and values together.
    pub bytes: usize,
}

/// Time since an arbitrary start, for leases.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store was compacted up to revision {oldest}: read everything again")]
    Compacted { oldest: Rev },
    #[error("revision {asked} has not been reached: the store is at {current}")]
    Future { asked: Rev, current: Rev },
    #[error("a transaction of {given} {what}: at most {max}")]
    TooLarge { what: &'static str, given: usize, max: usize },
    #[error("a transaction writes key {0} twice")]
    DuplicateKey(String),
    #[error("there is no lease {0:?}")]
    NoLease(LeaseId),
    #[error("the store is closed")]
    Closed,
    #[error("the store's file is damaged: {0}")]
    Damaged(String),
    #[error("the store's file {0} is open in another process")]
    Locked(String),
    #[error("the store's file {path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("the store's file {path}: {error}")]
    Open { path: String, error: rusqlite::Error },
    /// The outcome of what was asked is not known.
    #[error("the store cannot be asked: {0}")]
    Unavailable(String),
    #[error("the store has no room left: {0}")]
    Full(String),
    #[error("the store refused it: {0}")]
    Refused(String),
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub create_rev: Rev,
    pub mod_rev: Rev,
    /// Changes since the key was created, from 1.
    pub version: u64,
    pub lease: Option<LeaseId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// All keys of a prefix as they stood at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub rev: Rev,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's last change; 0: the key is absent.
    ModRev {
        key: String,
        is: Rev,
    },
    /// 0: the key is absent.
    Version {
        key: String,
        is: u64,
    },
    Value {
        key: String,
        is: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

impl Operation {
    #[must_use]
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    #[must_use]
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn value(&self) -> &[u8] {
        match self {
            Self::Put { value, .. } => value,
            Self::Delete { .. } => &[],
        }
    }

    pub(crate) fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Put { lease, .. } => *lease,
            Self::Delete { .. } => None,
        }
    }
}

/// If all compares hold, `then`; else `otherwise`. Either at one revision, wholly or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Operation>,
    pub otherwise: Vec<Operation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnResult {
    pub succeeded: bool,
    /// The revision of the change, or the current one when nothing changed.
    pub rev: Rev,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Delete { key: String },
}

impl Event {
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// All changes of one revision that the watch is for: a transaction is never split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub rev: Rev,
    pub events: Vec<Event>,
}

/// Batches in order of revision, without gaps. It ends when the reader falls behind by more than its buffer or the store
/// closes: watch again from the revision after the last one seen.
#[derive(Debug)]
pub struct Watch {
    pub(crate) receiver: mpsc::Receiver<Batch>,
}

impl Watch {
    pub async fn next(&mut self) -> Option<Batch> {
        self.receiver.recv().await
    }
}

/// etcd's semantics; one implementation is embedded, the other is etcd.
pub trait Store: std::fmt::Debug + Send + Sync {
    fn limits(&self) -> Limits;

    /// [`StoreError::Full`] while there is less room than what has to be written in any case may need: then operators' changes are not
    /// taken any more.
    fn room(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The key as it stands, or stood at a revision.
    fn get(&self, key: &str, at: Option<Rev>) -> Answer<'_, Option<Entry>>;

    /// All keys with a prefix, in order, at one revision.
    fn range(&self, prefix: &str, at: Option<Rev>) -> Answer<'_, Range>;

    fn txn(&self, txn: Txn) -> Answer<'_, TxnResult>;

    /// Changes of keys with a prefix from revision `from` on, that one included.
    fn watch(&self, prefix: &str, from: Rev) -> Answer<'_, Watch>;

    /// Keys put with the lease are deleted when it has not been kept alive for `ttl`.
    fn lease(&self, ttl: Duration) -> Answer<'_, LeaseId>;

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Deletes the lease and its keys.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Forgets what was before `rev`; reads and watches from there on still work.
    fn compact(&self, rev: Rev) -> Answer<'_, ()>;
}
