//! Load balancers: intent for the planner, plan for the muxes.
use penstock_admin_types::intent::{Distribution as Said, Interface, IpConfiguration, Service as SaidService};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::{Dip, Overlay, Underlay};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service};
use penstock_slb_proto::{
    AllDown, BackendIntent, Distribution as Planned, LbIntent, Member, Plan, PoolIntent, ServiceIntent,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

pub(super) fn intent(intent: &Intent) -> LbIntent {
    let mut out = LbIntent::default();
    let mut wanted = BTreeSet::new();
    for service in &intent.services {
        wanted.insert((service.pool.clone(), service.vip.is_ipv4()));
        out.services.push(ServiceIntent {
            name: service_name(service),
            vip: service.vip,
            protocol: service.protocol,
            port: service.port,
            pool: pool_name(&service.pool, service.vip.is_ipv4()),
            probe: service.probe.as_ref().map(|p| p.path.name().to_owned()),
            distribution: match service.distribution {
                Said::Default => Planned::Default,
                Said::SourceIp => Planned::SourceIp,
                Said::SourceIpProtocol => Planned::SourceIpProtocol,
            },
        });
    }
    for (pool, v4) in &wanted {
        let members = members(intent, pool, *v4);
        let weigh = |(_, c, _): &(&Interface, &IpConfiguration, IpAddr)| Member { backend: c.path.name().to_owned(), weight: 1 };
        out.pools.push(PoolIntent {
            name: pool_name(pool, *v4),
            members: members.iter().map(weigh).collect(),
            all_down: AllDown::Drop,
        });
    }
    out.backends = backends(intent);
    out
}

/// A rule's name, with the frontend's behind it when the rule has several.
pub(super) fn service_name(service: &SaidService) -> String {
    format!("{}/{}", service.path.name(), service.frontend.id())
}

/// A VIP is served by backends of its own family: a pool with members of both is two.
pub(super) fn pool_name(pool: &ResourcePath, v4: bool) -> String {
    if v4 { pool.name().to_owned() } else { format!("{}/ipv6", pool.name()) }
}

/// Placed members of a pool, with the address of their host.
pub(crate) fn members<'a>(
    intent: &'a Intent,
    pool: &ResourcePath,
    v4: bool,
) -> Vec<(&'a Interface, &'a IpConfiguration, IpAddr)> {
    placed(intent).filter(|(_, c, _)| c.address.is_ipv4() == v4 && c.pools.contains(pool)).collect()
}

/// All addresses that are on a host.
fn placed(intent: &Intent) -> impl Iterator<Item = (&Interface, &IpConfiguration, IpAddr)> {
    intent.interfaces.values().flat_map(|interface| {
        let host = interface.server.as_ref().and_then(|s| intent.servers.get(s)).and_then(|s| s.address);
        interface.ip_configurations.iter().filter_map(move |c| Some((interface, c, host?)))
    })
}

fn backends(intent: &Intent) -> Vec<BackendIntent> {
    let backend = |(interface, c, host): (&Interface, &IpConfiguration, IpAddr)| {
        let network = intent.networks.get(&interface.network)?;
        Some(BackendIntent {
            name: c.path.name().to_owned(),
            network_interface: interface.path.id().to_owned(),
            dip: Dip { vni: network.vni, addr: Overlay(c.address) },
            mac: interface.mac,
            host: Underlay(host),
        })
    };
    placed(intent).filter(|(_, c, _)| !c.pools.is_empty()).filter_map(backend).collect()
}

pub(super) fn mux_goal(plan: &Plan, hash_seed: [u64; 2]) -> MuxGoal {
    let services = plan.services.iter().map(|s| Service {
        id: s.id,
        name: s.name.clone(),
        vip: s.vip,
        protocol: s.protocol,
        port: s.port,
        pool: s.pool,
        distribution: match s.distribution {
            Planned::Default => Distribution::Default,
            Planned::SourceIp => Distribution::SourceIp,
            Planned::SourceIpProtocol => Distribution::SourceIpProtocol,
        },
    });
    let pools = plan.pools.iter().map(|p| Pool {
        id: p.id,
        name: p.name.clone(),
        version: p.version,
        table: (*p.table).clone(),
        previous: p.previous.as_deref().cloned(),
    });
    let backends = plan.backends.iter().map(|b| Backend {
        id: b.id,
        name: b.network_interface.clone(),
        dip: b.dip,
        mac: b.mac,
        host: b.host,
    });
    MuxGoal {
        hash_seed,
        services: services.collect(),
        pools: pools.collect(),
        backends: backends.collect(),
        ..MuxGoal::default()
    }
}
