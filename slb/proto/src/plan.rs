use crate::{Distribution, MemberHealth};
use penstock_model::{BackendId, Dip, Mac, PoolId, Protocol, ServiceId, Underlay};
use penstock_spread::SlotTable;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// What muxes should know. Lists are in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub services: Vec<ServicePlan>,
    pub pools: Vec<PoolPlan>,
    pub backends: Vec<BackendPlan>,
    /// Whether anything that muxes are told differs from the plan before: the goal state has to be shipped.
    pub changed: bool,
}

impl Plan {
    /// Whether muxes would be told the same: all but why a member is in its table.
    pub(crate) fn ships_the_same(&self, other: &Plan) -> bool {
        let pool = |p: &PoolPlan| PoolPlan { members: Vec::new(), ..p.clone() };
        self.services == other.services
            && self.backends == other.backends
            && self.pools.iter().map(pool).eq(other.pools.iter().map(pool))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    pub id: ServiceId,
    pub name: String,
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    pub pool: PoolId,
    pub distribution: Distribution,
}

/// A pool as one probe sees it: two rules that probe one pool differently, or differ in what they do when all are down, have two
/// tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPlan {
    pub id: PoolId,
    /// The pool's name.
    pub name: String,
    pub probe: Option<String>,
    /// Grows with every change of `table`, also over all pools: no two tables have the same version.
    pub version: u64,
    pub table: Arc<SlotTable>,
    /// Who owned each slot before its last change, before the one before that, and so on, while changes settle; three at most.
    /// Slots whose owner then no longer serves, or that have had fewer owners, name one that they have otherwise.
    pub previous: Vec<Arc<SlotTable>>,
    pub members: Vec<MemberPlan>,
}

/// A member and why it is, or is not, in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPlan {
    pub backend: BackendId,
    pub weight: u32,
    pub health: MemberHealth,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendPlan {
    pub id: BackendId,
    pub name: String,
    pub network_interface: String,
    pub dip: Dip,
    pub mac: Mac,
    pub host: Underlay<IpAddr>,
}
