use super::balance::{members, service_name};
use super::networks::{Lists, Networks};
use super::vteps;
use ipnetwork::IpNetwork;
use penstock_admin_types::intent::{Node, ProbeKind as SaidKind};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::{Overlay, ServiceId};
use penstock_slb_host::{HostGoal, NatRule, Port, Probe, ProbeKind};
use penstock_slb_proto::Plan;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn goal<'a>(intent: &'a Intent, plan: &Plan, networks: &Networks<'a>, server: &Node) -> HostGoal {
    let mut lists = Lists::default();
    let local = intent.interfaces.values().filter(|i| i.server.as_ref() == Some(&server.path) && server.address.is_some());
    let mut ports = Vec::new();
    let mut present: BTreeSet<&ResourcePath> = BTreeSet::new();
    for interface in local {
        let Some(network) = intent.networks.get(&interface.network) else { continue };
        present.insert(&interface.network);
        ports.push(Port {
            network_interface: interface.path.id().to_owned(),
            tenant: network.tenant,
            vni: network.vni,
            mac: interface.mac,
            addresses: interface
                .ip_configurations
                .iter()
                .filter_map(|c| IpNetwork::new(c.address, c.subnet.prefix()).ok())
                .collect(),
            acl: interface.acl.as_ref().and_then(|acl| lists.id(intent, acl)),
        });
    }
    let shown: Vec<_> = present
        .iter()
        .filter_map(|path| intent.networks.get(*path))
        .map(|network| networks.network(network, None, &mut lists))
        .collect();
    let (nat_rules, probes) = services(intent, plan, server);
    HostGoal { vteps: vteps(intent, true), networks: shown, acls: lists.acls, ports, nat_rules, probes, ..HostGoal::default() }
}

/// What this host does for load balancers: translate for its members, and probe them.
fn services(intent: &Intent, plan: &Plan, server: &Node) -> (Vec<NatRule>, Vec<Probe>) {
    let ids: BTreeMap<&str, ServiceId> = plan.services.iter().map(|s| (s.name.as_str(), s.id)).collect();
    let mut nat_rules = Vec::new();
    let mut probes: BTreeMap<(String, String, std::net::IpAddr), Probe> = BTreeMap::new();
    for service in &intent.services {
        let Some(id) = ids.get(service_name(service).as_str()) else { continue };
        for (interface, c, _) in members(intent, &service.pool, service.vip.is_ipv4()) {
            if interface.server.as_ref() != Some(&server.path) {
                continue;
            }
            let network_interface = interface.path.id().to_owned();
            nat_rules.push(NatRule {
                service: *id,
                network_interface: network_interface.clone(),
                vip: service.vip,
                protocol: service.protocol,
                vip_port: service.port,
                dip: Overlay(c.address),
                dip_port: service.backend_port,
            });
            if let Some(said) = &service.probe {
                let name = said.path.name().to_owned();
                let probe = Probe {
                    name: name.clone(),
                    network_interface: network_interface.clone(),
                    dip: Overlay(c.address),
                    port: said.port,
                    kind: match &said.kind {
                        SaidKind::Tcp => ProbeKind::Tcp,
                        SaidKind::Http { path } => ProbeKind::Http { path: path.clone() },
                    },
                    interval_seconds: said.interval_seconds,
                    count: said.count,
                };
                probes.insert((name, network_interface, c.address), probe);
            }
        }
    }
    (nat_rules, probes.into_values().collect())
}
