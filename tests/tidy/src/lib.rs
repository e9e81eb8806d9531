//! Does the source keep the rules that the architecture states?
//!
//! Reads manifests and source files as text; it builds nothing and knows no product. The rules are tables: [`arrows`]
//! (which crate may name which) and [`exceptions`] (files that may do what others may not, each with its reason). The
//! tests in `tests/` hold every crate against them and name all offenders at once.
//!
//! Order: [`Workspace::read`] -> a rule -> [`report`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod arrows;
pub mod exceptions;
mod graph;
mod source;
mod workspace;

pub use graph::{Graph, GraphError};
pub use source::Source;
pub use workspace::{Crate, Workspace};

/// Offences as text, `Ok` if there are none.
///
/// # Errors
/// All of them, one a line.
pub fn report(rule: &str, mut offences: Vec<String>) -> Result<(), String> {
    if offences.is_empty() {
        return Ok(());
    }
    offences.sort();
    offences.dedup();
    Err(format!("{rule}\n  {}", offences.join("\n  ")))
}
