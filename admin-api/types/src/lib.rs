//! penstock-admin-types
