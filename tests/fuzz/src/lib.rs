//! What must hold for every frame that anybody could send?
//!
//! The code behind the fuzz targets: an input is a [`program`] of frames for one node; [`engine`] plays it to the real
//! resolver of a mux, host or gateway and [`tunnel`] to a gateway whose peer is an authenticated but hostile site. After
//! each step the invariants of [`check`] are asserted. It knows no fuzzer: `targets/` hand over bytes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod check;
pub mod engine;
pub mod gateway;
mod host;
mod mux;
pub mod parser;
pub mod program;
pub mod tunnel;

/// The tenants, containers and goal that the host's own tests use.
#[path = "../../../slb/host/tests/kit/mod.rs"]
pub mod host_kit;

/// The tenants, sites and goal that the gateway's own tests use.
#[path = "../../../gateway/proto/tests/common/mod.rs"]
pub mod gateway_kit;

/// The gateway's WireGuard table itself, which has no sockets.
#[path = "../../../gateway/server/src/wireguard/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod wireguard;
