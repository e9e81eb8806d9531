//! How do a node and its controller speak? QUIC with mutual TLS; the node dials, gets its goal state, reports its status.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod message;
mod source;

pub use message::{Gateway, Host, Mux, NodeGoal, NodeReport, NodeRole, NodeRoleError, Role, ToController, ToNode};
pub use source::GoalSource;
