//! Who refers to whom.
use crate::{Documents, Kind, ResourcePath, pointer_join, value};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Reference {
    /// The resource (the innermost child) that refers.
    pub owner: ResourcePath,
    /// In the owner's document, at the `resourceRef`.
    pub pointer: String,
    /// The name that the reference stands under.
    pub property: String,
    pub target: ResourcePath,
}

/// All references of a document, those in unknown properties included.
#[must_use]
pub fn references(path: &ResourcePath, document: &Value) -> Vec<Reference> {
    let mut out = Vec::new();
    node(path, document, "", &mut out);
    out
}

fn node(path: &ResourcePath, value: &Value, at: &str, out: &mut Vec<Reference>) {
    let Some(properties) = value.get("properties").and_then(Value::as_object) else { return };
    let at = pointer_join(at, "properties");
    for (name, v) in properties {
        let at = pointer_join(&at, name);
        match child_kind(path.kind(), name) {
            Some(kind) => {
                for (i, item) in v.as_array().into_iter().flatten().enumerate() {
                    let id = item.get("resourceId").and_then(Value::as_str).unwrap_or_default();
                    if let Ok(child) = path.child(kind, id) {
                        node(&child, item, &pointer_join(&at, i), out);
                    }
                }
            }
            None => walk(path, name, v, &at, out),
        }
    }
}

fn child_kind(kind: &'static Kind, name: &str) -> Option<&'static Kind> {
    kind.children.iter().find(|c| c.collection == name)
}

fn walk(owner: &ResourcePath, property: &str, v: &Value, at: &str, out: &mut Vec<Reference>) {
    match v {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(owner, property, item, &pointer_join(at, i), out);
            }
        }
        Value::Object(map) => {
            if let Some(target) = value::reference(v).and_then(|text| ResourcePath::parse(text).ok()) {
                let pointer = pointer_join(at, "resourceRef");
                out.push(Reference { owner: owner.clone(), pointer, property: property.to_owned(), target });
            }
            for (name, inner) in map {
                walk(owner, name, inner, &pointer_join(at, name), out);
            }
        }
        _ => {}
    }
}

/// References of all documents, by target.
#[derive(Debug, Default)]
pub struct ReferenceIndex {
    by_target: BTreeMap<ResourcePath, Vec<Reference>>,
}

impl ReferenceIndex {
    #[must_use]
    pub fn build(documents: &Documents) -> Self {
        let mut by_target: BTreeMap<ResourcePath, Vec<Reference>> = BTreeMap::new();
        for (path, document) in documents {
            for r in references(path, document) {
                by_target.entry(r.target.clone()).or_default().push(r);
            }
        }
        Self { by_target }
    }

    /// Resources that refer to `target` itself.
    pub fn to(&self, target: &ResourcePath) -> impl Iterator<Item = &Reference> {
        self.by_target.get(target).into_iter().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Reference> {
        self.by_target.values().flatten()
    }

    /// Resources outside `target` that refer to it or to one of its children: they keep it from being deleted.
    #[must_use]
    pub fn referrers(&self, target: &ResourcePath) -> Vec<ResourcePath> {
        let mut out: Vec<ResourcePath> = self
            .by_target
            .range(target.clone()..)
            .take_while(|(t, _)| t.as_str().starts_with(target.as_str()))
            .filter(|(t, _)| t.is_within(target))
            .flat_map(|(_, refs)| refs)
            .filter(|r| !r.owner.is_within(target))
            .map(|r| r.owner.clone())
            .collect();
        out.sort();
        out.dedup();
        out
    }
}
