//! A gateway between the hosts and the sites of two tenants that have the same addresses.
use crate::check::Seen;
use crate::engine::Node;
use crate::gateway_kit::{UNDERLAY, build, goal, ip, vni};
use crate::program::Record;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::{FlowHasher, FlowTable};
use penstock_gateway_proto::{GatewayGoal, GatewayResolver, Policy, TunnelKind};
use penstock_model::{Epoch, PortId, TunnelId, Underlay, Verdict};
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
            let mut goal = with_gre();
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

/// Each tenant has a second connection to its site: by GRE, to one peer.
fn with_gre() -> GatewayGoal {
    let mut goal = goal();
    for tenant in [1u32, 2] {
        let mut tunnel = goal.tunnels[tenant as usize - 1].clone();
        tunnel.id = TunnelId(3 + tenant);
        tunnel.kind = TunnelKind::Gre { peer: Underlay(ip(PEER)), key: Some(GRE_KEY + tenant), checksum: tenant == 2 };
        goal.tunnels.push(tunnel);
    }
    goal
}

/// Where both GRE connections lead.
pub const PEER: &str = "198.51.100.9";
/// The key of a tenant's connection is this and its number.
pub const GRE_KEY: u32 = 6;

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
    let tenant_of = |key: u32| key.checked_sub(GRE_KEY).filter(|tenant| (1..=2).contains(tenant));
    let by_key = |i: &Seen| i.gre.and_then(|(key, _)| Some(vni(tenant_of(key?)?)));
    let from = from.map(vni).or_else(|| input.and_then(|i| i.inner.map(|(vni, _)| vni).or_else(|| by_key(i))));
    match verdict {
        Verdict::Tunnel(tunnel) => {
            let tenant = if tunnel.0 > 3 { tunnel.0 - 3 } else { tunnel.0 };
            assert_eq!(Some(vni(tenant)), from, "another tenant's tunnel");
        }
        Verdict::Transmit(_) => {
            if let Some((to, _)) = crate::check::see(output).and_then(|out| out.inner) {
                assert_eq!(Some(to), from, "another tenant's network");
            }
        }
        _ => {}
    }
}
