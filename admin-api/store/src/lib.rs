//! penstock-admin-store
