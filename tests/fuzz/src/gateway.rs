//! A gateway between the hosts and the sites of two tenants that have the same addresses.
use crate::check::Seen;
use crate::engine::Node;
use crate::gateway_kit::{UNDERLAY, build, goal, vni};
use crate::program::Record;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::{FlowHasher, FlowTable};
use penstock_gateway_proto::{GatewayResolver, Policy};
use penstock_model::{Epoch, PortId, TunnelId, Verdict};
use std::sync::{Arc, LazyLock};

pub(crate) struct GatewayNode {
    engine: Port<GatewayResolver<()>>,
    policies: Arc<ArcSwap<Policy>>,
    published: usize,
}

impl GatewayNode {
    pub(crate) fn new() -> Self {
        let policies = Arc::new(ArcSwap::new(Arc::clone(&compiled()[0])));
        let resolver = GatewayResolver::new(Arc::clone(&policies), FlowHasher::new([3; 16]), ());
        let mut engine = Port::new(resolver, FlowTable::new(1024));
        engine.ensure_counters(policies.load().counters());
        Self { engine, policies, published: 0 }
    }
}

/// With the rules, without most of them, and so on. Compiled once: that is not what is tested here.
fn compiled() -> &'static [Arc<Policy>] {
    static ALL: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
        let mut all: Vec<Arc<Policy>> = Vec::new();
        for n in 0..6 {
            let mut goal = goal();
            for network in &mut goal.networks {
                network.epoch = Epoch(n + 1);
            }
            if n % 2 == 1 {
                goal.acls[0].rules.clear();
                goal.acls[1].rules.pop();
            }
            all.push(Arc::new(build(&goal, all.last().map(|p| &**p)).unwrap()));
        }
        all
    });
    &ALL
}

impl Node for GatewayNode {
    type Resolver = GatewayResolver<()>;

    fn engine(&mut self) -> &mut Port<GatewayResolver<()>> {
        &mut self.engine
    }

    fn port(&self, record: &Record<'_>) -> PortId {
        match record.port(4) {
            0 => UNDERLAY,
            // 3 is no tunnel of this gateway.
            site => Policy::port_of(TunnelId(u32::from(site))),
        }
    }

    fn publish(&mut self) {
        self.published += 1;
        if let Some(policy) = compiled().get(self.published) {
            self.policies.store(Arc::clone(policy));
        }
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
