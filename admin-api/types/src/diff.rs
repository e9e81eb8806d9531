//! What differs between two states of a resource, field by field.
use crate::{ALLOCATED, Kind, ResourcePath, SEALED, pointer_join, value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What became of one resource, its children apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceChange {
    pub resource_ref: String,
    pub change: ChangeKind,
    #[serde(default)]
    pub fields: Vec<FieldChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Created,
    Modified,
    Deleted,
}

/// One member, before and after; absent on a side where it was not there. Secrets are never shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldChange {
    /// JSON pointer into the resource.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Value>,
}

/// All changes between two states of a document, the resource first, then its children.
#[must_use]
pub fn changes(path: &ResourcePath, old: Option<&Value>, new: Option<&Value>) -> Vec<ResourceChange> {
    let mut out = Vec::new();
    node(path, old, new, &mut out);
    out
}

fn node(path: &ResourcePath, old: Option<&Value>, new: Option<&Value>, out: &mut Vec<ResourceChange>) {
    let change = match (old, new) {
        (None, None) => return,
        (None, Some(_)) => ChangeKind::Created,
        (Some(_), None) => ChangeKind::Deleted,
        (Some(_), Some(_)) => ChangeKind::Modified,
    };
    let mut fields = Vec::new();
    if change != ChangeKind::Deleted {
        let empty = Map::new();
        let (was, is) = (said(path.kind(), old), said(path.kind(), new));
        let part = |v: &Map<String, Value>, name: &str| v.get(name).and_then(Value::as_object).cloned();
        for name in ["tags", "resourceMetadata", "properties"] {
            let (a, b) = (part(&was, name), part(&is, name));
            members(a.as_ref().unwrap_or(&empty), b.as_ref().unwrap_or(&empty), &format!("/{name}"), &mut fields);
        }
    }
    if change != ChangeKind::Modified || !fields.is_empty() {
        out.push(ResourceChange { resource_ref: path.to_string(), change, fields });
    }
    for kind in path.kind().children {
        children(path, kind, old, new, out);
    }
}

fn children(
    parent: &ResourcePath,
    kind: &'static Kind,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Vec<ResourceChange>,
) {
    let items = |v: Option<&Value>| {
        let list = v.map_or(&[][..], |v| value::list(value::properties(v), kind.collection));
        list.iter().filter_map(|n| Some((n.get("resourceId")?.as_str()?.to_owned(), n.clone()))).collect::<Vec<_>>()
    };
    let (before, after) = (items(old), items(new));
    let mut seen = BTreeSet::new();
    for (id, _) in after.iter().chain(&before) {
        if !seen.insert(id) {
            continue;
        }
        let find = |list: &'_ [(String, Value)]| list.iter().find(|(i, _)| i == id).map(|(_, n)| n.clone());
        if let Ok(path) = parent.child(kind, id) {
            node(&path, find(&before).as_ref(), find(&after).as_ref(), out);
        }
    }
}

/// What an operator said of a resource: no identities, no allocations, no children.
fn said(kind: &'static Kind, v: Option<&Value>) -> Map<String, Value> {
    let mut map = v.and_then(Value::as_object).cloned().unwrap_or_default();
    map.retain(|name, _| !matches!(name.as_str(), "etag" | "instanceId" | ALLOCATED));
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| !kind.children.iter().any(|c| c.collection == name));
    }
    map
}

fn members(was: &Map<String, Value>, is: &Map<String, Value>, at: &str, out: &mut Vec<FieldChange>) {
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    // An empty list says nothing.
    let said = |map: &'_ Map<String, Value>, name: &String| {
        map.get(name).filter(|v| v.as_array().is_none_or(|a| !a.is_empty())).cloned()
    };
    for name in names {
        values(said(was, name).as_ref(), said(is, name).as_ref(), pointer_join(at, name), out);
    }
}

fn values(was: Option<&Value>, is: Option<&Value>, path: String, out: &mut Vec<FieldChange>) {
    match (was, is) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) if !a.contains_key(SEALED) && !b.contains_key(SEALED) => {
            members(a, b, &path, out);
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                values(Some(a), Some(b), pointer_join(&path, i), out);
            }
        }
        (a, b) => out.push(FieldChange { path, was: a.map(redacted), is: b.map(redacted) }),
    }
}

/// A copy with every sealed secret replaced by a word.
#[must_use]
pub fn redacted(v: &Value) -> Value {
    match v {
        Value::Object(map) if map.contains_key(SEALED) => json!("(secret)"),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), redacted(v))).collect()),
        Value::Array(items) => Value::Array(items.iter().map(redacted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: Option<Value>, new: Option<Value>) -> Vec<String> {
        let path = ResourcePath::parse("/loadBalancers/web").unwrap();
        let line = |c: ResourceChange| {
            let fields: Vec<String> = c
                .fields
                .iter()
                .map(|f| {
                    format!(
                        "{} {:?}>{:?}",
                        f.path,
                        f.was.as_ref().map(Value::to_string),
                        f.is.as_ref().map(Value::to_string)
                    )
                })
                .collect();
            format!("{:?} {} {}", c.change, c.resource_ref, fields.join(" ")).trim_end().to_owned()
        };
        changes(&path, old.as_ref(), new.as_ref()).into_iter().map(line).collect()
    }

    fn balancer(port: u16, etag: &str) -> Value {
        json!({"resourceId": "web", "etag": etag, "properties": {"probes": [
            {"resourceId": "p", "etag": etag, "properties": {"protocol": "Tcp", "port": port}}]}})
    }

    #[test]
    fn a_change_names_the_child_and_the_member_and_no_identities() {
        assert_eq!(
            shown(Some(balancer(80, "a")), Some(balancer(81, "b"))),
            ["Modified /loadBalancers/web/probes/p /properties/port Some(\"80\")>Some(\"81\")"]
        );
        assert!(shown(Some(balancer(80, "a")), Some(balancer(80, "b"))).is_empty());
    }

    #[test]
    fn creation_and_deletion_name_all_children() {
        let empty = json!({"resourceId": "web", "properties": {}});
        assert_eq!(shown(Some(balancer(80, "a")), Some(empty)), ["Deleted /loadBalancers/web/probes/p"]);
        assert_eq!(
            shown(Some(balancer(80, "a")), None),
            ["Deleted /loadBalancers/web", "Deleted /loadBalancers/web/probes/p"]
        );
        assert_eq!(shown(None, Some(balancer(80, "a"))).len(), 2);
    }

    #[test]
    fn secrets_differ_without_being_shown() {
        let sealed = |s: &str| json!({"resourceId": "web", "properties": {"key": {"$sealed": s}}});
        assert_eq!(
            shown(Some(sealed("abc")), Some(sealed("def"))),
            ["Modified /loadBalancers/web /properties/key Some(\"\\\"(secret)\\\"\")>Some(\"\\\"(secret)\\\"\")"]
        );
    }
}
