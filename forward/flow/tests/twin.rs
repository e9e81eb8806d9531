//! The flow table against a slow, obvious twin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_flow::{FlowHasher, FlowTable, Full, Quota};
use penstock_model::{Coarse, Epoch, Nanos};
use proptest::prelude::*;
use std::collections::HashMap;

type Key = [u64; 3];

fn hasher() -> FlowHasher {
    FlowHasher::new([7; 16])
}

fn key(n: u64) -> Key {
    [n, n ^ 0x5555, 0]
}

fn at(seconds: u64) -> Coarse {
    Nanos::from_secs(seconds).coarse()
}

/// What a flow table means: the last value, its epoch, and since when it was not seen.
#[derive(Default)]
struct Twin {
    entries: HashMap<Key, (u32, Epoch, u64, u64)>,
}

#[derive(Debug, Clone)]
enum Step {
    Insert { key: u64, value: u32, epoch: u32, idle: u16 },
    Lookup { key: u64 },
    Remove { key: u64 },
    Wait { seconds: u64 },
    Maintain { budget: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u64..40;
    let step = prop_oneof![
        4 => (key.clone(), any::<u32>(), 0u32..4, prop::sample::select(vec![5u16, 60, 300]))
            .prop_map(|(key, value, epoch, idle)| Step::Insert { key, value, epoch, idle }),
        6 => key.clone().prop_map(|key| Step::Lookup { key }),
        1 => key.prop_map(|key| Step::Remove { key }),
        2 => (0u64..40).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0usize..600).prop_map(|budget| Step::Maintain { budget }),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// With room enough nothing is ever forgotten before its time or kept long after it.
    #[test]
    fn the_table_knows_what_its_twin_knows(steps in steps()) {
        let hasher = hasher();
        let mut table = FlowTable::<Key, u32>::with_probation(4096, 4096);
        let mut twin = Twin::default();
        let mut now = 1000;
        for step in steps {
            match step {
                Step::Insert { key: n, value, epoch, idle } => {
                    let k = key(n);
                    let inserted = table.insert(k, hasher.hash3(&k), value, Epoch(epoch), idle, at(now));
                    prop_assert_eq!(inserted, Ok(()));
                    twin.entries.insert(k, (value, Epoch(epoch), now, u64::from(idle)));
                }
                Step::Lookup { key: n } => {
                    let k = key(n);
                    let hit = table.lookup(&k, hasher.hash3(&k), at(now));
                    match twin.entries.get_mut(&k) {
                        None => prop_assert!(hit.is_none()),
                        Some((value, epoch, seen, idle)) => {
                            let age = now - *seen;
                            match hit {
                                Some(hit) => {
                                    if hit.is_new {
                                        prop_assert!(table.promote(&k, hasher.hash3(&k), at(now), |k| hasher.hash3(k)));
                                    }
                                    prop_assert_eq!(hit.value, *value);
                                    prop_assert!(hit.is_of(*epoch));
                                    prop_assert!(age <= *idle + *idle / 4 + 2, "kept for {} s of {}", age, idle);
                                    *seen = now;
                                }
                                None => {
                                    prop_assert!(age >= *idle, "forgotten after {} s of {}", age, idle);
                                    twin.entries.remove(&k);
                                }
                            }
                        }
                    }
                }
                Step::Remove { key: n } => {
                    let k = key(n);
                    let removed = table.remove(&k, hasher.hash3(&k));
                    match twin.entries.remove(&k) {
                        None => prop_assert_eq!(removed, None),
                        Some((value, _, seen, idle)) if now - seen < idle => prop_assert_eq!(removed, Some(value)),
                        Some((value, ..)) => prop_assert!(removed.is_none_or(|v| v == value)),
                    }
                }
                // A sweep comes round in time: what the table asks of its owner.
                Step::Wait { seconds } => {
                    now += seconds;
                    table.maintain(at(now), 4096, |k| hasher.hash3(k));
                    twin.entries.retain(|k, (_, _, seen, idle)| now - *seen < *idle || table.peek(k, hasher.hash3(k), at(now)).is_some());
                }
                Step::Maintain { budget } => {
                    table.maintain(at(now), budget, |k| hasher.hash3(k));
                }
            }
            let known = twin.entries.keys().filter(|k| table.peek(k, hasher.hash3(k), at(now)).is_some()).count();
            prop_assert!(table.len() >= known);
        }
    }

    /// Two different keys of one table are never taken for each other, and few hashes meet.
    #[test]
    fn the_hash_depends_on_every_bit_of_the_key_and_on_the_secret(words in any::<[u64; 5]>(), bit in 0usize..320, secret in any::<[u8; 16]>()) {
        let hasher = FlowHasher::new(secret);
        let mut other = words;
        other[bit / 64] ^= 1 << (bit % 64);
        let differing = (hasher.hash5(&words) ^ hasher.hash5(&other)).count_ones();
        prop_assert!(differing > 8, "{} bits differ", differing);
        prop_assert_ne!(hasher.hash5(&words), FlowHasher::new([secret[0] ^ 1; 16]).hash5(&words));
    }
}

#[test]
fn a_full_table_of_its_capacity_finds_every_flow() {
    let hasher = hasher();
    let capacity = 100_000;
    let mut table = FlowTable::<Key, u32>::new(capacity);
    for n in 0..capacity as u64 {
        let k = key(n);
        let inserted =
            table.insert_established(k, hasher.hash3(&k), n as u32, Epoch(1), 300, at(1000), |k| hasher.hash3(k));
        assert_eq!(inserted, Ok(()), "flow {n}");
    }
    for n in 0..capacity as u64 {
        let k = key(n);
        assert_eq!(table.lookup(&k, hasher.hash3(&k), at(1001)).map(|h| h.value), Some(n as u32));
    }
    assert_eq!(table.established(), capacity);
    let per_flow = table.bytes() as f64 / capacity as f64;
    assert!(per_flow <= 64.0, "{per_flow} bytes a flow");
    let k = key(capacity as u64);
    let inserted = table.insert_established(k, hasher.hash3(&k), 0, Epoch(1), 300, at(1001), |k| hasher.hash3(k));
    assert_eq!(inserted, Err(Full));
    assert_eq!(table.insert(k, hasher.hash3(&k), 0, Epoch(1), 300, at(1001)), Err(Full));
}

#[test]
fn a_flood_of_new_flows_of_any_rate_evicts_none_of_100_000_established_ones() {
    const ESTABLISHED: u64 = 100_000;
    let hasher = hasher();
    let mut table = FlowTable::<Key, u32>::new(ESTABLISHED as usize + 10_000);
    for n in 0..ESTABLISHED {
        let k = key(n);
        table.insert(k, hasher.hash3(&k), n as u32, Epoch(1), 300, at(1000)).unwrap();
        let hit = table.lookup(&k, hasher.hash3(&k), at(1000)).unwrap();
        assert!(hit.is_new && table.promote(&k, hasher.hash3(&k), at(1000), |k| hasher.hash3(k)));
    }
    // A hundred thousand, a thousand and ten in a second, and sweeps between.
    let mut attacker = ESTABLISHED;
    let mut now = 1001;
    for (rate, seconds) in [(100_000, 3), (1000, 60), (10, 60)] {
        for _ in 0..seconds {
            for _ in 0..rate {
                attacker += 1;
                let k = key(attacker);
                table.insert(k, hasher.hash3(&k), 0, Epoch(1), 300, at(now)).unwrap();
            }
            now += 1;
            table.maintain(at(now), table.buckets(), |k| hasher.hash3(k));
        }
    }
    assert_eq!(table.established() as u64, ESTABLISHED);
    for n in 0..ESTABLISHED {
        let k = key(n);
        assert_eq!(table.lookup(&k, hasher.hash3(&k), at(now)).map(|h| (h.value, h.is_new)), Some((n as u32, false)));
    }
}

#[test]
fn an_expired_flow_gives_its_slot_back_and_its_quota() {
    let hasher = hasher();
    let quota = Quota::new(|k: &Key| (k[0] % 2) as usize, 2, 10);
    let mut table = FlowTable::<Key, u32>::new(1000).with_quota(quota);
    let open = |table: &mut FlowTable<Key, u32>, n: u64, now| {
        let k = key(n);
        table.insert_established(k, hasher.hash3(&k), 0, Epoch(0), 10, at(now), |k| hasher.hash3(k))
    };
    for n in 0..10 {
        assert_eq!(open(&mut table, n * 2, 1000), Ok(()));
    }
    assert_eq!(open(&mut table, 100, 1000), Err(Full), "the even group is used up");
    assert_eq!(open(&mut table, 101, 1000), Ok(()), "the odd group is not");
    assert_eq!(table.maintain(at(1020), table.buckets(), |k| hasher.hash3(k)), 11);
    assert_eq!((table.len(), open(&mut table, 100, 1020)), (0, Ok(())));
}

#[test]
fn a_flood_of_one_group_pushes_no_new_flow_of_another_out_of_probation() {
    let hasher = hasher();
    let quota = Quota::new(|k: &Key| (k[0] % 4) as usize, 4, 100);
    let mut table = FlowTable::<Key, u32>::with_probation(1000, 1000).with_quota(quota);
    let mut open = |n: u64| {
        let k = key(n);
        table.insert(k, hasher.hash3(&k), n as u32, Epoch(0), 30, at(1000)).unwrap();
    };
    open(1);
    for n in 1..50_000 {
        open(n * 4);
        open(n * 4 + 2);
        open(n * 4 + 3);
    }
    let k = key(1);
    assert_eq!(table.lookup(&k, hasher.hash3(&k), at(1001)).map(|h| h.value), Some(1));
    assert!(table.promote(&k, hasher.hash3(&k), at(1001), |k| hasher.hash3(k)));
    assert!(table.is_established(&k, hasher.hash3(&k), at(1001)));
}

#[test]
fn an_entry_in_either_segment_takes_another_idle_time() {
    let hasher = hasher();
    let mut table = FlowTable::<Key, u32>::new(1000);
    let (k, h) = (key(1), hasher.hash3(&key(1)));
    assert!(!table.set_idle(&k, h, 10, at(1000)));
    table.insert(k, h, 0, Epoch(0), 30, at(1000)).unwrap();
    assert!(table.set_idle(&k, h, 1800, at(1000)) && table.has_idle(&k, h, 1800));
    assert!(table.lookup(&k, h, at(2000)).is_some() && table.promote(&k, h, at(2000), |k| hasher.hash3(k)));
    assert!(table.set_idle(&k, h, 10, at(2000)) && table.has_idle(&k, h, 10));
    assert!(table.lookup(&k, h, at(2020)).is_none());
}

/// Churn at full load: overflow marks are renewed, so a table that has seen many times its capacity is as good as new.
#[test]
fn a_table_that_turned_over_twenty_times_still_finds_everything() {
    let hasher = hasher();
    let capacity = 2000u64;
    let mut table = FlowTable::<Key, u32>::new(capacity as usize);
    for round in 0..20u64 {
        let now = 1000 + round * 100;
        for n in round * capacity..(round + 1) * capacity {
            let k = key(n);
            let inserted =
                table.insert_established(k, hasher.hash3(&k), n as u32, Epoch(0), 30, at(now), |k| hasher.hash3(k));
            assert_eq!(inserted, Ok(()), "round {round}");
        }
        for n in round * capacity..(round + 1) * capacity {
            let k = key(n);
            assert_eq!(table.lookup(&k, hasher.hash3(&k), at(now + 1)).map(|h| h.value), Some(n as u32));
            // The sweep goes on between lookups, half way through marks being renewed too.
            table.maintain(at(now + 1), 3, |k| hasher.hash3(k));
        }
        table.maintain(at(now + 99), table.buckets(), |k| hasher.hash3(k));
    }
    table.maintain(at(9000), 2 * table.buckets(), |k| hasher.hash3(k));
    assert!(table.is_empty());
}

#[test]
fn of_new_flows_in_one_place_the_oldest_of_its_bucket_goes_first() {
    let mut table = FlowTable::<Key, u32>::new(1000);
    let same_place = 42;
    let insert = |table: &mut FlowTable<Key, u32>, n| {
        table.insert(key(n), same_place, n as u32, Epoch(0), 300, at(1000)).unwrap();
        (0..8).filter(|n| table.peek(&key(*n), same_place, at(1000)).is_none()).collect::<Vec<_>>()
    };
    for n in 0..3 {
        insert(&mut table, n);
    }
    assert_eq!(insert(&mut table, 3), [4, 5, 6, 7], "four have room");
    assert_eq!(insert(&mut table, 4), [0, 5, 6, 7]);
    assert_eq!(insert(&mut table, 5), [0, 1, 6, 7]);
    assert_eq!(table.len(), 4);
}

/// New flows of a fifth of the probation segment survive until their second packet, but for one in two hundred.
#[test]
fn a_moderate_rush_of_new_flows_loses_few() {
    let hasher = hasher();
    let mut table = FlowTable::<Key, u32>::with_probation(20_000, 10_000);
    for n in 0..2000 {
        let k = key(n);
        table.insert(k, hasher.hash3(&k), 0, Epoch(0), 300, at(1000)).unwrap();
    }
    let known = (0..2000).map(key).filter(|k| table.lookup(k, hasher.hash3(k), at(1000)).is_some()).count();
    assert!(known >= 1990, "{known} of 2000");
}
