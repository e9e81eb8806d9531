//! penstock-admin-cli
