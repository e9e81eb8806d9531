//! penstock-clock
