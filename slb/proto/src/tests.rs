//! The planner as its caller sees it: stories, and properties over random histories.
use crate::{
    AllDown, BackendIntent, Distribution, Health, LbIntent, Member, MemberHealth, Plan, PlanError, Planner, PoolIntent,
    PoolPlan, ProbeKey, SETTLE, ServiceIntent,
};
use penstock_model::{BackendId, Dip, Mac, Nanos, Overlay, Protocol, Underlay, Vni};
use penstock_spread::SLOTS;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

mod drains;
mod views;

const PROBE: &str = "loadBalancers/web/probes/http";

fn backend(n: u8) -> BackendIntent {
    BackendIntent {
        name: format!("networkInterfaces/web{n}/ipConfigurations/ip1"),
        network_interface: format!("web{n}"),
        dip: Dip { vni: Vni::new(5001).unwrap(), addr: Overlay(IpAddr::V4(Ipv4Addr::new(10, 0, 1, n))) },
        mac: Mac([2, 0, 0, 0, 0, n]),
        host: Underlay(IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1 + n % 2))),
        retired: false,
    }
}

/// One VIP over the backends with these weights. All backends 1..=12 exist.
fn intent(weights: &[(u8, u32)]) -> LbIntent {
    LbIntent {
        services: vec![ServiceIntent {
            name: "loadBalancers/web/loadBalancingRules/http".into(),
            vip: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
            protocol: Protocol::TCP,
            port: 80,
            pool: "pool".into(),
            probe: Some(PROBE.into()),
            all_down: AllDown::Drop,
            distribution: Distribution::Default,
        }],
        pools: vec![PoolIntent {
            name: "pool".into(),
            members: weights.iter().map(|(n, weight)| Member { backend: backend(*n).name, weight: *weight }).collect(),
        }],
        backends: (1..=12).map(backend).collect(),
    }
}

fn result(n: u8, healthy: bool) -> Health {
    Health::from_iter([(ProbeKey::new(PROBE, &backend(n)), healthy)])
}

fn id_of(plan: &Plan, n: u8) -> BackendId {
    plan.backends.iter().find(|b| b.name == backend(n).name).unwrap().id
}

fn shares(pool: &PoolPlan) -> BTreeMap<BackendId, usize> {
    pool.table.shares().into_iter().collect()
}

const T0: Nanos = Nanos::from_secs(100);

fn later(seconds: u64) -> Nanos {
    Nanos::from_secs(100 + seconds)
}

#[test]
fn a_new_vip_serves_before_its_first_probe() {
    let plan = Planner::default().plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let pool = &plan.pools[0];
    assert_eq!(pool.table.members.len(), 2);
    assert!(pool.members.iter().all(|m| m.health == MemberHealth::Unknown));
    assert_eq!((pool.version, pool.previous.is_empty(), plan.changed), (1, true, true));
}

