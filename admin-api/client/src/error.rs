use penstock_admin_types::{ErrorBody, ErrorEnvelope};
use penstock_southbound::CredentialError;
use std::error::Error;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("`{0}` is no address of a controller: it looks like https://10.1.31.2:443")]
    Server(String),
    /// The controller was not reached, or it did not speak as it should.
    #[error("no answer from {server}: {reason}")]
    Transport { server: String, reason: String },
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("{server} answered {status}, which this client does not understand: {reason}")]
    Answer { server: String, status: u16, reason: String },
}

/// The controller said no, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub error: ErrorBody,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.error.message, self.error.code)
    }
}

impl Refusal {
    /// Whether what was sent is wrong, rather than how or when.
    #[must_use]
    pub const fn is_validation(&self) -> bool {
        matches!(self.status, 400 | 409 | 412 | 422)
    }

    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        self.status == 404
    }

    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        let error = match serde_json::from_slice::<ErrorEnvelope>(body) {
            Ok(envelope) => envelope.error,
            Err(_) => ErrorBody::new(&format!("HTTP {status}"), text_of(status, body)),
        };
        Self { status, error }
    }
}

/// What a body that is no error envelope says: something between us and the controller may have written it.
fn text_of(status: u16, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).trim().chars().take(300).collect();
    if text.is_empty() { format!("the answer was {status} without a reason") } else { text }
}

/// The causes of an error in one line; the outer layers of HTTP libraries say little.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut all = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if all.last().is_none_or(|last| !last.contains(&text)) {
            all.push(text);
        }
        cause = inner.source();
    }
    all.join(": ")
}
