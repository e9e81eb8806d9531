use crate::ResourcePath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The body of every refusal: `{"error": {...}}` ([MS-NCNBI] 3.1.5.35), with all problems in `details`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorEnvelope {
    pub error: ErrorBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One of the codes of [MS-NCNBI] 3.1.5.35.
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inner_error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub details: Vec<ErrorDetail>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    pub code: String,
    pub message: String,
    /// JSON pointer (RFC 6901) into the request body; for another resource its `resourceRef`, `#` and the pointer there.
    #[serde(default)]
    pub target: String,
    /// Resources that the message names; for who may not see them all, another has to be found. Never sent.
    #[serde(skip)]
    pub names: Vec<ResourcePath>,
    /// The document that `target` is in, if that is none of the request's. Never sent.
    #[serde(skip)]
    pub elsewhere: Option<ResourcePath>,
}

impl ErrorDetail {
    #[must_use]
    pub fn new(code: &str, message: impl Into<Said>, target: impl Into<String>) -> Self {
        let Said { text, names } = message.into();
        Self { code: code.to_owned(), message: text, target: target.into(), names, elsewhere: None }
    }
}

/// A sentence, and the resources that it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Said {
    pub text: String,
    pub names: Vec<ResourcePath>,
}

impl Said {
    #[must_use]
    pub fn naming(text: impl Into<String>, names: &[&ResourcePath]) -> Self {
        Self { text: text.into(), names: names.iter().map(|n| (*n).clone()).collect() }
    }
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self { text, names: Vec::new() }
    }
}

impl From<&str> for Said {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub pointer: String,
    pub code: &'static str,
    pub message: Said,
}

/// Collects problems, so that all are reported at once.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn push(&mut self, pointer: impl Into<String>, code: &'static str, message: impl Into<Said>) {
        self.0.push(Problem { pointer: pointer.into(), code, message: message.into() });
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ErrorBody {
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), ..Self::default() }
    }

    /// One problem speaks for itself; several are summed up and listed.
    #[must_use]
    pub fn from_details(details: Vec<ErrorDetail>) -> Self {
        let Some(first) = details.first() else {
            return Self::new("InternalServerError", "refused without a reason");
        };
        let message = match details.len() {
            1 => first.message.clone(),
            n => format!("{} ({} more: see details)", first.message, n - 1),
        };
        Self { code: first.code.clone(), message, target: Some(first.target.clone()), inner_error: None, details }
    }
}

/// Appends a reference token to a JSON pointer, escaped (RFC 6901 section 3).
#[must_use]
pub fn pointer_join(base: &str, token: impl std::fmt::Display) -> String {
    let token = token.to_string().replace('~', "~0").replace('/', "~1");
    format!("{base}/{token}")
}