#[test]
fn a_backend_that_goes_down_moves_only_its_slots_and_comes_back() {
    let mut planner = Planner::default();
    let intent = intent(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let before = planner.plan(&intent, &Health::default(), T0).unwrap();
    let down = planner.plan(&intent, &result(2, false), later(1)).unwrap();
    let gone = id_of(&before, 2);
    for slot in 0..SLOTS {
        let was = before.pools[0].table.owner_of_slot(slot);
        let is = down.pools[0].table.owner_of_slot(slot);
        assert_ne!(is, Some(gone));
        assert!(was == Some(gone) || was == is, "slot {slot} moved");
    }
    assert_eq!(down.pools[0].version, 2);
    let up = planner.plan(&intent, &result(2, true), later(2)).unwrap();
    assert!(shares(&up.pools[0]).values().all(|n| *n == SLOTS / 4));
    assert_eq!(up.pools[0].version, 3);
}

#[test]
fn the_table_before_a_failure_does_not_name_the_dead() {
    let mut planner = Planner::default();
    let intent = intent(&[(1, 1), (2, 1), (3, 1)]);
    planner.plan(&intent, &Health::default(), T0).unwrap();
    let down = planner.plan(&intent, &result(2, false), later(1)).unwrap();
    assert!(down.pools[0].previous.is_empty(), "without the dead it is the table of now");
}

#[test]
fn the_table_before_an_addition_is_told_until_the_change_settles() {
    let mut planner = Planner::default();
    let before = planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let wider = intent(&[(1, 1), (2, 1), (3, 1)]);
    let added = planner.plan(&wider, &Health::default(), later(10)).unwrap();
    assert_eq!(added.pools[0].previous, [before.pools[0].table.clone()]);
    let settles = later(10).plus(SETTLE);
    assert_eq!(planner.poll_timeout(), Some(settles));
    let still = planner.plan(&wider, &Health::default(), later(1809)).unwrap();
    assert!(!still.pools[0].previous.is_empty() && !still.changed);
    let settled = planner.plan(&wider, &Health::default(), settles).unwrap();
    assert!(settled.pools[0].previous.is_empty() && settled.changed);
    assert_eq!(settled.pools[0].version, added.pools[0].version, "the table did not change");
    assert_eq!(planner.poll_timeout(), None);
}

#[test]
fn a_drained_backend_keeps_its_place_in_the_table_before() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let plan = planner.plan(&intent(&[(1, 1), (2, 0)]), &Health::default(), later(1)).unwrap();
    let drained = id_of(&plan, 2);
    assert!(!plan.pools[0].table.members.contains(&drained));
    assert!(plan.pools[0].previous[0].members.contains(&drained));
}

#[test]
fn each_slot_remembers_its_three_latest_owners_over_any_number_of_changes() {
    let mut planner = Planner::default();
    let mut seen: Vec<Vec<BackendId>> = vec![Vec::new(); SLOTS];
    let sets: [&[(u8, u32)]; 6] = [
        &[(1, 1)],
        &[(1, 1), (2, 1)],
        &[(2, 1), (3, 2)],
        &[(3, 1), (4, 1), (5, 1)],
        &[(1, 1), (5, 1)],
        &[(1, 1), (2, 1), (6, 3)],
    ];
    for (at, set) in (0..).zip(sets) {
        let plan = planner.plan(&intent(set), &Health::default(), later(at)).unwrap();
        let pool = &plan.pools[0];
        for (slot, seen) in seen.iter_mut().enumerate() {
            let owner = pool.table.owner_of_slot(slot).unwrap();
            let mut previous: Vec<_> = pool.previous.iter().filter_map(|t| t.owner_of_slot(slot)).collect();
            previous.retain(|b| *b != owner);
            let expected: Vec<_> = seen.iter().rev().copied().filter(|b| *b != owner).take(3).collect();
            assert_eq!(previous, expected, "slot {slot} after change {at}");
            seen.retain(|b| *b != owner);
            seen.push(owner);
        }
    }
}

#[test]
fn a_member_that_has_left_its_pool_is_planned_while_its_connections_may_live() {
    let mut planner = Planner::default();
    let plan = planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    assert_eq!(plan.backends.len(), 2, "the endpoints that no pool names are not planned");
    let (gone, alone) = (id_of(&plan, 2), intent(&[(1, 1)]));
    let plan = planner.plan(&alone, &Health::default(), later(1)).unwrap();
    assert!(plan.backends.iter().any(|b| b.id == gone));
    assert!(plan.pools[0].previous[0].members.contains(&gone));
    let settled = planner.plan(&alone, &Health::default(), later(1).plus(SETTLE)).unwrap();
    assert!(settled.pools[0].previous.is_empty());
    let after = planner.plan(&alone, &Health::default(), later(2).plus(SETTLE)).unwrap();
    assert!(after.backends.iter().all(|b| b.id != gone));
}

