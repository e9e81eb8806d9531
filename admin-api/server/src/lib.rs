//! How does what operators say become what nodes do?
//!
//! The controller: the northbound REST API of the Network Controller over mutual TLS, resources kept in the store, compiled to
//! one goal for each node and published to the southbound link. It decides nothing about packets; [`penstock_slb_proto`]
//! decides which backend owns which slot.
//!
//! Main type: [`run`] with a [`ControllerConfig`]; [`GoalHub`] is where goals and reports meet: [`run_with_hub`] when nodes of the
//! same process meet there, too.
//!
//! Several controllers share an etcd: all take changes, the elected one compiles and gives goals (`lead`).
//!
//! The way of a change: `http` -> `resources` (`draft`: read, complete by `allocate`, validate; commit with its `history`) -> `compile` -> [`GoalHub`] -> node.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod absence;
mod access;
mod admit;
mod allocate;
mod audit;
mod compile;
mod config;
mod draft;
mod drains;
mod failover;
mod history;
mod http;
mod hub;
mod impact;
mod lead;
mod observe;
mod pending;
mod quota;
mod rate;
mod refusal;
mod resources;
mod routers;
mod run;
mod secrets;
mod serve;
mod state;
mod status;
mod stores;
mod tenant;
mod tokens;
mod trace;
mod trace_nodes;

pub use audit::AuditError;
pub use compile::KeepError;
pub use config::{
    ControllerConfig, DEFAULT_GATEWAY_HOLD_OFF, DEFAULT_HOST_HOLD_OFF, DEFAULT_REQUESTS_PER_SECOND, EtcdTable,
    VipLimitTable,
};
pub use hub::{GoalHub, NodeState};
pub use refusal::Refusal;
pub use run::{Error, run, run_with_hub};
pub use secrets::SecretError;
pub use state::StateError;
pub use stores::{backup, migrate};
