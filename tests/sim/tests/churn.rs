//! 100,000 transitions; `PENSTOCK_SIM_STEPS` makes it longer, `PENSTOCK_SIM_SEED` takes one run again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_sim::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn no_connection_changes_its_container_and_no_tenant_meets_another() {
    const RUNS: u64 = 4;
    let steps = number("PENSTOCK_SIM_STEPS").unwrap_or(100_000);
    let seeds: Vec<u64> = number("PENSTOCK_SIM_SEED").map_or_else(|| (1..=RUNS).collect(), |seed| vec![seed]);
    for seed in &seeds {
        let mut world = World::new(*seed);
        for _ in 0..steps / seeds.len() as u64 {
            world.step();
        }
        let counts = world.counts();
        println!("seed {seed}: {counts:?}");
        assert!(counts.changes > 20 && counts.restarts > 20 && counts.opened > 1000, "{counts:?}");
        assert!(counts.refused > 20, "{counts:?}");
        assert!(counts.passed_on > 100, "nothing needed a second chance: {counts:?}");
    }
}
