//! `/penstock/v1/...`: history, rollback, confirmation, export, tokens, the audit log, the API's own description.
use super::Api;
use super::asked::Asked;
use super::batch::plan;
use super::url::Own;
use crate::history;
use crate::quota;
use crate::refusal::Refusal;
use crate::tokens;
use axum::Json;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use penstock_admin_types::{Render, ResourcePath, bare, openapi};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Changes in one answer, unless fewer are asked for.
const PAGE: u64 = 50;

pub(super) async fn handle(api: &Api, asked: &Asked<'_>, target: Own) -> Result<Response, Refusal> {
    match (target, &asked.method) {
        (Own::History, &Method::GET) => changes(api, asked).await,
        (Own::Change(number), &Method::GET) => change(api, number).await,
        (Own::Rollback, &Method::POST) => roll_back(api, asked).await,
        (Own::Confirm, &Method::POST) => {
            let revision = api.resources.confirm().await?;
            Ok(Json(json!({"revision": revision})).into_response())
        }
        (Own::Confirm, &Method::GET) => Ok(Json(pending(api)).into_response()),
        (Own::OpenApi, &Method::GET) => Ok(Json(openapi(env!("CARGO_PKG_VERSION"))).into_response()),
        (Own::Tokens, &Method::GET) => Ok(Json(tokens::list(api.resources.store()).await?).into_response()),
        (Own::Tokens, &Method::POST) => {
            let token = tokens::create(api.resources.store(), asked.typed()?, &asked.caller.name).await?;
            Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(token)).into_response())
        }
        (Own::Token(id), &Method::DELETE) => {
            tokens::delete(api.resources.store(), &id).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (Own::Quotas, &Method::GET) => Ok(Json(quota::list(api.resources.store()).await?).into_response()),
        (Own::Quota(tenant), &Method::GET) => {
            Ok(Json(quota::get(api.resources.store(), &tenant).await?).into_response())
        }
        (Own::Quota(tenant), &Method::PUT) => {
            Ok(Json(quota::put(api.resources.store(), &tenant, asked.typed()?).await?).into_response())
        }
        (Own::Quota(tenant), &Method::DELETE) => {
            quota::delete(api.resources.store(), &tenant).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (Own::Usage, &Method::GET) => {
            let usage = quota::usage(api.resources.store(), &api.resources.state(), &asked.caller).await?;
            Ok(Json(usage).into_response())
        }
        (Own::Audit, &Method::GET) => {
            let most = usize::try_from(asked.number("$top")?.unwrap_or(PAGE)).unwrap_or(usize::MAX);
            Ok(Json(json!({"value": api.audit.recent(most), "nextLink": ""})).into_response())
        }
        (Own::Export, &Method::GET) => Ok(Json(export(api)).into_response()),
        _ => Err(Refusal::MethodNotAllowed(format!("{} is not for {}", asked.method, asked.uri.path()))),
    }
}

/// The latest first; `before` leads on.
async fn changes(api: &Api, asked: &Asked<'_>) -> Result<Response, Refusal> {
    let most = asked.number("$top")?.unwrap_or(PAGE).clamp(1, history::KEPT);
    let latest = api.resources.state().rev;
    let mut number = asked.number("before")?.map_or(latest, |b| b.saturating_sub(1).min(latest));
    let mut items = Vec::new();
    while number > 0 && (items.len() as u64) < most {
        let Some(record) = history::record(api.resources.store(), number).await? else { break };
        items.push(record.summary());
        number -= 1;
    }
    let more = number > 0 && history::record(api.resources.store(), number).await?.is_some();
    let next = if more { format!("/penstock/v1/history?$top={most}&before={}", number + 1) } else { String::new() };
    Ok(Json(json!({"value": items, "nextLink": next})).into_response())
}

async fn change(api: &Api, number: u64) -> Result<Response, Refusal> {
    let record = history::record(api.resources.store(), number).await?;
    let record = record.ok_or_else(|| Refusal::NotFound(format!("there is no record of revision {number}")))?;
    let mut body = record.summary();
    if let Some(map) = body.as_object_mut() {
        map.insert("changes".to_owned(), json!(record.diff()));
    }
    Ok(Json(body).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// Everything becomes as it was after this change.
    revision: u64,
}

async fn roll_back(api: &Api, asked: &Asked<'_>) -> Result<Response, Refusal> {
    let Rollback { revision } = asked.typed()?;
    let mut manner = asked.manner()?;
    manner.comment.get_or_insert_with(|| format!("back to revision {revision}"));
    let what_if = manner.what_if;
    let applied = api.resources.roll_back(revision, manner).await?;
    let mut body = plan(api, &asked.caller, &applied);
    if let (false, Some(map)) = (what_if, body.as_object_mut()) {
        map.remove("whatIf");
        map.remove("impact");
        map.insert("revision".to_owned(), json!(applied.after.rev));
    }
    Ok(Json(body).into_response())
}

fn pending(api: &Api) -> Value {
    match api.resources.pending() {
        None => json!({"pending": false}),
        Some(p) => json!({
            "pending": true,
            "author": p.author,
            "deadline": p.deadline.to_string(),
            "restores": p.restores,
        }),
    }
}

/// Everything that operators said, in the form that a batch takes: no identities, no reports, no secrets.
fn export(api: &Api) -> Value {
    let state = api.resources.state();
    let nothing = |_: &ResourcePath, _: &Value| Map::new();
    let render = Render { index: &state.index, shown: &|_| true, observed: &nothing };
    let resources: Vec<Value> = state
        .documents
        .iter()
        .map(|(path, node)| {
            let mut out = render.node(path, node);
            bare(path.kind(), &mut out);
            if let Some(map) = out.as_object_mut() {
                map.insert("resourceRef".to_owned(), json!(path.as_str()));
            }
            out
        })
        .collect();
    json!({"revision": state.rev, "resources": resources})
}
