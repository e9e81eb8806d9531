//! What was changed, by whom: each change of resources leaves a record with everything as it was and as it became.
use crate::refusal::Refusal;
use penstock_admin_store::{Operation, Store, StoreError};
use penstock_admin_types::{ChangeKind, Documents, ResourceChange, ResourcePath, changes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PREFIX: &str = "/penstock/history/";
/// Changes that can be looked at, undone, and resumed from. Each holds the resources that it changed twice.
pub(crate) const KEPT: u64 = 1000;

/// One change. Secrets in it are sealed as in the resources themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// From 1, without gaps.
    pub number: u64,
    pub at: UnixMillis,
    pub author: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub steps: Vec<Step>,
}

/// One top-level resource with its children.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Arc<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Arc<Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct UnixMillis(pub u64);

impl UnixMillis {
    pub(crate) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

impl std::fmt::Display for UnixMillis {
    /// RFC 3339.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(self.0));
        f.write_str(&at.format(&Rfc3339).unwrap_or_default())
    }
}

impl Record {
    /// The documents that differ.
    pub(crate) fn steps(before: &Documents, after: &Documents) -> Vec<Step> {
        let step = |path: &ResourcePath, before: Option<&Arc<Value>>, after: Option<&Arc<Value>>| Step {
            path: path.to_string(),
            before: before.cloned(),
            after: after.cloned(),
        };
        let put = after.iter().filter_map(|(path, now)| {
            let old = before.get(path);
            let same = old.is_some_and(|old| Arc::ptr_eq(old, now) || old == now);
            (!same).then(|| step(path, old, Some(now)))
        });
        let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
        put.chain(gone.map(|(path, old)| step(path, Some(old), None))).collect()
    }

    /// Written with the change, in the same transaction; the oldest goes.
    pub(crate) fn operations(&self) -> Result<Vec<Operation>, Refusal> {
        let bytes = serde_json::to_vec(self).map_err(|e| Refusal::Internal(e.to_string()))?;
        let mut out = vec![Operation::put(key(self.number), bytes)];
        out.extend(self.number.checked_sub(KEPT).map(|old| Operation::delete(key(old))));
        Ok(out)
    }

    pub(crate) fn diff(&self) -> Vec<ResourceChange> {
        let of = |s: &Step| {
            let path = ResourcePath::parse(&s.path).ok()?;
            Some(changes(&path, s.before.as_deref(), s.after.as_deref()))
        };
        self.steps.iter().filter_map(of).flatten().collect()
    }

    /// Whether two are the same change by the same controller: what is in them was made for it alone.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let value = |record: &Self| serde_json::to_value(record).ok();
        value(self) == value(other)
    }

    /// Documents as they are after it.
    pub(crate) fn replay(self, documents: &mut Documents) -> Result<(), StoreError> {
        for step in self.steps {
            let path = ResourcePath::parse(&step.path)
                .map_err(|e| StoreError::Damaged(format!("the record of change {}: {e}", self.number)))?;
            match step.after {
                Some(after) => drop(documents.insert(path, after)),
                None => drop(documents.remove(&path)),
            }
        }
        Ok(())
    }

    /// Without what the resources hold.
    pub(crate) fn summary(&self) -> Value {
        let word = |s: &Step| match (&s.before, &s.after) {
            (None, _) => ChangeKind::Created,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (Some(_), None) => ChangeKind::Deleted,
        };
        let resources: Vec<Value> =
            self.steps.iter().map(|s| json!({"resourceRef": s.path, "change": word(s)})).collect();
        json!({
            "revision": self.number,
            "time": self.at.to_string(),
            "author": self.author,
            "comment": self.comment,
            "resources": resources,
        })
    }
}

pub(crate) fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

pub(crate) async fn record(store: &dyn Store, number: u64) -> Result<Option<Record>, StoreError> {
    let Some(entry) = store.get(&key(number), None).await? else { return Ok(None) };
    serde_json::from_slice(&entry.value)
        .map(Some)
        .map_err(|e| StoreError::Damaged(format!("the record of change {number}: {e}")))
}

/// The records after `from` up to `to`; `None` when some are not kept any more.
pub(crate) async fn records(store: &dyn Store, from: u64, to: u64) -> Result<Option<Vec<Record>>, StoreError> {
    let mut out = Vec::new();
    for number in from + 1..=to {
        match record(store, number).await? {
            Some(found) => out.push(found),
            None => return Ok(None),
        }
    }
    Ok(Some(out))
}

/// Resources as they stood after change `to`, from how they stand after change `now`.
pub(crate) async fn documents_at(
    store: &dyn Store,
    current: &Documents,
    now: u64,
    to: u64,
) -> Result<Documents, Refusal> {
    if to > now {
        return Err(Refusal::NotFound(format!("there is no revision {to}: the latest is {now}")));
    }
    let mut documents = current.clone();
    for number in (to + 1..=now).rev() {
        let record = record(store, number)
            .await?
            .ok_or_else(|| Refusal::Gone(format!("revision {to} is older than the {KEPT} changes that are kept")))?;
        for step in record.steps {
            let path = ResourcePath::parse(&step.path).map_err(|e| Refusal::Internal(e.to_string()))?;
            match step.before {
                Some(before) => drop(documents.insert(path, before)),
                None => drop(documents.remove(&path)),
            }
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people_and_programs() {
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixMillis(1_780_000_000_123).to_string(), "2026-05-28T20:26:40.123Z");
    }
}
