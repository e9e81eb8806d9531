//! What is being drained, and how far it has come.
//!
//! A backend is done when no flow of its interface is left, a mux when no packet comes to it any more. What its node has not told this
//! controller (which has just begun to lead, say) is unknown, and not done. How much there was is known since the controller saw the
//! drain begin, or since it started.
use crate::hub::{GoalHub, NodeState};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::Revision;
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
                begun.insert(path.clone(), left(intent, hub, path).unwrap_or_default());
            }
        }
        metrics::gauge!("penstock_controller_draining").set(begun.len() as f64);
    }

    /// `resource state deadline left atStart percent unit`
    pub(crate) fn shown(&self, intent: &Intent, hub: &GoalHub, wall: u64) -> Vec<Value> {
        let mut begun = self.begun();
        let show = |(path, deadline): (&ResourcePath, u64)| {
            let left = left(intent, hub, path);
            // What comes on top before the muxes know is to be drained, too.
            let most = begun.entry(path.clone()).or_default();
            *most = most.max(left.unwrap_or_default());
            let state = match left {
                Some(0.0) => "done",
                _ if wall >= deadline => "overdue",
                Some(_) => "draining",
                None => "unknown",
            };
            let is_mux = path.kind_path() == "loadBalancerMuxes";
            json!({
                "resource": path.name(),
                "state": state,
                "secondsToDeadline": deadline.saturating_sub(wall),
                "left": left,
                "atStart": *most,
                "unit": if is_mux { "packets a second" } else { "flows" },
                "percent": left.map(|left| percent(*most, left)),
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

fn left(intent: &Intent, hub: &GoalHub, path: &ResourcePath) -> Option<f64> {
    match intent.interfaces.get(path) {
        None => {
            let mut out = None;
            hub.each(|role, name, node| {
                if role == NodeRole::Mux && name == path.id() {
                    out = rate(node);
                }
            });
            out
        }
        Some(interface) => {
            let server = interface.server.as_ref().and_then(|s| intent.servers.get(s)).map(|s| s.name.as_str());
            flows(hub, path.id(), server)
        }
    }
}

/// Of an interface, on the host that it is on and on others that it has left.
fn flows(hub: &GoalHub, interface: &str, server: Option<&str>) -> Option<f64> {
    let (mut sum, mut is_known) = (0.0, server.is_none());
    hub.each(|_, name, node| {
        let Some(NodeReport::Host(status)) = node.report.as_deref() else { return };
        let ports = status.ports.iter().filter(|p| p.network_interface == interface);
        let found: Vec<f64> = ports.map(|p| p.flows as f64).collect();
        sum += found.iter().sum::<f64>();
        // What stands in for the report of a host that has come back has no revision and no ports.
        is_known |= server == Some(name) && (!found.is_empty() || status.applied != Revision::default());
    });
    is_known.then_some(sum)
}

/// Packets a second that a mux has sent on, once it has reported twice.
fn rate(node: &NodeState) -> Option<f64> {
    let (at, earlier) = node.earlier.as_ref()?;
    let (NodeReport::Mux(before), NodeReport::Mux(now)) = (&**earlier, node.report.as_deref()?) else { return None };
    let seconds = node.reported_at.since(*at).as_secs_f64();
    // Less than before: it has begun anew meanwhile.
    let sent = now.ledger.transmitted.checked_sub(before.ledger.transmitted)?;
    (seconds > 0.0).then(|| (sent as f64 / seconds).round())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_mux_proto::MuxStatus;
    use penstock_slb_host::{HostStatus, PortStatus};
    use penstock_southbound::{GoalSource, NodeGoal};
    use std::sync::Arc;

    fn hub() -> GoalHub {
        let hub = GoalHub::default();
        let goals = [
            ((NodeRole::Host, "h1".to_owned()), Arc::new(NodeGoal::Host(penstock_slb_host::HostGoal::default()))),
            ((NodeRole::Mux, "m1".to_owned()), Arc::new(NodeGoal::Mux(penstock_mux_proto::MuxGoal::default()))),
        ];
        hub.publish(goals.into());
        hub
    }

    #[test]
    fn what_no_report_tells_of_is_unknown_and_not_done() {
        let hub = hub();
        assert_eq!(flows(&hub, "web", Some("h1")), None, "no report yet");
        assert_eq!(flows(&hub, "web", None), Some(0.0), "on no host at all");
        hub.report("h1", NodeReport::Host(HostStatus::default()));
        assert_eq!(flows(&hub, "web", Some("h1")), None, "its agent has just started");
        let port = PortStatus { network_interface: "web".into(), flows: 7, ..PortStatus::default() };
        hub.report("h1", NodeReport::Host(HostStatus { ports: vec![port.clone()], ..HostStatus::default() }));
        assert_eq!(flows(&hub, "web", Some("h1")), Some(7.0));
        assert_eq!(flows(&hub, "web", Some("h2")), None, "the host that it is on now has not reported");
        hub.report("h1", NodeReport::Host(HostStatus { applied: Revision(1), ..HostStatus::default() }));
        assert_eq!(flows(&hub, "web", Some("h1")), Some(0.0), "the host has no such container");
    }

    #[test]
    fn the_rate_of_a_mux_is_known_from_its_second_report_on() {
        let hub = hub();
        let mut status = MuxStatus::default();
        let seen = |hub: &GoalHub| {
            let mut seen = Vec::new();
            hub.each(|role, _, node| seen.extend((role == NodeRole::Mux).then(|| rate(node))));
            seen
        };
        assert_eq!(seen(&hub), [None]);
        status.ledger.transmitted = 1_000_000;
        hub.report("m1", NodeReport::Mux(status.clone()));
        assert_eq!(seen(&hub), [None]);
        std::thread::sleep(std::time::Duration::from_millis(1));
        hub.report("m1", NodeReport::Mux(status.clone()));
        assert_eq!(seen(&hub), [Some(0.0)]);
        status.ledger.transmitted = 10;
        hub.report("m1", NodeReport::Mux(status));
        assert_eq!(seen(&hub), [None], "it has begun anew");
    }

    #[test]
    fn percent_is_of_the_most_that_there_was() {
        assert_eq!(
            [(200.0, 200.0), (200.0, 51.0), (200.0, 0.0), (0.0, 0.0)].map(|(m, l)| percent(m, l)),
            [0.0, 74.0, 100.0, 100.0]
        );
    }
}
