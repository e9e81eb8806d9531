//! penstock-slb-server
