//! What the operators of a large site want, and what a plan of it says to a mux.
use penstock_model::{Dip, Mac, Overlay, Protocol, Underlay, Vni};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service};
use penstock_slb_proto::{AllDown, BackendIntent, LbIntent, Member, Plan, PoolIntent, ProbeKey, ServiceIntent};
use std::net::Ipv4Addr;

const TENANTS: u32 = 100;
const PORTS: u16 = 10;
const MEMBERS: u32 = 10;
const HOSTS: u32 = 1000;

fn balancer(vip: u32) -> String {
    format!("loadBalancers/tenant{}-{vip}", vip % TENANTS)
}

fn pool(vip: u32) -> String {
    format!("{}/backendAddressPools/servers", balancer(vip))
}

fn probe(vip: u32) -> String {
    format!("{}/probes/health", balancer(vip))
}

fn interface(vip: u32, member: u32) -> String {
    format!("tenant{}-{vip}-{member}", vip % TENANTS)
}

fn dip(vip: u32, member: u32) -> Dip {
    let n = vip / TENANTS * MEMBERS + member + 4;
    let vni = Vni::new(4096 + vip % TENANTS).expect("24 bits");
    Dip { vni, addr: Overlay(Ipv4Addr::from(0x0a00_0000 + n).into()) }
}

/// The probe of the first member of a virtual IP's pool.
pub(super) fn probe_of(vip: u32) -> ProbeKey {
    ProbeKey { probe: probe(vip), network_interface: interface(vip, 0), dip: dip(vip, 0).addr }
}

pub(super) fn intent(vips: u32) -> LbIntent {
    let mut out = LbIntent::default();
    for vip in 0..vips {
        for port in 0..PORTS {
            out.services.push(ServiceIntent {
                name: format!("{}/loadBalancingRules/r{port}/fe", balancer(vip)),
                vip: Ipv4Addr::from(0xcb00_0000 + vip).into(),
                protocol: Protocol::TCP,
                port: 8000 + port,
                pool: pool(vip),
                probe: Some(probe(vip)),
                all_down: AllDown::Drop,
                distribution: penstock_slb_proto::Distribution::Default,
            });
        }
        let name = |m| format!("networkInterfaces/{}/ipConfigurations/ip", interface(vip, m));
        let members = (0..MEMBERS).map(|m| Member { backend: name(m), weight: 1 }).collect();
        out.pools.push(PoolIntent { name: pool(vip), members });
        for m in 0..MEMBERS {
            let id = vip * MEMBERS + m;
            let [_, a, b, c] = id.to_be_bytes();
            out.backends.push(BackendIntent {
                name: name(m),
                network_interface: interface(vip, m),
                dip: dip(vip, m),
                mac: Mac([2, 0x50, 0, a, b, c]),
                host: Underlay(Ipv4Addr::from(0x0a01_0000 + id % HOSTS).into()),
                retired: false,
            });
        }
    }
    out
}

/// Others with the same addresses.
pub(super) fn replace_containers(intent: &mut LbIntent) {
    let new = |name: &str| name.replace("networkInterfaces/", "networkInterfaces/new-");
    for backend in &mut intent.backends {
        backend.name = new(&backend.name);
        backend.network_interface = format!("new-{}", backend.network_interface);
    }
    intent.pools.iter_mut().flat_map(|p| &mut p.members).for_each(|m| m.backend = new(&m.backend));
}

pub(super) fn goal(plan: &Plan) -> MuxGoal {
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
        name: b.network_interface.clone(),
        dip: b.dip,
        mac: b.mac,
        host: b.host,
    };
    MuxGoal {
        hash_seed: [1, 2],
        services: plan.services.iter().map(service).collect(),
        pools: plan.pools.iter().map(pool).collect(),
        backends: plan.backends.iter().map(backend).collect(),
        ..MuxGoal::default()
    }
}
