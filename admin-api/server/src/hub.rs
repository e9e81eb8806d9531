use crate::absence::{self, Link};
use crate::drains::Drains;
use penstock_clock::MonotonicClock;
use penstock_model::{Nanos, Overlay};
use penstock_slb_host::{HostStatus, ProbeStatus, SnatUse};
use penstock_southbound::{GoalSource, Lead, NodeGoal, NodeReport, NodeRole};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Rates are over at least so much time.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// Where goals and reports meet: the compiler publishes goals, the southbound link hands them to nodes and brings reports.
#[derive(Debug)]
pub struct GoalHub {
    nodes: Mutex<BTreeMap<(NodeRole, String), NodeState>>,
    /// Counts changes of health: what the compiler waits for.
    health: watch::Sender<u64>,
    /// Counts reports of containers that run short of leased ports and can be given more.
    pressure: watch::Sender<u64>,
    growing: Mutex<Addresses>,
    /// What is drained, and how much of it there was.
    pub(crate) drains: Drains,
    /// The change that goals were last compiled from.
    compiled: AtomicU64,
    /// While this controller gives goals.
    lead: watch::Sender<Option<Lead>>,
}

/// Of containers: network interface and address.
type Addresses = BTreeSet<(String, Overlay<IpAddr>)>;

/// What is known of one node in one role.
#[derive(Debug)]
pub struct NodeState {
    pub goal: watch::Sender<Option<Arc<NodeGoal>>>,
    pub report: Option<Arc<NodeReport>>,
    /// A report a second or more before, to tell rates from; and when each came.
    pub earlier: Option<(Nanos, Arc<NodeReport>)>,
    pub reported_at: Nanos,
    /// When the goal changed.
    pub goal_at: Nanos,
    pub connected: bool,
    /// When `connected` changed, or the node was configured.
    pub since: Nanos,
    /// A host that has been gone so long that its probed backends count as failed, or a gateway whose connections go elsewhere.
    pub absent: bool,
}

/// Which nodes hold the newest goals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The change that they were compiled from.
    pub compiled: u64,
    pub nodes: usize,
    /// Connected, and forwarding by the newest goal.
    pub live: usize,
    pub waiting: Vec<String>,
    /// Not connected.
    pub absent: Vec<String>,
    /// With the reason.
    pub refused: Vec<String>,
}

/// In which a node that gets a goal has said what it makes of it.
const SETTLED: Duration = Duration::from_secs(2);

fn refusal(report: Option<&NodeReport>) -> Option<&str> {
    match report? {
        NodeReport::Mux(status) => status.goal_error.as_deref(),
        NodeReport::Gateway(status) => status.goal_error.as_deref(),
        NodeReport::Host(_) => None,
    }
}

impl NodeState {
    /// In words, of a node that is not connected.
    #[must_use]
    pub fn absence(&self, name: &str, now: Nanos) -> String {
        let is_host = matches!(self.goal.borrow().as_deref(), Some(NodeGoal::Host(_)));
        let counted = if self.absent && is_host { "; its probed backends count as failed" } else { "" };
        format!("{name} is not connected since {} s{counted}", now.since(self.since).as_secs())
    }

    /// All probes that the host is to run, failed for a reason.
    fn failed_probes(&self, detail: &str) -> Vec<ProbeStatus> {
        let goal = self.goal.borrow();
        let Some(NodeGoal::Host(goal)) = goal.as_deref() else { return Vec::new() };
        let failed = |p: &penstock_slb_host::Probe| ProbeStatus {
            name: p.name.clone(),
            network_interface: p.network_interface.clone(),
            dip: p.dip,
            healthy: false,
            detail: detail.to_owned(),
            changes: 0,
        };
        goal.probes.iter().map(failed).collect()
    }
}

impl Default for GoalHub {
    fn default() -> Self {
        Self {
            nodes: Mutex::default(),
            health: watch::Sender::new(0),
            pressure: watch::Sender::new(0),
            growing: Mutex::default(),
            drains: Drains::default(),
            compiled: AtomicU64::new(0),
            lead: watch::Sender::new(None),
        }
    }
}

