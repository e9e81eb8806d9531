//! `operations/{id}` and `operationResults/{id}`. Requests are done when they are answered, so an operation is a memory of it.
use super::Api;
use crate::refusal::Refusal;
use crate::resources::mint;
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Operations that are remembered: about 1 MiB.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Operations {
    done: Mutex<(VecDeque<String>, BTreeSet<String>)>,
}

impl Operations {
    fn add(&self) -> String {
        let id = mint();
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let (order, known) = &mut *done;
        if order.len() >= REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        order.push_back(id.clone());
        known.insert(id.clone());
        id
    }

    fn find(&self, id: &str) -> Result<(), Refusal> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.1.contains(id) { Ok(()) } else { Err(Refusal::NotFound(format!("operation '{id}' is not known"))) }
    }
}

/// Names a request that succeeded; a delete also says where its result is.
pub(super) fn done(api: &Api, headers: &mut HeaderMap, delete: bool) {
    let id = api.operations.add();
    let mut put = |name: HeaderName, text: String| {
        if let Ok(v) = HeaderValue::from_str(&text) {
            headers.insert(name, v);
        }
    };
    put(HeaderName::from_static("azure-asyncoperation"), format!("/networking/v1/operations/{id}"));
    put(HeaderName::from_static("x-ms-request-id"), id.clone());
    if delete {
        put(header::LOCATION, format!("/networking/v1/operationResults/{id}"));
        put(header::RETRY_AFTER, "15".to_owned());
    }
}

pub(super) fn status(api: &Api, id: &str) -> Result<Response, Refusal> {
    api.operations.find(id)?;
    Ok(Json(json!({"status": "Succeeded"})).into_response())
}

pub(super) fn result(api: &Api, id: &str) -> Result<Response, Refusal> {
    api.operations.find(id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
