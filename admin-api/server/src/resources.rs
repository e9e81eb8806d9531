//! Resources and how they change: one writer at a time, all or nothing, each change with its record.
use crate::access::{Caller, Role};
use crate::admit;
use crate::draft::{Change, Draft, Outcome, locate};
use crate::history::{self, Record, UnixMillis};
use crate::refusal::Refusal;
use crate::secrets::Sealer;
use crate::state::{PREFIX, State, StateError};
use crate::tenant;
use penstock_admin_store::{Compare, Operation, Rev, Store, StoreError, Txn};
use penstock_admin_types::intent::Misplaced;
use penstock_admin_types::{ErrorDetail, ResourcePath, adopt_identity, same_content};
use penstock_clock::WallClock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, watch};

/// Each writing transaction compares and bumps this key: what is validated against all resources is committed against the same.
/// Its version is the number of the change.
const SERIAL: &str = "/penstock/serial";
/// The change that is undone unless it is confirmed.
const PENDING: &str = "/penstock/serial/pending";
/// Changes that a reader of [`Resources::records`] may be behind.
const FEED: usize = 256;
/// Between two looks at the time of day, which may jump, while a change waits to be confirmed.
const LOOK: Duration = Duration::from_millis(250);

/// By whom, and how, a change is made.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    pub caller: Caller,
    pub comment: Option<String>,
    /// Check everything and commit nothing.
    pub what_if: bool,
    /// Undo it unless it is confirmed in this time.
    pub confirm_within: Option<Duration>,
}

/// What a change has done, or (what if) would do.
#[derive(Debug)]
pub(crate) struct Applied {
    pub before: Arc<State>,
    pub after: Arc<State>,
    pub outcomes: Vec<Outcome>,
}

/// A change that waits to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// What to go back to.
    pub restores: u64,
    pub deadline: UnixMillis,
    pub author: String,
}

/// Where the writer stands.
#[derive(Debug, Clone, Copy)]
struct Serial {
    rev: Rev,
    number: u64,
    /// The last that this controller has read or written.
    seen: Rev,
}

