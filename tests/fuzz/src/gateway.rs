//! A gateway between the hosts and the sites of two tenants that have the same addresses.
use crate::check::Seen;
use crate::engine::Node;
use crate::gateway_kit::{Gateway, UNDERLAY, goal, vni};
use crate::program::Record;
use penstock_engine::Port;
use penstock_gateway_proto::{GatewayResolver, Policy};
use penstock_model::{Epoch, PortId, TunnelId, Verdict};

pub(crate) struct GatewayNode {
    gateway: Gateway,
    published: u32,
}

impl GatewayNode {
    pub(crate) fn new() -> Self {
        Self { gateway: Gateway::new(&goal()), published: 0 }
    }
}

impl Node for GatewayNode {
    type Resolver = GatewayResolver<()>;

    fn engine(&mut self) -> &mut Port<GatewayResolver<()>> {
        &mut self.gateway.port
    }

    fn port(&self, record: &Record<'_>) -> PortId {
        match record.port(4) {
            0 => UNDERLAY,
            3 => PortId(40_000),
            site => Policy::port_of(TunnelId(u32::from(site))),
        }
    }

    fn publish(&mut self) {
        self.published += 1;
        let mut goal = goal();
        for network in &mut goal.networks {
            network.epoch = Epoch(self.published + 1);
        }
        if self.published % 2 == 1 {
            goal.acls[0].rules.clear();
            goal.acls[1].rules.pop();
        }
        self.gateway.publish(&goal);
    }

    fn check(&self, came: PortId, input: Option<&Seen>, verdict: Verdict, output: &[u8]) {
        check(came, input, verdict, output);
    }
}

/// A tenant's packet stays with the tenant.
pub(crate) fn check(came: PortId, input: Option<&Seen>, verdict: Verdict, output: &[u8]) {
    let from = (1..=2).find(|t| came == Policy::port_of(TunnelId(*t)));
    let from = from.map(vni).or_else(|| input.and_then(|i| i.inner).map(|(vni, _)| vni));
    match verdict {
        Verdict::Tunnel(tunnel) => assert_eq!(Some(vni(tunnel.0)), from, "another tenant's tunnel"),
        Verdict::Transmit(_) => {
            if let Some((to, _)) = crate::check::see(output).and_then(|out| out.inner) {
                assert_eq!(Some(to), from, "another tenant's network");
            }
        }
        _ => {}
    }
}