impl GoalHub {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<(NodeRole, String), NodeState>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nodes are given goals.
    pub fn begin_to_lead(&self, lead: Lead) {
        self.lead.send_replace(Some(lead));
    }

    /// Nodes are sent to another controller, and what they said here is forgotten.
    pub fn step_down(&self) {
        self.lead.send_replace(None);
        self.compiled.store(0, Ordering::Release);
        self.nodes().clear();
    }

    /// Whether this controller gives goals, and so knows what nodes report.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.lead.borrow().is_some()
    }

    /// Publishes the goals of all configured nodes; nodes without one are no longer configured. Equal goals are not sent again.
    pub fn publish(&self, goals: BTreeMap<(NodeRole, String), Arc<NodeGoal>>) {
        let mut nodes = self.nodes();
        nodes.retain(|key, _| goals.contains_key(key));
        for (key, goal) in goals {
            let node = nodes.entry(key).or_insert_with(|| NodeState {
                goal: watch::Sender::new(None),
                report: None,
                earlier: None,
                reported_at: Nanos(0),
                goal_at: Nanos(0),
                connected: false,
                since: MonotonicClock::now(),
                absent: false,
            });
            let goal_at = &mut node.goal_at;
            node.goal.send_if_modified(|current| {
                let changed = current.as_ref() != Some(&goal);
                if changed {
                    *current = Some(goal);
                    *goal_at = MonotonicClock::now();
                }
                changed
            });
        }
    }

    /// All goals are those of `change`, or of a later one.
    pub fn compiled(&self, change: u64) {
        self.compiled.store(change, Ordering::Release);
    }

    /// How far the goals have come.
    #[must_use]
    pub fn rollout(&self) -> Rollout {
        self.rollout_at(MonotonicClock::now())
    }

    fn rollout_at(&self, now: Nanos) -> Rollout {
        // Before the nodes are looked at: their goals may be newer, and never older.
        let mut rollout = Rollout { compiled: self.compiled.load(Ordering::Acquire), ..Rollout::default() };
        self.each(|role, name, node| {
            let goal = node.goal.borrow().as_ref().map(|g| g.revision());
            let applied = node.report.as_ref().map(|r| r.revision());
            let name = format!("{role} {name}");
            rollout.nodes += 1;
            if !node.connected {
                rollout.absent.push(name);
            } else if goal.is_some() && goal == applied {
                rollout.live += 1;
            } else {
                // A report from before the goal may tell of the one before.
                match refusal(node.report.as_deref()).filter(|_| now.since(node.goal_at) >= SETTLED) {
                    Some(why) => rollout.refused.push(format!("{name}: {why}")),
                    None => rollout.waiting.push(name),
                }
            }
        });
        rollout
    }

    #[must_use]
    pub fn goal(&self, role: NodeRole, node: &str) -> Option<Arc<NodeGoal>> {
        self.nodes().get(&(role, node.to_owned())).and_then(|n| n.goal.borrow().clone())
    }

    #[must_use]
    pub fn report_of(&self, role: NodeRole, node: &str) -> Option<Arc<NodeReport>> {
        self.nodes().get(&(role, node.to_owned())).and_then(|n| n.report.clone())
    }

    /// Calls `f` for each configured node.
    pub fn each(&self, mut f: impl FnMut(NodeRole, &str, &NodeState)) {
        for ((role, name), state) in self.nodes().iter() {
            f(*role, name, state);
        }
    }

    /// What all hosts last said of their probes; of absent hosts, that all have failed.
    #[must_use]
    pub fn probes(&self, now: Nanos) -> Vec<ProbeStatus> {
        let mut out = Vec::new();
        self.each(|_, name, node| {
            if node.absent {
                let detail = format!("{name} is not connected since {} s", now.since(node.since).as_secs());
                out.extend(node.failed_probes(&detail));
            } else if let Some(NodeReport::Host(status)) = node.report.as_deref() {
                out.extend(status.probes.iter().cloned());
            }
        });
        out
    }

    /// What all hosts last said of the ports that are leased to their containers, with the host's name. A report may be older than
    /// the goal: what it says of containers that have left the host since is left out.
    #[must_use]
    pub fn snat(&self) -> Vec<(String, SnatUse)> {
        let mut out = Vec::new();
        self.each(|_, name, node| {
            if let Some(NodeReport::Host(status)) = node.report.as_deref() {
                let goal = node.goal.borrow();
                let own = leased(goal.as_deref());
                let uses = status.snat.iter().filter(|u| own.contains(&(u.network_interface.as_str(), u.dip)));
                out.extend(uses.map(|u| (name.to_owned(), u.clone())));
            }
        });
        out
    }

    /// Whose leases can be made longer: others are not listened to when they run short.
    pub fn let_grow(&self, addresses: Addresses) {
        *self.growing.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Changes when a container runs short of leased ports and can be given more.
    #[must_use]
    pub fn pressure(&self) -> watch::Receiver<u64> {
        self.pressure.subscribe()
    }

    /// Takes hosts for dead that have been gone for `hosts`, and gateways for `gateways` ([`absence`](crate::absence)); says when to look
    /// again.
    #[allow(clippy::must_use_candidate)]
    pub fn judge(&self, hosts: Duration, gateways: Duration, now: Nanos) -> Option<Nanos> {
        let hosts = self.judge_role(NodeRole::Host, hosts, now);
        [hosts, self.judge_role(NodeRole::Gateway, gateways, now)].into_iter().flatten().min()
    }

    fn judge_role(&self, role: NodeRole, hold_off: Duration, now: Nanos) -> Option<Nanos> {
        let mut nodes = self.nodes();
        let mut changed = false;
        let mut nodes_of: Vec<_> = nodes.iter_mut().filter(|((r, _), _)| *r == role).collect();
        let links: Vec<Link> =
            nodes_of.iter().map(|(_, n)| Link { connected: n.connected, since: n.since, absent: n.absent }).collect();
        let verdict = absence::judge(&links, hold_off, now);
        for i in verdict.absent {
            let Some(((_, name), node)) = nodes_of.get_mut(i) else { continue };
            node.absent = true;
            changed = true;
            tracing::warn!(%role, node = name.as_str(), "{}", node.absence(name, now));
        }
        drop(nodes);
        if changed {
            self.health.send_modify(|n| *n += 1);
        }
        verdict.next
    }

    /// Whether a gateway is connected; `None` when it has been gone for so long that another is to take over.
    pub(crate) fn gateway_is_connected(&self, name: &str) -> Option<bool> {
        let nodes = self.nodes();
        let node = nodes.get(&(NodeRole::Gateway, name.to_owned()));
        if node.is_some_and(|n| n.absent) { None } else { Some(node.is_some_and(|n| n.connected)) }
    }

    fn connected_at(&self, role: NodeRole, name: &str, connected: bool, now: Nanos) {
        {
            let mut nodes = self.nodes();
            let Some(node) = nodes.get_mut(&(role, name.to_owned())) else { return };
            if node.connected == connected {
                return;
            }
            if node.absent && connected {
                node.absent = false;
                let gone = now.since(node.since).as_secs();
                tracing::info!(%role, node = name, "{name} is connected again after {gone} s");
                if role == NodeRole::Host {
                    // Until its probes have a verdict: it may have restarted, and its containers with it.
                    let probes = node.failed_probes(&format!("{name} was not connected for {gone} s; not probed yet"));
                    let status = match node.report.as_deref() {
                        Some(NodeReport::Host(status)) => status.clone(),
                        _ => HostStatus::default(),
                    };
                    node.report = Some(Arc::new(NodeReport::Host(HostStatus { probes, ..status })));
                }
            }
            (node.connected, node.since) = (connected, now);
        }
        if role != NodeRole::Mux {
            self.health.send_modify(|n| *n += 1);
        }
    }

    /// Changes when the health of a backend does, or a host or gateway comes or goes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<u64> {
        self.health.subscribe()
    }
}

