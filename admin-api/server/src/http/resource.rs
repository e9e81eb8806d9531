use super::{Api, flag, operations, parse_body};
use crate::observe::Observer;
use crate::refusal::Refusal;
use crate::resources::{Action, Change, Condition, Outcome};
use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use penstock_admin_types::{Kind, ResourcePath, value};
use serde_json::{Value, json};

pub(super) async fn handle(
    api: &Api,
    method: &Method,
    path: &ResourcePath,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Refusal> {
    match *method {
        Method::GET | Method::HEAD => get(api, path),
        Method::PUT => put(api, path, headers, parse_body(body)?, flag(uri, "whatIf")).await,
        Method::DELETE => delete(api, path, headers).await,
        _ => Err(Refusal::MethodNotAllowed(format!("{method} is not for resources: GET, PUT or DELETE"))),
    }
}

fn get(api: &Api, path: &ResourcePath) -> Result<Response, Refusal> {
    let state = api.resources.state();
    let node = state.node(path).ok_or_else(|| Refusal::NotFound(format!("'{path}' does not exist")))?;
    Ok(with_etag(StatusCode::OK, Observer::new(&state, &api.hub).render(path, node)))
}

pub(super) fn list(api: &Api, parent: Option<&ResourcePath>, kind: &'static Kind) -> Result<Response, Refusal> {
    let state = api.resources.state();
    let observer = Observer::new(&state, &api.hub);
    let items: Vec<Value> = match parent {
        None => state
            .documents
            .iter()
            .filter(|(path, _)| path.kind_path() == kind.collection)
            .map(|(path, node)| observer.render(path, node))
            .collect(),
        Some(parent) => {
            let node = state.node(parent).ok_or_else(|| Refusal::NotFound(format!("'{parent}' does not exist")))?;
            value::list(value::properties(node), kind.collection)
                .iter()
                .filter_map(|child| {
                    let path = parent.child(kind, child.get("resourceId")?.as_str()?).ok()?;
                    Some(observer.render(&path, child))
                })
                .collect()
        }
    };
    Ok(Json(json!({"value": items, "nextLink": ""})).into_response())
}

async fn put(
    api: &Api,
    path: &ResourcePath,
    headers: &HeaderMap,
    body: Value,
    what_if: bool,
) -> Result<Response, Refusal> {
    let condition = condition(headers)?;
    let change = Change { path: path.clone(), action: Action::Put(body), condition, at: String::new() };
    let (state, outcomes) = api.resources.apply(vec![change], what_if).await?;
    let node = state.node(path).ok_or_else(|| Refusal::Internal(format!("'{path}' is gone")))?;
    let status = match outcomes.first() {
        Some(Outcome::Created) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let mut response = with_etag(status, Observer::new(&state, &api.hub).render(path, node));
    operations::done(api, response.headers_mut(), false);
    Ok(response)
}

async fn delete(api: &Api, path: &ResourcePath, headers: &HeaderMap) -> Result<Response, Refusal> {
    let condition = condition(headers)?;
    let change = Change { path: path.clone(), action: Action::Delete, condition, at: String::new() };
    // The table of 1.3.2: deleting what is not there is 204, whatever If-Match says.
    if api.resources.state().node(path).is_none() && !path.kind().is_singleton() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (_, outcomes) = api.resources.apply(vec![change], false).await?;
    if outcomes == [Outcome::Absent] {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut response = StatusCode::ACCEPTED.into_response();
    operations::done(api, response.headers_mut(), true);
    Ok(response)
}

fn condition(headers: &HeaderMap) -> Result<Condition, Refusal> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).unwrap_or_default();
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        ("", "") => Ok(Condition::None),
        ("*", "") => Ok(Condition::Exists),
        ("", "*") => Ok(Condition::Absent),
        (etag, "") => Ok(Condition::Etag(etag.to_owned())),
        _ => Err(Refusal::BadRequest {
            code: "BadRequest",
            message: "If-None-Match may be *, and not together with If-Match".to_owned(),
        }),
    }
}

fn with_etag(status: StatusCode, body: Value) -> Response {
    let etag = body.get("etag").and_then(Value::as_str).and_then(|e| HeaderValue::from_str(e).ok());
    let mut response = (status, Json(body)).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
