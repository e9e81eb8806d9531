//! penstock-slb-proto
