//! `operations/{id}` and `operationResults/{id}`: how far a change has come on its way to the nodes.
//!
//! A change is done for its caller when it is answered; its operation goes on until the goals are compiled and the nodes that are
//! connected hold them. The id holds the number of the change: so it outlives restarts, and all controllers know it.
use super::Api;
use crate::access::Caller;
use crate::hub::Rollout;
use crate::refusal::Refusal;
use crate::resources::mint;
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use uuid::Uuid;

/// Seconds after which to ask again. Goals take less, where all is well.
const AGAIN: u64 = 1;

/// Names a request that succeeded; a delete also says where its result is.
pub(super) fn done(headers: &mut HeaderMap, change: u64, delete: bool) {
    let id = id(change);
    let mut put = |name: HeaderName, text: String| {
        if let Ok(v) = HeaderValue::from_str(&text) {
            headers.insert(name, v);
        }
    };
    put(HeaderName::from_static("azure-asyncoperation"), format!("/networking/v1/operations/{id}"));
    put(HeaderName::from_static("x-ms-request-id"), id.to_string());
    put(header::RETRY_AFTER, AGAIN.to_string());
    if delete {
        put(header::LOCATION, format!("/networking/v1/operationResults/{id}"));
    }
}

/// RFC 9562 section 5.8: the number of the change, and chance.
fn id(change: u64) -> Uuid {
    let mut bytes = *Uuid::parse_str(&mint()).unwrap_or_default().as_bytes();
    for (to, from) in bytes.iter_mut().zip(change.to_be_bytes().into_iter().skip(2)) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The change of an operation, which must have been made: by another controller a moment ago, perhaps.
async fn change(api: &Api, id: &str) -> Result<u64, Refusal> {
    let unknown = || Refusal::NotFound(format!("operation '{id}' is not known"));
    let id = Uuid::parse_str(id).ok().filter(|id| id.get_version_num() == 8).ok_or_else(unknown)?;
    let change = id.as_bytes().iter().take(6).fold(0, |n, b| n << 8 | u64::from(*b));
    if change > api.resources.state().rev {
        api.resources.catch_up().await?;
    }
    if change <= api.resources.state().rev { Ok(change) } else { Err(unknown()) }
}

/// A tenant is told how many nodes there are, and not their names.
pub(super) async fn status(api: &Api, caller: &Caller, id: &str) -> Result<Response, Refusal> {
    let change = change(api, id).await?;
    let rollout = api.hub.rollout();
    let progress = progress(&rollout, change);
    let mut body = json!({
        "status": progress.word(),
        "properties": {"revision": change, "nodes": rollout.nodes, "nodesLive": rollout.live, "detail": detail(&rollout, change)},
    });
    if let (false, Some(properties)) =
        (caller.role.is_tenants(), body.get_mut("properties").and_then(Value::as_object_mut))
    {
        properties.insert("waiting".to_owned(), json!(rollout.waiting));
        properties.insert("absent".to_owned(), json!(rollout.absent));
        properties.insert("refused".to_owned(), json!(rollout.refused));
    }
    if let (Progress::Failed, Some(map)) = (progress, body.as_object_mut()) {
        let message = format!("{} of {} nodes refused their goals", rollout.refused.len(), rollout.nodes);
        map.insert("error".to_owned(), json!({"code": "PolicyConfigurationFailure", "message": message}));
    }
    let mut response = Json(body).into_response();
    if progress == Progress::UnderWay {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(AGAIN));
    }
    Ok(response)
}

pub(super) async fn result(api: &Api, id: &str) -> Result<Response, Refusal> {
    let change = change(api, id).await?;
    match progress(&api.hub.rollout(), change) {
        Progress::UnderWay => {
            let again = [
                (header::LOCATION, format!("/networking/v1/operationResults/{id}")),
                (header::RETRY_AFTER, AGAIN.to_string()),
            ];
            Ok((StatusCode::ACCEPTED, again).into_response())
        }
        Progress::Succeeded | Progress::Failed => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    UnderWay,
    Succeeded,
    Failed,
}

impl Progress {
    const fn word(self) -> &'static str {
        match self {
            Self::UnderWay => "InProgress",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// A node that is not connected is not waited for: it gets its goal when it comes.
fn progress(rollout: &Rollout, change: u64) -> Progress {
    if rollout.compiled < change {
        Progress::UnderWay
    } else if !rollout.refused.is_empty() {
        Progress::Failed
    } else if !rollout.waiting.is_empty() {
        Progress::UnderWay
    } else {
        Progress::Succeeded
    }
}

fn detail(rollout: &Rollout, change: u64) -> String {
    if rollout.compiled < change {
        return format!("revision {change} is being compiled");
    }
    format!("revision {change} is live on {} of {} nodes", rollout.live, rollout.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_waits_for_the_nodes_that_are_there() {
        let all_live = Rollout { compiled: 7, nodes: 2, live: 2, ..Rollout::default() };
        assert_eq!(progress(&all_live, 7), Progress::Succeeded);
        assert_eq!(progress(&all_live, 8), Progress::UnderWay);
        assert_eq!(detail(&all_live, 7), "revision 7 is live on 2 of 2 nodes");
        let waits = Rollout { live: 1, waiting: vec!["mux mux1".into()], ..all_live.clone() };
        assert_eq!(progress(&waits, 7), Progress::UnderWay);
        let refused = Rollout { live: 1, refused: vec!["mux mux1: no".into()], ..all_live.clone() };
        assert_eq!(progress(&refused, 7), Progress::Failed);
        let absent = Rollout { live: 1, absent: vec!["mux mux1".into()], ..all_live };
        assert_eq!(progress(&absent, 7), Progress::Succeeded);
    }

    #[test]
    fn an_id_holds_its_change_and_differs_from_all_others() {
        let (a, b) = (id(0x0102_0304_0506), id(0x0102_0304_0506));
        assert!(a.to_string().starts_with("01020304-0506-8"), "{a}");
        assert_ne!(a, b);
    }
}
