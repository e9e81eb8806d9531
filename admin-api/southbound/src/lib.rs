//! How do a node and its controller speak?
//!
//! The node dials the controller over QUIC with mutual TLS 1.3, opens one stream for each of its roles and says hello. The
//! controller sends the node's whole goal at once and again at each change; the node sends its status. Who a peer is comes from its
//! certificate alone ([`Identity`]). Whole goals instead of deltas: a change to 10 thousand VIPs is a few megabytes, and
//! nothing can drift apart; the node skips a goal equal to the one that it has.
//!
//! Of several controllers one leads and gives goals; the others send nodes on. Each session begins with the leader's term, so that
//! a node never follows one that led before ([`Lead`]).
//!
//! It knows what travels ([`NodeGoal`], [`NodeReport`]), not how a goal is computed or applied.
//!
//! | at the controller | [`CredentialFiles::load`] -> [`Server::bind`] -> [`Server::run`] with a [`GoalSource`] |
//! | --- | --- |
//! | at a node | [`CredentialFiles::load`] -> [`Link::new`] -> [`Link::run`]`::<Mux>` with the channels of the data plane |
//! | both in one process | [`local::run`] |
//! | certificates | [`pki::Pki::init`], [`pki::Pki::issue`] |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backoff;
mod frame;
mod goal_file;
mod identity;
pub mod local;
mod message;
mod node;
pub mod pki;
mod server;
mod sessions;
mod source;
#[cfg(test)]
mod testing;
mod tls;
mod transport;

pub use frame::{FrameError, MAX_GOAL_LEN, MAX_REPORT_LEN, VERSION};
pub use goal_file::{GoalFile, GoalFileError};
pub use identity::{CertRole, Identity, IdentityError};
pub use message::{Gateway, Host, Mux, NodeGoal, NodeReport, NodeRole, NodeRoleError, Role, ToController, ToNode};
pub use node::{Link, LinkError};
pub use server::{Server, ServerError, serve};
pub use source::{GoalSource, Lead};
pub use tls::{ALPN, CONTROLLER_NAME, CredentialError, CredentialFiles, Credentials, certificate_end};
pub use transport::CloseCode;
