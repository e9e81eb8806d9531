use std::fmt;

/// What is wrong with a policy, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// A path through the goal state, as `red.endpoints[3].addr`.
    pub field: String,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{value} stands here and in {first}")]
    Duplicate { value: String, first: String },
    #[error("{value} and {other} overlap")]
    Overlap { value: String, other: String },
    #[error("{value} is not inside any of {of}")]
    Outside { value: String, of: &'static str },
    #[error("{value} is reserved for the gateway of the subnet {subnet}")]
    GatewayAddress { value: String, subnet: String },
    #[error("{value} cannot be the address of an endpoint")]
    NotUnicast { value: String },
    #[error("index {index} points past the list of {len}")]
    Dangling { index: u32, len: usize },
    #[error("the range {first}-{last} is empty: its first port is above its last")]
    EmptyRange { first: u16, last: u16 },
    #[error("{found} rules; at most {max} can be compiled")]
    TooMany { found: usize, max: usize },
    #[error("{value} and {other} are not of one address family and length")]
    Unequal { value: String, other: String },
    #[error("nothing is named")]
    Empty,
    #[error("port 0 is nobody's")]
    NoPort,
    #[error("{protocol} has no ports")]
    Portless { protocol: penstock_model::Protocol },
    #[error("an IPv4-mapped IPv6 address; no packet can carry it")]
    MappedAddress,
}

impl PolicyError {
    pub(crate) fn new(field: impl fmt::Display, problem: Problem) -> Self {
        Self { field: field.to_string(), problem }
    }

    /// The same error in `list`, whose field is an index.
    pub(crate) fn of(mut self, list: &str) -> Self {
        self.field = format!("{list}{}", self.field);
        self
    }

    /// The same error with `parent` before its field.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
