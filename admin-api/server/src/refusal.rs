use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use penstock_admin_store::StoreError;
use penstock_admin_types::{ErrorBody, ErrorDetail, ErrorEnvelope, ResourcePath};

/// Why a request is not done. Nothing of it has been applied.
#[derive(Debug)]
pub enum Refusal {
    NotFound(String),
    /// Everything that is wrong with it.
    Invalid(Vec<ErrorDetail>),
    BadRequest {
        code: &'static str,
        message: String,
    },
    /// No certificate, and no token that is good.
    Unauthorized(String),
    Forbidden(String),
    /// Asked too often: seconds to wait.
    TooOften(u64),
    /// More streams than one caller may have.
    TooManyStreams(usize),
    /// Larger bodies at once than one caller may send.
    TooMuchAtOnce(usize),
    /// Its body did not come in time.
    TooSlow(String),
    MethodNotAllowed(String),
    /// An If-Match or If-None-Match that does not hold.
    Precondition(String),
    /// Deleting what others refer to.
    InUse {
        path: ResourcePath,
        referrers: Vec<ResourcePath>,
        /// More of them, that the caller may not know by name.
        unseen: usize,
    },
    /// A tenant would have more than it may.
    OverQuota(String),
    /// Another controller changed something meanwhile.
    Conflict,
    /// A change waits to be confirmed; until then no other is made.
    ConfirmationPending {
        author: String,
        deadline: String,
    },
    /// What was asked for is not kept any more.
    Gone(String),
    /// The leader alone can answer: where it is, with the path that was asked for.
    AskLeader(String),
    /// The store's disk is nearly full.
    NoRoom(String),
    TooLarge(String),
    Internal(String),
    Unavailable(String),
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::TooLarge { .. } => Self::TooLarge(e.to_string()),
            StoreError::Full(_) => Self::NoRoom(e.to_string()),
            e => Self::Unavailable(e.to_string()),
        }
    }
}

impl From<crate::secrets::SecretError> for Refusal {
    fn from(e: crate::secrets::SecretError) -> Self {
        Self::Internal(e.to_string())
    }
}

impl Refusal {
    /// Whether it says what is wrong with one resource, rather than that nothing can be done now.
    pub(crate) fn is_of_one_resource(&self) -> bool {
        !matches!(
            self,
            Self::NoRoom(_)
                | Self::Conflict
                | Self::ConfirmationPending { .. }
                | Self::Internal(_)
                | Self::Unavailable(_)
        )
    }

    pub(crate) fn into_parts(self) -> (StatusCode, ErrorBody) {
        match self {
            Self::NotFound(m) => (StatusCode::NOT_FOUND, ErrorBody::new("NotFound", m)),
            Self::Invalid(details) => (StatusCode::BAD_REQUEST, ErrorBody::from_details(details)),
            Self::BadRequest { code, message } => (StatusCode::BAD_REQUEST, ErrorBody::new(code, message)),
            Self::Unauthorized(m) => (StatusCode::UNAUTHORIZED, ErrorBody::new("Unauthorized", m)),
            Self::TooOften(seconds) => (
                StatusCode::TOO_MANY_REQUESTS,
                ErrorBody::new("RetryableError", format!("too many requests: wait {seconds} seconds")),
            ),
            Self::TooManyStreams(most) => (
                StatusCode::TOO_MANY_REQUESTS,
                ErrorBody::new("RetryableError", format!("there are {most} streams to this caller already: end one")),
            ),
            Self::TooMuchAtOnce(most) => (
                StatusCode::TOO_MANY_REQUESTS,
                ErrorBody::new(
                    "RetryableError",
                    format!(
                        "the bodies that this caller is sending now and this one have more than {most} KiB: wait for an answer, and say \
                         Content-Length (a body without it counts as the largest that may be)"
                    ),
                ),
            ),
            Self::TooSlow(m) => (StatusCode::REQUEST_TIMEOUT, ErrorBody::new("RetryableError", m)),
            Self::Forbidden(m) => (StatusCode::FORBIDDEN, ErrorBody::new("Forbidden", m)),
            Self::MethodNotAllowed(m) => (StatusCode::METHOD_NOT_ALLOWED, ErrorBody::new("OperationNotSupported", m)),
            Self::Precondition(m) => (StatusCode::PRECONDITION_FAILED, ErrorBody::new("PreconditionFailed", m)),
            Self::InUse { path, referrers, unseen } => (StatusCode::CONFLICT, in_use(&path, &referrers, unseen)),
            Self::OverQuota(m) => (StatusCode::CONFLICT, ErrorBody::new("QuotaExceeded", m)),
            Self::Conflict => (
                StatusCode::CONFLICT,
                ErrorBody::new(
                    "AnotherOperationInProgress",
                    "the resources changed meanwhile: read them and try again",
                ),
            ),
            Self::ConfirmationPending { author, deadline } => (
                StatusCode::CONFLICT,
                ErrorBody::new(
                    "AnotherOperationInProgress",
                    format!(
                        "a change of {author} waits to be confirmed until {deadline}: confirm it, or wait until it is undone"
                    ),
                ),
            ),
            Self::Gone(m) => (StatusCode::GONE, ErrorBody::new("Gone", m)),
            Self::AskLeader(url) => (
                StatusCode::TEMPORARY_REDIRECT,
                ErrorBody::new("RetryableError", format!("the leader alone can answer: {url}")),
            ),
            Self::NoRoom(m) => (StatusCode::INSUFFICIENT_STORAGE, ErrorBody::new("ServiceUnavailable", m)),
            Self::TooLarge(m) => (StatusCode::PAYLOAD_TOO_LARGE, ErrorBody::new("BadRequest", m)),
            Self::Internal(m) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("InternalServerError", m)),
            Self::Unavailable(m) => (StatusCode::SERVICE_UNAVAILABLE, ErrorBody::new("ServiceUnavailable", m)),
        }
    }
}

