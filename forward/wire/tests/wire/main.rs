//! What the wire crate promises, from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod fuzz;
mod parse;
mod rewrite;
