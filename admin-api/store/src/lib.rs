//! Where does the controller keep what it was told, so that nothing is lost or half seen?
//!
//! [`Store`] has etcd's semantics: every change has a revision, transactions compare and set several keys at once, a watch
//! is ordered, complete and can be resumed from a revision, keys may hang on a lease. [`SqliteStore`] is the embedded one.
//! It knows no resources: keys and values are bytes in order.
//!
//! Order of calls: [`SqliteStore::open`] -> [`Store::range`] gives a snapshot and its revision -> [`Store::watch`] from the
//! revision after it -> [`Store::txn`] with compares on what was read.
//!
//! A failed read is an error, never an empty answer.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod history;
mod lease;
mod sqlite;
mod watchers;

pub use api::{
    Answer, Batch, Clock, Compare, Entry, Event, LeaseId, Limits, Operation, Range, Rev, Store, StoreError, Txn,
    TxnResult, Watch,
};
pub use sqlite::SqliteStore;
