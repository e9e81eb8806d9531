use crate::{LeaseId, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Deadlines of leases. In memory: keeping alive costs no write. After a restart every lease gets its whole time again.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    all: BTreeMap<LeaseId, (Duration, Duration)>,
}

impl Leases {
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        self.all.insert(id, (ttl, now + ttl));
    }

    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<(), StoreError> {
        let (ttl, deadline) = self.all.get_mut(&id).ok_or(StoreError::NoLease(id))?;
        *deadline = now + *ttl;
        Ok(())
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.all.contains_key(&id)
    }

    pub(crate) fn remove(&mut self, id: LeaseId) -> Result<(), StoreError> {
        self.all.remove(&id).map(drop).ok_or(StoreError::NoLease(id))
    }

    pub(crate) fn expired(&self, now: Duration) -> Vec<LeaseId> {
        self.all.iter().filter(|(_, (_, deadline))| *deadline <= now).map(|(id, _)| *id).collect()
    }

    /// Until the first deadline.
    pub(crate) fn wait(&self, now: Duration) -> Option<Duration> {
        self.all.values().map(|(_, deadline)| deadline.saturating_sub(now)).min()
    }
}
