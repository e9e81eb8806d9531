use super::reader::{Node, Reader};
use crate::value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Until when what is drained keeps what it has, in seconds of Unix time; `None`: it is not drained.
pub(super) fn read(r: &mut Reader<'_>, node: &Node<'_>) -> Option<u64> {
    let said = value::get(node.properties(), "draining").filter(|v| !v.is_null())?;
    let text = value::get_text(said, "deadline").unwrap_or_default();
    let deadline = OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|at| u64::try_from(at.unix_timestamp()).ok());
    if deadline.is_none() {
        let message = format!("'{text}' is no time of RFC 3339, as 2026-01-31T12:00:00Z");
        r.problem(node, node.at("draining/deadline"), "InvalidPropertyValue", message);
    }
    deadline
}
