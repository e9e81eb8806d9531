//! The northbound interface: paths in any letter case, so one dispatcher instead of a table of routes.
mod asked;
mod batch;
mod operations;
mod own;
mod resource;
mod url;
mod watch;

use crate::access::{Caller, Deed};
use crate::audit::{self, Audit};
use crate::hub::GoalHub;
use crate::rate::Rates;
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::serve::Peer;
use crate::{status, tokens, trace};
use asked::Asked;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use operations::Operations;
use penstock_admin_types::VERSIONS;
use penstock_clock::MonotonicClock;
use penstock_southbound::Identity;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch as signal;
use url::{Own, Target};

/// The largest body: a site of ten thousand resources in one transaction.
const MAX_BODY: usize = 16 << 20;

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub resources: Arc<Resources>,
    pub hub: Arc<GoalHub>,
    pub operations: Operations,
    pub audit: Audit,
    rates: Rates,
    requests_per_second: u32,
    /// Ends streams when the controller stops.
    pub shutdown: signal::Receiver<bool>,
}

impl Api {
    pub(crate) fn new(
        resources: Arc<Resources>,
        hub: Arc<GoalHub>,
        audit: Audit,
        requests_per_second: u32,
        shutdown: signal::Receiver<bool>,
    ) -> Arc<Self> {
        let (operations, rates) = (Operations::default(), Rates::new());
        Arc::new(Self { resources, hub, operations, audit, rates, requests_per_second, shutdown })
    }
}

/// Needs an `Extension<Arc<Identity>>` of the client on each request, or a token in it.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(api)
}

async fn handle(
    State(api): State<Arc<Api>>,
    identity: Option<Extension<Arc<Identity>>>,
    peer: Option<Extension<Peer>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let from = peer.map(|p| p.0.0);
    let (verb, url) = (method.clone(), uri.to_string());
    let mut known = None;
    let answer = match who(&api, identity.as_deref().map(|i| &**i), &headers, from).await {
        Ok(caller) => {
            known = Some(caller.clone());
            dispatch(&api, &Asked { caller, method, uri, headers: &headers, body }).await
        }
        Err(refusal) => Err(refusal),
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let status = response.status().as_u16();
    if verb != Method::GET && verb != Method::HEAD || matches!(status, 401 | 403) {
        let revision = api.resources.state().rev;
        let deed = audit::Deed { caller: known.as_ref(), from, method: verb.as_str(), url: &url, status, revision };
        api.audit.write(&deed);
    }
    return_request_id(&headers, &mut response);
    response
}

/// Requests without a good token, of one address in a second.
const GUESSES: u32 = 5;

/// The caller, if it has not asked too often.
async fn who(
    api: &Api,
    identity: Option<&Identity>,
    headers: &HeaderMap,
    from: Option<IpAddr>,
) -> Result<Caller, Refusal> {
    let now = MonotonicClock::now();
    let take = |who: &str, most| api.rates.take(who, most, now).map_err(Refusal::TooOften);
    let caller = match (identity, asked::token(headers)) {
        (Some(identity), _) => Caller::of(identity, from)?,
        (None, Some(token)) => match tokens::caller(api.resources.store(), &token, from).await {
            Err(wrong @ Refusal::Unauthorized(_)) => {
                take(&format!("wrong from {from:?}"), GUESSES)?;
                return Err(wrong);
            }
            other => other?,
        },
        (None, None) => {
            take(&format!("wrong from {from:?}"), GUESSES)?;
            return Err(Refusal::Unauthorized("a token is needed".to_owned()));
        }
    };
    let most = if caller.role.is_tenants() { (api.requests_per_second / 10).max(1) } else { api.requests_per_second };
    take(&caller.name, most)?;
    Ok(caller)
}

/// Clients that ask for it get their own request id back ([MS-NCNBI] 2.2.1).
fn return_request_id(request: &HeaderMap, response: &mut Response) {
    const ID: &str = "x-ms-client-request-id";
    let wanted =
        request.get("x-ms-return-client-request-id").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"));
    if let (true, Some(id)) = (wanted, request.get(ID)) {
        response.headers_mut().insert(ID, id.clone());
    }
}

async fn dispatch(api: &Arc<Api>, asked: &Asked<'_>) -> Result<Response, Refusal> {
    let get = matches!(asked.method, Method::GET | Method::HEAD);
    let target = url::parse(asked.uri.path())?;
    asked.caller.may(deed(&target, get))?;
    match target {
        Target::Resource(path) if get && asked.wants_watch() => watch::of_resource(api, asked, path).await,
        Target::Collection { parent, kind } if get && asked.wants_watch() => {
            watch::of_collection(api, asked, parent, kind).await
        }
        Target::Resource(path) => resource::handle(api, asked, &path).await,
        Target::Collection { parent, kind } if get => resource::list(api, asked, parent.as_ref(), kind),
        Target::Batch if asked.method == Method::POST => batch::handle(api, asked).await,
        Target::Operation(id) if get => operations::status(api, &id),
        Target::OperationResult(id) if get => operations::result(api, &id),
        Target::Instance(id) if get => resource::of_instance(api, asked, &id),
        Target::Discovery if get => Ok(Json(discovery()).into_response()),
        Target::Status if get => Ok(Json(status::status(&api.resources.state(), &api.hub)).into_response()),
        Target::Trace if asked.method == Method::POST => {
            Ok(Json(trace::trace(&api.resources.state(), &api.hub, &asked.typed()?)?).into_response())
        }
        Target::Own(own) => own::handle(api, asked, own).await,
        _ => Err(Refusal::MethodNotAllowed(format!("{} is not for {}", asked.method, asked.uri.path()))),
    }
}

/// What permission a request needs.
fn deed(target: &Target, get: bool) -> Deed {
    match target {
        Target::Resource(_) | Target::Collection { .. } | Target::Instance(_) if get => Deed::Read,
        Target::Resource(_) | Target::Collection { .. } | Target::Instance(_) | Target::Batch => Deed::Write,
        Target::Operation(_) | Target::OperationResult(_) | Target::Discovery | Target::Own(Own::OpenApi) => Deed::Look,
        // A trace is asked by POST and changes nothing.
        Target::Status | Target::Trace => Deed::Oversee,
        Target::Own(Own::Tokens | Own::Token(_)) => Deed::Govern,
        Target::Own(_) if get => Deed::Oversee,
        Target::Own(_) => Deed::Govern,
    }
}

fn discovery() -> Value {
    let versions: Vec<String> = VERSIONS.iter().map(|v| v.to_uppercase()).collect();
    json!({
        "resourceRef": "/discovery/discovery",
        "resourceId": "discovery",
        "instanceId": "00000000-0000-0000-0000-000000000000",
        "properties": {
            "provisioningState": "Succeeded",
            "networkControllerVersion": env!("CARGO_PKG_VERSION"),
            "currentRestVersion": versions.last(),
            "supportedRestVersions": versions,
        }
    })
}
