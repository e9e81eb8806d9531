//! A mux with an IPv4 and an IPv6 virtual IP over a pool of eight, some of which come and go.
use crate::check::{Seen, see};
use crate::engine::Node;
use crate::program::Record;
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowTable;
use penstock_model::{
    BackendId, Dip, Mac, Overlay, PoolId, PortId, Protocol, Revision, ServiceId, Underlay, Verdict, Vni,
};
use penstock_mux_proto::{Backend, Distribution, Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy, Pool, Service};
use penstock_spread::SlotTable;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

pub const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8:100::10"];
const OWN: &str = "192.0.2.1";
const UNDERLAY: PortId = PortId(0);

pub(crate) struct MuxNode {
    engine: Port<MuxResolver>,
    policies: Arc<ArcSwap<Policy>>,
    published: usize,
}

impl MuxNode {
    pub(crate) fn new() -> Self {
        let policies = Arc::new(ArcSwap::new(Arc::clone(&compiled()[0])));
        let resolver = MuxResolver::new(Arc::clone(&policies), [1, 2], Foreign::Drop);
        let mut engine = Port::new(resolver, FlowTable::with_probation(256, 256));
        engine.ensure_counters(64);
        Self { engine, policies, published: 0 }
    }
}

/// A backend leaves, comes back, and so on. Compiled once: that is not what is tested here.
fn compiled() -> &'static [Arc<Policy>] {
    static ALL: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
        let mut goal = goal();
        let mut all = vec![Arc::new(build(&goal))];
        for version in 2..10 {
            let pool = &mut goal.pools[0];
            pool.version = version;
            let members: Vec<_> = (1..=8).filter(|id| *id != version as u32).map(|id| (BackendId(id), 1)).collect();
            let next = SlotTable::build(Some(&pool.table), &members);
            let before = std::mem::replace(&mut pool.table, next);
            pool.previous = (!version.is_multiple_of(3)).then_some(before).into_iter().collect();
            goal.revision.0 += 1;
            let next = build(&goal).succeed(all.last().unwrap());
            all.push(Arc::new(next));
        }
        all
    });
    &ALL
}

impl Node for MuxNode {
    type Resolver = MuxResolver;

    fn engine(&mut self) -> &mut Port<MuxResolver> {
        &mut self.engine
    }

    fn port(&self, record: &Record<'_>) -> PortId {
        PortId(record.port(2))
    }

    fn publish(&mut self) {
        self.published += 1;
        if let Some(policy) = compiled().get(self.published) {
            self.policies.store(Arc::clone(policy));
        }
    }

    fn check(&self, _: PortId, _: Option<&Seen>, verdict: Verdict, output: &[u8]) {
        let Verdict::Transmit(_) = verdict else { return };
        let out = see(output).expect("what leaves is a packet");
        if let Some((vni, inner)) = out.inner.filter(|_| out.outer.src.to_ip() == ip(OWN)) {
            assert!(VIPS.map(ip).contains(&inner.dst.to_ip()), "only packets for a virtual IP are encapsulated");
            let mac = output[usize::from(inner.l2) + 5];
            assert_eq!(vni.get(), 5000 + u32::from(mac) % 2, "another tenant's network");
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn build(goal: &MuxGoal) -> Policy {
    let next_hop =
        |_| Some(NextHopInfo { eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 1, 1]), out: UNDERLAY });
    Policy::build(goal, next_hop, Underlay(ip(OWN))).unwrap()
}

fn goal() -> MuxGoal {
    let mut services = Vec::new();
    for vip in VIPS {
        for (protocol, port, distribution) in [
            (Protocol::TCP, 80, Distribution::Default),
            (Protocol::UDP, 53, Distribution::SourceIp),
            (Protocol::TCP, 443, Distribution::SourceIpProtocol),
        ] {
            let id = ServiceId(services.len() as u32 + 1);
            let name = format!("rule{}", id.0);
            services.push(Service { id, name, vip: ip(vip), protocol, port, pool: PoolId(1), distribution });
        }
    }
    let backend = |id: u32| Backend {
        id: BackendId(id),
        name: format!("web{id}"),
        dip: Dip { vni: Vni::new(5000 + id % 2).unwrap(), addr: Overlay(ip(&format!("10.0.0.{id}"))) },
        mac: Mac([2, 0x50, 0, 0, 0, id as u8]),
        host: Underlay(ip(&format!("198.51.100.{}", id % 2 + 1))),
    };
    let members: Vec<_> = (1..=8).map(|id| (BackendId(id), 1)).collect();
    let table = SlotTable::build(None, &members);
    MuxGoal {
        revision: Revision(1),
        hash_seed: [11, 22],
        services,
        pools: vec![Pool { id: PoolId(1), name: "pool".into(), version: 1, table, previous: Vec::new() }],
        backends: (1..=8).map(backend).collect(),
        snat: Vec::new(),
        router: None,
        draining: false,
        limits: Vec::new(),
    }
}
