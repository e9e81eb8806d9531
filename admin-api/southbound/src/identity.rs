use crate::message::NodeRole;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::str::FromStr;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertRole {
    /// Serves the northbound and southbound interfaces.
    Controller,
    /// A person or a program that uses the northbound interface.
    Operator,
    Node(NodeRole),
}

impl CertRole {
    pub const ALL: [CertRole; 5] = [
        CertRole::Controller,
        CertRole::Operator,
        CertRole::Node(NodeRole::Mux),
        CertRole::Node(NodeRole::Host),
        CertRole::Node(NodeRole::Gateway),
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Operator => "operator",
            Self::Node(role) => role.name(),
        }
    }
}

impl fmt::Display for CertRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CertRole {
    type Err = IdentityError;
    fn from_str(s: &str) -> Result<Self, IdentityError> {
        Self::ALL.into_iter().find(|r| r.name() == s).ok_or_else(|| IdentityError::Role(s.to_owned()))
    }
}

/// Who holds a certificate: its common name (CN), and the roles that its organizational unit (OU) lists, separated by commas.
///
/// Only what a verified certificate says counts; nothing is taken from what a peer claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub roles: Vec<CertRole>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the peer showed no certificate")]
    Missing,
    #[error("the certificate could not be read: {0}")]
    Certificate(String),
    #[error(
        "the certificate has no {0}: Penstock's certificates carry the name in CN and the roles in OU (`penstock pki issue`)"
    )]
    Field(&'static str),
    #[error("`{0}` is no role: controller, operator, mux, host or gateway")]
    Role(String),
    #[error(
        "`{0}` is no name for a certificate: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
    )]
    Name(String),
}

impl Identity {
    /// # Errors
    /// The certificate cannot be read, or lacks a name or a known role.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, x509) =
            X509Certificate::from_der(certificate).map_err(|e| IdentityError::Certificate(e.to_string()))?;
        let subject = x509.subject();
        let name = only(subject.iter_common_name(), "common name (CN)")?;
        let units = only(subject.iter_organizational_unit(), "organizational unit (OU)")?;
        Self::new(name, &units)
    }

    /// # Errors
    /// A name or role that certificates cannot have.
    pub fn new(name: String, roles: &str) -> Result<Self, IdentityError> {
        check_name(&name)?;
        let mut roles = roles.split(',').map(str::parse).collect::<Result<Vec<CertRole>, _>>()?;
        roles.sort_unstable();
        roles.dedup();
        Ok(Self { name, roles })
    }

    #[must_use]
    pub fn may_be(&self, role: CertRole) -> bool {
        self.roles.contains(&role)
    }

    /// The roles as the organizational unit lists them.
    #[must_use]
    pub fn unit(&self) -> String {
        let names: Vec<&str> = self.roles.iter().map(|r| r.name()).collect();
        names.join(",")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.unit())
    }
}

/// Names become file names and metric labels, so their alphabet is small.
fn check_name(name: &str) -> Result<(), IdentityError> {
    let fits = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits { Ok(()) } else { Err(IdentityError::Name(name.to_owned())) }
}

/// Exactly one attribute: with two, it would be open which one counts.
fn only<'a>(
    mut attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
    what: &'static str,
) -> Result<String, IdentityError> {
    match (attributes.next(), attributes.next()) {
        (Some(one), None) => {
            one.as_str().map(str::to_owned).map_err(|e| IdentityError::Certificate(format!("{what}: {e}")))
        }
        _ => Err(IdentityError::Field(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_sorted_and_each_stands_once() {
        let identity = Identity::new("edge-1".to_owned(), "gateway,mux,gateway").unwrap();
        assert_eq!(identity.roles, [CertRole::Node(NodeRole::Mux), CertRole::Node(NodeRole::Gateway)]);
        assert_eq!(identity.to_string(), "edge-1 (mux,gateway)");
        assert!(!identity.may_be(CertRole::Controller));
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for name in ["", "../x", "a/b", ".hidden", "a b", "-x", &"x".repeat(64)] {
            assert!(Identity::new(name.to_owned(), "mux").is_err(), "{name}");
        }
    }

    #[test]
    fn an_unknown_role_is_named() {
        let error = Identity::new("a".to_owned(), "mux,root").unwrap_err();
        assert_eq!(error, IdentityError::Role("root".to_owned()));
    }
}
