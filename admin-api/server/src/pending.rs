//! A change that waits to be confirmed: kept when that comes in time, undone by the controller that leads when it does not.
//!
//! Only what still waits in the store is settled: each transaction compares that. So it does not matter how late a controller hears
//! that a change has been confirmed.
use crate::access::{Caller, Role};
use crate::history::UnixMillis;
use crate::refusal::Refusal;
use crate::resources::{Manner, Resources, SERIAL, Serial};
use penstock_admin_store::{Compare, Entry, Operation, Rev, StoreError, Txn};
use penstock_clock::WallClock;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The change that is undone unless it is confirmed.
pub(crate) const PENDING: &str = "/penstock/serial/pending";
/// Between two looks at the time of day, which may jump, while a change waits to be confirmed.
const LOOK: Duration = Duration::from_millis(250);
/// After a failure to undo it.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// What to go back to.
    pub restores: u64,
    /// By the clock of the controller that took the change.
    pub deadline: UnixMillis,
    /// How long it was given. 0: not known.
    #[serde(default)]
    pub within: u64,
    pub author: String,
}

/// It as one controller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub change: Pending,
    /// Of [`PENDING`] in the store.
    pub rev: Rev,
    /// By this controller's clock.
    pub due: UnixMillis,
}

impl Pending {
    pub(crate) fn new(restores: u64, at: UnixMillis, within: Duration, author: String) -> Self {
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        Self { restores, deadline: at.plus(within), within: millis, author }
    }

    pub(crate) fn put(&self) -> Result<Operation, Refusal> {
        let bytes = serde_json::to_vec(self).map_err(|e| Refusal::Internal(e.to_string()))?;
        Ok(Operation::put(PENDING, bytes))
    }
}

impl Waiting {
    pub(crate) fn read(entry: &Entry) -> Result<Self, StoreError> {
        let damaged = |e: serde_json::Error| StoreError::Damaged(format!("{}: {e}", entry.key));
        let change: Pending = serde_json::from_slice(&entry.value).map_err(damaged)?;
        Ok(Self { rev: entry.mod_rev, due: change.deadline, change })
    }

    /// Of a change that another controller has just made: its clock may be another, so the time is counted from now.
    pub(crate) fn heard(self, known: Option<&Self>, now: UnixMillis) -> Self {
        let due = match known.filter(|known| known.rev == self.rev) {
            Some(known) => known.due,
            None if self.change.within > 0 => now.plus(Duration::from_millis(self.change.within)),
            None => self.due,
        };
        Self { due, ..self }
    }

    /// It waits still.
    pub(crate) fn is_there(&self) -> Compare {
        Compare::ModRev { key: PENDING.to_owned(), is: self.rev }
    }
}

impl Resources {
    /// Keeps the change that waits.
    pub(crate) async fn confirm(&self) -> Result<u64, Refusal> {
        let mut serial = self.writer.lock().await;
        if self.pending().is_none() {
            return Err(Refusal::NotFound("no change waits to be confirmed".to_owned()));
        }
        // The serial is compared and not bumped: nothing changes but that the change stays.
        let compares = vec![serial.stands()];
        let txn = Txn { compares, then: vec![Operation::delete(PENDING)], otherwise: Vec::new() };
        let result = self.store().txn(txn).await?;
        if !result.succeeded {
            self.reload(&mut serial).await?;
            return Err(Refusal::Conflict);
        }
        serial.seen = result.rev;
        self.set_pending(None);
        Ok(serial.number)
    }