#[test]
fn when_everything_drains_the_living_keep_their_connections() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let plan = planner.plan(&intent(&[(1, 0), (2, 0)]), &result(2, false), later(1)).unwrap();
    assert!(plan.pools[0].table.is_empty());
    assert_eq!(plan.pools[0].previous[0].members, [id_of(&plan, 1)]);
}

#[test]
fn all_members_down_empties_the_table_or_fills_it_as_the_rule_says() {
    let all: Health = (1..=2).map(|n| (ProbeKey::new(PROBE, &backend(n)), false)).collect();
    let mut drop = intent(&[(1, 1), (2, 1)]);
    let plan = Planner::default().plan(&drop, &all, T0).unwrap();
    assert!(plan.pools[0].table.is_empty());
    assert_eq!(plan.pools[0].version, 1);
    drop.services[0].all_down = AllDown::Serve;
    let plan = Planner::default().plan(&drop, &all, T0).unwrap();
    assert_eq!(plan.pools[0].table.members.len(), 2);
}

#[test]
fn who_is_retired_is_no_previous_owner_either() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let mut drained = intent(&[(1, 1), (2, 0)]);
    let plan = planner.plan(&drained, &Health::default(), later(1)).unwrap();
    let two = id_of(&plan, 2);
    assert!(!plan.pools[0].table.members.contains(&two) && plan.pools[0].previous[0].members.contains(&two));
    drained.pools[0].members.pop();
    drained.backends.iter_mut().find(|b| b.name == backend(2).name).unwrap().retired = true;
    let plan = planner.plan(&drained, &Health::default(), later(2)).unwrap();
    assert!(plan.changed && plan.pools[0].previous.iter().all(|t| !t.members.contains(&two)), "{:?}", plan.pools[0]);
}

#[test]
fn a_rule_may_keep_those_who_were_well_last() {
    let mut intent = intent(&[(1, 1), (2, 1), (3, 1)]);
    intent.services[0].all_down = AllDown::Keep;
    let mut planner = Planner::default();
    let members = |planner: &mut Planner, intent: &LbIntent, health: &Health| {
        let plan = planner.plan(intent, health, T0).unwrap();
        let ids: BTreeSet<u8> = (1..=3).filter(|n| plan.pools[0].table.members.contains(&id_of(&plan, *n))).collect();
        ids
    };
    assert_eq!(members(&mut planner, &intent, &result(3, false)), [1, 2].into());
    let both: Health = (1..=2).map(|n| (ProbeKey::new(PROBE, &backend(n)), false)).collect();
    assert_eq!(members(&mut planner, &intent, &both), [1, 2].into(), "the third was down before");
    assert_eq!(members(&mut planner, &intent, &result(3, true)), [3].into(), "who is well goes before");
    assert_eq!(members(&mut planner, &intent, &result(3, false)), [3].into());
    intent.pools[0].members.pop();
    assert_eq!(members(&mut planner, &intent, &Health::default()), [1, 2].into(), "nobody of those is a member now");
}

#[test]
fn rules_that_differ_in_what_is_done_when_all_are_down_share_no_table() {
    let mut intent = intent(&[(1, 1), (2, 1)]);
    let mut https = intent.services[0].clone();
    (https.name, https.port, https.all_down) = ("https".into(), 443, AllDown::Serve);
    intent.services.push(https);
    let all: Health = (1..=2).map(|n| (ProbeKey::new(PROBE, &backend(n)), false)).collect();
    let plan = Planner::default().plan(&intent, &all, T0).unwrap();
    let members = |port| {
        let service = plan.services.iter().find(|s| s.port == port).unwrap();
        plan.pools.iter().find(|p| p.id == service.pool).unwrap().table.members.len()
    };
    assert_eq!((members(80), members(443)), (0, 2));
    // Without a probe there is nothing to differ in.
    intent.services.iter_mut().for_each(|s| s.probe = None);
    assert_eq!(Planner::default().plan(&intent, &all, T0).unwrap().pools.len(), 1);
}

