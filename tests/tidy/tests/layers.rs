//! Arrows run only downward, and pure crates cannot reach the world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_tidy::arrows::{ARROWS, EFFECTS, PURE, allowed, of};
use penstock_tidy::{Graph, Workspace, report};

#[track_caller]
fn hold(result: Result<(), String>) {
    if let Err(text) = result {
        panic!("{text}");
    }
}

#[test]
fn every_crate_has_a_place_in_the_table_and_the_table_names_no_other() {
    let workspace = Workspace::read().unwrap();
    let mut offences: Vec<String> = Vec::new();
    for c in &workspace.crates {
        if of(&c.folder).is_none() {
            offences.push(format!("{} is not in tests/tidy/src/arrows.rs", c.folder));
        }
    }
    for arrows in ARROWS {
        if !workspace.crates.iter().any(|c| c.folder == arrows.from) {
            offences.push(format!("{} is in the table and not in the workspace", arrows.from));
        }
    }
    hold(report("Each crate stands on a floor:", offences));
}

#[test]
fn no_manifest_has_an_arrow_that_the_architecture_does_not_draw() {
    let workspace = Workspace::read().unwrap();
    let mut offences = Vec::new();
    for c in &workspace.crates {
        for (name, in_tests, _) in c.dependencies() {
            let Some(to) = workspace.folders.get(name) else { continue };
            if !allowed(&c.folder, to, in_tests) {
                offences.push(format!("{}/Cargo.toml: {} -> {to}", c.folder, c.folder));
            }
        }
    }
    hold(report("Arrows that tests/tidy/src/arrows.rs does not allow:", offences));
}

/// The table itself keeps the floors: who is allowed to use whom has no circle.
#[test]
fn the_table_has_no_circle() {
    let mut placed: Vec<&str> = Vec::new();
    loop {
        let next = ARROWS.iter().find(|a| {
            let waits = |other: &&penstock_tidy::arrows::Arrows| {
                other.from != a.from && !placed.contains(&other.from) && allowed(a.from, other.from, false)
            };
            !placed.contains(&a.from) && !ARROWS.iter().any(|other| waits(&other))
        });
        match next {
            Some(a) => placed.push(a.from),
            None => break,
        }
    }
    assert_eq!(placed.len(), ARROWS.len(), "in a circle: {:?}", {
        ARROWS.iter().map(|a| a.from).filter(|f| !placed.contains(f)).collect::<Vec<_>>()
    });
}

#[test]
fn no_product_may_name_another() {
    let product = |folder: &str| folder.split('/').next().unwrap_or_default().to_owned();
    // Routing knows none of them, and they may know it: how they stand to each other is what is held here.
    let products = ["slb", "mux", "gateway"];
    let mut offences = Vec::new();
    for a in ARROWS.iter().filter(|a| products.contains(&product(a.from).as_str())) {
        for b in ARROWS.iter().filter(|b| products.contains(&product(b.from).as_str())) {
            if product(a.from) != product(b.from) && allowed(a.from, b.from, true) {
                offences.push(format!("{} -> {}", a.from, b.from));
            }
        }
    }
    hold(report("Products meet in forward/ and admin-api/types only:", offences));
}

#[test]
fn pure_crates_are_linked_with_nothing_that_waits_or_acts() {
    let workspace = Workspace::read().unwrap();
    let graph = Graph::read(&workspace.root).unwrap();
    let mut offences = Vec::new();
    for folder in PURE {
        let c = workspace.crates.iter().find(|c| c.folder == *folder).unwrap();
        let linked = graph.linked_into(&c.name);
        offences.extend(EFFECTS.iter().filter_map(|effect| linked.get(*effect)).cloned());
    }
    hold(report("Pure crates reach the world:", offences));
}

/// The rule above can fail: a crate that does reach the world is seen to.
#[test]
fn the_graph_sees_the_runtime_behind_a_server() {
    let workspace = Workspace::read().unwrap();
    let graph = Graph::read(&workspace.root).unwrap();
    assert!(graph.linked_into("penstock-mux-server").contains_key("tokio"));
    assert!(graph.linked_into("penstock-mux-server").contains_key("penstock-model"));
}
