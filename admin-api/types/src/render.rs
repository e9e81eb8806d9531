//! Documents out: envelope completed, secrets gone, back references filled.
use crate::kind::{Property, Rule, Type};
use crate::{ALLOCATED, ReferenceIndex, ResourcePath, SEALED};
use serde_json::{Map, Value, json};

/// Renders resources as clients expect them.
pub struct Render<'a> {
    pub index: &'a ReferenceIndex,
    /// Whom the reader may know of: nobody else is named in back references.
    pub shown: &'a dyn Fn(&ResourcePath) -> bool,
    /// Read-only properties that are observed rather than said: `configurationState`, statistics, addresses.
    /// Given the stored node. Objects are merged into those that were said.
    pub observed: &'a dyn Fn(&ResourcePath, &Value) -> Map<String, Value>,
}

impl std::fmt::Debug for Render<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Render").finish_non_exhaustive()
    }
}

impl Render<'_> {
    #[must_use]
    pub fn node(&self, path: &ResourcePath, node: &Value) -> Value {
        let mut out = node.as_object().cloned().unwrap_or_default();
        out.remove(ALLOCATED);
        out.insert("resourceRef".to_owned(), json!(path.as_str()));
        let mut properties = match out.remove("properties") {
            Some(Value::Object(p)) => p,
            _ => Map::new(),
        };
        strip_secrets(path.kind().properties, &mut properties);
        for child in path.kind().children {
            let Some(Value::Array(items)) = properties.get_mut(child.collection) else { continue };
            for item in items {
                let id = item.get("resourceId").and_then(Value::as_str).unwrap_or_default();
                if let Ok(path) = path.child(child, id) {
                    *item = self.node(&path, item);
                }
            }
        }
        for p in path.kind().properties {
            match p.of {
                Type::BackRefs(from) => {
                    properties.insert(p.name.to_owned(), Value::Array(self.back(path, from)));
                }
                Type::BackRef(from) => {
                    if let Some(first) = self.back(path, from).into_iter().next() {
                        properties.insert(p.name.to_owned(), first);
                    }
                }
                _ => {}
            }
        }
        merge(&mut properties, (self.observed)(path, node));
        properties.insert("provisioningState".to_owned(), json!("Succeeded"));
        out.insert("properties".to_owned(), Value::Object(properties));
        Value::Object(out)
    }

    /// `kind`, `kind|kind` or `kind#property`.
    fn back(&self, target: &ResourcePath, from: &str) -> Vec<Value> {
        let (kinds, property) = from.split_once('#').map_or((from, None), |(k, p)| (k, Some(p)));
        let mut owners: Vec<&ResourcePath> = self
            .index
            .to(target)
            .filter(|r| {
                kinds.split('|').any(|k| k == r.owner.kind_path())
                    && property.is_none_or(|p| p.eq_ignore_ascii_case(&r.property))
            })
            .map(|r| &r.owner)
            .filter(|owner| (self.shown)(owner))
            .collect();
        owners.sort();
        owners.dedup();
        owners.into_iter().map(|o| json!({"resourceRef": o.as_str()})).collect()
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (name, v) in from {
        match (into.get_mut(&name), v) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, v) => drop(into.insert(name, v)),
        }
    }
}

fn strip_secrets(known: &'static [Property], map: &mut Map<String, Value>) {
    for p in known {
        if p.rule == Rule::WriteOnly {
            map.remove(p.name);
        } else if let (Type::Object(inner), Some(Value::Object(object))) = (&p.of, map.get_mut(p.name)) {
            strip_secrets(inner, object);
        }
    }
    // Whatever is sealed stays inside, known or not.
    map.retain(|_, v| v.get(SEALED).is_none());
}
