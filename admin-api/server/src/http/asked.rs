//! One request, and what its URL and headers ask for besides the resource.
use super::url::decode;
use crate::access::Caller;
use crate::draft::Condition;
use crate::refusal::Refusal;
use crate::resources::Manner;
use crate::serve::Using;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// A change waits at most this long to be confirmed.
const LONGEST_WAIT: u64 = 86_400;
/// Bytes of a comment.
const LONGEST_COMMENT: usize = 500;

pub(super) struct Asked<'a> {
    pub caller: Caller,
    pub method: Method,
    pub uri: Uri,
    pub headers: &'a HeaderMap,
    pub body: Bytes,
    /// Keeps its connection from being idle.
    pub using: Option<Using>,
}

impl Asked<'_> {
    pub(super) fn json(&self) -> Result<Value, Refusal> {
        // Windows clients begin with a byte order mark.
        let bytes = self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body);
        serde_json::from_slice(bytes).map_err(|e| Refusal::BadRequest { code: "InvalidJson", message: e.to_string() })
    }

    pub(super) fn typed<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_value(self.json()?)
            .map_err(|e| Refusal::BadRequest { code: "InvalidRequestFormat", message: e.to_string() })
    }

    pub(super) fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).unwrap_or_default()
    }

    /// A parameter of the query, by name in any letter case.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        self.uri.query()?.split('&').find_map(|pair| {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            if decode(k)?.eq_ignore_ascii_case(name) { decode(&v.replace('+', "%20")) } else { None }
        })
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.query(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.query(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(format!("{name} is a whole number, not '{text}'")))
    }

    pub(super) fn wants_watch(&self) -> bool {
        self.flag("watch") || self.header(&header::ACCEPT).starts_with("text/event-stream")
    }

    pub(super) fn manner(&self) -> Result<Manner, Refusal> {
        let confirm_within = match self.number("confirmWithin")? {
            None => None,
            Some(seconds @ 1..=LONGEST_WAIT) => Some(Duration::from_secs(seconds)),
            Some(_) => return Err(invalid(format!("confirmWithin is 1 to {LONGEST_WAIT} seconds"))),
        };
        // While a change waits nobody makes another: that is not a tenant's to say.
        if confirm_within.is_some() && self.caller.role.is_tenants() {
            return Err(Refusal::Forbidden("confirmWithin is the operator's".to_owned()));
        }
        let comment = self.query("comment");
        if comment.as_ref().is_some_and(|c| c.len() > LONGEST_COMMENT) {
            return Err(invalid(format!("a comment has at most {LONGEST_COMMENT} bytes")));
        }
        Ok(Manner { caller: self.caller.clone(), comment, what_if: self.flag("whatIf"), confirm_within })
    }

    pub(super) fn condition(&self) -> Result<Condition, Refusal> {
        match (self.header(&header::IF_MATCH), self.header(&header::IF_NONE_MATCH)) {
            ("", "") => Ok(Condition::None),
            ("*", "") => Ok(Condition::Exists),
            ("", "*") => Ok(Condition::Absent),
            (etag, "") => Ok(Condition::Etag(etag.to_owned())),
            _ => Err(invalid("If-None-Match may be *, and not together with If-Match".to_owned())),
        }
    }
}

/// A token: as such, or as the password of clients that know no other way.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let basic = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest.trim()).ok())??;
    Some(String::from_utf8(basic).ok()?.split_once(':')?.1.to_owned())
}

pub(super) fn invalid(message: String) -> Refusal {
    Refusal::BadRequest { code: "BadRequest", message }
}
