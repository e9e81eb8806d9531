use crate::check::Checked;
use crate::ids::Ids;
use crate::leases::Leases;
use crate::pool::PoolState;
use crate::views::{self, View, views};
use crate::{
    AllDown, BackendIntent, BackendPlan, Demand, Health, LbIntent, LeasePlan, MemberPlan, OutboundIntent, Plan,
    PlanError, PoolIntent, PoolPlan, ServiceIntent, ServicePlan,
};
use penstock_model::{BackendId, Nanos, PoolId, ServiceId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long muxes are told who owned a slot before: as long as hosts remember a connection that is silent (30 minutes). A
/// connection that has sent nothing for longer is forgotten at its container's host, too. Members that drain (weight 0) are
/// told for as long as they do.
pub const SETTLE: Duration = Duration::from_secs(1800);

/// Plans, and remembers what the next plan must not change without need.
///
/// Getters: [`Planner::poll_timeout`]. Mutators: [`Planner::lease`]; [`Planner::plan`], which leaves the planner as it was if it refuses the
/// intent.
///
/// Memory: a table and while changes settle up to three more, 8 KiB each, for each pool and probe; names of services, pools
/// and backends, and for each service the name of its pool and probe once more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Planner {
    settle_ms: u64,
    services: Ids,
    pools: Ids,
    backends: Ids,
    /// By pool and probe.
    tables: BTreeMap<u32, PoolState>,
    /// By which of them each frontend is served.
    #[serde(default)]
    uses: BTreeMap<String, String>,
    /// The last version that was given to a table.
    version: u64,
    /// The latest result of each probe, also over a restart.
    health: Health,
    #[serde(default)]
    leases: Leases,
    #[serde(skip)]
    last: Option<Plan>,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new(SETTLE)
    }
}