impl GoalSource for GoalHub {
    fn subscribe(&self, role: NodeRole, node: &str) -> Option<watch::Receiver<Option<Arc<NodeGoal>>>> {
        self.nodes().get(&(role, node.to_owned())).map(|n| n.goal.subscribe())
    }

    fn report(&self, node: &str, mut report: NodeReport) {
        let (health_changed, is_pressed) = {
            let mut nodes = self.nodes();
            let Some(state) = nodes.get_mut(&(report.role(), node.to_owned())) else { return };
            keep_own(state, &mut report);
            keep_known_health(state, &mut report);
            let now = MonotonicClock::now();
            let before = state.report.replace(Arc::new(report));
            if let Some(before) = &before
                && state.earlier.as_ref().is_none_or(|(at, _)| now.since(*at) >= RATE_WINDOW)
            {
                state.earlier = Some((state.reported_at, before.clone()));
            }
            state.reported_at = now;
            let growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
            (
                health(before.as_deref()) != health(state.report.as_deref()),
                is_pressed(before.as_deref(), state.report.as_deref(), &growing),
            )
        };
        if is_pressed {
            self.pressure.send_modify(|n| *n += 1);
        }
        if health_changed {
            self.health.send_modify(|n| *n += 1);
        }
    }

    fn connected(&self, role: NodeRole, node: &str, connected: bool) {
        self.connected_at(role, node, connected, MonotonicClock::now());
    }

