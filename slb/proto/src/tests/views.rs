//! Rules in service that are given another probe, or another answer to all members being down.
use super::*;
use penstock_spread::SlotTable;

const OTHER: &str = "loadBalancers/web/probes/other";

/// A planner whose table is what its history has made it, not what a new one for the same members would be.
fn grown(services: usize) -> (Planner, LbIntent, Plan) {
    let with = |weights: &[(u8, u32)]| {
        let mut intent = intent(weights);
        for n in 1..services {
            let mut more = intent.services[0].clone();
            (more.name, more.port) = (format!("more{n}"), 80 + n as u16);
            intent.services.push(more);
        }
        intent
    };
    let mut planner = Planner::default();
    let sets: [&[(u8, u32)]; 4] = [&[(3, 1)], &[(1, 1), (3, 1), (4, 1)], &[(1, 2), (4, 1)], &[(1, 1), (2, 1), (4, 1)]];
    for set in sets {
        planner.plan(&with(set), &Health::default(), T0).unwrap();
    }
    let intent = with(&[(1, 1), (2, 1), (4, 1)]);
    // All has settled.
    let plan = planner.plan(&intent, &Health::default(), later(4000)).unwrap();
    let new = Planner::default().plan(&intent, &Health::default(), T0).unwrap();
    assert!(plan.pools[0].previous.is_empty() && differ(&plan.pools[0].table, &new.pools[0].table) > SLOTS / 4);
    (planner, intent, plan)
}

fn differ(a: &SlotTable, b: &SlotTable) -> usize {
    (0..SLOTS).filter(|slot| a.owner_of_slot(*slot) != b.owner_of_slot(*slot)).count()
}

fn pool_of(plan: &Plan, port: u16) -> &PoolPlan {
    let service = plan.services.iter().find(|s| s.port == port).unwrap();
    plan.pools.iter().find(|p| p.id == service.pool).unwrap()
}

#[test]
fn a_rule_that_changes_its_probe_or_what_is_done_when_all_are_down_keeps_its_table() {
    let changes: [fn(&mut ServiceIntent); 4] = [
        |s| s.all_down = AllDown::Keep,
        |s| s.probe = Some(OTHER.to_owned()),
        |s| s.probe = None,
        |s| (s.name, s.probe, s.all_down) = ("renamed".to_owned(), Some(OTHER.to_owned()), AllDown::Serve),
    ];
    for change in changes {
        let (mut planner, mut intent, before) = grown(1);
        change(&mut intent.services[0]);
        planner = serde_json::from_str(&serde_json::to_string(&planner).unwrap()).unwrap();
        let after = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
        let (was, is) = (&before.pools[0], &after.pools[0]);
        assert_eq!((was.id, was.version, &was.table, &was.previous), (is.id, is.version, &is.table, &is.previous));
        assert_eq!(is.probe, intent.services[0].probe);
    }
}

#[test]
fn what_still_settles_is_kept_with_the_table() {
    let (mut planner, mut intent, _) = grown(1);
    intent.pools[0].members.push(Member { backend: backend(5).name, weight: 1 });
    let before = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
    intent.services[0].all_down = AllDown::Serve;
    let after = planner.plan(&intent, &Health::default(), later(4002)).unwrap();
    assert!(!before.pools[0].previous.is_empty());
    assert_eq!(before.pools, after.pools);
}

#[test]
fn one_of_two_rules_of_a_pool_that_changes_begins_with_the_table_of_both() {
    let (mut planner, mut intent, before) = grown(2);
    assert_eq!(before.pools.len(), 1);
    intent.services[1].probe = Some(OTHER.to_owned());
    let after = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
    let (first, second) = (pool_of(&after, 80), pool_of(&after, 81));
    assert_eq!((first, after.pools.len()), (&before.pools[0], 2));
    assert_eq!((&first.table, &second.table), (&before.pools[0].table, &before.pools[0].table));
    assert!(second.version > first.version, "no two pools have one version");
    // Both change at once, each its own way.
    intent.services[0].all_down = AllDown::Keep;
    intent.services[1].all_down = AllDown::Keep;
    let both = planner.plan(&intent, &Health::default(), later(4002)).unwrap();
    assert_eq!((pool_of(&both, 80).id, pool_of(&both, 81).id), (first.id, second.id));
    // And from one view into two.
    let (mut planner, mut intent, before) = grown(2);
    intent.services[0].all_down = AllDown::Keep;
    intent.services[1].probe = Some(OTHER.to_owned());
    let apart = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
    assert!([80, 81].iter().all(|port| pool_of(&apart, *port).table == before.pools[0].table));
}

#[test]
fn a_rule_that_joins_another_one_s_table_has_its_old_owners_named() {
    let (mut planner, mut intent, before) = grown(1);
    let mut more = intent.services[0].clone();
    (more.name, more.port, more.probe) = ("more".to_owned(), 81, Some(OTHER.to_owned()));
    intent.services.push(more);
    // A rule that is new has a new table.
    let two = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
    assert!(differ(&pool_of(&two, 81).table, &before.pools[0].table) > SLOTS / 4);
    intent.services[0].probe = Some(OTHER.to_owned());
    let one = planner.plan(&intent, &Health::default(), later(4002)).unwrap();
    let joined = pool_of(&one, 80);
    assert_eq!((one.pools.len(), joined.id), (1, pool_of(&two, 81).id));
    assert_eq!(joined.table, pool_of(&two, 81).table, "flows of the other rule stay");
    assert_eq!(joined.previous, [before.pools[0].table.clone()], "those of this one are looked for where they were");
    assert_eq!(planner.poll_timeout(), Some(later(4002).plus(SETTLE)));
    let settled = planner.plan(&intent, &Health::default(), later(4002).plus(SETTLE)).unwrap();
    assert!(settled.pools[0].previous.is_empty());
}

#[test]
fn nothing_is_taken_along_from_one_pool_to_another() {
    let (mut planner, mut intent, before) = grown(1);
    let other = PoolIntent { name: "other".to_owned(), ..intent.pools[0].clone() };
    intent.pools.push(other);
    intent.services[0].pool = "other".to_owned();
    let after = planner.plan(&intent, &Health::default(), later(4001)).unwrap();
    assert!(after.pools[0].id != before.pools[0].id && after.pools[0].previous.is_empty());
}
