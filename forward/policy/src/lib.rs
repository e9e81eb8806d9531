//! What may pass, and where does it go?
//!
//! Rules of a tenant as data ([`AclRule`], [`Route`], [`VirtualNetwork`]) and their compiled forms, used by host, gateway
//! and `trace` alike. Pure: it knows no flow state, no socket and no API.
#![forbid(unsafe_code)]

mod acl;
mod overlay;

pub use acl::{Acl, AclAction, AclDirection, AclId, AclRule, PortRange};
pub use overlay::{Endpoint, NextHop, Route, VirtualNetwork};