impl Planner {
    /// `settle`: how long the owners before a change are part of plans, normally [`SETTLE`].
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self {
            settle_ms: u64::try_from(settle.as_millis()).unwrap_or(u64::MAX),
            services: Ids::default(),
            pools: Ids::default(),
            backends: Ids::default(),
            tables: BTreeMap::new(),
            uses: BTreeMap::new(),
            version: 0,
            health: Health::default(),
            leases: Leases::default(),
            last: None,
        }
    }

    /// Plans for what is wanted and known at `now`.
    ///
    /// `health` may hold all results or only those that are new: results stay until their probe or backend is gone.
    /// A backend that is down, drained or no longer a member leaves the table with the fewest moves; while the change
    /// settles, it is still named as a previous owner if it is alive. A service that gets another probe, or another answer to
    /// all being down, keeps the table that it has.
    ///
    /// # Errors
    /// The intent contradicts itself; the planner is unchanged.
    pub fn plan(&mut self, intent: &LbIntent, health: &Health, now: Nanos) -> Result<Plan, PlanError> {
        let checked = Checked::new(intent)?;
        self.remember(&checked, health);
        let uses = views::uses(&checked);
        let left = views::follow(&self.uses, &uses, &mut self.pools, &self.tables);
        self.uses = uses;
        self.assign_ids(&checked, now);
        views::join(left, &self.pools, &mut self.tables, &mut self.version, now);
        let views = views(&checked);
        let living = self.living(&checked);
        let wanted: BTreeSet<u32> = views.iter().filter_map(|view| self.pools.get(&view.key())).collect();
        self.tables.retain(|id, _| wanted.contains(id));
        let mut plan = Plan {
            services: self.plan_services(&checked),
            pools: views.iter().filter_map(|view| self.plan_pool(view, &checked, &living, now)).collect(),
            backends: living.iter().map(|(id, backend)| plan_backend(*id, backend)).collect(),
            changed: true,
        };
        plan.services.sort_by_key(|service| service.id);
        plan.pools.sort_by_key(|pool| pool.id);
        plan.changed = self.last.as_ref().is_none_or(|last| !last.ships_the_same(&plan));
        self.last = Some(plan.clone());
        Ok(plan)
    }

    /// Leases ports of virtual IPs to the members of `outbound`, backends of `plan`, which this planner has just made. `demand`
    /// is what their hosts say of the ports that they have.
    pub fn lease(
        &mut self,
        outbound: &[OutboundIntent],
        plan: &Plan,
        demand: &BTreeMap<BackendId, Demand>,
        now: Nanos,
    ) -> LeasePlan {
        let services = plan.services.iter().map(|s| (s.vip, s.port)).collect();
        self.leases.update(outbound, &services, plan, demand, now)
    }

    /// When to plan again although nothing happened: a change will have settled, or leased ports come out of quarantine.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let settles = self.tables.values().filter_map(|table| table.settles_at(self.settle()));
        settles.chain(self.leases.poll_timeout()).min()
    }

    fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_ms)
    }

    fn remember(&mut self, checked: &Checked<'_>, health: &Health) {
        self.health.merge(health);
        let probes: BTreeSet<&str> = checked.services.values().filter_map(|s| s.probe.as_deref()).collect();
        let addresses: BTreeSet<_> =
            checked.backends.values().map(|b| (b.network_interface.as_str(), b.dip.addr)).collect();
        self.health.retain(|key| {
            probes.contains(key.probe.as_str()) && addresses.contains(&(key.network_interface.as_str(), key.dip))
        });
    }

    fn assign_ids(&mut self, checked: &Checked<'_>, now: Nanos) {
        self.services.update(&checked.services.keys().map(|name| (*name).to_owned()).collect(), now);
        self.pools.update(&views(checked).iter().map(View::key).collect(), now);
        let members: BTreeSet<&str> =
            checked.pools.values().flat_map(|p| &p.members).map(|member| member.backend.as_str()).collect();
        let owners: BTreeSet<BackendId> = self.tables.values().flat_map(PoolState::owners).collect();
        let is_known = |key: &str| self.backends.get(key).is_some_and(|id| owners.contains(&BackendId(id)));
        let keys = checked.backends.iter().map(|(name, backend)| (members.contains(name), backend_key(backend)));
        let wanted = keys.filter(|(is_member, key)| *is_member || is_known(key)).map(|(_, key)| key).collect();
        self.backends.update(&wanted, now);
    }

    fn plan_services(&self, checked: &Checked<'_>) -> Vec<ServicePlan> {
        let plan = |service: &&ServiceIntent| {
            let view = View::of(service);
            Some(ServicePlan {
                id: ServiceId(self.services.get(&service.name)?),
                name: service.name.clone(),
                vip: service.vip,
                protocol: service.protocol,
                port: service.port,
                pool: PoolId(self.pools.get(&view.key())?),
                distribution: service.distribution,
            })
        };
        checked.services.values().filter_map(plan).collect()
    }

    fn plan_pool(
        &mut self,
        view: &View<'_>,
        checked: &Checked<'_>,
        living: &Living<'_>,
        now: Nanos,
    ) -> Option<PoolPlan> {
        let id = self.pools.get(&view.key())?;
        let pool = checked.pools.get(view.pool)?;
        let members = self.members(pool, view.probe, checked);
        let settle = self.settle();
        let state = self.tables.entry(id).or_insert_with(PoolState::new);
        let owners = owners(&members, view.all_down, state.members());
        state.update(owners, &mut self.version, now);
        let drains = |id| {
            let is_weightless = members.iter().any(|m| m.backend == id && m.weight == 0);
            is_weightless && living.get(&id).is_some_and(|backend| !backend.retired)
        };
        state.settle(settle, now, drains);
        // Who may still get packets of old connections: backends that exist and are not known to be down.
        let serves = |id| {
            let backend = living.get(&id).filter(|backend| !backend.retired);
            backend.is_some_and(|backend| self.health.of(view.probe, backend).serves())
        };
        Some(PoolPlan {
            id: PoolId(id),
            name: pool.name.clone(),
            probe: view.probe.map(str::to_owned),
            version: state.version,
            table: state.table.clone(),
            previous: state.previous(serves),
            members,
        })
    }

    fn members(&self, pool: &PoolIntent, probe: Option<&str>, checked: &Checked<'_>) -> Vec<MemberPlan> {
        let plan = |member: &crate::Member| {
            let backend = checked.backends.get(member.backend.as_str())?;
            Some(MemberPlan {
                backend: BackendId(self.backends.get(&backend_key(backend))?),
                weight: member.weight,
                health: self.health.of(probe, backend),
            })
        };
        let mut members: Vec<MemberPlan> = pool.members.iter().filter_map(plan).collect();
        members.sort_by_key(|member| member.backend);
        members
    }

    fn living<'a>(&self, checked: &Checked<'a>) -> Living<'a> {
        let with_id =
            |backend: &&'a BackendIntent| Some((BackendId(self.backends.get(&backend_key(backend))?), *backend));
        checked.backends.values().filter_map(with_id).collect()
    }
}

/// The backends that exist.
type Living<'a> = BTreeMap<BackendId, &'a BackendIntent>;

fn plan_backend(id: BackendId, backend: &BackendIntent) -> BackendPlan {
    BackendPlan {
        id,
        name: backend.name.clone(),
        network_interface: backend.network_interface.clone(),
        dip: backend.dip,
        mac: backend.mac,
        host: backend.host,
    }
}

/// A backend is its name and address: with another address it is another backend, and flows of the old must not follow.
/// Another host or Ethernet address is the same backend, moved.
fn backend_key(backend: &BackendIntent) -> String {
    format!("{}\n{}\n{}", backend.name, backend.dip.vni, backend.dip.addr.0)
}

/// Who is in the table, with which weight. `last`: who was.
fn owners(members: &[MemberPlan], all_down: AllDown, last: &[(BackendId, u32)]) -> Vec<(BackendId, u32)> {
    let all = || members.iter().map(|m| (m.backend, m.weight));
    let serving: Vec<_> = members.iter().filter(|m| m.health.serves()).map(|m| (m.backend, m.weight)).collect();
    if serving.iter().any(|(_, weight)| *weight != 0) {
        return serving;
    }
    match all_down {
        AllDown::Drop => serving,
        AllDown::Serve => all().collect(),
        AllDown::Keep => {
            let was_there = |id| last.iter().any(|(known, weight)| *known == id && *weight != 0);
            let kept: Vec<_> = all().filter(|(id, weight)| *weight != 0 && was_there(*id)).collect();
            // Nobody has ever been seen well, or none of those is a member any more.
            if kept.is_empty() { all().collect() } else { kept }
        }
    }
}
