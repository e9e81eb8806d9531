use super::balance::{Members, service_name};
use super::networks::{Lists, Networks};
use super::site::Site;
use super::vteps;
use ipnetwork::IpNetwork;
use penstock_admin_types::intent::{Node, Probe as SaidProbe, ProbeKind as SaidKind};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::{BackendId, Overlay, ServiceId};
use penstock_slb_host::{HostGoal, NatRule, Port, Probe, ProbeKind, SnatLease};
use penstock_slb_proto::{BLOCK, Lease, Plan};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) fn goal<'a>(
    intent: &'a Intent,
    translations: &Translations<'a>,
    networks: &Networks<'a>,
    site: &Site,
    server: &Node,
) -> HostGoal {
    let mut lists = Lists::default();
    let local =
        intent.interfaces.values().filter(|i| i.server.as_ref() == Some(&server.path) && server.address.is_some());
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
            acl: interface.acl.as_ref().and_then(|acl| lists.id(networks, acl, &interface.network)),
            forwards: interface.forwards,
        });
    }
    let shown: Vec<_> = present
        .iter()
        .filter_map(|path| intent.networks.get(*path))
        .map(|network| networks.network(network, None, &mut lists))
        .collect();
    let (nat_rules, probes) = translations.of(&server.path);
    let snat = translations.snat.get(&server.path).cloned().unwrap_or_default();
    HostGoal {
        vteps: vteps(intent, true),
        networks: shown,
        acls: lists.acls,
        ports,
        nat_rules,
        snat,
        site: site.own.clone(),
        nat_exemptions: site.exemptions.clone(),
        probes,
        ..HostGoal::default()
    }
}

/// What each host does for load balancers: translate for its members, and probe them.
pub(super) struct Translations<'a> {
    by_server: BTreeMap<&'a ResourcePath, (Vec<NatRule>, BTreeMap<ProbeKey, Probe>)>,
    snat: BTreeMap<&'a ResourcePath, Vec<SnatLease>>,
}

/// Rules may share a probe: it runs once for each container.
type ProbeKey = (String, String, IpAddr);

impl<'a> Translations<'a> {
    pub(super) fn new(intent: &'a Intent, members: &Members<'a>, plan: &Plan, leases: &[Lease]) -> Self {
        let ids: BTreeMap<&str, ServiceId> = plan.services.iter().map(|s| (s.name.as_str(), s.id)).collect();
        let mut by_server: BTreeMap<_, (Vec<NatRule>, BTreeMap<_, _>)> = BTreeMap::new();
        for service in &intent.services {
            let Some(id) = ids.get(service_name(service).as_str()) else { continue };
            for (interface, c, _) in members.of(&service.pool, service.vip.is_ipv4()) {
                let Some(server) = &interface.server else { continue };
                let (rules, probes) = by_server.entry(server).or_default();
                let network_interface = interface.path.id();
                rules.push(NatRule {
                    service: *id,
                    network_interface: network_interface.to_owned(),
                    vip: service.vip,
                    protocol: service.protocol,
                    vip_port: service.port,
                    dip: Overlay(c.address),
                    dip_port: service.backend_port,
                    floating: service.floating,
                    idle_seconds: service.idle_minutes.map(|minutes| minutes.saturating_mul(60)),
                });
                if let Some(said) = &service.probe {
                    let key = (said.path.name().to_owned(), network_interface.to_owned(), c.address);
                    probes.insert(key, probe(said, network_interface, c.address));
                }
            }
        }
        Self { by_server, snat: snat(intent, members, plan, leases) }
    }

    fn of(&self, server: &ResourcePath) -> (Vec<NatRule>, Vec<Probe>) {
        let found = self.by_server.get(server);
        found.map(|(rules, probes)| (rules.clone(), probes.values().cloned().collect())).unwrap_or_default()
    }
}

/// Neighbouring blocks of one container are one lease.
fn snat<'a>(
    intent: &'a Intent,
    members: &Members<'a>,
    plan: &Plan,
    leases: &[Lease],
) -> BTreeMap<&'a ResourcePath, Vec<SnatLease>> {
    let names: BTreeMap<BackendId, &str> = plan.backends.iter().map(|b| (b.id, b.name.as_str())).collect();
    let mut by_name: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        by_name.entry(names.get(&lease.backend).copied().unwrap_or_default()).or_default().push(lease);
    }
    let mut out: BTreeMap<_, Vec<SnatLease>> = BTreeMap::new();
    let placed = intent.outbound.iter().flat_map(|rule| {
        let of = |v4| members.of(&rule.pool, v4).iter();
        of(true).chain(of(false)).map(move |placed| (rule, placed))
    });
    for (rule, (interface, c, _)) in placed {
        let Some(server) = &interface.server else { continue };
        let list = out.entry(server).or_default();
        for lease in by_name.get(c.path.name()).into_iter().flatten().filter(|l| rule.vips.contains(&l.vip)) {
            match list.last_mut() {
                Some(last)
                    if last.vip == lease.vip
                        && last.dip.0 == c.address
                        && last.network_interface == interface.path.id()
                        && last.first.checked_add(last.count) == Some(lease.first) =>
                {
                    last.count += BLOCK;
                }
                _ => list.push(SnatLease {
                    network_interface: interface.path.id().to_owned(),
                    dip: Overlay(c.address),
                    vip: lease.vip,
                    first: lease.first,
                    count: BLOCK,
                    protocol: rule.protocol,
                }),
            }
        }
    }
    out
}

fn probe(said: &SaidProbe, network_interface: &str, address: IpAddr) -> Probe {
    Probe {
        name: said.path.name().to_owned(),
        network_interface: network_interface.to_owned(),
        dip: Overlay(address),
        port: said.port,
        kind: match &said.kind {
            SaidKind::Tcp => ProbeKind::Tcp,
            SaidKind::Http { path } => ProbeKind::Http { path: path.clone() },
            SaidKind::Https { path } => ProbeKind::Https { path: path.clone() },
        },
        interval_seconds: said.interval_seconds,
        count: said.count,
        rise: said.rise,
        hold_down_seconds: said.hold_down_seconds,
    }
}
