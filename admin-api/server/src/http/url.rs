use crate::refusal::Refusal;
use penstock_admin_types::{KINDS, Kind, PathError, ResourcePath, VERSIONS};

/// What a URL names.
#[derive(Debug)]
pub(super) enum Target {
    Resource(ResourcePath),
    Collection {
        parent: Option<ResourcePath>,
        kind: &'static Kind,
    },
    Batch,
    Operation(String),
    OperationResult(String),
    /// Which resource has an instanceId.
    Instance(String),
    Discovery,
    Status,
    Trace,
    Own(Own),
}

/// What the Network Controller's interface lacks: `/penstock/v1/...`.
#[derive(Debug)]
pub(super) enum Own {
    History,
    Change(u64),
    Rollback,
    Confirm,
    Export,
    OpenApi,
    Tokens,
    Token(String),
    Quotas,
    /// Of a tenant, or `*`.
    Quota(String),
    Usage,
    Audit,
}

/// `/networking/{version}/...` and our own `/penstock/v1/...`.
pub(super) fn parse(path: &str) -> Result<Target, Refusal> {
    let not_found = || Refusal::NotFound(format!("there is nothing at {path}"));
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).map(decode).collect::<Option<_>>().ok_or_else(not_found)?;
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let is = |s: &str, word: &str| s.eq_ignore_ascii_case(word);
    match words.as_slice() {
        [a, b, rest @ ..] if is(a, "penstock") && is(b, "v1") => own(rest).ok_or_else(not_found),
        [a, b, ..] if is(a, "networking") && is(b, "discovery") => Ok(Target::Discovery),
        [a, version, rest @ ..] if is(a, "networking") && VERSIONS.iter().any(|v| is(v, version)) => match rest {
            [b] if is(b, "$batch") => Ok(Target::Batch),
            [o, id] if is(o, "operations") => Ok(Target::Operation((*id).to_owned())),
            [o, id] if is(o, "operationResults") => Ok(Target::OperationResult((*id).to_owned())),
            [i, id] if is(i, "internalResourceInstances") => Ok(Target::Instance((*id).to_owned())),
            [d, ..] if is(d, "discovery") => Ok(Target::Discovery),
            rest => resource(rest).map_err(|e| Refusal::NotFound(e.to_string())),
        },
        [a, version, ..] if is(a, "networking") => {
            Err(Refusal::NotFound(format!("there is no version {version}: {}", VERSIONS.join(", "))))
        }
        _ => Err(not_found()),
    }
}

fn own(words: &[&str]) -> Option<Target> {
    Some(match words {
        ["status"] => Target::Status,
        ["trace"] => Target::Trace,
        ["history"] => Target::Own(Own::History),
        ["history", number] => Target::Own(Own::Change(number.parse().ok()?)),
        ["rollback"] => Target::Own(Own::Rollback),
        ["confirm"] => Target::Own(Own::Confirm),
        ["openapi.json"] => Target::Own(Own::OpenApi),
        ["tokens"] => Target::Own(Own::Tokens),
        ["tokens", id] => Target::Own(Own::Token((*id).to_owned())),
        ["quotas"] => Target::Own(Own::Quotas),
        ["quotas", tenant] => Target::Own(Own::Quota((*tenant).to_owned())),
        ["usage"] => Target::Own(Own::Usage),
        ["audit"] => Target::Own(Own::Audit),
        ["export"] => Target::Own(Own::Export),
        _ => return None,
    })
}

fn resource(segments: &[&str]) -> Result<Target, PathError> {
    let text = format!("/{}", segments.join("/"));
    if let Ok(path) = ResourcePath::parse(&text) {
        return Ok(Target::Resource(path));
    }
    let Some((collection, parent)) = segments.split_last() else { return Err(PathError::NotAResource(text)) };
    let parent = match parent {
        [] => None,
        parent => Some(ResourcePath::parse(&parent.join("/"))?),
    };
    let kind = match &parent {
        None => KINDS.iter().find(|k| k.collection.eq_ignore_ascii_case(collection)),
        Some(p) => p.kind().child(collection),
    };
    match kind {
        Some(kind) => Ok(Target::Collection { parent, kind }),
        // An unknown kind, or a bad id.
        None => Err(ResourcePath::parse(&text).err().unwrap_or(PathError::NotAResource(text))),
    }
}

/// Percent-decoding (RFC 3986 section 2.1).
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// A segment of a URL, or a value in its query, out of any text.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_in_any_letter_case_and_with_trailing_slashes() {
        assert!(matches!(parse("/Networking/V5/VirtualNetworks/"), Ok(Target::Collection { parent: None, .. })));
        let Ok(Target::Resource(path)) = parse("/networking/v7.1/virtualnetworks/a%20b/SUBNETS/x") else { panic!() };
        assert_eq!(path.as_str(), "/virtualNetworks/a b/subnets/x");
        assert!(matches!(parse("/networking/v1/loadBalancerManager/config"), Ok(Target::Resource(_))));
        assert!(matches!(parse("/networking/discovery"), Ok(Target::Discovery)));
        assert!(matches!(parse("/networking/v9/servers"), Err(Refusal::NotFound(_))));
        assert!(matches!(parse("/networking/v1/teapots/x"), Err(Refusal::NotFound(_))));
        assert!(matches!(
            parse("/networking/v1/servers/a%2Fb"),
            Err(Refusal::NotFound(_)) | Ok(Target::Collection { .. })
        ));
    }
}
