use crate::{Compare, Event, LeaseId, Operation, Rev, Store, StoreError, Txn};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two tries after the store could not be asked.
const RETRY: Duration = Duration::from_millis(250);
/// A watch may end unseen with its member: looked again after this time.
const LOOK: Duration = Duration::from_secs(2);

/// One of several may act: whoever holds a key that hangs on a lease.
#[derive(Debug, Clone)]
pub struct Election {
    pub store: Arc<dyn Store>,
    pub key: String,
    /// What others read of the leader.
    pub value: Vec<u8>,
    /// In which a leader that is gone is noticed.
    pub ttl: Duration,
    /// Time since an arbitrary start; it goes on while the process stands still.
    pub clock: fn() -> Duration,
}

/// The right to act, as long as [`Leadership::hold`] runs.
///
/// A process that stood still does not know that it has lost it. So each write of a leader compares with [`Leadership::fence`], in the
/// same transaction: the store itself refuses what a former leader writes.
#[derive(Debug)]
pub struct Leadership {
    store: Arc<dyn Store>,
    key: String,
    lease: LeaseId,
    fence: Rev,
    ttl: Duration,
    clock: fn() -> Duration,
    until: Mutex<Duration>,
}

impl Election {
    /// Waits until this one leads. What the store fails at is tried again.
    pub async fn win(&self) -> Leadership {
        loop {
            let tried = async {
                self.vacancy().await?;
                self.take().await
            };
            match tried.await {
                Ok(Some(won)) => return won,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no leader can be elected now");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// What the leader says of itself, if there is one.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn leader(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.store.get(&self.key, None).await?.map(|e| e.value))
    }

    /// Returns when nobody leads.
    async fn vacancy(&self) -> Result<(), StoreError> {
        loop {
            let Some(held) = self.store.get(&self.key, None).await? else { return Ok(()) };
            let mut watch = self.store.watch(&self.key, held.mod_rev + 1).await?;
            let vacant = async {
                while let Some(batch) = watch.next().await {
                    if batch.events.iter().any(|e| matches!(e, Event::Delete { key } if *key == self.key)) {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(LOOK, vacant).await;
        }
    }

    async fn take(&self) -> Result<Option<Leadership>, StoreError> {
        let asked = (self.clock)();
        let lease = self.store.lease(self.ttl).await?;
        let put = Operation::Put { key: self.key.clone(), value: self.value.clone(), lease: Some(lease) };
        let txn = Txn {
            compares: vec![Compare::Version { key: self.key.clone(), is: 0 }],
            then: vec![put],
            otherwise: Vec::new(),
        };
        match self.store.txn(txn).await {
            Ok(result) if result.succeeded => Ok(Some(Leadership {
                store: self.store.clone(),
                key: self.key.clone(),
                lease,
                fence: result.rev,
                ttl: self.ttl,
                clock: self.clock,
                until: Mutex::new(asked + self.ttl),
            })),
            other => {
                // Also where nobody knows whether it was done: a key without its lease goes.
                let _ = self.store.revoke(lease).await;
                other.map(|_| None)
            }
        }
    }
}

impl Leadership {
    /// Holds for this leader and for none after it.
    #[must_use]
    pub fn fence(&self) -> Compare {
        Compare::ModRev { key: self.key.clone(), is: self.fence }
    }

    /// Grows from leader to leader.
    #[must_use]
    pub fn term(&self) -> Rev {
        self.fence
    }

    /// Whether nobody else can lead yet. Only [`Leadership::fence`] can say so of a later moment.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.left().is_zero()
    }

    fn left(&self) -> Duration {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).saturating_sub((self.clock)())
    }

    /// Keeps it. Returns when it is lost.
    pub async fn hold(&self) {
        let mut pause = self.ttl / 4;
        loop {
            tokio::time::sleep(pause).await;
            let asked = (self.clock)();
            // Short enough for several members to be asked in turn: the store goes on to the next when it is not waited for any longer.
            let patience = self.left().min(self.ttl / 4);
            match tokio::time::timeout(patience, self.store.keep_alive(self.lease)).await {
                Ok(Ok(())) => {
                    *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + self.ttl;
                    pause = self.ttl / 4;
                }
                Ok(Err(StoreError::NoLease(_))) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the leadership is not kept alive yet");
                    pause = RETRY.min(self.ttl / 8);
                }
                Err(_) => pause = RETRY.min(self.ttl / 8),
            }
            if !self.is_valid() {
                return;
            }
        }
    }

    /// Gives it up at once, for another to take.
    pub async fn resign(&self) {
        if let Err(error) = self.store.revoke(self.lease).await {
            tracing::debug!(%error, "the leadership ends with its lease");
        }
    }
}
