//! From intent and health to one goal for each node.
mod balance;
pub(crate) mod gateway;
mod host;
mod keep;
mod networks;
mod router;
mod site;
mod site_router;
mod tags;

use crate::config::VipLimitTable;
use crate::failover;
use crate::hub::GoalHub;
use crate::resources::Resources;
use crate::secrets::{Sealer, SecretError};
use crate::state::State;
pub(crate) use balance::Members;
pub use keep::KeepError;
use keep::Kept;
use penstock_admin_store::{Leadership, Store};
use penstock_admin_types::Intent;
use penstock_clock::{MonotonicClock, WallClock};
use penstock_model::{Nanos, Revision, Underlay};
use penstock_mux_proto::MuxGoal;
use penstock_slb_proto::{BLOCK, Health, Lease, LeasePlan, Plan, PlanError, Planner, ProbeKey};
use penstock_southbound::{NodeGoal, NodeRole};
use site::Site;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

/// How often reports of containers that run short of ports are compiled for: what tenants do must not keep the controller busy.
const PRESSED_EVERY: Duration = Duration::from_secs(5);
/// After a failure of the store; meanwhile nodes keep their goals.
const RETRY: Duration = Duration::from_secs(2);

/// How long nodes may be gone before the controller acts on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldOff {
    pub(crate) hosts: Duration,
    pub(crate) gateways: Duration,
}

type Key = (NodeRole, String);
/// Shared with the hub: a mux's goal is as large as its tables.
type Goals = BTreeMap<Key, Arc<NodeGoal>>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("this controller does not lead any more")]
    NotLeader,
}

/// Compiles whenever resources or health change, and publishes to the hub.
pub(crate) struct Compiler {
    kept: Kept,
    planner: Planner,
    resources: Arc<Resources>,
    hub: Arc<GoalHub>,
    states: watch::Receiver<Arc<State>>,
    health: watch::Receiver<u64>,
    pressure: watch::Receiver<u64>,
    /// When it was last compiled because of `pressure`.
    pressed_at: Option<Nanos>,
    last: Goals,
    /// Outbound rules whose virtual IPs have run out of ports.
    short: BTreeSet<String>,
    /// Virtual IPs whose free ports were told.
    told_free: BTreeSet<IpAddr>,
    /// Grows with each goal that differs; the upper half counts starts, so that it grows over restarts, too.
    revision: u64,
    hash_seed: [u64; 2],
    hold_off: HoldOff,
    vip_limit: VipLimitTable,
    /// Where there are several controllers.
    leadership: Option<Arc<Leadership>>,
}

