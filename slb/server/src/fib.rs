use penstock_netlink::UnderlayView;
use penstock_slb_host::{Hop, UnderlayFib};
use std::net::IpAddr;
use std::sync::Arc;

/// The kernel's tables, as far as they lead out by the underlay interface.
#[derive(Debug, Clone)]
pub(crate) struct Fib {
    pub(crate) view: Arc<UnderlayView>,
    pub(crate) ifindex: u32,
}

impl UnderlayFib for Fib {
    fn hop(&self, dst: IpAddr) -> Option<Hop> {
        let hop = self.view.next_hop(dst).filter(|h| h.ifindex == self.ifindex)?;
        Some(Hop { eth_src: hop.eth_src, eth_dst: hop.eth_dst })
    }
}
