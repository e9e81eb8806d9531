//! penstock-admin-server