#[derive(Debug)]
pub(crate) struct Resources {
    store: Arc<dyn Store>,
    sealer: Sealer,
    state: watch::Sender<Arc<State>>,
    pending: watch::Sender<Option<Pending>>,
    records: broadcast::Sender<Arc<Record>>,
    /// One writer at a time; it holds where [`SERIAL`] stands.
    writer: Mutex<Serial>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Resources {
    pub(crate) async fn open(store: Arc<dyn Store>, sealer: Sealer) -> Result<Self, OpenError> {
        let (state, serial, pending) = Self::load(&*store).await?;
        Ok(Self {
            store,
            sealer,
            state: watch::Sender::new(Arc::new(state)),
            pending: watch::Sender::new(pending),
            records: broadcast::Sender::new(FEED),
            writer: Mutex::new(serial),
        })
    }

    async fn load(store: &dyn Store) -> Result<(State, Serial, Option<Pending>), OpenError> {
        let range = store.range(&format!("{PREFIX}/"), None).await?;
        let serial = store.get(SERIAL, Some(range.rev)).await?;
        let serial = serial.map_or((0, 0), |e| (e.mod_rev, e.version));
        let serial = Serial { rev: serial.0, number: serial.1, seen: range.rev };
        let damaged = |e: serde_json::Error| StoreError::Damaged(format!("{PENDING}: {e}"));
        let pending = match store.get(PENDING, Some(range.rev)).await? {
            Some(entry) => Some(serde_json::from_slice(&entry.value).map_err(damaged)?),
            None => None,
        };
        Ok((State::load(serial.number, &range.entries)?, serial, pending))
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(crate) fn pending(&self) -> Option<Pending> {
        self.pending.borrow().clone()
    }

    /// Changes from now on. A reader that is too far behind is told so.
    pub(crate) fn records(&self) -> broadcast::Receiver<Arc<Record>> {
        self.records.subscribe()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// What is wrong with `changes` of which others have no readable name (`problems`): references to what might be one of
    /// those are left out. Commits nothing.
    pub(crate) fn refuse(
        &self,
        caller: &Caller,
        changes: &[Change],
        problems: Vec<ErrorDetail>,
        unnamed: &(dyn Fn(&ResourcePath) -> bool + Sync),
    ) -> Refusal {
        let before = self.state();
        if let Err(refusal) = tenant::own_paths(caller, &before, changes) {
            return refusal;
        }
        let mut draft = Draft::new(&before);
        draft.problems = problems;
        let all = draft.all(changes, &self.sealer).err();
        let refusal = all
            .or_else(|| draft.finish(&before, changes, &self.sealer, unnamed).err())
            .unwrap_or_else(|| Refusal::Internal("refused without a reason".to_owned()));
        tenant::discreet(caller, &before, refusal)
    }

    /// All changes or none.
    pub(crate) async fn apply(&self, changes: Vec<Change>, manner: Manner) -> Result<Applied, Refusal> {
        let mut serial = self.writer.lock().await;
        let before = self.state();
        tenant::own_paths(&manner.caller, &before, &changes)?;
        let mut draft = Draft::new(&before);
        let discreet = |refusal| tenant::discreet(&manner.caller, &before, refusal);
        let outcomes = draft.all(&changes, &self.sealer).map_err(discreet)?;
        let after = draft.finish(&before, &changes, &self.sealer, &|_| false).map_err(discreet)?;
        tenant::check(&manner.caller, &before, &after, &changes)?;
        if manner.what_if {
            return Ok(Applied { before, after: Arc::new(after), outcomes });
        }
        self.none_pending().map_err(discreet)?;
        let after = self.commit(&mut serial, &before, after, manner, false).await?;
        Ok(Applied { before, after, outcomes })
    }

    /// Makes all resources again what they were after change `to`.
    pub(crate) async fn roll_back(&self, to: u64, manner: Manner) -> Result<Applied, Refusal> {
        let mut serial = self.writer.lock().await;
        let before = self.state();
        if !manner.what_if {
            self.none_pending()?;
        }
        let after = self.restored(&before, to).await?;
        // An unconfirmed change is undone in any case: that gives back what was there a moment ago.
        let refused = admit::refused(&before, &after, &self.sealer)?;
        if !refused.is_empty() {
            return Err(invalid(&before, refused));
        }
        if manner.what_if {
            return Ok(Applied { before, after: Arc::new(after), outcomes: Vec::new() });
        }
        let after = self.commit(&mut serial, &before, after, manner, false).await?;
        Ok(Applied { before, after, outcomes: Vec::new() })
    }

    async fn restored(&self, before: &State, to: u64) -> Result<State, Refusal> {
        let mut documents = history::documents_at(&*self.store, &before.documents, before.rev, to).await?;
        for (path, document) in &mut documents {
            match before.documents.get(path) {
                Some(now) if Arc::ptr_eq(now, document) => {}
                Some(now) if same_content(now, document) => *document = now.clone(),
                now => {
                    let mut restored = (**document).clone();
                    // A secret that was not there then goes, too.
                    adopt_identity(path.kind(), &mut restored, now.map(|n| &**n), &mut mint);
                    *document = Arc::new(restored);
                }
            }
        }
        State::new(before.rev, documents).map_err(|misplaced| invalid(before, misplaced))
    }

    fn none_pending(&self) -> Result<(), Refusal> {
        match self.pending() {
            None => Ok(()),
            Some(p) => Err(Refusal::ConfirmationPending { author: p.author, deadline: p.deadline.to_string() }),
        }
    }

    /// Keeps the change that waits.
    pub(crate) async fn confirm(&self) -> Result<u64, Refusal> {
        let mut serial = self.writer.lock().await;
        if self.pending().is_none() {
            return Err(Refusal::NotFound("no change waits to be confirmed".to_owned()));
        }
        // The serial is compared and not bumped: nothing changes but that the change stays.
        let compares = vec![Compare::ModRev { key: SERIAL.to_owned(), is: serial.rev }];
        let txn = Txn { compares, then: vec![Operation::delete(PENDING)], otherwise: Vec::new() };
        let result = self.store.txn(txn).await?;
        if !result.succeeded {
            self.reload(&mut serial).await?;
            return Err(Refusal::Conflict);
        }
        serial.seen = result.rev;
        self.pending.send_replace(None);
        Ok(serial.number)
    }

    async fn commit(
        &self,
        serial: &mut Serial,
        before: &Arc<State>,
        after: State,
        manner: Manner,
        settles_pending: bool,
    ) -> Result<Arc<State>, Refusal> {
        let steps = Record::steps(&before.documents, &after.documents);
        if steps.is_empty() && !settles_pending {
            return Ok(before.clone());
        }
        let number = serial.number + 1;
        let at = UnixMillis::of(WallClock::now());
        let record = Record { number, at, author: manner.caller.name.clone(), comment: manner.comment, steps };
        let pending = manner.confirm_within.map(|within| Pending {
            restores: serial.number,
            deadline: at.plus(within),
            author: manner.caller.name,
        });
        let mut operations = resource_operations(&record)?;
        operations.extend(record.operations()?);
        operations.push(Operation::put(SERIAL, ""));
        if let Some(pending) = &pending {
            let bytes = serde_json::to_vec(pending).map_err(|e| Refusal::Internal(e.to_string()))?;
            operations.push(Operation::put(PENDING, bytes));
        } else if settles_pending {
            operations.push(Operation::delete(PENDING));
        }
        let compares = vec![Compare::ModRev { key: SERIAL.to_owned(), is: serial.rev }];
        let result = self.store.txn(Txn { compares, then: operations, otherwise: Vec::new() }).await?;
        if !result.succeeded {
            self.reload(serial).await?;
            return Err(Refusal::Conflict);
        }
        *serial = Serial { rev: result.rev, number, seen: result.rev };
        let after = Arc::new(State { rev: number, ..after });
        self.pending.send_replace(pending);
        self.state.send_replace(after.clone());
        // Nobody may be listening.
        let _ = self.records.send(Arc::new(record));
        Ok(after)
    }

    async fn reload(&self, serial: &mut Serial) -> Result<(), Refusal> {
        let (state, now, pending) = Self::load(&*self.store).await.map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let missed = history::records(&*self.store, serial.number, now.number).await?;
        *serial = now;
        self.pending.send_replace(pending);
        self.state.send_replace(Arc::new(state));
        for record in missed.into_iter().flatten() {
            let _ = self.records.send(Arc::new(record));
        }
        Ok(())
    }

    /// Undoes what is not confirmed in time. Never returns.
    pub(crate) async fn undo_unconfirmed(&self) {
        let mut waits = self.pending.subscribe();
        loop {
            let Some(pending) = waits.borrow_and_update().clone() else {
                if waits.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let left = UnixMillis::of(WallClock::now()).until(pending.deadline);
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
            if let Err(error) = self.undo(&pending).await {
                tracing::error!(?error, restores = pending.restores, "an unconfirmed change is not undone yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn undo(&self, pending: &Pending) -> Result<(), Refusal> {
        let mut serial = self.writer.lock().await;
        // Confirmed, or undone by another controller, while this one waited.
        if self.pending().as_ref() != Some(pending) {
            return Ok(());
        }
        let before = self.state();
        let after = self.restored(&before, pending.restores).await?;
        let comment = format!("revision {} of {} was not confirmed in time", serial.number, pending.author);
        tracing::warn!(restores = pending.restores, "{comment}: undone");
        let manner = Manner { caller: itself(), comment: Some(comment), what_if: false, confirm_within: None };
        self.commit(&mut serial, &before, after, manner, true).await.map(drop)
    }

    /// Follows changes that others make to the same store. Returns when the store is closed.
    pub(crate) async fn follow(&self) {
        let mut from = self.writer.lock().await.rev + 1;
        loop {
            let mut watch = match self.store.watch(SERIAL, from).await {
                Ok(watch) => watch,
                Err(StoreError::Compacted { oldest }) => {
                    from = oldest + 1;
                    let mut serial = self.writer.lock().await;
                    if self.reload(&mut serial).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(_) => return,
            };
            while let Some(batch) = watch.next().await {
                from = batch.rev + 1;
                let mut serial = self.writer.lock().await;
                if batch.rev > serial.seen
                    && let Err(e) = self.reload(&mut serial).await
                {
                    tracing::error!(error = ?e, "resources changed elsewhere and cannot be read; the last known ones stand");
                }
            }
            // A watch ends when it fell behind, or with the store: then this read fails too.
            if self.store.get(SERIAL, None).await.is_err() {
                return;
            }
        }
    }
}

/// What is wrong, and not with a body that was sent.
fn invalid(state: &State, misplaced: Vec<Misplaced>) -> Refusal {
    Refusal::Invalid(misplaced.into_iter().map(|m| locate(m, &state.documents, &[])).collect())
}

fn resource_operations(record: &Record) -> Result<Vec<Operation>, Refusal> {
    let mut out = Vec::with_capacity(record.steps.len());
    for step in &record.steps {
        let key = format!("{PREFIX}{}", step.path);
        out.push(match &step.after {
            Some(document) => {
                let bytes = serde_json::to_vec(&**document).map_err(|e| Refusal::Internal(e.to_string()))?;
                Operation::put(key, bytes)
            }
            None => Operation::delete(key),
        });
    }
    Ok(out)
}

/// The controller, where it acts by itself.
fn itself() -> Caller {
    Caller { name: "penstock".to_owned(), role: Role::Operator, tenant: None, from: None, token: None }
}

pub(crate) fn mint() -> String {
    uuid::Uuid::new_v4().to_string()
}