impl Compiler {
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        resources: Arc<Resources>,
        hub: Arc<GoalHub>,
        hold_off: HoldOff,
        vip_limit: VipLimitTable,
        leadership: Option<Arc<Leadership>>,
    ) -> Result<Self, KeepError> {
        let fence = leadership.iter().map(|l| l.fence()).collect();
        let mut kept = Kept::new(store, fence);
        let planner = kept.planner().await?.unwrap_or_default();
        let hash_seed = kept.hash_seed().await?;
        let revision = kept.count_start().await? << 32;
        let (states, health, pressure) = (resources.subscribe(), hub.health(), hub.pressure());
        Ok(Self {
            kept,
            planner,
            resources,
            hub,
            states,
            health,
            pressure,
            pressed_at: None,
            last: Goals::new(),
            short: BTreeSet::new(),
            told_free: BTreeSet::new(),
            revision,
            hash_seed,
            hold_off,
            vip_limit,
            leadership,
        })
    }

    /// Which start this is: grows from leader to leader.
    pub(crate) fn term(&self) -> u64 {
        self.revision >> 32
    }

    pub(crate) async fn run(mut self) {
        loop {
            let state = self.states.borrow_and_update().clone();
            self.judge();
            self.health.mark_unchanged();
            self.pressure.mark_unchanged();
            let wake = match self.compile(&state, MonotonicClock::now()).await {
                Ok(()) => {
                    // Again, for nodes that are new.
                    let due = [self.planner.poll_timeout(), self.judge()].into_iter().flatten().min();
                    let due = due.map(|at| at.since(MonotonicClock::now()));
                    let ends = next_deadline(&state.intent, unix_seconds());
                    let again = self.fail_over(&state).await;
                    due.into_iter().chain(ends).chain(again).min()
                }
                Err(error) => {
                    tracing::error!(%error, "not compiled; nodes keep the goals that they have");
                    Some(RETRY)
                }
            };
            let timer = async {
                match wake {
                    Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(10))).await,
                    None => std::future::pending().await,
                }
            };
            let due = self.pressed_at.map(|at| at.plus(PRESSED_EVERY).since(MonotonicClock::now()));
            tokio::select! {
                changed = self.states.changed() => if changed.is_err() { return },
                changed = self.health.changed() => if changed.is_err() { return },
                is_open = pressed(&mut self.pressure, due.unwrap_or_default()) => {
                    self.pressed_at = Some(MonotonicClock::now());
                    if !is_open { return }
                }
                () = timer => {}
            }
        }
    }

    fn judge(&self) -> Option<Nanos> {
        self.hub.judge(self.hold_off.hosts, self.hold_off.gateways, MonotonicClock::now())
    }

    /// That it is done is heard as a change of resources. Returns when to try again what could not be done.
    async fn fail_over(&self, state: &State) -> Option<Duration> {
        let mut again = None;
        for choice in failover::choices(&state.intent, &self.hub) {
            if let Err(refusal) = self.resources.choose(&choice).await {
                tracing::error!(pool = choice.pool.id(), ?refusal, "no other gateway has taken over");
                again = Some(RETRY);
            }
        }
        again
    }

    pub(crate) async fn compile(&mut self, state: &State, now: Nanos) -> Result<(), CompileError> {
        let intent = &state.intent;
        let mut planner = self.planner.clone();
        let wall = unix_seconds();
        let members = Members::new(intent, wall);
        let plan = planner.plan(&balance::intent(intent, &members, wall), &self.health_now(), now)?;
        let demand = balance::demand(intent, &plan, &self.hub.snat());
        let leased = planner.lease(&balance::outbound(intent, &members), &plan, &demand, now);
        self.tell_of(&leased);
        let site = Site::new(&state.documents, intent, site::address_towards);
        let tables = MuxGoal {
            limits: balance::limits(intent, &plan, &leased.leases, self.vip_limit),
            ..balance::mux_goal(&plan, &leased.leases, self.hash_seed)
        };
        let compiled = goals(intent, &members, &plan, &leased.leases, &site, self.resources.sealer(), tables)?;
        // Tables are on the disk before any mux has them: after a restart they must not be others.
        if plan.changed || leased.changed {
            self.kept.keep_planner(&planner).await?;
        }
        // The last moment: a process that stood still since the last write has not been told yet that another leads.
        if self.leadership.as_ref().is_some_and(|l| !l.is_valid()) {
            return Err(CompileError::NotLeader);
        }
        self.planner = planner;
        self.revision += 1;
        let goals: Goals = compiled.into_iter().map(|(key, goal)| self.revised(key, goal)).collect();
        self.hub.let_grow(balance::growing(&plan, &leased));
        self.hub.drains.follow(intent, &self.hub);
        self.hub.publish(goals.clone());
        self.hub.compiled(state.rev);
        self.last = goals;
        metrics::gauge!("penstock_controller_goal_revision").set(self.revision as f64);
        metrics::gauge!("penstock_controller_resources").set(state.documents.len() as f64);
        Ok(())
    }

    /// Outbound ports: exhaustion is told once for each rule, and how many are left at any time.
    fn tell_of(&mut self, leased: &LeasePlan) {
        for (rule, members) in leased.short.iter().filter(|(rule, _)| !self.short.contains(*rule)) {
            tracing::warn!(rule, members, "the virtual IPs of the rule have no ports left for some of its members");
        }
        self.short = leased.short.keys().cloned().collect();
        for (vip, free) in free_ports(&mut self.told_free, &leased.free) {
            metrics::gauge!("penstock_controller_snat_free_ports", "vip" => vip.to_string()).set(free);
        }
        metrics::gauge!("penstock_controller_snat_short_members").set(leased.short.values().sum::<usize>() as f64);
    }

    /// The goal before if it says the same; else with the newest revision.
    fn revised(&self, key: Key, mut goal: NodeGoal) -> (Key, Arc<NodeGoal>) {
        if let Some(last) = self.last.get(&key) {
            set_revision(&mut goal, last.revision());
            if goal == **last {
                return (key, last.clone());
            }
        }
        set_revision(&mut goal, Revision(self.revision));
        (key, Arc::new(goal))
    }

    fn health_now(&self) -> Health {
        let key = |p: &penstock_slb_host::ProbeStatus| ProbeKey {
            probe: p.name.clone(),
            network_interface: p.network_interface.clone(),
            dip: p.dip,
        };
        self.hub.probes(MonotonicClock::now()).iter().map(|p| (key(p), p.healthy)).collect()
    }
}

/// Returns when leases are short, but not before `wait` is over; `false` when nobody can say so any more.
async fn pressed(pressure: &mut watch::Receiver<u64>, wait: Duration) -> bool {
    tokio::time::sleep(wait).await;
    pressure.changed().await.is_ok()
}

/// Ports that virtual IPs have left; no number for those that no rule has any more, whose last one would stay for good.
fn free_ports(told: &mut BTreeSet<IpAddr>, free: &BTreeMap<IpAddr, usize>) -> Vec<(IpAddr, f64)> {
    let gone = told.iter().filter(|vip| !free.contains_key(vip)).map(|vip| (*vip, f64::NAN));
    let now = free.iter().map(|(vip, blocks)| (*vip, (blocks * usize::from(BLOCK)) as f64));
    let out = gone.chain(now).collect();
    *told = free.keys().copied().collect();
    out
}

