use crate::check::Checked;
use crate::ids::Ids;
use crate::pool::PoolState;
use crate::{AllDown, ServiceIntent};
use penstock_model::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// A pool as one probe sees it, and what is done when that finds nobody: what has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct View<'a> {
    pub(crate) pool: &'a str,
    pub(crate) probe: Option<&'a str>,
    pub(crate) all_down: AllDown,
}

impl<'a> View<'a> {
    /// Who probes nothing never finds all down.
    pub(crate) fn of(service: &'a ServiceIntent) -> Self {
        let all_down = if service.probe.is_some() { service.all_down } else { AllDown::default() };
        Self { pool: &service.pool, probe: service.probe.as_deref(), all_down }
    }

    /// Names have no line breaks: [`Checked`] has seen to it.
    pub(crate) fn key(&self) -> String {
        let policy = match self.all_down {
            AllDown::Drop => "",
            AllDown::Serve => "\nserve",
            AllDown::Keep => "\nkeep",
        };
        format!("{}\n{}{policy}", self.pool, self.probe.unwrap_or_default())
    }
}

/// The views that some service needs.
pub(crate) fn views<'a>(checked: &Checked<'a>) -> BTreeSet<View<'a>> {
    checked.services.values().map(|s| View::of(s)).collect()
}

/// The key of the view by which each frontend is served: a connection knows its virtual IP and port, whatever the rule is called.
pub(crate) fn uses(checked: &Checked<'_>) -> BTreeMap<String, String> {
    let frontend = |s: &ServiceIntent| format!("{} {} {}", s.vip, s.protocol.0, s.port);
    checked.services.values().map(|s| (frontend(s), View::of(s).key())).collect()
}

/// Tables of views that frontends have left for another view of the same pool, by the key of that.
pub(crate) type Left = Vec<(PoolState, String)>;

/// Frontends that `before` were served by one view of a pool and `now` are by another, as a rule was given another probe: their
/// connections go by the table that they went by. A view that nobody needs any more becomes the new one, with its id;
/// what others need still, or what is there already, is told what it comes to have ([`join`]).
pub(crate) fn follow(
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    pools: &mut Ids,
    tables: &BTreeMap<u32, PoolState>,
) -> Left {
    let wanted: BTreeSet<&String> = now.values().collect();
    let change = |(frontend, new)| before.get(frontend).filter(|old| *old != new).map(|old| (old, new));
    let changes: BTreeSet<(&String, &String)> = now.iter().filter_map(change).collect();
    let of_one_pool = changes.into_iter().filter(|(old, new)| pool_of(old) == pool_of(new));
    let known: Vec<_> = of_one_pool.filter_map(|(old, new)| Some((old, new, tables.get(&pools.get(old)?)?))).collect();
    let mut left = Vec::new();
    for (old, new, state) in known {
        let is_left_by_all = !wanted.contains(old) && pools.get(old).is_some();
        if pools.get(new).is_none() && is_left_by_all {
            pools.rename(old, new);
        } else {
            left.push((state.clone(), new.clone()));
        }
    }
    left
}

fn pool_of(key: &str) -> &str {
    key.split('\n').next().unwrap_or_default()
}

/// Gives the tables of `left` to the views that come after theirs.
pub(crate) fn join(left: Left, pools: &Ids, tables: &mut BTreeMap<u32, PoolState>, version: &mut u64, now: Nanos) {
    for (state, key) in left {
        let Some(id) = pools.get(&key) else { continue };
        match tables.get_mut(&id) {
            Some(known) => known.join(&state, now),
            None => drop(tables.insert(id, state.again(version))),
        }
    }
}
