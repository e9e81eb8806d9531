use penstock_admin_client::{ClientError, Refusal};
use penstock_southbound::pki::PkiError;
use penstock_southbound::{CertRole, IdentityError};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("{what}: {error}")]
    Json { what: String, error: serde_json::Error },
    #[error("{what}: {reason}")]
    Yaml { what: String, reason: String },
    #[error("{what} is not {goal} after {seconds} seconds{last}")]
    NotInTime { what: String, goal: &'static str, seconds: u64, last: String },
    #[error("the editor {0} ended with an error: nothing was changed")]
    Editor(String),
    #[error("there is no `{name}`; {hint}")]
    UnknownName { name: String, hint: String },
    #[error("context file {}: {error}", path.display())]
    Context { path: PathBuf, error: Box<toml::de::Error> },
    #[error("no controller is named: give {missing}, or write server, ca, cert and key to {}", context.display())]
    NoConnection { missing: String, context: PathBuf },
    #[error("there is no kind `{kind}`; {hint}")]
    UnknownKind { kind: String, hint: String },
    #[error("{0} holds no .json, .yaml or .yml file")]
    NothingToApply(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Of an apply: `pointer` of each detail already says which file.
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("a certificate for a {0} needs the address that clients use: --ip or --dns")]
    NoAddress(CertRole),
}

impl CliError {
    pub(crate) fn io(what: impl ToString) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |error| Self::Io { what, error }
    }

    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Client(ClientError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// As `AFTER_HELP` lists them.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::UnknownKind { .. } | Self::UnknownName { .. } | Self::NoConnection { .. } | Self::NoAddress(_) => 2,
            Self::NotInTime { .. } | Self::Client(ClientError::Transport { .. }) => 7,
            _ => match self.refusal().map(|r| r.status) {
                Some(400 | 422) => 3,
                Some(404 | 410) => 4,
                Some(409 | 412) => 5,
                Some(401 | 403) => 6,
                Some(429 | 503) => 7,
                _ => 1,
            },
        })
    }

    /// What to do next, where it is not in the error itself.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Client(ClientError::Transport { reason, .. }) => Some(transport_advice(reason)),
            Self::Refused(refusal) if matches!(refusal.status, 400 | 422) => {
                Some("nothing was changed; correct what is listed and apply again")
            }
            _ => match self.refusal()?.status {
                401 | 403 => {
                    Some("use a certificate of the role operator: penstock pki issue --role operator --name NAME")
                }
                404 => Some("penstock get KIND lists what is there"),
                409 if self.refusal()?.error.code == "AnotherOperationInProgress" => Some("try again"),
                409 => Some("remove what refers to it first, or apply both changes together"),
                412 => Some("it was changed meanwhile: look at it again"),
                _ => None,
            },
        }
    }
}

fn transport_advice(reason: &str) -> &'static str {
    const ADVICE: &[(&str, &str)] = &[
        ("refused", "is the controller running, and is this its northbound address (controller.listen)?"),
        ("UnknownIssuer", "the controller's certificate is of another authority: check --ca"),
        ("BadSignature", "the controller's certificate is of another authority: check --ca"),
        ("not valid for name", "the controller's certificate does not name this address: issue it with --ip or --dns"),
        ("CertificateRequired", "the controller wants a client certificate: check --cert and --key"),
        ("Expired", "a certificate has expired: issue a new one with penstock pki issue"),
        ("expired", "a certificate has expired: issue a new one with penstock pki issue"),
        ("UnknownCA", "the controller does not know the authority of --cert"),
    ];
    let found = ADVICE.iter().find(|(word, _)| reason.contains(word));
    found.map_or("check --server and the network between", |(_, advice)| advice)
}