fn in_use(path: &ResourcePath, referrers: &[ResourcePath], unseen: usize) -> ErrorBody {
    let code = match path.kind_path() {
        "accessControlLists" => "InUseAccessControlListCannotBeDeleted",
        "credentials" => "InUseCredentialCannotBeDeleted",
        "loadBalancers/backendAddressPools" => "InUseBackendAddressPoolCannotBeDeleted",
        "loadBalancers/frontendIPConfigurations" => "InUseFrontendIpConfigurationCannotBeDeleted",
        "loadBalancers/probes" => "InUseProbeCannotBeDeleted",
        "loadBalancers/inboundNatRules" => "InboundNatRuleInUse",
        "logicalNetworks/subnets" | "virtualNetworks/subnets" => "InUseSubnetCannotBeDeleted",
        "logicalNetworks/subnets/ipPools" => "InUseIpPoolCannotBeDeleted",
        "networkInterfaces" => "NicInUse",
        "publicIPAddresses" => "PublicIPAddressInUse",
        "routeTables" => "InUseRouteTableCannotBeDeleted",
        "servers" => "InUseServerCannotBeDeleted",
        "serviceInsertions" => "InUseServiceInsertionCannotBeDeleted",
        "virtualNetworks" => "VnetInUse",
        "virtualServers" => "InUseVirtualServerCannotBeDeleted",
        _ => "ResourceInUse",
    };
    let details: Vec<ErrorDetail> =
        referrers.iter().map(|r| ErrorDetail::new(code, format!("'{r}' refers to it"), r.as_str())).collect();
    let message = format!("'{path}' cannot be deleted: {} resource(s) refer to it", referrers.len() + unseen);
    ErrorBody { target: Some(path.to_string()), details, ..ErrorBody::new(code, message) }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if let Self::Internal(message) | Self::Unavailable(message) = &self {
            tracing::error!(message, "a request failed");
        }
        let wait = match &self {
            Self::TooOften(seconds) => Some(*seconds),
            Self::TooMuchAtOnce(_) => Some(1),
            _ => None,
        };
        let leader = match &self {
            Self::AskLeader(url) => HeaderValue::from_str(url).ok(),
            _ => None,
        };
        let (status, error) = self.into_parts();
        let mut response = (status, Json(ErrorEnvelope { error })).into_response();
        if let Some(url) = leader {
            response.headers_mut().insert(header::LOCATION, url);
        }
        if let Some(seconds) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let ways = HeaderValue::from_static("Bearer realm=\"penstock\", Basic realm=\"penstock\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ways);
        }
        response
    }
}
