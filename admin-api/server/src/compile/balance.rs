//! Load balancers: intent for the planner, plan for the muxes.
use crate::config::VipLimitTable;
use penstock_admin_types::intent::{
    ALL_PORTS, AllDown as SaidAllDown, Distribution as Said, Interface, IpConfiguration, Outbound,
    Service as SaidService,
};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_model::{BackendId, Dip, Overlay, Underlay};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service, SnatBlock, VipLimit, VipRate};
use penstock_slb_host::SnatUse;
use penstock_slb_proto::{
    AllDown, BLOCK, BackendIntent, Demand, Distribution as Planned, LbIntent, Lease, LeasePlan, Member, OutboundIntent,
    Plan, PoolIntent, ServiceIntent,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) fn intent(intent: &Intent, members: &Members<'_>, wall: u64) -> LbIntent {
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
            all_down: match service.all_down {
                SaidAllDown::Drop => AllDown::Drop,
                SaidAllDown::KeepLast => AllDown::Keep,
                SaidAllDown::ForwardToAll => AllDown::Serve,
            },
            distribution: match service.distribution {
                Said::Default => Planned::Default,
                Said::SourceIp => Planned::SourceIp,
                Said::SourceIpProtocol => Planned::SourceIpProtocol,
            },
        });
    }
    for rule in &intent.outbound {
        wanted.extend(rule.vips.iter().map(|vip| (rule.pool.clone(), vip.is_ipv4())));
    }
    for (pool, v4) in &wanted {
        let weigh = |(interface, c, _): &Placed<'_>| Member {
            backend: c.path.name().to_owned(),
            weight: u32::from(interface.drain_until.is_none()),
        };
        out.pools.push(PoolIntent {
            name: pool_name(pool, *v4),
            members: members.of(pool, *v4).iter().map(weigh).collect(),
        });
    }
    out.backends = backends(intent, wall);
    out
}

/// Outbound rules, one for each family that they have virtual IPs of.
pub(super) fn outbound(intent: &Intent, members: &Members<'_>) -> Vec<OutboundIntent> {
    let one = |rule: &Outbound, v4: bool| {
        let vips: Vec<IpAddr> = rule.vips.iter().copied().filter(|vip| vip.is_ipv4() == v4).collect();
        let members = members.of(&rule.pool, v4).iter().map(|(_, c, _)| c.path.name().to_owned()).collect();
        (!vips.is_empty()).then(|| OutboundIntent { name: pool_name(&rule.path, v4), vips, members })
    };
    intent.outbound.iter().flat_map(|rule| [one(rule, true), one(rule, false)]).flatten().collect()
}

/// What the hosts of backends say of the ports that these have. Who was a backend's host before, or never was, is not asked.
pub(super) fn demand(intent: &Intent, plan: &Plan, uses: &[(String, SnatUse)]) -> BTreeMap<BackendId, Demand> {
    let hosts: BTreeMap<&str, IpAddr> =
        intent.servers.values().filter_map(|s| Some((s.name.as_str(), s.address?))).collect();
    let ids: BTreeMap<_, BackendId> =
        plan.backends.iter().map(|b| ((b.network_interface.as_str(), b.dip.addr, b.host.0), b.id)).collect();
    let of = |u: &SnatUse| Demand { claims: u.claims, strained: u.strained, exhausted: u.exhausted };
    let one = |(host, u): &(String, SnatUse)| {
        let host = *hosts.get(host.as_str())?;
        Some((*ids.get(&(u.network_interface.as_str(), u.dip, host))?, of(u)))
    };
    uses.iter().filter_map(one).collect()
}

/// The addresses of backends that may be given more ports.
pub(super) fn growing(plan: &Plan, leased: &LeasePlan) -> BTreeSet<(String, Overlay<IpAddr>)> {
    let backends = plan.backends.iter().filter(|b| leased.may_grow.contains(&b.id));
    backends.map(|b| (b.network_interface.clone(), b.dip.addr)).collect()
}

/// A rule's name with the frontend's, and the protocol's if the rule is for all.
pub(super) fn service_name(service: &SaidService) -> String {
    let name = format!("{}/{}", service.path.name(), service.frontend.id());
    if service.port == ALL_PORTS { format!("{name}/{}", service.protocol) } else { name }
}

