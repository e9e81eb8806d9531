//! Which backends should each virtual IP have now, and by which table?
//!
//! [`Planner`] turns the operator's intent ([`LbIntent`]) and the probes' results ([`Health`]) into a [`Plan`]: services,
//! versioned slot tables, backends, with ids that stay while the thing they name lives. It knows no API document, no
//! probe and no mux: the controller compiles the one into `LbIntent` and maps `Plan` onto the goal state of the other.
//!
//! Pure: time is an argument. The planner is all the state there is; it serializes, and a controller that starts again
//! from it plans the same tables.
//!
//! [`Planner::lease`] gives the containers that reach the outside by a virtual IP their ports of it.
//!
//! Order of calls: [`Planner::plan`], then [`Planner::lease`], whenever intent or health changed and at [`Planner::poll_timeout`]; store the
//! planner before shipping what it planned.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod check;
mod health;
mod ids;
mod intent;
mod leases;
mod plan;
mod planner;
mod pool;
mod views;

#[cfg(test)]
mod tests;

pub use check::PlanError;
pub use health::{Health, MemberHealth, ProbeKey};
pub use intent::{AllDown, BackendIntent, Distribution, LbIntent, Member, PoolIntent, ServiceIntent};
pub use leases::{BLOCK, Demand, Lease, LeasePlan, OutboundIntent, QUARANTINE};
pub use plan::{BackendPlan, MemberPlan, Plan, PoolPlan, ServicePlan};
pub use planner::{Planner, SETTLE};