#[test]
fn two_probes_of_one_pool_make_two_tables() {
    let mut intent = intent(&[(1, 1), (2, 1)]);
    let mut https = intent.services[0].clone();
    (https.name, https.port, https.probe) = ("https".into(), 443, None);
    intent.services.push(https);
    let plan = Planner::default().plan(&intent, &result(1, false), T0).unwrap();
    let members: BTreeMap<Option<&str>, usize> =
        plan.pools.iter().map(|p| (p.probe.as_deref(), p.table.members.len())).collect();
    assert_eq!(members, BTreeMap::from([(Some(PROBE), 1), (None, 2)]));
}

#[test]
fn a_restart_without_results_does_not_bring_the_dead_back() {
    let mut planner = Planner::default();
    let intent = intent(&[(1, 1), (2, 1), (3, 1)]);
    planner.plan(&intent, &Health::default(), T0).unwrap();
    let before = planner.plan(&intent, &result(2, false), later(1)).unwrap();
    let mut restarted: Planner = serde_json::from_str(&serde_json::to_string(&planner).unwrap()).unwrap();
    let after = restarted.plan(&intent, &Health::default(), Nanos::from_secs(3)).unwrap();
    assert_eq!(after.pools, before.pools);
    assert!(after.changed, "a new process ships what it has");
}

#[test]
fn a_backend_with_another_address_is_another_backend_and_one_on_another_host_is_not() {
    let mut planner = Planner::default();
    let mut intent = intent(&[(1, 1), (2, 1)]);
    let before = planner.plan(&intent, &Health::default(), T0).unwrap();
    intent.backends[0].host = Underlay(IpAddr::V4(Ipv4Addr::new(172, 16, 0, 99)));
    let moved = planner.plan(&intent, &Health::default(), later(1)).unwrap();
    assert_eq!(id_of(&moved, 1), id_of(&before, 1));
    assert!(moved.changed);
    assert_eq!(moved.pools, before.pools);
    intent.backends[0].dip.addr = Overlay(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 200)));
    let renumbered = planner.plan(&intent, &Health::default(), later(2)).unwrap();
    assert_ne!(id_of(&renumbered, 1), id_of(&before, 1));
}

#[test]
fn a_contradiction_is_refused_by_name_and_changes_nothing() {
    let mut planner = Planner::default();
    let good = intent(&[(1, 1)]);
    planner.plan(&good, &Health::default(), T0).unwrap();
    let refuse = |planner: &mut Planner, change: fn(&mut LbIntent)| {
        let mut bad = good.clone();
        change(&mut bad);
        planner.plan(&bad, &result(1, false), later(1)).unwrap_err()
    };
    let e = refuse(&mut planner, |i| i.services[0].pool = "no".into());
    assert!(matches!(e, PlanError::UnknownPool { pool, .. } if pool == "no"));
    let e = refuse(&mut planner, |i| i.pools[0].members[0].backend = "no".into());
    assert!(matches!(e, PlanError::UnknownBackend { .. }));
    let e = refuse(&mut planner, |i| {
        let member = i.pools[0].members[0].clone();
        i.pools[0].members.push(member);
    });
    assert!(matches!(e, PlanError::DuplicateMember { .. }));
    let e = refuse(&mut planner, |i| {
        let mut twin = i.services[0].clone();
        twin.name = "twin".into();
        i.services.push(twin);
    });
    assert!(matches!(e, PlanError::DuplicateFrontend { second, .. } if second == "twin"));
    let e = refuse(&mut planner, |i| i.backends[1].dip = i.backends[0].dip);
    assert!(matches!(e, PlanError::DuplicateDip { .. }));
    let e = refuse(&mut planner, |i| i.pools[0].name = "a\nb".into());
    assert!(matches!(e, PlanError::LineBreak { .. }));
    assert!(!planner.plan(&good, &Health::default(), later(1)).unwrap().changed, "the bad result was not remembered");
}

