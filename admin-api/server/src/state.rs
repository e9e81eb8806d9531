use penstock_admin_store::Entry;
use penstock_admin_types::intent::Misplaced;
use penstock_admin_types::{Documents, Intent, ReferenceIndex, ResourcePath, node_at};
use serde_json::Value;
use std::sync::Arc;

/// Prefix of the store's keys of resources.
pub(crate) const PREFIX: &str = "/resources";

/// All resources as they stood after one change, found valid.
#[derive(Debug)]
pub(crate) struct State {
    /// The number of the change.
    pub rev: u64,
    pub documents: Documents,
    pub index: ReferenceIndex,
    pub intent: Intent,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("key {key} of the store: {reason}")]
    Entry { key: String, reason: String },
    #[error("the stored resources contradict each other: {0}")]
    Invalid(String),
}

impl State {
    pub(crate) fn new(rev: u64, documents: Documents) -> Result<Self, Vec<Misplaced>> {
        let index = ReferenceIndex::build(&documents);
        let intent = Intent::build(&documents, &index)?;
        Ok(Self { rev, documents, index, intent })
    }

    pub(crate) fn load(rev: u64, entries: &[Entry]) -> Result<Self, StateError> {
        let mut documents = Documents::new();
        for e in entries {
            let bad = |reason: String| StateError::Entry { key: e.key.clone(), reason };
            let path =
                ResourcePath::parse(e.key.strip_prefix(PREFIX).unwrap_or(&e.key)).map_err(|x| bad(x.to_string()))?;
            let value: Value = serde_json::from_slice(&e.value).map_err(|x| bad(x.to_string()))?;
            documents.insert(path, Arc::new(value));
        }
        Self::of(rev, documents)
    }

    /// Of documents that were found valid when they were written.
    pub(crate) fn of(rev: u64, documents: Documents) -> Result<Self, StateError> {
        Self::new(rev, documents).map_err(|problems| {
            let lines: Vec<String> = problems
                .iter()
                .map(|p| format!("{}#{}: {}", p.document, p.problem.pointer, p.problem.message.text))
                .collect();
            StateError::Invalid(lines.join("; "))
        })
    }

    pub(crate) fn node(&self, path: &ResourcePath) -> Option<&Value> {
        self.documents.get(&path.document()).and_then(|d| node_at(d, path))
    }
}
