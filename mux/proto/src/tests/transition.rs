use super::fixture::*;
use crate::{MuxGoal, Policy, Pool};
use penstock_model::{BackendId, DropReason, Nanos, PoolId, PortId};

/// Flows of `frame` that a change from `before` to `after` takes from one backend and gives to another.
fn moving(before: &MuxGoal, after: &MuxGoal, frame: impl Fn(u32) -> Vec<u8>) -> Vec<(u32, BackendId, BackendId)> {
    let (mut old, mut new) = (Mux::new(before), Mux::new(&settled(after)));
    let both: Vec<_> = (0..3_000).map(|n| (n, old.backend(&frame(n)), new.backend(&frame(n)))).collect();
    both.into_iter().filter(|(_, a, b)| a != b).collect()
}

/// A mux on which that change has happened, and flows that it has moved, each with an entry that keeps it where it was.
fn established(before: &MuxGoal, after: &MuxGoal) -> (Mux, Vec<(u32, BackendId, BackendId)>) {
    let flows = moving(before, after, data);
    let mut mux = Mux::new(before);
    mux.publish(after);
    // Twice, because the second packet makes the entry an established one.
    for (n, old, _) in flows.iter().chain(&flows) {
        assert_eq!(mux.backend(&data(*n)), *old);
    }
    (mux, flows)
}

fn syn(n: u32) -> Vec<u8> {
    tcp(client(n), VIP, 80, SYN)
}

fn data(n: u32) -> Vec<u8> {
    tcp(client(n), VIP, 80, ACK)
}

#[test]
fn removing_a_backend_leaves_the_flows_of_the_others() {
    let before = goal(&[1, 2, 3, 4]);
    let after = changed(&before, &[1, 2, 4], &[1, 2, 4]);
    let mut mux = Mux::new(&before);
    let owners: Vec<_> = (0..3_000).map(|n| mux.backend(&data(n))).collect();
    mux.publish(&after);
    let mut lost = 0;
    for (n, owner) in (0..).zip(owners) {
        let now = mux.backend(&data(n));
        if owner == BackendId(3) {
            assert_ne!(now, owner);
            lost += 1;
        } else {
            assert_eq!(now, owner);
        }
    }
    assert!(lost > 600);
}

#[test]
fn while_a_change_settles_new_connections_go_to_the_new_owner_and_old_ones_stay() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let flows = moving(&before, &after, data);
    assert!(flows.len() > 800);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    for (i, (n, old, new)) in flows.into_iter().enumerate() {
        let (first, owner) = if i % 2 == 0 { (syn(n), new) } else { (data(n), old) };
        assert_eq!(mux.backend(&first), owner);
        assert_eq!(mux.backend(&data(n)), owner, "the second packet follows the first");
    }
    assert!(mux.port.flows() > 800);
}

#[test]
fn flows_stay_where_they_are_after_the_change_has_settled() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let flows = moving(&before, &after, data);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    for (n, old, _) in &flows[..200] {
        assert_eq!(mux.backend(&data(*n)), *old);
        assert_eq!(mux.backend(&data(*n)), *old);
    }
    mux.publish(&settled(&after));
    let entries = mux.port.flows();
    for (n, old, _) in &flows[..200] {
        assert_eq!(mux.backend(&data(*n)), *old, "the entry outlives the previous table");
    }
    for (n, _, new) in &flows[200..] {
        assert_eq!(mux.backend(&data(*n)), *new, "what has no entry follows the table");
    }
    assert_eq!(mux.port.flows(), entries, "a settled slot writes no entries");
}

#[test]
fn entries_hold_over_a_second_change_while_their_backend_serves() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let flows = moving(&before, &after, data);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    for (n, old, _) in &flows {
        for _ in 0..2 {
            assert_eq!(mux.backend(&data(*n)), *old);
        }
    }
    let again = changed(&after, &[1, 2, 3, 4], &[1, 2, 3]);
    mux.publish(&again);
    let resolved = mux.port.resolved();
    for (n, old, _) in &flows {
        assert_eq!(mux.backend(&data(*n)), *old);
    }
    assert_eq!(mux.port.resolved() - resolved, flows.len() as u64, "each is asked about once");
    for (n, old, _) in &flows {
        assert_eq!(mux.backend(&data(*n)), *old);
    }
    assert_eq!(mux.port.resolved() - resolved, flows.len() as u64);
}