    fn lead(&self) -> watch::Receiver<Option<Lead>> {
        self.lead.subscribe()
    }
}

/// A host speaks for its own containers: what it says of probes that are not in its goal would take out, or bring back, the
/// backends of others, and of leases would take the ports of others' virtual IPs.
fn keep_own(state: &NodeState, report: &mut NodeReport) {
    let NodeReport::Host(status) = report else { return };
    let goal = state.goal.borrow();
    let own: BTreeSet<_> = match goal.as_deref() {
        Some(NodeGoal::Host(goal)) => goal.probes.iter().map(|p| (&p.name, &p.network_interface, p.dip)).collect(),
        _ => BTreeSet::new(),
    };
    status.probes.retain(|p| own.contains(&(&p.name, &p.network_interface, p.dip)));
    let own = leased(goal.as_deref());
    status.snat.retain(|u| own.contains(&(u.network_interface.as_str(), u.dip)));
}

/// A host agent that has just started has no verdict on its probes yet and leaves them out: what it said before stands, for
/// probes that it still is to run.
fn keep_known_health(state: &NodeState, report: &mut NodeReport) {
    let (NodeReport::Host(new), Some(NodeReport::Host(old))) = (report, state.report.as_deref()) else { return };
    let goal = state.goal.borrow();
    let Some(NodeGoal::Host(goal)) = goal.as_deref() else { return };
    let known: BTreeSet<_> = new.probes.iter().map(|p| (&p.name, &p.network_interface, p.dip)).collect();
    let wanted: BTreeSet<_> = goal.probes.iter().map(|p| (&p.name, &p.network_interface, p.dip)).collect();
    let kept: Vec<ProbeStatus> = old
        .probes
        .iter()
        .filter(|p| {
            let key = (&p.name, &p.network_interface, p.dip);
            wanted.contains(&key) && !known.contains(&key)
        })
        .cloned()
        .collect();
    new.probes.extend(kept);
}

fn health(report: Option<&NodeReport>) -> Vec<(&str, &str, std::net::IpAddr, bool)> {
    match report {
        Some(NodeReport::Host(status)) => {
            status.probes.iter().map(|p| (p.name.as_str(), p.network_interface.as_str(), p.dip.0, p.healthy)).collect()
        }
        _ => Vec::new(),
    }
}

