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
use crate::lead::Place;
use crate::rate::{Rates, Share, Shares};
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::serve::{Peer, Usage, Using};
use crate::{status, tokens, trace};
use asked::Asked;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use penstock_admin_store::Election;
use penstock_admin_types::VERSIONS;
use penstock_clock::MonotonicClock;
use penstock_southbound::Identity;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch as signal};
use url::{Own, Target};

/// The largest body: a site of ten thousand resources in one transaction.
const MAX_BODY: usize = 16 << 20;
/// KiB of all bodies at once; who comes later waits.
const BODIES: usize = 256 << 10;
/// KiB of them that are one caller's: two operators, or eight tenants, before anybody waits.
const BODIES_OF_ONE: usize = BODIES / 2;
const BODIES_OF_A_TENANT: usize = BODIES / 8;
/// In which a body has to come.
const BODY: Duration = Duration::from_secs(30);

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub resources: Arc<Resources>,
    pub hub: Arc<GoalHub>,
    /// Where there are several controllers: which one nodes report to.
    leader: Option<Election>,
    pub audit: Audit,
    rates: Rates,
    /// Of each caller.
    streams: Shares,
    bodies: Semaphore,
    /// Of each caller.
    body_shares: Shares,
    requests_per_second: u32,
    /// Ends streams when the controller stops.
    pub shutdown: signal::Receiver<bool>,
}

impl Api {
    pub(crate) fn new(
        resources: Arc<Resources>,
        hub: Arc<GoalHub>,
        leader: Option<Election>,
        audit: Audit,
        requests_per_second: u32,
        shutdown: signal::Receiver<bool>,
    ) -> Arc<Self> {
        let (rates, streams) = (Rates::new(), Shares::default());
        let (bodies, body_shares) = (Semaphore::new(BODIES), Shares::default());
        Arc::new(Self {
            resources,
            hub,
            leader,
            audit,
            rates,
            streams,
            bodies,
            body_shares,
            requests_per_second,
            shutdown,
        })
    }
}

/// Needs an `Extension<Arc<Identity>>` of the client on each request, or a token in it.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(api)
}