/// A VIP is served by backends of its own family: a pool with members of both is two.
pub(super) fn pool_name(pool: &ResourcePath, v4: bool) -> String {
    if v4 { pool.name().to_owned() } else { format!("{}/ipv6", pool.name()) }
}

/// An address on a host: interface, address, the host's underlay address.
pub(crate) type Placed<'a> = (&'a Interface, &'a IpConfiguration, IpAddr);

/// Placed members of each pool, by family.
pub(crate) struct Members<'a> {
    by_pool: BTreeMap<&'a ResourcePath, ByFamily<'a>>,
}

#[derive(Default)]
struct ByFamily<'a> {
    v4: Vec<Placed<'a>>,
    v6: Vec<Placed<'a>>,
}

impl<'a> Members<'a> {
    /// `wall`: the time of day in seconds of Unix time. Who has been drained to the end is a member no more.
    pub(crate) fn new(intent: &'a Intent, wall: u64) -> Self {
        let mut by_pool: BTreeMap<_, ByFamily<'a>> = BTreeMap::new();
        for (interface, c, host) in placed(intent).filter(|(interface, ..)| !is_over(interface, wall)) {
            let pools: BTreeSet<&ResourcePath> = c.pools.iter().collect();
            for pool in pools {
                let members = by_pool.entry(pool).or_default();
                let family = if c.address.is_ipv4() { &mut members.v4 } else { &mut members.v6 };
                family.push((interface, c, host));
            }
        }
        Self { by_pool }
    }

    pub(crate) fn of(&self, pool: &ResourcePath, v4: bool) -> &[Placed<'a>] {
        match self.by_pool.get(pool) {
            Some(members) if v4 => &members.v4,
            Some(members) => &members.v6,
            None => &[],
        }
    }
}

/// It has been drained for as long as was given to it.
fn is_over(interface: &Interface, wall: u64) -> bool {
    interface.drain_until.is_some_and(|until| wall >= until)
}

/// All addresses that are on a host.
fn placed(intent: &Intent) -> impl Iterator<Item = Placed<'_>> {
    intent.interfaces.values().flat_map(|interface| {
        let host = interface.server.as_ref().and_then(|s| intent.servers.get(s)).and_then(|s| s.address);
        interface.ip_configurations.iter().filter_map(move |c| Some((interface, c, host?)))
    })
}

fn backends(intent: &Intent, wall: u64) -> Vec<BackendIntent> {
    let backend = |(interface, c, host): Placed<'_>| {
        let network = intent.networks.get(&interface.network)?;
        Some(BackendIntent {
            name: c.path.name().to_owned(),
            network_interface: interface.path.id().to_owned(),
            dip: Dip { vni: network.vni, addr: Overlay(c.address) },
            mac: interface.mac,
            host: Underlay(host),
            retired: is_over(interface, wall),
        })
    };
    placed(intent).filter_map(backend).collect()
}

pub(super) fn mux_goal(plan: &Plan, leases: &[Lease], hash_seed: [u64; 2]) -> MuxGoal {
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
        previous: p.previous.iter().map(|t| (**t).clone()).collect(),
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
        snat: leases.iter().map(snat_block).collect(),
        ..MuxGoal::default()
    }
}

/// Of the virtual IPs that muxes have: what their frontends say, else what the site says.
pub(super) fn limits(intent: &Intent, plan: &Plan, leases: &[Lease], site: VipLimitTable) -> Vec<VipLimit> {
    let vips: BTreeSet<IpAddr> = plan.services.iter().map(|s| s.vip).chain(leases.iter().map(|l| l.vip)).collect();
    let limit = |vip: IpAddr| {
        let said = intent.rate_limits.get(&vip).copied().unwrap_or_default();
        let rate = |said: Option<u32>, site: Option<VipRate>| said.map_or(site, VipRate::new);
        VipLimit {
            vip,
            packets_per_second: rate(said.packets, site.packets_per_second),
            new_flows_per_second: rate(said.new_flows, site.new_flows_per_second),
        }
    };
    let is_any = |l: &VipLimit| l.packets_per_second.is_some() || l.new_flows_per_second.is_some();
    vips.into_iter().map(limit).filter(is_any).collect()
}

fn snat_block(lease: &Lease) -> SnatBlock {
    SnatBlock { vip: lease.vip, first: lease.first, shift: BLOCK.trailing_zeros() as u8, backend: lease.backend }
}
