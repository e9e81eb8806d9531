//! The goals of the simulated fabric: what the controller would compile.

use ipnetwork::IpNetwork;
use penstock_model::{Dip, Epoch, Mac, Overlay, PortId, Protocol, ServiceId, TenantId, Underlay, Vni};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service};
use penstock_policy::{Endpoint, VirtualNetwork};
use penstock_slb_host::{Hop, HostGoal, NatRule, UnderlayFib};
use penstock_slb_proto::{
    AllDown, BackendIntent, Distribution as Planned, LbIntent, Member, Plan, PoolIntent, ServiceIntent,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(crate) const HOSTS: usize = 3;
pub(crate) const MUXES: usize = 3;
pub(crate) const TENANTS: usize = 2;
/// Of each tenant; container `n` is on host `n % HOSTS`, so that two are neighbours.
pub(crate) const CONTAINERS: usize = 6;

/// Weights of the members of each tenant's pool, by container.
pub(crate) type Members = [BTreeMap<usize, u32>; TENANTS];

pub(crate) fn mux_address(n: usize) -> IpAddr {
    IpAddr::from([10, 9, 0, 100 + n as u8])
}

pub(crate) fn host_address(n: usize) -> IpAddr {
    IpAddr::from([10, 9, 0, 1 + n as u8])
}

pub(crate) fn vip(tenant: usize) -> IpAddr {
    IpAddr::from([203, 0, 113, 1 + tenant as u8])
}

pub(crate) fn dip(container: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, 10 + container as u8])
}

pub(crate) fn mac(tenant: usize, container: usize) -> Mac {
    Mac([2, 0, 0, 1, tenant as u8, container as u8])
}

fn vni(tenant: usize) -> Vni {
    Vni::new(5000 + tenant as u32).unwrap()
}

pub(crate) fn name(tenant: usize, container: usize) -> String {
    format!("t{tenant}-c{container}")
}

/// The port of a container on its host, numbered from 1.
pub(crate) fn port(tenant: usize, container: usize) -> PortId {
    PortId((1 + tenant * (CONTAINERS / HOSTS) + container / HOSTS) as u16)
}

/// Everybody is reachable.
#[derive(Debug)]
pub(crate) struct Near;

impl UnderlayFib for Near {
    fn hop(&self, _: IpAddr) -> Option<Hop> {
        Some(Hop { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]) })
    }
}

pub(crate) fn intent(members: &Members) -> LbIntent {
    let service = |t: usize| ServiceIntent {
        name: format!("s{t}"),
        vip: vip(t),
        protocol: Protocol::TCP,
        port: 80,
        pool: format!("p{t}"),
        probe: None,
        all_down: AllDown::Drop,
        distribution: Planned::Default,
    };
    let pool = |(t, weights): (usize, &BTreeMap<usize, u32>)| PoolIntent {
        name: format!("p{t}"),
        members: weights.iter().map(|(c, weight)| Member { backend: name(t, *c), weight: *weight }).collect(),
    };
    let backend = |(t, c): (usize, usize)| BackendIntent {
        name: name(t, c),
        network_interface: name(t, c),
        dip: Dip { vni: vni(t), addr: Overlay(dip(c)) },
        mac: mac(t, c),
        host: Underlay(host_address(c % HOSTS)),
        retired: false,
    };
    LbIntent {
        services: (0..TENANTS).map(service).collect(),
        pools: members.iter().enumerate().map(pool).collect(),
        backends: (0..TENANTS).flat_map(|t| (0..CONTAINERS).map(move |c| (t, c))).map(backend).collect(),
    }
}

pub(crate) fn mux_goal(plan: &Plan, seed: u64) -> MuxGoal {
    let service = |s: &penstock_slb_proto::ServicePlan| Service {
        id: s.id,
        name: s.name.clone(),
        vip: s.vip,
        protocol: s.protocol,
        port: s.port,
        pool: s.pool,
        distribution: Distribution::Default,
    };
    let pool = |p: &penstock_slb_proto::PoolPlan| Pool {
        id: p.id,
        name: p.name.clone(),
        version: p.version,
        table: (*p.table).clone(),
        previous: p.previous.iter().map(|t| (**t).clone()).collect(),
    };
    let backend = |b: &penstock_slb_proto::BackendPlan| Backend {
        id: b.id,
        name: b.name.clone(),
        dip: b.dip,
        mac: b.mac,
        host: b.host,
    };
    MuxGoal {
        hash_seed: [seed, !seed],
        services: plan.services.iter().map(service).collect(),
        pools: plan.pools.iter().map(pool).collect(),
        backends: plan.backends.iter().map(backend).collect(),
        ..MuxGoal::default()
    }
}

/// Only members have a rule, as the controller compiles it: who has left its pool lives on what its host remembers.
pub(crate) fn host_goal(host: usize, members: &Members) -> HostGoal {
    let local = |t: usize| (0..CONTAINERS).filter(move |c| c % HOSTS == host).map(move |c| (t, c));
    let port = |(t, c): (usize, usize)| penstock_slb_host::Port {
        network_interface: name(t, c),
        tenant: TenantId(t as u32 + 1),
        vni: vni(t),
        mac: mac(t, c),
        addresses: vec![IpNetwork::new(dip(c), 24).unwrap()],
        acl: None,
        forwards: false,
    };
    let rule = |(t, c): (usize, usize)| NatRule {
        service: ServiceId(t as u32),
        network_interface: name(t, c),
        vip: vip(t),
        protocol: Protocol::TCP,
        vip_port: 80,
        dip: Overlay(dip(c)),
        dip_port: 8080,
        floating: false,
        idle_seconds: None,
    };
    let is_member = |(t, c): &(usize, usize)| members.get(*t).is_some_and(|m| m.contains_key(c));
    HostGoal {
        vteps: (0..MUXES).map(mux_address).chain((0..HOSTS).map(host_address)).map(Underlay).collect(),
        networks: (0..TENANTS).map(network).collect(),
        ports: (0..TENANTS).flat_map(local).map(port).collect(),
        nat_rules: (0..TENANTS).flat_map(local).filter(is_member).map(rule).collect(),
        ..HostGoal::default()
    }
}

fn network(tenant: usize) -> VirtualNetwork {
    let endpoint = |c: usize| Endpoint {
        addr: Overlay(dip(c)),
        mac: mac(tenant, c),
        host: Underlay(host_address(c % HOSTS)),
        acl: None,
        network_interface: name(tenant, c),
    };
    VirtualNetwork {
        name: format!("net{tenant}"),
        tenant: TenantId(tenant as u32 + 1),
        vni: vni(tenant),
        epoch: Epoch(1),
        prefixes: vec!["10.0.0.0/16".parse().unwrap()],
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        endpoints: (0..CONTAINERS).map(endpoint).collect(),
        routes: vec![],
        tables: Vec::new(),
    }
}
