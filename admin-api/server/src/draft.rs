//! One request's changes, applied to a copy and checked together before anything is committed.
use crate::access::Caller;
use crate::admit;
use crate::allocate;
use crate::refusal::Refusal;
use crate::resources::mint;
use crate::secrets::Sealer;
use crate::state::State;
use crate::tenant;
use penstock_admin_types::intent::Misplaced;
use penstock_admin_types::{
    Documents, ErrorDetail, Problems, ResourcePath, adopt, each_secret, node_at, node_at_mut, pointer_join, read, value,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One resource to be put or deleted.
#[derive(Debug)]
pub(crate) struct Change {
    pub path: ResourcePath,
    pub action: Action,
    pub condition: Condition,
    /// Where its body stands in the request: prefix of the pointers in errors.
    pub at: String,
}

#[derive(Debug)]
pub(crate) enum Action {
    Put(Value),
    Delete,
}

/// If-Match and If-None-Match.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    #[default]
    None,
    Exists,
    Absent,
    Etag(String),
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Replaced,
    Unchanged,
    Deleted,
    /// Deleting what was not there.
    Absent,
}

/// Resources as they would be.
pub(crate) struct Draft {
    is_tenants: bool,
    documents: Documents,
    touched: BTreeSet<ResourcePath>,
    pub problems: Vec<ErrorDetail>,
}

impl Draft {
    pub(crate) fn new(before: &State, caller: &Caller) -> Self {
        let is_tenants = caller.role.is_tenants();
        Self { is_tenants, documents: before.documents.clone(), touched: BTreeSet::new(), problems: Vec::new() }
    }

