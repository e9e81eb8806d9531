//! How a worker's flow table is shared among tenants.
use crate::key::GatewayKey;
use crate::resolver::Remembered;
use penstock_flow::{FlowTable, Quota};

/// Tenants are counted by their id modulo this; the controller gives the lowest free id, so two share a count only where there
/// are more tenants.
const GROUPS: usize = 256;

/// A flow table for `capacity` directions of flows, of which one tenant may have established at most `of_tenant`: whoever
/// floods it from inside a tunnel closes it for that tenant alone.
///
/// Probation is a quarter of it. A flow that is pushed out there between its first packet and the answer breaks where only
/// the first was allowed by a rule.
#[must_use]
pub fn flow_table(capacity: usize, of_tenant: usize) -> FlowTable<GatewayKey, Remembered> {
    let limit = u32::try_from(of_tenant.max(1)).unwrap_or(u32::MAX);
    FlowTable::with_probation(capacity, capacity / 4).with_quota(Quota::new(group, GROUPS, limit))
}

fn group(key: &GatewayKey) -> usize {
    key.flow.tenant().0 as usize % GROUPS
}
