//! A host with six containers of two tenants that have the same addresses.
use crate::check::Seen;
use crate::engine::Node;
use crate::host_kit::{HOST, Host, PORTS, UNDERLAY, goal, ip, rule, vni};
use crate::program::Record;
use penstock_engine::Port;
use penstock_model::{Epoch, PortId, Verdict};
use penstock_policy::{Acl, AclAction, AclDirection, AclId};
use penstock_slb_host::{HostGoal, HostResolver};

pub(crate) struct HostNode {
    host: Host,
    published: u32,
}

impl HostNode {
    pub(crate) fn new() -> Self {
        Self { host: Host::new(&goal()), published: 0 }
    }
}

impl Node for HostNode {
    type Resolver = HostResolver;

    fn engine(&mut self) -> &mut Port<HostResolver> {
        &mut self.host.engine
    }

    fn port(&self, record: &Record<'_>) -> PortId {
        PortId(record.port(PORTS.len() as u16 + 2))
    }

    fn publish(&mut self) {
        self.published += 1;
        self.host.publish(&variant(self.published));
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