/// In this order: who it is, whether it may, and only then what it sends.
async fn handle(
    State(api): State<Arc<Api>>,
    identity: Option<Extension<Arc<Identity>>>,
    peer: Option<Extension<Peer>>,
    usage: Option<Extension<Arc<Usage>>>,
    request: Request,
) -> Response {
    let from = peer.map(|p| p.0.0);
    let (verb, url) = (request.method().clone(), request.uri().to_string());
    let headers = request.headers().clone();
    let using = usage.as_deref().map(Usage::begin);
    let (known, admitted) = who(&api, identity.as_deref().map(|i| &**i), &headers, from).await;
    let answer = match (&known, admitted) {
        (Some(caller), Ok(())) => {
            if let Some(usage) = &usage {
                usage.know();
            }
            dispatch(&api, caller.clone(), request, &headers, using).await
        }
        (None, Ok(())) => Err(Refusal::Internal("nobody was let in".to_owned())),
        (_, Err(refusal)) => Err(refusal),
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let status = response.status().as_u16();
    if verb != Method::GET && verb != Method::HEAD || audit::is_denied(status) {
        let revision = api.resources.state().rev;
        let deed = audit::Deed { caller: known.as_ref(), from, method: verb.as_str(), url: &url, status, revision };
        api.audit.write(&deed);
    }
    return_request_id(&headers, &mut response);
    response
}

/// Requests without a good token, of one address in a second.
const GUESSES: u32 = 5;

/// The caller, if it is known, and whether it has not asked too often.
async fn who(
    api: &Api,
    identity: Option<&Identity>,
    headers: &HeaderMap,
    from: Option<IpAddr>,
) -> (Option<Caller>, Result<(), Refusal>) {
    let now = MonotonicClock::now();
    let take = |who: &str, most| api.rates.take(who, most, now).map_err(Refusal::TooOften);
    let token = asked::token(headers);
    let place = format!("{:?}", from.map(household));
    let guesser = format!("wrong from {place}");
    let id = token.as_deref().and_then(tokens::parts).map(|(id, _)| id.chars().take(16).collect::<String>());
    // That a token was good before is remembered: guesses of others at the same address do not keep it out.
    let good = format!("good {} from {place}", id.unwrap_or_default());
    let found = match (identity, token) {
        (Some(identity), _) => Caller::of(identity, from),
        // Who only guesses does not get as far as the store.
        (None, Some(token)) => match api.rates.look(&guesser, GUESSES, now) {
            Err(seconds) if !api.rates.knows(&good) => Err(Refusal::TooOften(seconds)),
            _ => tokens::caller(api.resources.store(), &token, from).await,
        },
        (None, None) => Err(Refusal::Unauthorized("a token is needed".to_owned())),
    };
    match found {
        Ok(caller) => {
            let all = api.requests_per_second;
            if caller.token.is_some() {
                let _ = take(&good, 1);
            }
            let most = if caller.role.is_tenants() { (all / 10).max(1) } else { all };
            let admitted = take(&caller.name, most);
            (Some(caller), admitted)
        }
        Err(wrong @ (Refusal::Unauthorized(_) | Refusal::Forbidden(_))) => {
            api.rates.forget(&good);
            let guessed = take(&guesser, GUESSES);
            (None, guessed.and(Err(wrong)))
        }
        Err(other) => (None, Err(other)),
    }
}

/// What one client has of addresses: of IPv6 a whole /64.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(a) => a.into(),
            None => Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
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

async fn dispatch(
    api: &Arc<Api>,
    caller: Caller,
    request: Request,
    headers: &HeaderMap,
    using: Option<Using>,
) -> Result<Response, Refusal> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let get = matches!(method, Method::GET | Method::HEAD);
    let target = url::parse(uri.path())?;
    caller.may(deed(&target, get))?;
    if matches!(target, Target::Status | Target::Trace | Target::Operation(_) | Target::OperationResult(_)) {
        ask_leader(api, &caller, &uri).await?;
    }
    // Until the answer is made: what is made of a body takes as much again.
    let (_room, body) = if matches!(method, Method::PUT | Method::POST) {
        let length = request.body().size_hint().upper().unwrap_or(MAX_BODY as u64);
        (Some(room_for(api, &caller, length).await?), body(request).await?)
    } else {
        (None, Bytes::new())
    };
    let asked = &Asked { caller, method, uri, headers, body, using };
    match target {
        Target::Resource(path) if get && asked.wants_watch() => watch::of_resource(api, asked, path).await,
        Target::Collection { parent, kind } if get && asked.wants_watch() => {
            watch::of_collection(api, asked, parent, kind).await
        }
        Target::Resource(path) => resource::handle(api, asked, &path).await,
        Target::Collection { parent, kind } if get => resource::list(api, asked, parent.as_ref(), kind),
        Target::Batch if asked.method == Method::POST => batch::handle(api, asked).await,
        Target::Operation(id) if get => operations::status(api, &asked.caller, &id).await,
        Target::OperationResult(id) if get => operations::result(api, &id).await,
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

/// What nodes report, the leader alone knows: others send there.
async fn ask_leader(api: &Api, caller: &Caller, uri: &Uri) -> Result<(), Refusal> {
    let Some(election) = api.leader.as_ref().filter(|_| !api.hub.leads()) else { return Ok(()) };
    let none = || Refusal::Unavailable("no controller leads at the moment".to_owned());
    // Elected already, and about to begin: not to be sent to itself.
    let leader = election.leader().await?.filter(|l| *l != election.value).ok_or_else(none)?;
    let asked = uri.path_and_query().map_or("/", |p| p.as_str());
    let place = Place::read(&String::from_utf8_lossy(&leader));
    let url = match (&caller.token, place.tokens) {
        (None, _) => place.url,
        (Some(_), Some(tokens)) => tokens,
        (Some(_), None) => {
            let none = "the leader alone can answer, and it has no advertise_tokens in [controller.etcd]: ask it where it takes tokens";
            return Err(Refusal::Unavailable(none.to_owned()));
        }
    };
    Err(Refusal::AskLeader(format!("{url}{asked}")))
}

/// Waits until there is memory for a body. No caller can have all of it, however slowly it sends.
async fn room_for<'a>(api: &'a Api, caller: &Caller, length: u64) -> Result<(Share, SemaphorePermit<'a>), Refusal> {
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    if length > MAX_BODY as u64 {
        return Err(too_large());
    }
    let most = if caller.role.is_tenants() { BODIES_OF_A_TENANT } else { BODIES_OF_ONE };
    let share = api.body_shares.take(&caller.name, kib as usize, most).ok_or(Refusal::TooMuchAtOnce(most))?;
    let busy = || Refusal::Unavailable("too many large bodies at once".to_owned());
    let room = tokio::time::timeout(BODY, api.bodies.acquire_many(kib)).await.map_err(|_| busy())?;
    Ok((share, room.map_err(|_| busy())?))
}

async fn body(request: Request) -> Result<Bytes, Refusal> {
    let slow = |_| Refusal::TooSlow(format!("the body did not come within {} seconds", BODY.as_secs()));
    tokio::time::timeout(BODY, Bytes::from_request(request, &())).await.map_err(slow)?.map_err(
        |rejected| match rejected.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => Refusal::BadRequest { code: "InvalidRequestFormat", message: rejected.body_text() },
        },
    )
}

fn too_large() -> Refusal {
    Refusal::TooLarge(format!("a body has at most {MAX_BODY} bytes"))
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
        Target::Own(Own::Usage) if get => Deed::Read,
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
