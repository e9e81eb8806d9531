//! What can an operator say, and is it well said?
//!
//! The northbound model of the Network Controller ([MS-NCNBI]) as data and pure functions: the table of resource kinds
//! ([`Kind`]), names of resources ([`ResourcePath`]), tolerant reading of bodies ([`read`]), rendering ([`Render`]),
//! errors with all problems at once ([`ErrorBody`], [`Problem`]) and the validated [`Intent`] that compilers work from.
//! It knows no store, no HTTP and no node.
//!
//! Order of calls: [`ResourcePath::parse`] -> [`read`] a body -> [`adopt`] identities of the resource that stood there
//! before -> [`Intent::build`] over all documents; [`Render`] for answers, [`changes`] for what differs.
//! [`openapi`] describes all of it.
//!
//! A kind is added by a row in `kinds.rs`; it is then stored, validated by its row and returned. It gets a function when
//! [`Intent`] reads it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod about;
mod check;
mod diff;
mod document;
mod error;
pub mod intent;
mod kind;
mod kinds;
mod openapi;
mod path;
mod reference;
mod render;
pub mod value;

pub use about::about;
pub use diff::{ChangeKind, FieldChange, ResourceChange, changes, redacted};
pub use document::{
    ALLOCATED, Mint, SEALED, adopt, adopt_identity, bare, each_secret, node_at, node_at_mut, read, same_content,
};
pub use error::{ErrorBody, ErrorDetail, ErrorEnvelope, Problem, Problems, Said, pointer_join};
pub use intent::Intent;
pub use kind::{Function, Kind, Property, Rule, Shape, Type};
pub use kinds::{KINDS, VERSIONS};
pub use openapi::openapi;
pub use path::{PathError, ResourcePath};
pub use reference::{Reference, ReferenceIndex, references};
pub use render::Render;

/// All resources, by the path of the top-level resource: the document holds its children.
pub type Documents = std::collections::BTreeMap<ResourcePath, std::sync::Arc<serde_json::Value>>;
