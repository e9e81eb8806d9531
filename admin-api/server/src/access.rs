//! Who asks, and what they may do: nothing but what is listed here.
use crate::history::UnixMillis;
use crate::refusal::Refusal;
use penstock_admin_types::{Documents, ResourcePath, value};
use penstock_southbound::{CertRole, Identity};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Everything.
    Operator,
    /// Sees everything, changes nothing.
    Auditor,
    /// Sees and changes the resources of one tenant.
    TenantAdmin,
    /// Sees them.
    TenantViewer,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::TenantAdmin => "tenant-admin",
            Self::TenantViewer => "tenant-viewer",
        }
    }

    pub(crate) const fn is_tenants(self) -> bool {
        matches!(self, Self::TenantAdmin | Self::TenantViewer)
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// One caller's alone: that of a certificate, or of a token its id and what it was called, which others may be, too.
    pub name: String,
    pub role: Role,
    /// Of the tenant's roles.
    pub tenant: Option<String>,
    pub from: Option<IpAddr>,
    /// What it came with, unless with a certificate.
    pub token: Option<HeldToken>,
}

/// A token that was good when it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldToken {
    pub id: String,
    pub expires: UnixMillis,
}

/// What a request does, as far as permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Versions, the API's description, operations: of no tenant.
    Look,
    /// Resources are read; those that the caller may see.
    Read,
    /// Resources are changed.
    Write,
    /// The whole site is read: status, history, traces.
    Oversee,
    /// The whole site is changed, or who may change it.
    Govern,
}

impl Caller {
    /// Of a certificate.
    ///
    /// # Errors
    /// It is not an operator's.
    pub(crate) fn of(identity: &Identity, from: Option<IpAddr>) -> Result<Self, Refusal> {
        if identity.may_be(CertRole::Operator) {
            return Ok(Self { name: identity.name.clone(), role: Role::Operator, tenant: None, from, token: None });
        }
        Err(Refusal::Forbidden(format!("the certificate of {identity} is not an operator's")))
    }

    /// # Errors
    /// The role does not include the deed.
    pub(crate) fn may(&self, deed: Deed) -> Result<(), Refusal> {
        let allowed = match self.role {
            Role::Operator => true,
            Role::Auditor => matches!(deed, Deed::Look | Deed::Read | Deed::Oversee),
            Role::TenantAdmin => matches!(deed, Deed::Look | Deed::Read | Deed::Write),
            Role::TenantViewer => matches!(deed, Deed::Look | Deed::Read),
        };
        if allowed {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!("'{}' has the role {}, which may not do this", self.name, self.role.name())))
    }

    pub(crate) fn may_see(&self, documents: &Documents, path: &ResourcePath) -> bool {
        !self.role.is_tenants() || documents.get(&path.document()).is_some_and(|d| self.owns(d))
    }

    /// Whether a document is its tenant's.
    pub(crate) fn owns(&self, document: &Value) -> bool {
        self.tenant.is_some() && owner(document) == self.tenant
    }
}

/// The tenant that a resource says it is of.
pub(crate) fn owner(document: &Value) -> Option<String> {
    value::get_text(value::get(document, "resourceMetadata")?, "tenantId")
}
