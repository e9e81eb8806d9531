//! penstock-bench
