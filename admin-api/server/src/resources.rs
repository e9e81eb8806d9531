//! Resources and how they change: one writer at a time, all or nothing, each change with its record.
#[cfg(test)]
pub(crate) mod testing;

use crate::access::Caller;
use crate::admit;
use crate::draft::{Change, Draft, Outcome, locate};
use crate::history::{self, Record, UnixMillis};
use crate::pending::{PENDING, Pending, Waiting};
use crate::quota;
use crate::refusal::Refusal;
use crate::secrets::Sealer;
use crate::state::{PREFIX, State, StateError};
use crate::tenant;
use penstock_admin_store::{Entry, Operation, Rev, Store, StoreError, Txn};
use penstock_admin_types::intent::Misplaced;
use penstock_admin_types::{ErrorDetail, ResourcePath, adopt_identity, same_content};
use penstock_clock::WallClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, watch};

/// Each writing transaction compares and bumps this key: what is validated against all resources is committed against the same.
/// Its value is the number of the change.
pub(crate) const SERIAL: &str = "/penstock/serial";
/// Changes that a reader of [`Resources::records`] may be behind.
const FEED: usize = 256;
/// Changes after which what was before as many of them is forgotten by the store: readers of a past revision have that long.
const COMPACT_EVERY: u64 = 256;
/// Of a change, while other controllers make theirs.
const TRIES: usize = 32;
/// Changes of others that are read one by one; more of them, and everything is read anew.
const REPLAYED: u64 = 64;
/// After a store that cannot be asked.
const RETRY: Duration = Duration::from_millis(500);
/// Tries to learn what became of a change.
const SETTLING: usize = 10;

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

/// Where the writer stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serial {
    pub(crate) rev: Rev,
    pub(crate) number: u64,
    /// The last that this controller has read or written.
    pub(crate) seen: Rev,
}

