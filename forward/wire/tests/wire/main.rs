//! What the wire crate promises, from outside.
mod fuzz;
mod parse;
mod rewrite;