/// The addresses that have leased ports by the goal of a host.
fn leased(goal: Option<&NodeGoal>) -> BTreeSet<(&str, Overlay<IpAddr>)> {
    match goal {
        Some(NodeGoal::Host(goal)) => goal.snat.iter().map(|l| (l.network_interface.as_str(), l.dip)).collect(),
        _ => BTreeSet::new(),
    }
}

fn uses(report: Option<&NodeReport>) -> &[SnatUse] {
    match report {
        Some(NodeReport::Host(status)) => &status.snat,
        _ => &[],
    }
}

/// Whether claims of leased ports were strained or failed since the report before, of an address that can be given more.
fn is_pressed(before: Option<&NodeReport>, now: Option<&NodeReport>, growing: &Addresses) -> bool {
    let hard = |u: &SnatUse| u.strained + u.exhausted;
    let known: BTreeMap<_, u64> = uses(before).iter().map(|u| ((&u.network_interface, u.dip), hard(u))).collect();
    let is_new = |u: &SnatUse| hard(u) > 0 && known.get(&(&u.network_interface, u.dip)) != Some(&hard(u));
    uses(now).iter().any(|u| is_new(u) && growing.contains(&(u.network_interface.clone(), u.dip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::{Overlay, Revision};
    use penstock_mux_proto::MuxGoal;

    fn goal(revision: u64) -> Arc<NodeGoal> {
        Arc::new(NodeGoal::Mux(MuxGoal { revision: Revision(revision), ..MuxGoal::default() }))
    }

    #[test]
    fn an_equal_goal_is_not_sent_twice_and_a_node_that_is_gone_is_refused() {
        let hub = GoalHub::default();
        assert!(hub.subscribe(NodeRole::Mux, "mux1").is_none());
        hub.publish(BTreeMap::from([((NodeRole::Mux, "mux1".into()), goal(1))]));
        let mut receiver = hub.subscribe(NodeRole::Mux, "mux1").unwrap();
        assert_eq!(receiver.borrow_and_update().as_ref(), Some(&goal(1)));
        hub.publish(BTreeMap::from([((NodeRole::Mux, "mux1".into()), goal(1))]));
        assert!(!receiver.has_changed().unwrap());
        hub.publish(BTreeMap::from([((NodeRole::Mux, "mux1".into()), goal(2))]));
        assert!(receiver.has_changed().unwrap());
        hub.publish(BTreeMap::new());
        assert!(hub.subscribe(NodeRole::Mux, "mux1").is_none());
    }

    fn dip() -> Overlay<std::net::IpAddr> {
        Overlay("10.0.0.4".parse().unwrap())
    }

    fn status(name: &str, healthy: bool) -> ProbeStatus {
        ProbeStatus {
            name: name.into(),
            network_interface: "nic".into(),
            dip: dip(),
            healthy,
            detail: String::new(),
            changes: 1,
        }
    }

    fn report(probes: Vec<ProbeStatus>, flows: u64) -> NodeReport {
        NodeReport::Host(HostStatus { probes, flows, ..HostStatus::default() })
    }

    /// A hub with a host that runs the probe `p` and one that runs none.
    fn hosts() -> GoalHub {
        let probe = penstock_slb_host::Probe {
            name: "p".into(),
            network_interface: "nic".into(),
            dip: dip(),
            port: 80,
            kind: penstock_slb_host::ProbeKind::Tcp,
            interval_seconds: 5,
            count: 2,
            rise: 1,
            hold_down_seconds: 0,
        };
        let goal = penstock_slb_host::HostGoal { probes: vec![probe], ..Default::default() };
        let hub = GoalHub::default();
        hub.publish(BTreeMap::from([
            ((NodeRole::Host, "h".into()), Arc::new(NodeGoal::Host(goal))),
            ((NodeRole::Host, "other".into()), Arc::new(NodeGoal::Host(Default::default()))),
        ]));
        hub
    }

    #[test]
    fn a_change_is_live_on_the_nodes_that_report_its_goal() {
        let hub = GoalHub::default();
        let key = |name: &str| (NodeRole::Mux, name.to_owned());
        hub.publish(BTreeMap::from([(key("mux1"), goal(5)), (key("mux2"), goal(5))]));
        hub.compiled(3);
        let applied = |name: &str, revision, goal_error: Option<&str>| {
            let status = penstock_mux_proto::MuxStatus {
                applied: Revision(revision),
                goal_error: goal_error.map(str::to_owned),
                ..Default::default()
            };
            hub.report(name, NodeReport::Mux(status));
        };
        hub.connected(NodeRole::Mux, "mux1", true);
        let (one, two) = (vec!["mux mux1".to_owned()], vec!["mux mux2".to_owned()]);
        let mut expected = Rollout { compiled: 3, nodes: 2, waiting: one, absent: two, ..Rollout::default() };
        assert_eq!(hub.rollout(), expected);
        applied("mux1", 4, Some("too many pools"));
        assert_eq!(hub.rollout(), expected, "it may tell of the goal before");
        expected.waiting = vec![];
        expected.refused = vec!["mux mux1: too many pools".to_owned()];
        let later = MonotonicClock::now().plus(SETTLED);
        assert_eq!(hub.rollout_at(later), expected);
        applied("mux1", 5, None);
        (expected.refused, expected.live) = (vec![], 1);
        assert_eq!(hub.rollout_at(later), expected);
    }

    #[test]
    fn only_a_change_of_health_wakes_the_compiler() {
        let hub = hosts();
        let mut health = hub.health();
        hub.report("h", report(vec![status("p", true)], 0));
        assert!(health.has_changed().unwrap());
        health.mark_unchanged();
        hub.report("h", report(vec![status("p", true)], 7));
        assert!(!health.has_changed().unwrap());
        hub.report("h", report(vec![status("p", false)], 7));
        assert!(health.has_changed().unwrap());
    }

    #[test]
    fn a_host_cannot_speak_for_another_hosts_backends() {
        let hub = hosts();
        hub.report("h", report(vec![status("p", true)], 0));
        let mut health = hub.health();
        health.mark_unchanged();
        hub.report("other", report(vec![status("p", false)], 0));
        assert!(!health.has_changed().unwrap());
        assert_eq!(hub.probes(Nanos(0)), [status("p", true)]);
    }

    fn strained(network_interface: &str, strained: u64) -> SnatUse {
        let (claims, exhausted) = (100, 0);
        SnatUse { network_interface: network_interface.into(), dip: dip(), ports: 1024, claims, strained, exhausted }
    }

    fn of_ports(snat: Vec<SnatUse>) -> NodeReport {
        NodeReport::Host(HostStatus { snat, ..HostStatus::default() })
    }

    /// Ports are leased to `nic` on the host `h` and to `far` on another.
    fn leasing() -> GoalHub {
        let lease = |network_interface: &str| penstock_slb_host::SnatLease {
            network_interface: network_interface.into(),
            dip: dip(),
            vip: "203.0.113.1".parse().unwrap(),
            first: 1024,
            count: 1024,
            protocol: None,
        };
        let goal = |nic: &str| penstock_slb_host::HostGoal { snat: vec![lease(nic)], ..Default::default() };
        let goals = [("h", "nic"), ("other", "far")];
        let hub = GoalHub::default();
        let of = |(host, nic): (&str, &str)| ((NodeRole::Host, host.into()), Arc::new(NodeGoal::Host(goal(nic))));
        hub.publish(goals.map(of).into());
        hub
    }

    #[test]
    fn only_who_can_be_given_more_ports_wakes_the_compiler() {
        let hub = leasing();
        let (mut pressure, health) = (hub.pressure(), hub.health());
        hub.report("h", of_ports(vec![strained("nic", 9)]));
        assert!(!pressure.has_changed().unwrap(), "it cannot grow");
        hub.let_grow([("nic".to_owned(), dip())].into());
        hub.report("h", of_ports(vec![strained("nic", 9)]));
        assert!(!pressure.has_changed().unwrap(), "nothing is new");
        hub.report("h", of_ports(vec![strained("nic", 10)]));
        assert!(pressure.has_changed().unwrap());
        pressure.mark_unchanged();
        hub.report("other", of_ports(vec![strained("nic", 99), strained("far", 99)]));
        assert!(!pressure.has_changed().unwrap(), "another host's, and one that cannot grow");
        hub.report("h", of_ports(vec![strained("nic", 0)]));
        assert!(!pressure.has_changed().unwrap(), "a host that starts again is not short");
        assert!(!health.has_changed().unwrap());
    }

    #[test]
    fn a_host_speaks_for_the_ports_of_its_own_containers_alone() {
        let hub = leasing();
        hub.report("h", of_ports(vec![strained("nic", 1)]));
        hub.report("other", of_ports(vec![strained("nic", 99), strained("far", 2)]));
        let own = |host: &str, nic, n| (host.to_owned(), strained(nic, n));
        assert_eq!(hub.snat(), [own("h", "nic", 1), own("other", "far", 2)]);
        // The container leaves its host; what that has said of it stays behind.
        let nothing = Arc::new(NodeGoal::Host(Default::default()));
        let (h, other) = ((NodeRole::Host, "h".to_owned()), (NodeRole::Host, "other".to_owned()));
        let kept = Arc::clone(&hub.goal(other.0, &other.1).unwrap());
        hub.publish([(h, nothing), (other, kept)].into());
        assert_eq!(hub.snat(), [own("other", "far", 2)]);
    }

    #[test]
    fn a_host_agent_that_starts_again_does_not_make_what_was_known_unknown() {
        let hub = hosts();
        hub.report("h", report(vec![status("p", false), status("gone", false)], 0));
        hub.report("h", report(vec![], 0));
        assert_eq!(hub.probes(Nanos(0)), [status("p", false)]);
    }

    #[test]
    fn backends_of_a_host_that_is_gone_fail_after_the_hold_off_and_return_with_a_verdict() {
        let hub = hosts();
        let (hold_off, at) = (Duration::from_secs(10), |s| Nanos(u64::MAX / 2).plus(Duration::from_secs(s)));
        let said = |s| hub.probes(at(s)).into_iter().map(|p| (p.healthy, p.detail)).collect::<Vec<_>>();
        for host in ["h", "other"] {
            hub.connected_at(NodeRole::Host, host, true, at(0));
        }
        hub.report("h", report(vec![status("p", true)], 0));
        let mut health = hub.health();
        hub.connected_at(NodeRole::Host, "h", false, at(100));
        assert!(health.has_changed().unwrap(), "the compiler is to judge");
        assert_eq!(hub.judge(hold_off, hold_off, at(101)), Some(at(110)));
        assert_eq!(said(109), [(true, String::new())]);
        assert_eq!(hub.judge(hold_off, hold_off, at(110)), None);
        assert_eq!(said(112), [(false, "h is not connected since 12 s".to_owned())]);
        health.mark_unchanged();
        hub.connected_at(NodeRole::Host, "h", true, at(120));
        assert!(health.has_changed().unwrap());
        hub.report("h", report(vec![], 0));
        assert_eq!(said(121), [(false, "h was not connected for 20 s; not probed yet".to_owned())]);
        hub.report("h", report(vec![status("p", true)], 0));
        assert_eq!(said(122), [(true, String::new())]);
    }

    #[test]
    fn backends_stay_as_they_were_when_all_hosts_are_gone() {
        let hub = hosts();
        let (hold_off, at) = (Duration::from_secs(10), |s| Nanos(u64::MAX / 2).plus(Duration::from_secs(s)));
        for host in ["h", "other"] {
            hub.connected_at(NodeRole::Host, host, true, at(0));
        }
        hub.report("h", report(vec![status("p", true)], 0));
        for host in ["h", "other"] {
            hub.connected_at(NodeRole::Host, host, false, at(100));
        }
        assert_eq!(hub.judge(hold_off, hold_off, at(10_000)), None);
        assert_eq!(hub.probes(at(10_000)), [status("p", true)]);
    }
}
