//! What is being drained, and how far it has come.
//!
//! A backend is done when no flow of its interface is left, a mux when no packet comes to it any more. How much there was is
//! known since the controller saw the drain begin, or since it started.
use crate::hub::{GoalHub, NodeState};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::LedgerReport;
use penstock_southbound::{NodeReport, NodeRole};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Drains(Mutex<BTreeMap<ResourcePath, f64>>);

impl Drains {
    fn begun(&self) -> MutexGuard<'_, BTreeMap<ResourcePath, f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what there is to drain of those that have just begun, and forgets those that are not drained any more.
    pub(crate) fn follow(&self, intent: &Intent, hub: &GoalHub) {
        let wanted = draining(intent);
        let mut begun = self.begun();
        begun.retain(|path, _| wanted.iter().any(|(wanted, _)| *wanted == path));
        for (path, _) in wanted {
            if !begun.contains_key(path) {
                tracing::info!(resource = path.name(), "drained");
                begun.insert(path.clone(), left(hub, path));
            }
        }
        metrics::gauge!("penstock_controller_draining").set(begun.len() as f64);
    }

    /// `resource state deadline left atStart percent unit`
    pub(crate) fn shown(&self, intent: &Intent, hub: &GoalHub, wall: u64) -> Vec<Value> {
        let mut begun = self.begun();
        let show = |(path, deadline): (&ResourcePath, u64)| {
            let left = left(hub, path);
            // What comes on top before the muxes know is to be drained, too.
            let most = begun.entry(path.clone()).or_insert(left);
            *most = most.max(left);
            let state = match left {
                0.0 => "done",
                _ if wall >= deadline => "overdue",
                _ => "draining",
            };
            let is_mux = path.kind_path() == "loadBalancerMuxes";
            json!({
                "resource": path.name(),
                "state": state,
                "secondsToDeadline": deadline.saturating_sub(wall),
                "left": left,
                "atStart": *most,
                "unit": if is_mux { "packets a second" } else { "flows" },
                "percent": percent(*most, left),
            })
        };
        draining(intent).into_iter().map(show).collect()
    }
}

fn percent(most: f64, left: f64) -> f64 {
    if most > 0.0 { ((1.0 - left / most).clamp(0.0, 1.0) * 100.0).floor() } else { 100.0 }
}

/// Interfaces and muxes that are drained, each with its deadline.
fn draining(intent: &Intent) -> Vec<(&ResourcePath, u64)> {
    let interfaces = intent.interfaces.values().filter_map(|i| Some((&i.path, i.drain_until?)));
    interfaces.chain(intent.muxes.values().filter_map(|m| Some((&m.path, m.drain_until?)))).collect()
}

fn left(hub: &GoalHub, path: &ResourcePath) -> f64 {
    let mut out = 0.0;
    hub.each(|role, name, node| match node.report.as_deref() {
        Some(NodeReport::Host(status)) if path.kind_path() == "networkInterfaces" => {
            let ports = status.ports.iter().filter(|p| p.network_interface == path.id());
            out += ports.map(|p| p.flows as f64).sum::<f64>();
        }
        Some(NodeReport::Mux(status)) if role == NodeRole::Mux && name == path.id() => {
            out += rate(node, &status.ledger);
        }
        _ => {}
    });
    out
}

/// Packets a second that a mux has sent on.
fn rate(node: &NodeState, now: &LedgerReport) -> f64 {
    let Some((at, earlier)) = &node.earlier else { return 0.0 };
    let NodeReport::Mux(before) = &**earlier else { return 0.0 };
    let seconds = node.reported_at.since(*at).as_secs_f64();
    let sent = now.transmitted.saturating_sub(before.ledger.transmitted) as f64;
    if seconds > 0.0 { (sent / seconds).round() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_of_the_most_that_there_was() {
        assert_eq!(
            [(200.0, 200.0), (200.0, 51.0), (200.0, 0.0), (0.0, 0.0)].map(|(m, l)| percent(m, l)),
            [0.0, 74.0, 100.0, 100.0]
        );
    }
}
