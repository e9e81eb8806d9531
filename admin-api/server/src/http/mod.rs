//! The northbound interface: paths in any letter case, so one dispatcher instead of a table of routes.
mod batch;
mod operations;
mod resource;
mod url;

use crate::hub::GoalHub;
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::{status, trace};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use operations::Operations;
use penstock_admin_types::VERSIONS;
use penstock_southbound::{CertRole, Identity};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use url::Target;

/// The largest body: what the store takes in one transaction.
const MAX_BODY: usize = penstock_admin_store::MAX_REQUEST_BYTES;

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub resources: Arc<Resources>,
    pub hub: Arc<GoalHub>,
    pub operations: Operations,
}

impl Api {
    pub(crate) fn new(resources: Arc<Resources>, hub: Arc<GoalHub>) -> Arc<Self> {
        Arc::new(Self { resources, hub, operations: Operations::default() })
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
    let answer = match authorize(identity.as_ref().map(|i| &i.0)) {
        Ok(()) => dispatch(&api, &method, &uri, &headers, &body).await,
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

fn authorize(identity: Option<&Arc<Identity>>) -> Result<(), Refusal> {
    match identity {
        Some(identity) if identity.may_be(CertRole::Operator) => Ok(()),
        Some(identity) => Err(Refusal::Forbidden(format!("the certificate of {identity} is not an operator's"))),
        None => Err(Refusal::Forbidden("no client certificate".to_owned())),
    }
}

async fn dispatch(
    api: &Api,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Refusal> {
    match url::parse(uri.path())? {
        Target::Resource(path) => resource::handle(api, method, &path, uri, headers, body).await,
        Target::Collection { parent, kind } if *method == Method::GET => resource::list(api, parent.as_ref(), kind),
        Target::Batch if *method == Method::POST => batch::handle(api, uri, parse_body(body)?).await,
        Target::Operation(id) if *method == Method::GET => operations::status(api, &id),
        Target::OperationResult(id) if *method == Method::GET => operations::result(api, &id),
        Target::Discovery if *method == Method::GET => Ok(Json(discovery()).into_response()),
        Target::Status if *method == Method::GET => {
            Ok(Json(status::status(&api.resources.state(), &api.hub)).into_response())
        }
        Target::Trace if *method == Method::POST => {
            let question = typed(body)?;
            Ok(Json(trace::trace(&api.resources.state(), &api.hub, &question)?).into_response())
        }
        _ => Err(Refusal::MethodNotAllowed(format!("{method} is not for {}", uri.path()))),
    }
}

fn parse_body(body: &Bytes) -> Result<Value, Refusal> {
    // Windows clients begin with a byte order mark.
    let bytes = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(bytes).map_err(|e| Refusal::BadRequest { code: "InvalidJson", message: e.to_string() })
}

fn typed<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_value(parse_body(body)?)
        .map_err(|e| Refusal::BadRequest { code: "InvalidRequestFormat", message: e.to_string() })
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

/// Whether the query has `name=true`.
fn flag(uri: &Uri, name: &str) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| {
        pair.split_once('=').is_some_and(|(k, v)| k.eq_ignore_ascii_case(name) && v.eq_ignore_ascii_case("true"))
    })
}