#[derive(Debug)]
pub(crate) struct Resources {
    store: Arc<dyn Store>,
    sealer: Sealer,
    state: watch::Sender<Arc<State>>,
    pending: watch::Sender<Option<Waiting>>,
    /// Whether this controller leads: of several, that one undoes what is not confirmed.
    leads: watch::Sender<bool>,
    records: broadcast::Sender<Arc<Record>>,
    /// One writer at a time; it holds where [`SERIAL`] stands.
    pub(crate) writer: Mutex<Serial>,
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
            leads: watch::Sender::new(false),
            records: broadcast::Sender::new(FEED),
            writer: Mutex::new(serial),
        })
    }

    async fn load(store: &dyn Store) -> Result<(State, Serial, Option<Waiting>), OpenError> {
        let range = store.range(&format!("{PREFIX}/"), None).await?;
        let (serial, pending) = Self::head(store, Some(range.rev)).await?;
        Ok((State::load(serial.number, &range.entries)?, serial, pending))
    }

    /// Where the store stands.
    async fn head(store: &dyn Store, at: Option<Rev>) -> Result<(Serial, Option<Waiting>), StoreError> {
        let range = store.range(SERIAL, at).await?;
        let (mut serial, mut pending) = (Serial { rev: 0, number: 0, seen: range.rev }, None);
        for entry in range.entries {
            match entry.key.as_str() {
                SERIAL => {
                    serial.rev = entry.mod_rev;
                    serial.number = number(&entry)?;
                }
                PENDING => pending = Some(Waiting::read(&entry)?),
                _ => {}
            }
        }
        Ok((serial, pending))
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(crate) fn pending(&self) -> Option<Pending> {
        self.waiting().map(|w| w.change)
    }

    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.pending.borrow().clone()
    }

    pub(crate) fn watch_pending(&self) -> watch::Receiver<Option<Waiting>> {
        self.pending.subscribe()
    }

    pub(crate) fn set_pending(&self, waiting: Option<Waiting>) {
        self.pending.send_replace(waiting);
    }

    pub(crate) fn watch_lead(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// From now on this controller leads, or does not.
    pub(crate) fn lead(&self, leads: bool) {
        self.leads.send_replace(leads);
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
        let mut draft = Draft::new(&before, caller);
        draft.problems = problems;
        let all = draft.all(changes, &self.sealer).err();
        let refusal = all
            .or_else(|| draft.finish(&before, changes, &self.sealer, unnamed).err())
            .unwrap_or_else(|| Refusal::Internal("refused without a reason".to_owned()));
        tenant::discreet(caller, &before, refusal)
    }

    /// All changes or none. Where another controller was faster, again on what that has made.
    pub(crate) async fn apply(&self, changes: Vec<Change>, manner: Manner) -> Result<Applied, Refusal> {
        let mut serial = self.writer.lock().await;
        for _ in 1..TRIES {
            match self.try_to_apply(&mut serial, &changes, manner.clone()).await {
                Err(Refusal::Conflict) => {}
                done => return done,
            }
        }
        self.try_to_apply(&mut serial, &changes, manner).await
    }

    async fn try_to_apply(&self, serial: &mut Serial, changes: &[Change], manner: Manner) -> Result<Applied, Refusal> {
        let before = self.state();
        tenant::own_paths(&manner.caller, &before, changes)?;
        let mut draft = Draft::new(&before, &manner.caller);
        let discreet = |refusal| tenant::discreet(&manner.caller, &before, refusal);
        let outcomes = draft.all(changes, &self.sealer).map_err(discreet)?;
        let after = draft.finish(&before, changes, &self.sealer, &|_| false).map_err(discreet)?;
        tenant::check(&manner.caller, &before, &after, changes)?;
        let quota = quota::of(&*self.store, &manner.caller).await?;
        quota::check(&manner.caller, quota.as_ref(), &before, &after)?;
        if manner.what_if {
            return Ok(Applied { before, after: Arc::new(after), outcomes });
        }
        self.none_pending().map_err(discreet)?;
        self.store.room().await?;
        let after = self.commit(serial, &before, after, manner, None).await?;
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
        let after = self.commit(&mut serial, &before, after, manner, None).await?;
        Ok(Applied { before, after, outcomes: Vec::new() })
    }

    pub(crate) async fn restored(&self, before: &State, to: u64) -> Result<State, Refusal> {
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

    /// `settles`: the change that waits to be confirmed, which is undone by this.
    pub(crate) async fn commit(
        &self,
        serial: &mut Serial,
        before: &Arc<State>,
        after: State,
        manner: Manner,
        settles: Option<&Waiting>,
    ) -> Result<Arc<State>, Refusal> {
        let steps = Record::steps(&before.documents, &after.documents);
        if steps.is_empty() && settles.is_none() {
            return Ok(before.clone());
        }
        let number = serial.number + 1;
        let at = UnixMillis::of(WallClock::now());
        let record = Record { number, at, author: manner.caller.name.clone(), comment: manner.comment, steps };
        let pending = manner.confirm_within.map(|within| Pending::new(serial.number, at, within, manner.caller.name));
        let mut operations = resource_operations(&record)?;
        operations.extend(record.operations()?);
        operations.push(Operation::put(SERIAL, number.to_string()));
        let mut compares = vec![serial.stands()];
        if let Some(pending) = &pending {
            operations.push(pending.put()?);
        } else if let Some(waiting) = settles {
            // It may have been confirmed, which changes the serial not at all.
            compares.push(waiting.is_there());
            operations.push(Operation::delete(PENDING));
        }
        let result = match self.store.txn(Txn { compares, then: operations, otherwise: Vec::new() }).await {
            Err(error @ StoreError::Unavailable(_)) => {
                let after = State { rev: number, ..after };
                return self.settle(serial, &record, after, error).await;
            }
            result => result?,
        };
        if !result.succeeded {
            self.reload(serial).await?;
            return Err(Refusal::Conflict);
        }
        *serial = Serial { rev: result.rev, number, seen: result.rev };
        let after = Arc::new(State { rev: number, ..after });
        self.set_pending(pending.map(|change| Waiting { rev: result.rev, due: change.deadline, change }));
        self.state.send_replace(after.clone());
        // Nobody may be listening.
        let _ = self.records.send(Arc::new(record));
        if number.is_multiple_of(COMPACT_EVERY)
            && let Err(error) = self.forget(number - COMPACT_EVERY).await
        {
            tracing::warn!(%error, "old revisions of the store are not forgotten yet");
        }
        Ok(after)
    }

    /// Has the store forget what was before a change. Its record and those after it stay: they are keys of their own.
    async fn forget(&self, before: u64) -> Result<(), StoreError> {
        match self.store.get(&history::key(before), None).await? {
            Some(record) => match self.store.compact(record.mod_rev).await {
                // The leader, or etcd itself, has done more.
                Err(StoreError::Compacted { .. }) => Ok(()),
                done => done,
            },
            None => Ok(()),
        }
    }

    /// A change was sent to the store, which has not said what became of it: its record says so, if it is there.
    /// What it made is the answer also where the rest of the store cannot be read now: the watch brings that.
    async fn settle(
        &self,
        serial: &mut Serial,
        record: &Record,
        after: State,
        error: StoreError,
    ) -> Result<Arc<State>, Refusal> {
        let unknown = |_| Refusal::Unavailable(format!("it is not known whether this was done: {error}"));
        let mut found = history::record(&*self.store, record.number).await;
        for _ in 0..SETTLING {
            if !matches!(found, Err(StoreError::Unavailable(_))) {
                break;
            }
            tokio::time::sleep(RETRY).await;
            found = history::record(&*self.store, record.number).await;
        }
        match found.map_err(unknown)? {
            Some(found) => match (found.is(record), self.reload(serial).await) {
                (true, Ok(())) => Ok(self.state()),
                (true, Err(_)) => Ok(Arc::new(after)),
                (false, reloaded) => reloaded.and(Err(Refusal::Conflict)),
            },
            None => Err(unknown(StoreError::Closed)),
        }
    }

    /// Takes in what other controllers have changed.
    pub(crate) async fn reload(&self, serial: &mut Serial) -> Result<(), Refusal> {
        let unavailable = |e: OpenError| Refusal::Unavailable(e.to_string());
        let (now, pending) = Self::head(&*self.store, None).await?;
        if now.number < serial.number {
            return Err(Refusal::Unavailable(format!(
                "the store has revision {} after {}: it is not the one that it was, and is not followed",
                now.number, serial.number
            )));
        }
        let missed = match now.number - serial.number {
            0..=REPLAYED => history::records(&*self.store, serial.number, now.number).await?,
            _ => None,
        };
        let (state, now, pending) = match missed.clone() {
            Some(records) => {
                let mut documents = self.state().documents.clone();
                records.into_iter().try_for_each(|r| r.replay(&mut documents))?;
                let state = State::of(now.number, documents).map_err(|e| unavailable(e.into()))?;
                (state, now, pending)
            }
            None => Self::load(&*self.store).await.map_err(unavailable)?,
        };
        *serial = now;
        let heard = UnixMillis::of(WallClock::now());
        let known = self.waiting();
        self.set_pending(pending.map(|waiting| waiting.heard(known.as_ref(), heard)));
        self.state.send_replace(Arc::new(state));
        for record in missed.into_iter().flatten() {
            let _ = self.records.send(Arc::new(record));
        }
        Ok(())
    }

    /// Reads what is in the store now.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let mut serial = self.writer.lock().await;
        self.reload(&mut serial).await.map_err(|refusal| StoreError::Unavailable(refusal.into_parts().1.message))
    }

    /// Follows changes that others make to the same store. Returns when the store is closed.
    pub(crate) async fn follow(&self) {
        let mut from = self.writer.lock().await.rev + 1;
        loop {
            match self.follow_from(&mut from).await {
                Ok(()) => {}
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the store is not followed now; the last known resources stand");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Until the watch ends, because it fell behind or with what it came from.
    async fn follow_from(&self, from: &mut Rev) -> Result<(), StoreError> {
        let mut watch = match self.store.watch(SERIAL, *from).await {
            Err(StoreError::Compacted { oldest }) => {
                *from = oldest + 1;
                return self.catch_up().await;
            }
            watch => watch?,
        };
        while let Some(batch) = watch.next().await {
            if batch.rev > self.writer.lock().await.seen {
                self.catch_up().await?;
            }
            *from = batch.rev + 1;
        }
        self.store.get(SERIAL, None).await.map(drop)
    }
}

/// Stores that were written before the number was the value have it as the version.
pub(crate) fn number(serial: &Entry) -> Result<u64, StoreError> {
    if serial.value.is_empty() {
        return Ok(serial.version);
    }
    let text = String::from_utf8_lossy(&serial.value);
    text.parse().map_err(|_| StoreError::Damaged(format!("{}: '{text}' is not a number", serial.key)))
}

/// What is wrong, and not with a body that was sent.
pub(crate) fn invalid(state: &State, misplaced: Vec<Misplaced>) -> Refusal {
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

pub(crate) fn mint() -> String {
    uuid::Uuid::new_v4().to_string()
}