#[test]
fn an_entry_whose_backend_stopped_serving_gives_way_to_the_owner() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let (mut mux, flows) = established(&before, &after);
    let dead = changed(&after, &[2, 3], &[2, 3]);
    mux.publish(&dead);
    let mut fresh = Mux::new(&dead);
    for (n, old, _) in &flows {
        let now = mux.backend(&data(*n));
        assert_ne!(now, BackendId(1));
        if *old == BackendId(1) {
            assert_eq!(now, fresh.backend(&data(*n)));
        } else {
            assert_eq!(now, *old);
        }
    }
}

#[test]
fn udp_flows_stay_with_the_previous_owner_and_keep_it() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let datagram = |n| udp(client(n), VIP, 53);
    let flows = moving(&before, &after, datagram);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    let half = flows.len() / 2;
    for (n, old, _) in &flows[..half] {
        assert_eq!((mux.backend(&datagram(*n)), mux.backend(&datagram(*n))), (*old, *old));
    }
    mux.publish(&settled(&after));
    for (n, old, new) in &flows[..half] {
        assert_ne!(old, new);
        assert_eq!(mux.backend(&datagram(*n)), *old);
    }
    for (n, _, new) in &flows[half..] {
        assert_eq!(mux.backend(&datagram(*n)), *new);
    }
}

#[test]
fn slots_that_did_not_move_write_no_entries_during_a_change() {
    let before = goal(&[1, 2, 3]);
    let mut mux = Mux::new(&before);
    let owners: Vec<_> = (0..2_000).map(|n| mux.backend(&data(n))).collect();
    let after = changed(&before, &[1, 2, 3, 4], &[1, 2, 3]);
    mux.publish(&after);
    let moved = moving(&before, &after, data).iter().filter(|(n, ..)| *n < 2_000).count();
    for (n, owner) in (0..).zip(owners) {
        assert_eq!(mux.backend(&data(n)), owner);
    }
    assert_eq!(mux.port.flows(), moved);
}

#[test]
fn an_idle_entry_expires_and_the_table_decides_again() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let datagram = |n| udp(client(n), VIP, 53);
    let (n, old, new) = moving(&before, &after, datagram)[0];
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    assert_eq!((mux.backend(&datagram(n)), mux.backend(&datagram(n))), (old, old));
    mux.publish(&settled(&after));
    mux.now = Nanos::from_secs(200);
    assert_eq!(mux.backend(&datagram(n)), old);
    mux.now = Nanos::from_secs(200 + 400);
    assert_eq!(mux.backend(&datagram(n)), new);
}

#[test]
fn when_everybody_drains_the_previous_owner_serves_on_and_gets_no_new_connection() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[], &[2]);
    let mut mux = Mux::new(&before);
    mux.publish(&after);
    for n in 0..50 {
        assert_eq!(mux.backend(&data(n)), BackendId(2));
        assert_eq!(mux.backend(&udp(client(n), VIP, 53)), BackendId(2), "a datagram may be of an older flow");
        assert_eq!(mux.send(&syn(100 + n)), Err(DropReason::NoHealthyBackend));
    }
    assert_eq!(mux.backend(&syn(1)), BackendId(2), "once more, of a flow that is known");
    // A mux that starts now knows no flow.
    assert_eq!(Mux::new(&after).send(&syn(1)), Err(DropReason::NoHealthyBackend));
}

#[test]
fn slots_that_moved_are_as_all_others_once_they_are_forgotten_and_not_while_the_change_settles() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let (first, moving) = (build(&before), build(&after));
    let moving = moving.succeed(&first);
    assert!(first.without_settled_moves().is_none() && moving.without_settled_moves().is_none());
    let settled = build(&settled(&after)).succeed(&moving);
    let asks = |policy: &Policy| {
        let image = policy.replay_image(PortId(0), 1600);
        image.pools.iter().flat_map(|p| &p.owner).filter(|o| **o == penstock_maps::ASK).count()
    };
    let forgotten = settled.without_settled_moves().unwrap();
    assert!(asks(&settled) > 1000 && asks(&forgotten) == 0);
    assert!(forgotten.without_settled_moves().is_none());
}

#[test]
fn flows_stay_where_they_are_though_their_rule_comes_to_another_pool() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let (mut mux, flows) = established(&before, &after);
    let mut other = settled(&after);
    other.pools.push(Pool { id: PoolId(2), version: 7, ..other.pools[0].clone() });
    other.services[0].pool = PoolId(2);
    mux.publish(&other);
    for (n, old, _) in &flows {
        assert_eq!(mux.backend(&data(*n)), *old, "its entry is asked as before");
    }
    let asked = |pool: usize| {
        let image = mux.policy().replay_image(PortId(0), 1600);
        image.pools[pool].owner.iter().filter(|o| **o == penstock_maps::ASK).count()
    };
    assert_eq!(asked(0), asked(1), "the kernel leaves the same slots alone");
}
