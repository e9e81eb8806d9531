//! Shell lines for tests that make namespaces.

use std::process::{Command, Output};

pub(crate) fn run(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

pub(crate) fn must(line: &str) -> String {
    let out = run(line);
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
