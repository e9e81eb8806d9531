//! The second chance: a packet that belongs to a flow, but to none that this host knows, is passed to whom the mux has named.
//! While slots change hands a mux that did not see a connection open cannot tell whose it is; the containers' hosts can.

use crate::classify::is_geneve;
use crate::snat::Claim;
use penstock_engine::EncapTemplate;
use penstock_model::BATCH;
use penstock_wire::geneve::{NextOwners, next_owners};

/// What a packet says about other owners of its flow, and what a decision leaves to the worker.
#[derive(Debug, Default)]
pub(crate) struct Chance {
    /// Who is to be asked, this host's own containers that were asked included.
    pub(crate) next: NextOwners,
    /// It was passed to another container.
    pub(crate) is_passed: bool,
    /// The encapsulation that names those who are left, if any are.
    pub(crate) onward: Option<EncapTemplate>,
    /// The flow is to get a leased port.
    pub(crate) claim: Option<Claim>,
}

impl Chance {
    /// `frame` as it came from the underlay.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let next = match penstock_wire::parse(frame) {
            Ok(outer) if is_geneve(&outer) => next_owners(frame, &outer),
            _ => NextOwners::default(),
        };
        Self { next, ..Self::default() }
    }
}

/// Encapsulations that hold for the packets of one batch. Each packet that is passed on names others, so these are made for it
/// and not kept in the policy.
#[derive(Debug)]
pub(crate) struct Onward {
    templates: Vec<Option<EncapTemplate>>,
    newest: usize,
}

impl Onward {
    /// Above every [`penstock_model::EncapId`] of a policy.
    const FIRST: u32 = 1 << 31;

    pub(crate) fn new() -> Self {
        Self { templates: vec![None; BATCH], newest: 0 }
    }

    /// The id by which the template is found until as many others have come as a batch has packets.
    pub(crate) fn keep(&mut self, template: EncapTemplate) -> u32 {
        self.newest = (self.newest + 1) % BATCH;
        if let Some(place) = self.templates.get_mut(self.newest) {
            *place = Some(template);
        }
        Self::FIRST + self.newest as u32
    }

    pub(crate) fn get(&self, id: u32) -> Option<&EncapTemplate> {
        self.templates.get(id.checked_sub(Self::FIRST)? as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Decided;
    use crate::{AddressRange, Hop, HostGoal, Policy, Port, Surroundings, UnderlayFib};
    use penstock_model::{Addr16, Epoch, FlowKey, Mac, Overlay, PortId, Protocol, TenantId, Underlay, Vni};
    use penstock_policy::{Endpoint, VirtualNetwork};
    use penstock_wire::Headers;
    use std::net::IpAddr;
    use std::sync::Arc;

    #[derive(Debug)]
    struct Blind;

    impl UnderlayFib for Blind {
        fn hop(&self, _: IpAddr) -> Option<Hop> {
            None
        }
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn policy() -> Policy {
        let (tenant, vni, host) = (TenantId(1), Vni::new(7).unwrap(), Underlay(ip("10.9.0.1")));
        let named = |n: u8| (format!("c{n}"), IpAddr::from([10, 0, 0, n]), Mac([2, 0, 0, 0, 0, n]));
        let endpoint = |n| {
            let (network_interface, addr, mac) = named(n);
            Endpoint { addr: Overlay(addr), mac, host, acl: None, network_interface }
        };
        let port = |n| {
            let (network_interface, addr, mac) = named(n);
            let addresses = vec![ipnetwork::IpNetwork::new(addr, 24).unwrap()];
            Port { network_interface, tenant, vni, mac, addresses, acl: None, forwards: false }
        };
        let network = VirtualNetwork {
            name: "net".to_owned(),
            tenant,
            vni,
            epoch: Epoch(1),
            prefixes: vec!["10.0.0.0/24".parse().unwrap()],
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
            endpoints: vec![endpoint(2), endpoint(3)],
            routes: vec![],
            tables: Vec::new(),
        };
        let goal = HostGoal {
            networks: vec![network],
            ports: vec![port(2), port(3)],
            site: vec![AddressRange::from(host.0)],
            ..HostGoal::default()
        };
        let here = Surroundings {
            local_ports: &[(PortId(1), "c2".to_owned()), (PortId(2), "c3".to_owned())],
            own: host.0,
            underlay_port: PortId(0),
            fib: Arc::new(Blind),
            fib_generation: 1,
        };
        Policy::build(&goal, &here, &Policy::empty(host.0, PortId(0), Arc::new(Blind))).unwrap()
    }

    /// How often a packet of an unknown flow to a virtual address is passed on inside the host.
    fn rounds(policy: &Policy, next: &[&str]) -> usize {
        let next = NextOwners::new(next.iter().map(|a| Addr16::from(ip(a))));
        let h = Headers { protocol: Protocol::UDP, ..Headers::default() };
        let (client, vip) = (ip("192.0.2.1").into(), ip("198.51.100.1").into());
        let mut key = FlowKey::new(TenantId(2), client, vip, Protocol::UDP, 1, 53);
        for round in 0..100 {
            let mut chance = Chance { next, ..Chance::default() };
            match crate::resolver::decide(policy, false, &key, &h, None, &mut None, &mut chance, &mut ()) {
                Decided::Instead(other) => key = other,
                _ => return round,
            }
        }
        panic!("it goes round")
    }

    #[test]
    fn a_port_that_has_not_the_address_it_is_asked_by_is_left_out() {
        let mut policy = policy();
        assert_eq!(rounds(&policy, &["10.0.0.3"]), 1);
        assert_eq!(rounds(&policy, &["10.0.0.3", "10.0.0.2", "10.0.0.3"]), 1, "the last says from where");
        assert_eq!(rounds(&policy, &["10.0.0.3", "10.0.0.2"]), 0);
        for port in policy.ports.iter_mut().flatten() {
            port.own = vec![ip("10.0.0.9").into()];
        }
        assert_eq!(rounds(&policy, &["10.0.0.3", "10.0.0.2"]), 0);
    }
}