    /// One change alone is refused in its own way; of several, what each is refused for becomes a detail of all.
    pub(crate) fn all(&mut self, changes: &[Change], sealer: &Sealer) -> Result<Vec<Outcome>, Refusal> {
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            match self.apply(change, sealer) {
                Ok(outcome) => outcomes.push(outcome),
                Err(refusal) if changes.len() + self.problems.len() > 1 && refusal.is_of_one_resource() => {
                    let (_, error) = refusal.into_parts();
                    self.problems.push(ErrorDetail::new(&error.code, error.message, change.at.clone()));
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(outcomes)
    }

    fn apply(&mut self, change: &Change, sealer: &Sealer) -> Result<Outcome, Refusal> {
        let document = change.path.document();
        let old = self.documents.get(&document).cloned();
        let old_node = old.as_deref().and_then(|d| node_at(d, &change.path));
        change.condition.check(old_node, &change.path)?;
        match &change.action {
            Action::Delete if change.path.kind().is_singleton() => {
                Err(Refusal::MethodNotAllowed(format!("'{}' cannot be deleted", change.path)))
            }
            Action::Delete if old_node.is_none() => Ok(Outcome::Absent),
            Action::Delete => {
                self.delete(change);
                Ok(Outcome::Deleted)
            }
            Action::Put(body) => {
                let mut problems = Problems::default();
                let mut node = read(&change.path, body, &change.at, &mut mint, &mut problems);
                let details = problems.0.into_iter();
                self.problems.extend(details.map(|p| ErrorDetail::new(p.code, p.message, p.pointer)));
                each_secret(change.path.kind(), &mut node, &mut |v| sealer.seal_value(v))?;
                let created = old_node.is_none();
                let changed = self.put(&change.path, node, old.as_deref())?;
                Ok(match (created, changed) {
                    (true, _) => Outcome::Created,
                    (false, true) => Outcome::Replaced,
                    (false, false) => Outcome::Unchanged,
                })
            }
        }
    }

    fn put(&mut self, path: &ResourcePath, node: Value, old: Option<&Value>) -> Result<bool, Refusal> {
        let top = path.document();
        let mut document = node;
        if !path.is_top() {
            let missing = || Refusal::NotFound(format!("'{path}' has no parent: put it first"));
            let mut whole = old.cloned().ok_or_else(missing)?;
            let parent = path.parent().ok_or_else(missing)?;
            place(&mut whole, &parent, path, Some(document)).ok_or_else(missing)?;
            document = whole;
        }
        if let Some(old) = old {
            if self.is_tenants {
                tenant::keep_the_sites(&top, &mut document, old);
            }
            allocate::unsay(top.kind(), &mut document, old);
        }
        let changed = adopt(top.kind(), &mut document, old, &mut mint);
        if changed {
            self.touched.insert(top.clone());
            self.documents.insert(top, Arc::new(document));
        }
        Ok(changed)
    }

    fn delete(&mut self, change: &Change) {
        let top = change.path.document();
        if change.path.is_top() {
            self.documents.remove(&top);
            return;
        }
        let (Some(old), Some(parent)) = (self.documents.get(&top).cloned(), change.path.parent()) else { return };
        let mut document = (*old).clone();
        if place(&mut document, &parent, &change.path, None).is_some() {
            adopt(top.kind(), &mut document, Some(&old), &mut mint);
            self.touched.insert(top.clone());
            self.documents.insert(top, Arc::new(document));
        }
    }

    pub(crate) fn finish(
        mut self,
        before: &State,
        changes: &[Change],
        sealer: &Sealer,
        unnamed: &(dyn Fn(&ResourcePath) -> bool + Sync),
    ) -> Result<State, Refusal> {
        allocate::complete(&mut self.documents, &self.touched, sealer)?;
        if !self.problems.is_empty() {
            // Cross-checks of what is there go with them, as far as they can be made.
            let rest = State::new(before.rev, self.documents.clone()).err().unwrap_or_default();
            let index = penstock_admin_types::ReferenceIndex::build(&self.documents);
            let excused: BTreeSet<(ResourcePath, &str)> = index
                .iter()
                .filter(|r| unnamed(&r.target.document()) && !self.documents.contains_key(&r.target.document()))
                .map(|r| (r.owner.document(), r.pointer.as_str()))
                .collect();
            let more = rest
                .into_iter()
                .filter(|m| self.touched.contains(&m.document))
                .filter(|m| !excused.contains(&(m.document.clone(), m.problem.pointer.as_str())))
                .map(|m| locate(m, &self.documents, changes));
            for detail in more {
                if !self.problems.iter().any(|p| p.target == detail.target) {
                    self.problems.push(detail);
                }
            }
            return Err(Refusal::Invalid(self.problems));
        }
        let deleted = changes.iter().filter(|c| matches!(c.action, Action::Delete)).map(|c| &c.path);
        let index = penstock_admin_types::ReferenceIndex::build(&self.documents);
        for path in deleted {
            let referrers = index.referrers(path);
            let gone = self.documents.get(&path.document()).and_then(|d| node_at(d, path)).is_none();
            if gone && !referrers.is_empty() {
                return Err(Refusal::InUse { path: path.clone(), referrers, unseen: 0 });
            }
        }
        let documents = self.documents;
        let refuse = |misplaced: Vec<Misplaced>| {
            Refusal::Invalid(misplaced.into_iter().map(|m| locate(m, &documents, changes)).collect())
        };
        let after = State::new(before.rev, documents.clone()).map_err(refuse)?;
        let refused = admit::refused(before, &after, sealer)?;
        if refused.is_empty() { Ok(after) } else { Err(refuse(refused)) }
    }
}

/// Replaces, adds or (without a node) removes a child.
fn place(document: &mut Value, parent: &ResourcePath, child: &ResourcePath, node: Option<Value>) -> Option<()> {
    let properties = node_at_mut(document, parent)?.as_object_mut()?.entry("properties").or_insert_with(|| json!({}));
    let siblings =
        properties.as_object_mut()?.entry(child.kind().collection).or_insert_with(|| json!([])).as_array_mut()?;
    let position = siblings.iter().position(|s| s.get("resourceId").and_then(Value::as_str) == Some(child.id()));
    match (position, node) {
        (Some(i), Some(node)) => *siblings.get_mut(i)? = node,
        (Some(i), None) => drop(siblings.remove(i)),
        (None, Some(node)) => siblings.push(node),
        (None, None) => {}
    }
    Some(())
}

/// Says where a problem stands in the request; or, if in another resource, names that.
pub(crate) fn locate(m: Misplaced, documents: &Documents, changes: &[Change]) -> ErrorDetail {
    let found = changes
        .iter()
        .filter(|c| matches!(c.action, Action::Put(_)) && c.path.document() == m.document)
        .find_map(|c| {
            let prefix = documents.get(&m.document).and_then(|d| pointer_of(d, &c.path))?;
            let rest = m.problem.pointer.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{}{rest}", c.at))
        });
    let elsewhere = found.is_none().then(|| m.document.clone());
    let target = found.unwrap_or_else(|| format!("{}#{}", m.document, m.problem.pointer));
    ErrorDetail { elsewhere, ..ErrorDetail::new(m.problem.code, m.problem.message, target) }
}

/// Where a resource stands in its document.
pub(crate) fn pointer_of(document: &Value, path: &ResourcePath) -> Option<String> {
    let mut pointer = String::new();
    let mut node = document;
    for (collection, id) in path.below_top() {
        let siblings = value::list(value::properties(node), collection);
        let i = siblings.iter().position(|s| s.get("resourceId").and_then(Value::as_str) == Some(id))?;
        pointer = pointer_join(&pointer_join(&pointer_join(&pointer, "properties"), collection), i);
        node = siblings.get(i)?;
    }
    Some(pointer)
}

impl Condition {
    fn check(&self, node: Option<&Value>, path: &ResourcePath) -> Result<(), Refusal> {
        let etag = node.and_then(|n| n.get("etag")).and_then(Value::as_str);
        let holds = match self {
            Self::None => true,
            Self::Exists => node.is_some(),
            Self::Absent => node.is_none(),
            Self::Etag(wanted) => etag.is_some_and(|e| opaque(e) == opaque(wanted)),
        };
        if holds {
            return Ok(());
        }
        Err(Refusal::Precondition(match etag {
            Some(etag) => format!("'{path}' is there with etag {etag}"),
            None => format!("'{path}' does not exist"),
        }))
    }
}

/// The tag within `W/"..."`: comparison is weak (RFC 9110 section 8.8.3.2), and clients quote it in every way.
fn opaque(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}
