//! Members that drain for longer than a change takes to settle.
use super::*;

fn previous(plan: &Plan) -> BTreeSet<u8> {
    let members: BTreeSet<BackendId> = plan.pools[0].previous.iter().flat_map(|t| t.members.clone()).collect();
    (1..=4).filter(|n| plan.backends.iter().any(|b| b.name == backend(*n).name && members.contains(&b.id))).collect()
}

fn hours(n: u64) -> Nanos {
    later(n * 3600)
}

#[test]
fn who_drains_keeps_its_connections_past_the_time_in_which_changes_settle_and_until_it_ends() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1), (3, 1)]), &Health::default(), T0).unwrap();
    // The third has left the pool, the second drains.
    let draining = intent(&[(1, 1), (2, 0)]);
    let first = planner.plan(&draining, &Health::default(), later(1)).unwrap();
    assert_eq!(previous(&first), [1, 2, 3].into());
    assert_eq!(planner.poll_timeout(), Some(later(1).plus(SETTLE)));
    let settled = planner.plan(&draining, &Health::default(), later(1).plus(SETTLE)).unwrap();
    assert_eq!(previous(&settled), [1, 2].into(), "only who drains is told still");
    let (was, is, two) = (&first.pools[0].previous[0], &settled.pools[0].previous[0], id_of(&settled, 2));
    for slot in 0..SLOTS {
        let owner = was.owner_of_slot(slot).filter(|id| *id == two).or(settled.pools[0].table.owner_of_slot(slot));
        assert_eq!(is.owner_of_slot(slot), owner, "slot {slot}");
    }
    assert_eq!(planner.poll_timeout(), None, "nothing is due, so nobody compiles for it again and again");
    planner = serde_json::from_str(&serde_json::to_string(&planner).unwrap()).unwrap();
    // Another change settles meanwhile.
    let wider = intent(&[(1, 1), (2, 0), (4, 1)]);
    planner.plan(&wider, &Health::default(), hours(4)).unwrap();
    let settled = planner.plan(&wider, &Health::default(), hours(5)).unwrap();
    assert!(previous(&settled).contains(&2) && planner.poll_timeout().is_none());
    let over = planner.plan(&intent(&[(1, 1), (4, 1)]), &Health::default(), hours(6)).unwrap();
    assert!(previous(&over).is_empty() && over.changed, "it is a member no more");
    assert_eq!(planner.poll_timeout(), None);
}

#[test]
fn a_drain_ends_when_its_container_is_retired() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let mut draining = intent(&[(1, 1), (2, 0)]);
    planner.plan(&draining, &Health::default(), later(1)).unwrap();
    assert_eq!(previous(&planner.plan(&draining, &Health::default(), hours(2)).unwrap()), [1, 2].into());
    draining.backends[1].retired = true;
    assert_eq!(previous(&planner.plan(&draining, &Health::default(), hours(3)).unwrap()), [].into());
}

#[test]
fn a_pool_that_drains_whole_keeps_its_connections_too() {
    let mut planner = Planner::default();
    planner.plan(&intent(&[(1, 1), (2, 1)]), &Health::default(), T0).unwrap();
    let draining = intent(&[(1, 0), (2, 0)]);
    let first = planner.plan(&draining, &Health::default(), later(1)).unwrap();
    let late = planner.plan(&draining, &Health::default(), hours(9)).unwrap();
    assert!(late.pools[0].table.is_empty() && !late.changed);
    assert_eq!(late.pools[0].previous, first.pools[0].previous);
    let back = planner.plan(&intent(&[(1, 1), (2, 0)]), &Health::default(), hours(10)).unwrap();
    assert_eq!(back.pools[0].table.members, [id_of(&back, 1)]);
    assert_eq!(previous(&back), [1, 2].into(), "one comes back, the other drains on");
    assert_eq!(planner.poll_timeout(), Some(hours(10).plus(SETTLE)));
}
