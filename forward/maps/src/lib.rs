//! penstock-maps