    /// Undoes what is not confirmed in time, while this controller leads. Never returns.
    pub(crate) async fn undo_unconfirmed(&self) {
        let (mut waits, mut leads) = (self.watch_pending(), self.watch_lead());
        loop {
            let waiting = waits.borrow_and_update().clone().filter(|_| *leads.borrow_and_update());
            let Some(waiting) = waiting else {
                let changed = tokio::select! {
                    changed = waits.changed() => changed,
                    changed = leads.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                continue;
            };
            let left = UnixMillis::of(WallClock::now()).until(waiting.due);
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
            if let Err(error) = self.undo(&waiting).await {
                tracing::error!(?error, restores = waiting.change.restores, "an unconfirmed change is not undone yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn undo(&self, waiting: &Waiting) -> Result<(), Refusal> {
        let mut serial = self.writer.lock().await;
        // Confirmed, or undone by another controller, while this one waited.
        if self.waiting().as_ref() != Some(waiting) {
            return Ok(());
        }
        let before = self.state();
        let restores = waiting.change.restores;
        let after = self.restored(&before, restores).await?;
        let comment = format!("revision {} of {} was not confirmed in time", serial.number, waiting.change.author);
        let manner = Manner { caller: itself(), comment: Some(comment.clone()), what_if: false, confirm_within: None };
        match self.commit(&mut serial, &before, after, manner, Some(waiting)).await {
            Ok(_) => tracing::warn!(restores, "{comment}: undone"),
            // What the store says now has been read: it is looked at again.
            Err(Refusal::Conflict) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Serial {
    /// Nobody has changed anything since.
    pub(crate) fn stands(&self) -> Compare {
        Compare::ModRev { key: SERIAL.to_owned(), is: self.rev }
    }
}

/// The controller, where it acts by itself.
pub(crate) fn itself() -> Caller {
    Caller { name: "penstock".to_owned(), role: Role::Operator, tenant: None, from: None, token: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history;
    use crate::resources::testing::{Faults, Place, create, manner};
    use penstock_admin_store::Store as _;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

    #[tokio::test]
    async fn what_was_confirmed_is_not_undone_by_a_controller_that_has_not_heard_of_it() {
        let place = Place::new();
        let store = Arc::new(place.store().await);
        let (a, b) = (place.controller(store.clone(), "a").await, place.controller(store, "b").await);
        a.apply(create("one"), manner(MINUTE)).await.unwrap();
        b.catch_up().await.unwrap();
        let waiting = b.waiting().unwrap();
        a.confirm().await.unwrap();
        b.undo(&waiting).await.unwrap();
        for controller in [&a, &b] {
            controller.catch_up().await.unwrap();
            assert_eq!((controller.state().rev, controller.state().documents.len()), (1, 1));
            assert_eq!(controller.pending(), None);
        }
        a.apply(create("two"), manner(MINUTE)).await.unwrap();
        b.catch_up().await.unwrap();
        b.undo(&b.waiting().unwrap()).await.unwrap();
        assert_eq!((b.state().rev, b.state().documents.len(), b.pending()), (3, 1, None), "what waits is undone");
    }

    #[tokio::test]
    async fn old_revisions_of_the_store_are_forgotten_whatever_is_changed() {
        let place = Place::new();
        let store = Arc::new(place.store().await);
        let a = place.controller(store.clone(), "a").await;
        for i in 1..=512 {
            a.apply(create(&format!("s{i}")), manner(None)).await.unwrap();
            if i == 511 {
                store.range("/", Some(1)).await.unwrap();
            }
        }
        let gone = store.range("/", Some(1)).await;
        assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{gone:?}");
        assert_eq!(history::record(&*store, 1).await.unwrap().unwrap().number, 1, "the history stays");
        assert_eq!(a.restored(&a.state(), 1).await.unwrap().documents.len(), 1);
    }

    #[tokio::test]
    async fn the_leader_alone_undoes() {
        let place = Place::new();
        let a = place.controller(Arc::new(place.store().await), "a").await;
        a.apply(create("one"), manner(Some(Duration::from_millis(1)))).await.unwrap();
        let leads_later = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(a.state().documents.len(), 1);
            a.lead(true);
            let start = Instant::now();
            while a.pending().is_some() {
                assert!(start.elapsed() < Duration::from_secs(30));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = a.undo_unconfirmed() => panic!("it ended"),
            () = leads_later => assert!(a.state().documents.is_empty()),
        }
    }

    #[test]
    fn the_time_of_another_controllers_change_is_counted_from_when_it_is_heard_of() {
        let of = |rev, due, within| {
            let change = Pending { restores: 1, deadline: UnixMillis(5_000), within, author: "a".to_owned() };
            Waiting { change, rev, due: UnixMillis(due) }
        };
        let now = UnixMillis(9_000);
        assert_eq!(of(7, 5_000, 2_000).heard(None, now), of(7, 11_000, 2_000), "this clock is ahead of that one");
        assert_eq!(of(7, 5_000, 2_000).heard(Some(&of(7, 6_000, 2_000)), now), of(7, 6_000, 2_000), "heard before");
        assert_eq!(of(7, 5_000, 2_000).heard(Some(&of(6, 6_000, 2_000)), now), of(7, 11_000, 2_000), "another one");
        assert_eq!(of(7, 5_000, 0).heard(None, now), of(7, 5_000, 0), "written by a version that did not say");
    }

    /// The store does what it is told, and the answer is lost; then its head cannot be read.
    #[tokio::test]
    async fn a_change_that_is_known_to_be_done_is_not_called_unavailable() {
        let place = Place::new();
        let store = Arc::new(Faults::new(place.store().await));
        let a = place.controller(store.clone(), "a").await;
        store.lose_answers.store(1, Ordering::Relaxed);
        store.fail_ranges.store(1, Ordering::Relaxed);
        let applied = a.apply(create("one"), manner(None)).await.unwrap();
        assert_eq!((applied.after.rev, applied.after.documents.len()), (1, 1));
        let applied = a.apply(create("two"), manner(None)).await.unwrap();
        assert_eq!((applied.after.rev, applied.after.documents.len()), (2, 2), "nothing is lost by it");
        assert_eq!(a.state().documents.len(), 2);
    }
}