fn set_revision(goal: &mut NodeGoal, revision: Revision) {
    match goal {
        NodeGoal::Mux(g) => g.revision = revision,
        NodeGoal::Host(g) => g.revision = revision,
        NodeGoal::Gateway(g) => g.revision = revision,
    }
}

/// The time of day, as deadlines of drains are given.
pub(crate) fn unix_seconds() -> u64 {
    WallClock::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// How long until the next backend has been drained for long enough.
fn next_deadline(intent: &Intent, wall: u64) -> Option<Duration> {
    let deadlines = intent.interfaces.values().filter_map(|i| i.drain_until).filter(|at| *at > wall);
    deadlines.min().map(|at| Duration::from_secs(at - wall))
}

/// Pure: the same intent and plan give the same goals, but for revisions. `tables`: what all muxes have alike.
fn goals(
    intent: &Intent,
    members: &Members<'_>,
    plan: &Plan,
    leases: &[Lease],
    site: &Site,
    sealer: &Sealer,
    tables: MuxGoal,
) -> Result<BTreeMap<Key, NodeGoal>, SecretError> {
    let networks = networks::Networks::new(intent);
    let translations = host::Translations::new(intent, members, plan, leases);
    let mut out = BTreeMap::new();
    for mux in intent.muxes.values() {
        let router = router::goal(mux, sealer)?;
        let draining = mux.drain_until.is_some();
        let goal = MuxGoal { router, draining, ..tables.clone() };
        out.insert((NodeRole::Mux, mux.name.clone()), NodeGoal::Mux(goal));
    }
    for server in intent.servers.values() {
        let goal = host::goal(intent, &translations, &networks, site, server);
        out.insert((NodeRole::Host, server.name.clone()), NodeGoal::Host(goal));
    }
    for gateway in intent.gateways.values() {
        let goal = gateway::goal(intent, &networks, gateway, sealer)?;
        out.insert((NodeRole::Gateway, gateway.name.clone()), NodeGoal::Gateway(goal));
    }
    Ok(out)
}

/// All nodes that may send overlay packets, in order.
fn vteps(intent: &Intent, with_muxes: bool) -> Vec<Underlay<IpAddr>> {
    let muxes = intent.muxes.values().filter(|_| with_muxes);
    let nodes = muxes.chain(intent.servers.values()).chain(intent.gateways.values());
    let mut out: Vec<Underlay<IpAddr>> = nodes.filter_map(|n| n.address.map(Underlay)).collect();
    out.sort();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_ip_without_a_rule_has_no_number_of_free_ports() {
        let mut told = BTreeSet::new();
        let vip = |n| IpAddr::from([203, 0, 113, n]);
        let first = free_ports(&mut told, &BTreeMap::from([(vip(1), 2), (vip(2), 0)]));
        assert_eq!(first, [(vip(1), 128.0), (vip(2), 0.0)]);
        let second = free_ports(&mut told, &BTreeMap::from([(vip(2), 1)]));
        assert!(second.len() == 2 && second[0].0 == vip(1) && second[0].1.is_nan() && second[1] == (vip(2), 64.0));
        assert_eq!(free_ports(&mut told, &BTreeMap::new()).len(), 1, "said once");
        assert_eq!(free_ports(&mut told, &BTreeMap::new()).len(), 0);
    }

    /// Time goes on only when everybody waits.
    #[tokio::test(start_paused = true)]
    async fn who_runs_short_is_heard_at_once_and_then_only_now_and_then() {
        let sender = watch::Sender::new(0);
        let mut pressure = sender.subscribe();
        let start = tokio::time::Instant::now();
        sender.send_modify(|n| *n += 1);
        assert!(pressed(&mut pressure, Duration::ZERO).await);
        assert!(start.elapsed() < Duration::from_millis(10), "the first does not wait: {:?}", start.elapsed());
        for n in 1..=3 {
            sender.send_modify(|n| *n += 1);
            assert!(pressed(&mut pressure, PRESSED_EVERY).await);
            assert!(start.elapsed() >= PRESSED_EVERY * n, "the others do: {n} in {:?}", start.elapsed());
        }
        let silent = tokio::time::timeout(PRESSED_EVERY * 9, pressed(&mut pressure, Duration::ZERO)).await;
        assert!(silent.is_err(), "nobody runs short");
        sender.send_modify(|n| *n += 1);
        drop(sender);
        assert!(pressed(&mut pressure, PRESSED_EVERY).await, "the last change is heard");
        assert!(!pressed(&mut pressure, PRESSED_EVERY).await);
    }
}
