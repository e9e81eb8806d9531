//! A host with six containers of two tenants that have the same addresses.
use crate::check::Seen;
use crate::engine::Node;
use crate::host_kit::{self, HOST, PORTS, UNDERLAY, goal, ip, rule, vni};
use crate::program::Record;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::{FlowHasher, FlowTable};
use penstock_model::{Epoch, PortId, Verdict};
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{HostGoal, HostResolver, Policy};
use std::sync::{Arc, LazyLock};

pub(crate) struct HostNode {
    engine: Port<HostResolver>,
    policies: Arc<ArcSwap<Policy>>,
    published: usize,
}

impl HostNode {
    pub(crate) fn new() -> Self {
        let policies = Arc::new(ArcSwap::new(Arc::clone(&compiled()[0])));
        let resolver = HostResolver::new(Arc::clone(&policies), FlowHasher::new([7; 16]));
        Self { engine: Port::new(resolver, FlowTable::new(1024)), policies, published: 0 }
    }
}

/// The goal's variants one after the other. Compiled once: that is not what is tested here.
fn compiled() -> &'static [Arc<Policy>] {
    static ALL: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
        let mut all: Vec<Arc<Policy>> = Vec::new();
        for n in 0..6 {
            let nothing = host_kit::empty();
            let previous = all.last().map_or(&nothing, |p| &**p);
            all.push(Arc::new(host_kit::build(&variant(n), previous, false, 1).unwrap()));
        }
        all
    });
    &ALL
}

impl Node for HostNode {
    type Resolver = HostResolver;

    fn engine(&mut self) -> &mut Port<HostResolver> {
        &mut self.engine
    }

    fn port(&self, record: &Record<'_>) -> PortId {
        PortId(record.port(PORTS.len() as u16 + 2))
    }

    fn publish(&mut self) {
        self.published += 1;
        if let Some(policy) = compiled().get(self.published) {
            self.policies.store(Arc::clone(policy));
        }
    }

    fn check(&self, came: PortId, input: Option<&Seen>, verdict: Verdict, output: &[u8]) {
        let Verdict::Transmit(to) = verdict else { return };
        let from = tenant(came).or_else(|| input.and_then(|i| i.inner).map(|(vni, _)| vni.get() - vni_of(0)));
        if to == UNDERLAY {
            let Some(out) = crate::check::see(output) else { return };
            if let Some((vni, _)) = out.inner.filter(|_| out.outer.src.to_ip() == ip(HOST)) {
                assert_eq!(Some(vni.get() - vni_of(0)), from, "another tenant's network");
            }
        } else if to != came {
            assert_eq!(tenant(to), from, "another tenant's container");
        }
    }
}

fn vni_of(tenant: u32) -> u32 {
    vni(tenant).get()
}

fn tenant(port: PortId) -> Option<u32> {
    PORTS.get(usize::from(port.0).checked_sub(1)?).map(|(tenant, _)| *tenant)
}

/// The goal with rules, without services, or as it was, in turn.
fn variant(n: u32) -> HostGoal {
    let mut goal = goal();
    match n % 3 {
        0 => {}
        1 => {
            let rules = vec![
                rule("deny-25", 100, AclAction::Deny, AclDirection::Outbound, Some(25)),
                rule("allow-8080", 110, AclAction::Allow, AclDirection::Inbound, Some(8080)),
            ];
            goal.acls.push(Acl { name: "web".into(), rules });
            for port in &mut goal.ports {
                port.acl = Some(AclId(0));
            }
        }
        _ => goal.nat_rules.clear(),
    }
    for network in &mut goal.networks {
        network.epoch = Epoch(n + 1);
    }
    goal
}
