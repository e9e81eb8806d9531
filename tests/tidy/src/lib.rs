//! penstock-tidy
