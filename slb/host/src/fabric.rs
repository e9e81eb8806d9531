use penstock_model::Mac;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The Ethernet address of the distributed router: source of what is delivered to a container, and the gateway of every
/// subnet on every host, so that a container may move without noticing.
pub const ROUTER_MAC: Mac = Mac([0x02, 0x50, 0x53, 0x54, 0x00, 0x01]);
/// Where health probes come from (the address that Azure uses; a container's firewall can name it).
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Where IPv6 health probes come from: the router's link-local address, which needs no route in the container.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x5053, 0x5400, 1);

/// Whether `addr` is where probes come from.
#[must_use]
pub fn is_probe_source(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a == PROBE_V4,
        IpAddr::V6(a) => a == PROBE_V6,
    }
}

/// The Ethernet addresses of a hop on the provider network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub eth_src: Mac,
    pub eth_dst: Mac,
}

/// The provider network as the host sees it: an immutable view.
pub trait UnderlayFib: Debug + Send + Sync {
    /// The hop towards `dst` by the underlay interface; `None` while it is not resolved.
    fn hop(&self, dst: IpAddr) -> Option<Hop>;
}
