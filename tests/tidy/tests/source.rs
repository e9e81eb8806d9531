//! What each file may contain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_tidy::arrows::PURE;
use penstock_tidy::exceptions::{CLOCK, Exception, LONG, MAX_LINES, UNSAFE, covering};
use penstock_tidy::{Crate, Source, Workspace, report};

#[track_caller]
fn hold(result: Result<(), String>) {
    if let Err(text) = result {
        panic!("{text}");
    }
}

/// The sources of all crates but the tests'.
fn shipped(workspace: &Workspace) -> impl Iterator<Item = &Source> {
    workspace.crates.iter().filter(|c| !c.folder.starts_with("tests/")).flat_map(|c| &c.sources)
}

#[test]
fn every_crate_opens_with_the_question_it_answers() {
    let workspace = Workspace::read().unwrap();
    let mut offences = Vec::new();
    for c in &workspace.crates {
        let Some(door) = c.door() else {
            offences.push(format!("{}: no src/lib.rs or src/main.rs", c.folder));
            continue;
        };
        let plate = door.door_plate();
        // A binary only wires: its one line says what.
        let is_binary = door.path.ends_with("main.rs") && !plate.is_empty();
        if !is_binary && !plate.lines().next().unwrap_or_default().contains('?') {
            offences.push(format!("{}: the first line asks no question", door.path));
        }
        if !is_binary && plate.lines().filter(|l| !l.is_empty()).count() < 2 {
            offences.push(format!("{}: the door plate is a single line", door.path));
        }
    }
    hold(report("Door plates (`//!` at the top of lib.rs):", offences));
}

#[test]
fn unsafe_code_is_forbidden_but_where_the_architecture_allows_it() {
    let workspace = Workspace::read().unwrap();
    let mut offences = Vec::new();
    for c in workspace.crates.iter().filter(|c| covering(UNSAFE, &c.folder).is_none()) {
        let roots = c.sources.iter().filter(|s| is_root(c, s));
        for root in roots.filter(|s| !s.text.contains("#![forbid(unsafe_code)]")) {
            offences.push(format!("{}: no #![forbid(unsafe_code)]", root.path));
        }
    }
    hold(report("Crates without `unsafe`:", offences));
}

fn is_root(c: &Crate, source: &Source) -> bool {
    let inside = source.path.strip_prefix(&c.folder).unwrap_or_default();
    matches!(inside, "/src/lib.rs" | "/src/main.rs" | "/build.rs") && inside != "/build.rs"
        || inside.starts_with("/src/bin/")
}

#[test]
fn the_clock_is_read_in_one_place() {
    let workspace = Workspace::read().unwrap();
    let words = ["Instant::now", "SystemTime::now", "Utc::now", "Local::now"];
    let readers: Vec<&Source> = shipped(&workspace).filter(|s| s.uses(&words).next().is_some()).collect();
    let mut offences: Vec<String> =
        readers.iter().filter(|s| covering(CLOCK, &s.path).is_none()).flat_map(|s| s.uses(&words)).collect();
    offences.extend(unneeded(CLOCK, |e| readers.iter().any(|s| covered(e, &s.path))));
    hold(report("Time is an argument (see exceptions.rs):", offences));
}

#[test]
fn pure_crates_roll_no_dice_and_print_nothing() {
    let workspace = Workspace::read().unwrap();
    let words = [
        "getrandom",
        "thread_rng",
        "OsRng",
        "rand::rng",
        "RandomState",
        "std::net::UdpSocket",
        "std::net::TcpStream",
        "std::fs",
        "std::env",
        "std::thread",
        "std::process",
        "println",
        "eprintln",
    ];
    let pure = workspace.crates.iter().filter(|c| PURE.contains(&c.folder.as_str()));
    let offences = pure.flat_map(|c| &c.sources).flat_map(|s| s.uses(&words)).collect();
    hold(report("Chance and effects in pure crates:", offences));
}

#[test]
fn no_file_is_longer_than_a_reader_holds() {
    let workspace = Workspace::read().unwrap();
    let long: Vec<&Source> = workspace.sources().filter(|s| s.length() > MAX_LINES).collect();
    let mut offences: Vec<String> = long
        .iter()
        .filter(|s| covering(LONG, &s.path).is_none())
        .map(|s| format!("{}: {} lines", s.path, s.length()))
        .collect();
    offences.extend(unneeded(LONG, |e| long.iter().any(|s| covered(e, &s.path))));
    hold(report(&format!("Files of more than {MAX_LINES} lines, tests not counted:"), offences));
}

#[test]
fn nothing_is_left_for_later_in_comments() {
    let workspace = Workspace::read().unwrap();
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimplemented", "!"), concat!("todo", "!(")];
    let mut offences = Vec::new();
    for source in workspace.sources() {
        for (n, line) in source.text.lines().enumerate() {
            offences
                .extend(marks.iter().filter(|m| line.contains(**m)).map(|m| format!("{}:{}: {m}", source.path, n + 1)));
        }
    }
    hold(report("Promises in the source:", offences));
}

#[test]
fn versions_and_lints_stand_in_one_place() {
    let workspace = Workspace::read().unwrap();
    let mut offences = Vec::new();
    for c in &workspace.crates {
        let lints = c.manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        if lints != Some(true) {
            offences.push(format!("{}/Cargo.toml: no [lints] workspace = true", c.folder));
        }
        for (name, _, how) in c.dependencies() {
            if how.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                offences.push(format!("{}/Cargo.toml: {name} does not take its version from the workspace", c.folder));
            }
        }
    }
    hold(report("One place for versions and lints:", offences));
}

fn covered(exception: &Exception, path: &str) -> bool {
    path.strip_prefix(exception.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Exceptions that nothing needs.
fn unneeded(list: &[Exception], needed: impl Fn(&Exception) -> bool) -> Vec<String> {
    list.iter().filter(|e| !needed(e)).map(|e| format!("{}: excepted without need ({})", e.path, e.reason)).collect()
}
