use super::asked::{Asked, invalid};
use super::url::encode;
use super::{Api, batch, operations};
use crate::draft::{Action, Change, Outcome};
use crate::observe::Observer;
use crate::refusal::Refusal;
use crate::tenant;
use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use penstock_admin_types::{Documents, Kind, ResourcePath, node_at, value};
use serde_json::{Value, json};

/// Resources in one answer, unless fewer are asked for; `nextLink` leads to the others.
const PAGE: usize = 1000;

pub(super) async fn handle(api: &Api, asked: &Asked<'_>, path: &ResourcePath) -> Result<Response, Refusal> {
    match asked.method {
        Method::GET | Method::HEAD => get(api, asked, path),
        Method::PUT => put(api, asked, path).await,
        Method::DELETE => delete(api, asked, path).await,
        _ => Err(Refusal::MethodNotAllowed(format!("{} is not for resources: GET, PUT or DELETE", asked.method))),
    }
}

fn get(api: &Api, asked: &Asked<'_>, path: &ResourcePath) -> Result<Response, Refusal> {
    let state = api.resources.state();
    let seen = state.node(path).filter(|_| asked.caller.may_see(&state.documents, path));
    let node = seen.ok_or_else(|| Refusal::NotFound(format!("'{path}' does not exist")))?;
    Ok(with_etag(StatusCode::OK, Observer::new(&state, &api.hub, &asked.caller).render(path, node)))
}

/// The resource, or the child of one, that has an instanceId ([MS-NCNBI] 3.1.5.24).
pub(super) fn of_instance(api: &Api, asked: &Asked<'_>, id: &str) -> Result<Response, Refusal> {
    let state = api.resources.state();
    let mut seen = state.documents.iter().filter(|(path, _)| asked.caller.may_see(&state.documents, path));
    let found = seen.find_map(|(path, node)| instance(path, node, id));
    let found = found.ok_or_else(|| Refusal::NotFound(format!("no resource has the instanceId '{id}'")))?;
    let body = json!({
        "resourceRef": format!("/internalResourceInstances/{id}"),
        "resourceId": id,
        "properties": {"provisioningState": "Succeeded", "resourceReference": found.as_str()},
    });
    Ok(Json(body).into_response())
}

fn instance(path: &ResourcePath, node: &Value, id: &str) -> Option<ResourcePath> {
    if value::get_text(node, "instanceId").is_some_and(|i| i.eq_ignore_ascii_case(id)) {
        return Some(path.clone());
    }
    path.kind().children.iter().find_map(|kind| {
        value::list(value::properties(node), kind.collection).iter().find_map(|child| {
            let path = path.child(kind, child.get("resourceId")?.as_str()?).ok()?;
            instance(&path, child, id)
        })
    })
}

/// A page of a collection: those after `$skipToken`, at most `$top`.
pub(super) fn list(
    api: &Api,
    asked: &Asked<'_>,
    parent: Option<&ResourcePath>,
    kind: &'static Kind,
) -> Result<Response, Refusal> {
    let most = match asked.number("$top")? {
        None => PAGE,
        Some(0) => return Err(invalid("$top is at least 1".to_owned())),
        Some(n) => usize::try_from(n).unwrap_or(PAGE).min(PAGE),
    };
    let after = asked.query("$skipToken").unwrap_or_default();
    let state = api.resources.state();
    let seen = |path: &ResourcePath| asked.caller.may_see(&state.documents, path);
    let nodes = nodes(&state.documents, parent, kind)
        .filter(|_| parent.is_none_or(seen))
        .ok_or_else(|| Refusal::NotFound(format!("'{}' does not exist", parent.map_or("", ResourcePath::as_str))))?;
    let mut rest = nodes
        .into_iter()
        .filter(|(path, _)| seen(path))
        .filter(|(path, _)| after.is_empty() || path.as_str() > after.as_str());
    let page: Vec<_> = rest.by_ref().take(most).collect();
    let next = match (rest.next(), page.last()) {
        (Some(_), Some((last, _))) => {
            format!("{}?$top={most}&$skipToken={}", asked.uri.path(), encode(last.as_str()))
        }
        _ => String::new(),
    };
    let observer = Observer::new(&state, &api.hub, &asked.caller);
    let items: Vec<Value> = page.iter().map(|(path, node)| observer.render(path, node)).collect();
    Ok(Json(json!({"value": items, "nextLink": next})).into_response())
}

/// The resources of a collection, in order of their paths; none without the parent.
pub(super) fn nodes<'a>(
    documents: &'a Documents,
    parent: Option<&ResourcePath>,
    kind: &'static Kind,
) -> Option<Vec<(ResourcePath, &'a Value)>> {
    let Some(parent) = parent else {
        let of_kind = documents.iter().filter(|(path, _)| path.kind_path() == kind.collection);
        return Some(of_kind.map(|(path, node)| (path.clone(), &**node)).collect());
    };
    let node = node_at(documents.get(&parent.document())?, parent)?;
    let child = |node: &'a Value| Some((parent.child(kind, node.get("resourceId")?.as_str()?).ok()?, node));
    let mut out: Vec<_> = value::list(value::properties(node), kind.collection).iter().filter_map(child).collect();
    out.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(out)
}

async fn put(api: &Api, asked: &Asked<'_>, path: &ResourcePath) -> Result<Response, Refusal> {
    let mut body = asked.json()?;
    if path.is_top() {
        tenant::stamp(&asked.caller, &mut body);
    }
    let action = Action::Put(body);
    let change = Change { path: path.clone(), action, condition: asked.condition()?, at: String::new() };
    let manner = asked.manner()?;
    let what_if = manner.what_if;
    let applied = api.resources.apply(vec![change], manner).await?;
    if what_if {
        return Ok(Json(batch::plan(api, &asked.caller, &applied)).into_response());
    }
    let state = &applied.after;
    let node = state.node(path).ok_or_else(|| Refusal::Internal(format!("'{path}' is gone")))?;
    let status = match applied.outcomes.first() {
        Some(Outcome::Created) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let mut response = with_etag(status, Observer::new(state, &api.hub, &asked.caller).render(path, node));
    operations::done(response.headers_mut(), state.rev, false);
    Ok(response)
}

async fn delete(api: &Api, asked: &Asked<'_>, path: &ResourcePath) -> Result<Response, Refusal> {
    let change =
        Change { path: path.clone(), action: Action::Delete, condition: asked.condition()?, at: String::new() };
    // The table of 1.3.2: deleting what is not there is 204, whatever If-Match says.
    let state = api.resources.state();
    let there = state.node(path).is_some() && asked.caller.may_see(&state.documents, path);
    if !there && !path.kind().is_singleton() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let manner = asked.manner()?;
    let what_if = manner.what_if;
    let applied = api.resources.apply(vec![change], manner).await?;
    if what_if {
        return Ok(Json(batch::plan(api, &asked.caller, &applied)).into_response());
    }
    if applied.outcomes == [Outcome::Absent] {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut response = StatusCode::ACCEPTED.into_response();
    operations::done(response.headers_mut(), applied.after.rev, true);
    Ok(response)
}

fn with_etag(status: StatusCode, body: Value) -> Response {
    let etag = body.get("etag").and_then(Value::as_str).and_then(|e| HeaderValue::from_str(e).ok());
    let mut response = (status, Json(body)).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
