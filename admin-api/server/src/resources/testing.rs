//! Several controllers on one store, in one process; and a store whose answers get lost.
use super::{Manner, Resources};
use crate::access::{Caller, Role};
use crate::draft::{Action, Change, Condition};
use crate::secrets::Sealer;
use penstock_admin_store::{
    Answer, Entry, LeaseId, Limits, Range, Rev, SqliteStore, Store, StoreError, Txn, TxnResult, Watch,
};
use penstock_admin_types::ResourcePath;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory that goes with the test.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("penstock-resources-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) async fn store(&self) -> SqliteStore {
        let start = Instant::now();
        let store = SqliteStore::open(&self.0.join("store.db"), Box::new(move || start.elapsed())).await;
        store.unwrap().with_watermark(0)
    }

    pub(crate) async fn controller(&self, store: Arc<dyn Store>, name: &str) -> Resources {
        Resources::open(store, Sealer::open(&self.0.join(name)).unwrap()).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn create(name: &str) -> Vec<Change> {
    let path = ResourcePath::parse(&format!("/virtualServers/{name}")).unwrap();
    let action = Action::Put(json!({"properties": {}}));
    vec![Change { path, action, condition: Condition::None, at: String::new() }]
}

pub(crate) fn manner(confirm_within: Option<Duration>) -> Manner {
    let caller = Caller { name: "alice".to_owned(), role: Role::Operator, tenant: None, from: None, token: None };
    Manner { caller, comment: None, what_if: false, confirm_within }
}

/// The next so many of each fail, after they were done.
#[derive(Debug)]
pub(crate) struct Faults {
    inner: SqliteStore,
    pub(crate) lose_answers: AtomicU32,
    pub(crate) fail_ranges: AtomicU32,
}

impl Faults {
    pub(crate) fn new(inner: SqliteStore) -> Self {
        Self { inner, lose_answers: AtomicU32::new(0), fail_ranges: AtomicU32::new(0) }
    }
}

/// The answer, unless it is one of those that fail.
async fn unless<T>(failing: &AtomicU32, answer: Answer<'_, T>) -> Result<T, StoreError> {
    let answer = answer.await?;
    match failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
        Ok(_) => Err(StoreError::Unavailable("the answer is lost".to_owned())),
        Err(_) => Ok(answer),
    }
}

impl Store for Faults {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn get(&self, key: &str, at: Option<Rev>) -> Answer<'_, Option<Entry>> {
        self.inner.get(key, at)
    }

    fn range(&self, prefix: &str, at: Option<Rev>) -> Answer<'_, Range> {
        Box::pin(unless(&self.fail_ranges, self.inner.range(prefix, at)))
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnResult> {
        Box::pin(unless(&self.lose_answers, self.inner.txn(txn)))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Answer<'_, Watch> {
        self.inner.watch(prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.inner.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.inner.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.inner.revoke(lease)
    }

    fn compact(&self, rev: Rev) -> Answer<'_, ()> {
        self.inner.compact(rev)
    }
}
