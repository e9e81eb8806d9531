//! The northbound interface: paths in any letter case, so one dispatcher instead of a table of routes.
mod asked;
mod batch;
mod operations;
mod own;
mod resource;
mod url;
mod watch;

use crate::access::Caller;
use crate::hub::GoalHub;
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::{status, trace};
use asked::Asked;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use operations::Operations;
use penstock_admin_types::VERSIONS;
use penstock_southbound::Identity;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch as signal;
use url::Target;

/// The largest body: a site of ten thousand resources in one transaction.
const MAX_BODY: usize = 16 << 20;

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub resources: Arc<Resources>,
    pub hub: Arc<GoalHub>,
    pub operations: Operations,
    /// Ends streams when the controller stops.
    pub shutdown: signal::Receiver<bool>,
}

impl Api {
    pub(crate) fn new(resources: Arc<Resources>, hub: Arc<GoalHub>, shutdown: signal::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { resources, hub, operations: Operations::default(), shutdown })
    }
}

/// Needs an `Extension<Arc<Identity>>` of the client on each request.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(api)
}

async fn handle(
    State(api): State<Arc<Api>>,
    identity: Option<Extension<Arc<Identity>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = match Caller::of(identity.as_deref().map(|i| &**i)) {
        Ok(caller) => dispatch(&api, &Asked { caller, method, uri, headers: &headers, body }).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    return_request_id(&headers, &mut response);
    response
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
    let get = asked.method == Method::GET;
    match url::parse(asked.uri.path())? {
        Target::Resource(path) if get && asked.wants_watch() => watch::of_resource(api, asked, path).await,
        Target::Collection { parent, kind } if get && asked.wants_watch() => {
            watch::of_collection(api, asked, parent, kind).await
        }
        Target::Resource(path) => resource::handle(api, asked, &path).await,
        Target::Collection { parent, kind } if get => resource::list(api, asked, parent.as_ref(), kind),
        Target::Batch if asked.method == Method::POST => batch::handle(api, asked).await,
        Target::Operation(id) if get => operations::status(api, &id),
        Target::OperationResult(id) if get => operations::result(api, &id),
        Target::Discovery if get => Ok(Json(discovery()).into_response()),
        Target::Status if get => Ok(Json(status::status(&api.resources.state(), &api.hub)).into_response()),
        Target::Trace if asked.method == Method::POST => {
            Ok(Json(trace::trace(&api.resources.state(), &api.hub, &asked.typed()?)?).into_response())
        }
        Target::Own(own) => own::handle(api, asked, own).await,
        _ => Err(Refusal::MethodNotAllowed(format!("{} is not for {}", asked.method, asked.uri.path()))),
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