/// One step of a random history.
#[derive(Debug, Clone)]
struct Step {
    weights: BTreeMap<u8, u32>,
    results: Vec<(u8, bool)>,
    seconds: u64,
    restart: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop::collection::btree_map(1..=12u8, prop_oneof![3 => Just(1u32), 1 => 0..9u32], 0..12),
        prop::collection::vec((1..=12u8, any::<bool>()), 0..4),
        0..90u64,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(weights, results, seconds, restart)| Step { weights, results, seconds, restart })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_ids_versions_and_shares(steps in prop::collection::vec(step(), 1..12)) {
        let mut planner = Planner::default();
        let mut now = T0;
        let mut down = BTreeSet::new();
        let mut last: Option<Plan> = None;
        for step in steps {
            now = Nanos(now.0 + step.seconds * 1_000_000_000);
            let weights: Vec<_> = step.weights.iter().map(|(n, w)| (*n, *w)).collect();
            let results: Health =
                step.results.iter().map(|(n, up)| (ProbeKey::new(PROBE, &backend(*n)), *up)).collect();
            for (n, up) in &step.results {
                if *up { down.remove(n); } else { down.insert(*n); }
            }
            if step.restart {
                planner = serde_json::from_str(&serde_json::to_string(&planner).unwrap()).unwrap();
            }
            let plan = planner.plan(&intent(&weights), &results, now).unwrap();
            check_table(&plan, &step.weights, &down)?;
            check_previous(&plan, &down)?;
            if let Some(last) = &last {
                check_step(last, &plan)?;
            }
            last = Some(plan);
        }
    }
}

fn check_table(plan: &Plan, weights: &BTreeMap<u8, u32>, down: &BTreeSet<u8>) -> Result<(), TestCaseError> {
    let owners: BTreeMap<BackendId, u32> =
        weights.iter().filter(|(n, w)| **w > 0 && !down.contains(n)).map(|(n, w)| (id_of(plan, *n), *w)).collect();
    let table = &plan.pools[0].table;
    prop_assert_eq!(&table.members, &owners.keys().copied().collect::<Vec<_>>());
    let total: u64 = owners.values().map(|w| u64::from(*w)).sum();
    for (id, slots) in shares(&plan.pools[0]) {
        let exact = u64::from(owners[&id]) * SLOTS as u64;
        prop_assert!(exact / total <= slots as u64 && slots as u64 <= exact.div_ceil(total));
    }
    Ok(())
}

fn check_previous(plan: &Plan, down: &BTreeSet<u8>) -> Result<(), TestCaseError> {
    for previous in &plan.pools[0].previous {
        prop_assert_eq!(previous.validate(), Ok(()));
        prop_assert_ne!(previous, &plan.pools[0].table);
        for backend in plan.backends.iter().filter(|b| down.iter().any(|n| b.name == backend(*n).name)) {
            prop_assert!(!previous.members.contains(&backend.id));
        }
    }
    Ok(())
}

fn check_step(last: &Plan, plan: &Plan) -> Result<(), TestCaseError> {
    let (was, is) = (&last.pools[0], &plan.pools[0]);
    prop_assert_eq!(was.id, is.id);
    prop_assert_eq!(&last.services, &plan.services);
    for then in &last.backends {
        prop_assert!(plan.backends.iter().all(|now| now == then || (now.id != then.id && now.name != then.name)));
    }
    if was.table == is.table {
        prop_assert_eq!(was.version, is.version);
    } else {
        prop_assert!(was.version < is.version);
        // Who left gives all, who joined takes all that it gets; nobody else both gains and loses.
        let (mut gained, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for slot in was.table.changed(&is.table) {
            gained.insert(is.table.owner_of_slot(slot));
            lost.insert(was.table.owner_of_slot(slot));
        }
        prop_assert!(gained.is_disjoint(&lost), "{:?} both gained and lost", gained.intersection(&lost));
    }
    Ok(())
}
