//! Four rules over one pool of four containers.
use super::{HOST, VIP4, VIP6};
use penstock_model::{BackendId, Dip, Mac, Overlay, PoolId, Protocol, Revision, ServiceId, Underlay, Vni};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service};
use penstock_spread::SlotTable;

pub const BACKENDS: u32 = 4;

pub fn mac(id: u32) -> Mac {
    Mac([0x02, 0x50, 0, 0, 9, id as u8])
}

pub fn vni(id: u32) -> u32 {
    70_001 + id % 2
}

pub fn goal(revision: u64) -> MuxGoal {
    let service = |id, vip: &str, protocol, port| Service {
        id: ServiceId(id),
        name: format!("loadBalancers/lb/loadBalancingRules/r{id}"),
        vip: vip.parse().unwrap(),
        protocol,
        port,
        pool: PoolId(0),
        distribution: Distribution::Default,
    };
    let backend = |id| Backend {
        id: BackendId(id),
        name: format!("web-{id}"),
        dip: Dip { vni: Vni::new(vni(id)).unwrap(), addr: Overlay("10.1.0.5".parse().unwrap()) },
        mac: mac(id),
        host: Underlay(HOST.parse().unwrap()),
    };
    let members: Vec<_> = (0..BACKENDS).map(|id| (BackendId(id), 1)).collect();
    MuxGoal {
        revision: Revision(revision),
        hash_seed: [3, 4],
        services: vec![
            service(0, VIP4, Protocol::TCP, 80),
            service(1, VIP4, Protocol::UDP, 7777),
            service(2, VIP6, Protocol::TCP, 80),
            service(3, VIP6, Protocol::UDP, 7777),
        ],
        pools: vec![Pool {
            id: PoolId(0),
            name: "pool".to_owned(),
            version: 1,
            table: SlotTable::build(None, &members),
            previous: Vec::new(),
        }],
        backends: (0..BACKENDS).map(backend).collect(),
        snat: Vec::new(),
        router: None,
        draining: false,
        limits: Vec::new(),
    }
}
