use crate::{ALLOCATED, Documents, Problem, ReferenceIndex, ResourcePath, Said, node_at, pointer_join, value};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A problem and the document in which it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Misplaced {
    pub document: ResourcePath,
    pub problem: Problem,
}

/// Something accepted that has no effect as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub code: &'static str,
    pub message: String,
}

/// A resource within its document, and where it stands there.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub path: ResourcePath,
    pub value: &'a Value,
    pub pointer: String,
}

impl<'a> Node<'a> {
    pub(crate) fn properties(&self) -> &'a Value {
        value::properties(self.value)
    }

    /// The pointer of a property.
    pub(crate) fn at(&self, property: &str) -> String {
        format!("{}/properties/{property}", self.pointer)
    }

    pub(crate) fn children(&self, collection: &str) -> Vec<Node<'a>> {
        let Some(kind) = self.path.kind().child(collection) else { return Vec::new() };
        let at = self.at(kind.collection);
        value::list(self.properties(), kind.collection)
            .iter()
            .enumerate()
            .filter_map(|(i, value)| {
                let id = value.get("resourceId")?.as_str()?;
                Some(Node { path: self.path.child(kind, id).ok()?, value, pointer: pointer_join(&at, i) })
            })
            .collect()
    }

    pub(crate) fn reference(&self, property: &str) -> Option<ResourcePath> {
        value::get(self.properties(), property).and_then(target)
    }

    pub(crate) fn references(&self, property: &str) -> Vec<ResourcePath> {
        value::list(self.properties(), property).iter().filter_map(target).collect()
    }

    pub(crate) fn address(&self, property: &str) -> Option<IpAddr> {
        value::get_text(self.properties(), property)?.parse().ok()
    }

    pub(crate) fn word(&self, property: &str) -> String {
        value::get_text(self.properties(), property).unwrap_or_default().to_ascii_lowercase()
    }

    pub(crate) fn allocated(&self) -> Allocated<'a> {
        Allocated(self.value.get(ALLOCATED).unwrap_or(&Value::Null))
    }
}

pub(crate) fn target(v: &Value) -> Option<ResourcePath> {
    value::reference(v).and_then(|r| ResourcePath::parse(r).ok())
}

/// What the controller allocated to a resource.
#[derive(Debug, Clone, Copy)]
pub struct Allocated<'a>(pub &'a Value);

impl Allocated<'_> {
    /// A number, 0 until it is allocated.
    #[must_use]
    pub fn number(&self, name: &str) -> u32 {
        self.0.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    #[must_use]
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.as_str()?.parse().ok()
    }
}

/// Walks documents and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    documents: &'a Documents,
    index: &'a ReferenceIndex,
    problems: Vec<Misplaced>,
    warnings: BTreeMap<ResourcePath, Vec<Warning>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(documents: &'a Documents, index: &'a ReferenceIndex) -> Self {
        Self { documents, index, problems: Vec::new(), warnings: BTreeMap::new() }
    }

    pub(crate) fn all(&self, collection: &str) -> Vec<Node<'a>> {
        self.documents
            .iter()
            .filter(|(path, _)| path.kind_path() == collection)
            .map(|(path, value)| Node { path: path.clone(), value, pointer: String::new() })
            .collect()
    }

    /// A resource by its path.
    pub(crate) fn node(&self, path: &ResourcePath) -> Option<&'a Value> {
        self.documents.get(&path.document()).and_then(|d| node_at(d, path))
    }

    /// Resources of a kind that refer to `target`.
    pub(crate) fn referring(&self, target: &ResourcePath, kind: &str) -> Vec<ResourcePath> {
        let mut out: Vec<_> =
            self.index.to(target).filter(|r| r.owner.kind_path() == kind).map(|r| r.owner.clone()).collect();
        out.sort();
        out.dedup();
        out
    }

    pub(crate) fn problem(&mut self, node: &Node<'_>, pointer: String, code: &'static str, message: impl Into<Said>) {
        let problem = Problem { pointer, code, message: message.into() };
        self.problems.push(Misplaced { document: node.path.document(), problem });
    }

    pub(crate) fn warn(&mut self, path: &ResourcePath, code: &'static str, message: impl Into<String>) {
        self.warnings.entry(path.clone()).or_default().push(Warning { code, message: message.into() });
    }

    /// References to what is not there.
    pub(crate) fn dangling(&mut self) {
        for r in self.index.iter() {
            if self.node(&r.target).is_none() {
                self.problems.push(Misplaced {
                    document: r.owner.document(),
                    problem: Problem {
                        pointer: r.pointer.clone(),
                        code: "InvalidResourceReference",
                        message: dangling(&r.owner, &r.target),
                    },
                });
            }
        }
    }

    pub(crate) fn finish(mut self) -> (Vec<Misplaced>, BTreeMap<ResourcePath, Vec<Warning>>) {
        self.problems.sort();
        self.problems.dedup();
        (self.problems, self.warnings)
    }
}

/// What is said of a reference to what is not there, or is not there for who asks.
#[must_use]
pub fn dangling(owner: &ResourcePath, target: &ResourcePath) -> Said {
    Said::naming(format!("'{owner}' refers to '{target}', which does not exist"), &[owner, target])
}
