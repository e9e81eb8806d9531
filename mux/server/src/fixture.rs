//! What tests of this crate forward by.

use penstock_model::{BackendId, Dip, Mac, Overlay, PoolId, Protocol, Revision, ServiceId, Underlay, Vni};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Policy, Pool, Service, VipLimit, VipRate};

/// One rule over one backend, its virtual IP with a limit.
pub(crate) fn goal() -> MuxGoal {
    let service = Service {
        id: ServiceId(1),
        name: "loadBalancers/web/loadBalancingRules/http".to_owned(),
        vip: "203.0.113.10".parse().unwrap(),
        protocol: Protocol::TCP,
        port: 80,
        pool: PoolId(1),
        distribution: Distribution::default(),
    };
    let backend = Backend {
        id: BackendId(1),
        name: "web-1".to_owned(),
        dip: Dip { vni: Vni::new(5).unwrap(), addr: Overlay("10.0.0.11".parse().unwrap()) },
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host: Underlay("192.0.2.11".parse().unwrap()),
    };
    let table = penstock_spread::SlotTable::build(None, &[(BackendId(1), 1)]);
    let pool = Pool {
        id: PoolId(1),
        name: "loadBalancers/web/backendAddressPools/p".to_owned(),
        version: 3,
        table,
        previous: Vec::new(),
    };
    MuxGoal {
        revision: Revision(4),
        services: vec![service],
        pools: vec![pool],
        backends: vec![backend],
        snat: Vec::new(),
        limits: vec![VipLimit {
            vip: "203.0.113.10".parse().unwrap(),
            packets_per_second: None,
            new_flows_per_second: VipRate::new(1000),
        }],
        ..MuxGoal::default()
    }
}

/// Of the goal, where no way to any host is known.
pub(crate) fn policy() -> Policy {
    Policy::build(&goal(), |_| None, Underlay("192.0.2.1".parse().unwrap())).unwrap()
}
