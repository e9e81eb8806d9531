//! `POST /networking/v1/$batch`: several resources, all or none. An extension of Penstock.
//!
//! `{"resources": [{"kind": "virtualNetworks", "resourceId": "blue", "properties": {...}}, ...]}`; a resource is named by
//! `resourceRef`, or by `kind` and `resourceId`. `"method": "DELETE"` deletes instead. The answer is `{"value": [...],
//! "outcomes": [...]}` in the same order. `?whatIf=true` checks and commits nothing; the answer then
//! has `changes` and `impact`, too.
use super::asked::Asked;
use super::{Api, operations};
use crate::access::Caller;
use crate::draft::{Action, Change, Condition, Outcome};
use crate::impact::impact;
use crate::observe::Observer;
use crate::refusal::Refusal;
use crate::resources::Applied;
use crate::tenant;
use axum::Json;
use axum::response::{IntoResponse, Response};
use penstock_admin_types::{Documents, ErrorDetail, ResourcePath, changes, pointer_join, value};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) async fn handle(api: &Api, asked: &Asked<'_>) -> Result<Response, Refusal> {
    let mut body = asked.json()?;
    stamp_all(&asked.caller, &mut body);
    let Some(items) = value::get(&body, "resources").and_then(Value::as_array) else {
        return Err(Refusal::BadRequest {
            code: "InvalidRequestFormat",
            message: "a batch is {\"resources\": [...]}".to_owned(),
        });
    };
    let (changes, problems) = read(items);
    if !problems.is_empty() {
        let unnamed = |path: &ResourcePath| items.iter().any(|item| might_be(item, path));
        let refusal = api.resources.refuse(&asked.caller, &changes, problems, &unnamed);
        return Err(refusal);
    }
    let paths: Vec<ResourcePath> = changes.iter().map(|c| c.path.clone()).collect();
    let manner = asked.manner()?;
    let what_if = manner.what_if;
    let applied = api.resources.apply(changes, manner).await?;
    let words: Vec<&str> = applied.outcomes.iter().map(|o| word(*o)).collect();
    let mut body = json!({"value": rendered(api, &asked.caller, &applied, &paths), "outcomes": words, "nextLink": ""});
    if what_if {
        extend(&mut body, plan(api, &asked.caller, &applied));
        return Ok(Json(body).into_response());
    }
    extend(&mut body, json!({"revision": applied.after.rev}));
    let mut response = Json(body).into_response();
    operations::done(response.headers_mut(), applied.after.rev, false);
    Ok(response)
}

/// Top-level resources of a tenant say so; children are in a resource that does.
fn stamp_all(caller: &Caller, body: &mut Value) {
    let items = body.as_object_mut().and_then(|map| {
        map.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("resources")).and_then(|(_, v)| v.as_array_mut())
    });
    for item in items.into_iter().flatten() {
        if path(item).is_ok_and(|p| p.is_top()) {
            tenant::stamp(caller, item);
        }
    }
}

fn extend(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

fn rendered(api: &Api, caller: &Caller, applied: &Applied, paths: &[ResourcePath]) -> Vec<Value> {
    let observer = Observer::new(&applied.after, &api.hub, caller);
    let one = |path: &ResourcePath| match applied.after.node(path) {
        Some(node) => observer.render(path, node),
        None => json!({"resourceRef": path.as_str()}),
    };
    paths.iter().map(one).collect()
}

/// What would be different, and what that would do: the answer to `whatIf`.
pub(super) fn plan(api: &Api, caller: &Caller, applied: &Applied) -> Value {
    let (before, after) = (&applied.before.documents, &applied.after.documents);
    let paths: BTreeSet<&ResourcePath> = before.keys().chain(after.keys()).collect();
    let differing = paths.into_iter().filter(|p| before.get(*p) != after.get(*p));
    let shown = |documents: &Documents, p: &ResourcePath| {
        let mut document = documents.get(p).map(|d| (**d).clone());
        if let (true, Some(document)) = (caller.role.is_tenants(), document.as_mut()) {
            tenant::hide(p, document);
        }
        document
    };
    let diff: Vec<_> =
        differing.flat_map(|p| changes(p, shown(before, p).as_ref(), shown(after, p).as_ref())).collect();
    json!({"whatIf": true, "changes": diff, "impact": impact(&applied.before, &applied.after, &api.hub, caller)})
}

/// Whether an item that has no readable name could be the one that others call `path`: it says no kind, or that kind. One of
/// an unknown kind is none.
fn might_be(item: &Value, wanted: &ResourcePath) -> bool {
    if path(item).is_ok() {
        return false;
    }
    let said = value::get_text(item, "kind").or_else(|| value::get_text(item, "resourceRef")).unwrap_or_default();
    let collection = said.trim_matches('/').split('/').next().unwrap_or_default();
    collection.is_empty() || collection.eq_ignore_ascii_case(wanted.kind_path())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Replaced => "replaced",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
        Outcome::Absent => "absent",
    }
}

fn read(items: &[Value]) -> (Vec<Change>, Vec<ErrorDetail>) {
    let mut changes = Vec::with_capacity(items.len());
    let mut problems = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = pointer_join("/resources", i);
        match path(item) {
            Ok(path) => {
                let delete = value::get_text(item, "method").is_some_and(|m| m.eq_ignore_ascii_case("DELETE"));
                let action = if delete { Action::Delete } else { Action::Put(item.clone()) };
                changes.push(Change { path, action, condition: Condition::None, at });
            }
            Err((member, message)) => {
                problems.push(ErrorDetail::new("InvalidRequestFormat", message, pointer_join(&at, member)));
            }
        }
    }
    (changes, problems)
}

fn path(item: &Value) -> Result<ResourcePath, (&'static str, String)> {
    let reference = value::get_text(item, "resourceRef");
    let kind = value::get_text(item, "kind");
    match (kind, reference) {
        (Some(kind), _) => {
            let id = value::get_text(item, "resourceId").unwrap_or_default();
            ResourcePath::parse(&format!("{kind}/{id}")).map_err(|e| ("kind", e.to_string()))
        }
        (None, Some(reference)) => ResourcePath::parse(&reference).map_err(|e| ("resourceRef", e.to_string())),
        (None, None) => {
            Err(("resourceRef", "a resource is named by resourceRef, or by kind and resourceId".to_owned()))
        }
    }
}
