//! Where does the controller keep what it was told, so that nothing is lost or half seen?
//!
//! [`Store`] has etcd's semantics: every change has a revision, transactions compare and set several keys at once, a watch
//! is ordered, complete and can be resumed from a revision, keys may hang on a lease. [`SqliteStore`] is the embedded one,
//! [`EtcdStore`] the one that several controllers share; of those [`Election`] makes one the leader. [`migrate`] moves a site from
//! the first to the second. It knows no resources: keys and values are bytes in order.
//!
//! Order of calls: [`SqliteStore::open`] or [`EtcdStore::open`] -> [`Store::range`] gives a snapshot and its revision -> [`Store::watch`] from the
//! revision after it -> [`Store::txn`] with compares on what was read.
//!
//! A failed read is an error, never an empty answer.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod election;
mod etcd;
mod history;
mod lease;
mod limits;
mod migrate;
mod sqlite;
mod watchers;

pub use api::{
    Answer, Batch, Clock, Compare, Entry, Event, LeaseId, Limits, Operation, Range, Rev, Store, StoreError, Txn,
    TxnResult, Watch,
};
pub use election::{Election, Leadership};
pub use etcd::{ETCD_LIMITS, ETCD_QUOTA, EtcdConfig, EtcdStore, EtcdTls};
pub use migrate::migrate;
pub use sqlite::{SqliteStore, WATERMARK};
