//! penstock-admin-client
