//! penstock-mux-server
