//! Who asks, and what they may do.
use crate::refusal::Refusal;
use penstock_southbound::{CertRole, Identity};
use std::fmt;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub name: String,
}

impl Caller {
    /// # Errors
    /// No certificate, or not an operator's.
    pub(crate) fn of(identity: Option<&Identity>) -> Result<Self, Refusal> {
        match identity {
            Some(identity) if identity.may_be(CertRole::Operator) => Ok(Self { name: identity.name.clone() }),
            Some(identity) => Err(Refusal::Forbidden(format!("the certificate of {identity} is not an operator's"))),
            None => Err(Refusal::Forbidden("no client certificate".to_owned())),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
