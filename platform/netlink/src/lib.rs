//! penstock-netlink
