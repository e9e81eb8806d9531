//! Another gateway of its pool takes over the connections of one that is gone. What has been chosen is kept with the pool, and stays when
//! the other one is back: to move again would interrupt again.
use crate::hub::GoalHub;
use crate::pending::itself;
use crate::refusal::Refusal;
use crate::resources::{Manner, Resources};
use crate::state::State;
use penstock_admin_types::intent::{GatewayPool, kept_choice};
use penstock_admin_types::{ALLOCATED, Intent, ResourcePath};
use penstock_gateway_proto::PeerAddress;
use penstock_model::TunnelId;
use penstock_southbound::{NodeReport, NodeRole};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// A pool whose connections are to go to another gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) pool: ResourcePath,
    from: ResourcePath,
    to: ResourcePath,
    seen: BTreeMap<TunnelId, SocketAddr>,
}

/// Pools whose active gateway is gone while another one is there.
pub(crate) fn choices(intent: &Intent, hub: &GoalHub) -> Vec<Choice> {
    let choice = |(path, pool): (&ResourcePath, &GatewayPool)| {
        let from = pool.active().filter(|active| hub.gateway_is_connected(active.id()).is_none())?;
        // From the one after it on: where two fail in turn, the third has its turn.
        let at = pool.gateways.iter().position(|g| g == from)?;
        let mut next = pool.gateways.iter().cycle().skip(at + 1).take(pool.gateways.len());
        let to = next.find(|g| hub.gateway_is_connected(g.id()) == Some(true))?;
        let seen = seen(intent, hub, pool, from);
        Some(Choice { pool: path.clone(), from: from.clone(), to: to.clone(), seen })
    };
    intent.gateway_pools.iter().filter_map(choice).collect()
}

/// Where the peers of a gateway's connections are, as it last said, or as was known before.
fn seen(intent: &Intent, hub: &GoalHub, pool: &GatewayPool, gateway: &ResourcePath) -> BTreeMap<TunnelId, SocketAddr> {
    let report = hub.report_of(NodeRole::Gateway, gateway.id());
    let told = match report.as_deref() {
        Some(NodeReport::Gateway(status)) => &status.tunnels[..],
        _ => &[],
    };
    let told = told.iter().filter_map(|t| match t.endpoint {
        Some(PeerAddress::Socket(at)) => Some((t.id, at)),
        _ => None,
    });
    let mut seen = pool.seen.clone();
    seen.extend(told);
    seen.retain(|id, _| intent.connections.iter().any(|c| c.id == *id && c.gateway == *gateway));
    seen
}

impl Resources {
    /// Makes a choice, whatever change waits to be confirmed meanwhile.
    pub(crate) async fn choose(&self, choice: &Choice) -> Result<(), Refusal> {
        let mut serial = self.writer.lock().await;
        let before = self.state();
        let mut documents = before.documents.clone();
        let Some(pool) = documents.get_mut(&choice.pool) else { return Ok(()) };
        let Some(map) = Arc::make_mut(pool).as_object_mut() else { return Ok(()) };
        map.insert(ALLOCATED.to_owned(), kept_choice(&choice.to, &choice.seen));
        let after =
            State::new(before.rev, documents).map_err(|misplaced| crate::resources::invalid(&before, misplaced))?;
        let comment = format!("{} is gone: {} takes over", choice.from.id(), choice.to.id());
        let manner = Manner { caller: itself(), comment: Some(comment.clone()), what_if: false, confirm_within: None };
        self.commit(&mut serial, &before, after, manner, None).await?;
        tracing::warn!(pool = choice.pool.id(), "{comment}");
        metrics::counter!("penstock_controller_gateway_failovers_total").increment(1);
        Ok(())
    }
}
