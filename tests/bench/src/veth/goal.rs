//! One virtual IP with a hundred backends: as a mux's goal, and as rules of nftables.
use penstock_model::{BackendId, Dip, Mac, Overlay, PoolId, Protocol, Revision, ServiceId, Underlay, Vni};
use penstock_mux_proto::{Backend, Distribution, MuxGoal, Pool, Service};
use penstock_spread::SlotTable;
use std::net::{IpAddr, Ipv4Addr};

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const PORT: u16 = 80;
const BACKENDS: u8 = 100;
const HOSTS: u8 = 16;

pub(crate) fn backend_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, n + 1)
}

pub(crate) fn is_backend(address: Ipv4Addr) -> bool {
    (0..BACKENDS).any(|n| backend_address(n) == address)
}

/// The slots have settled, as they are but for a while after each change.
pub(crate) fn goal() -> MuxGoal {
    let members: Vec<_> = (0..BACKENDS).map(|n| (BackendId(n.into()), 1)).collect();
    MuxGoal {
        revision: Revision(1),
        hash_seed: [11, 22],
        services: vec![Service {
            id: ServiceId(0),
            name: "rule".to_owned(),
            vip: VIP.into(),
            protocol: Protocol::UDP,
            port: PORT,
            pool: PoolId(0),
            distribution: Distribution::Default,
        }],
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

fn backend(n: u8) -> Backend {
    Backend {
        id: BackendId(n.into()),
        name: format!("nic{n}"),
        dip: Dip { vni: Vni::new(5000).unwrap(), addr: Overlay(backend_address(n).into()) },
        mac: Mac([2, 1, 0, 0, 0, n]),
        host: Underlay(IpAddr::from([198, 51, 100, n % HOSTS + 1])),
    }
}

pub(crate) fn nft_rules() -> String {
    let map: Vec<String> = (0..BACKENDS).map(|n| format!("{n} : {}", backend_address(n))).collect();
    let map = map.join(", ");
    format!(
        "table ip bench {{
            chain translate {{
                type nat hook prerouting priority dstnat
                ip daddr {VIP} udp dport {PORT} dnat to jhash ip saddr . udp sport mod {BACKENDS} map {{ {map} }}
            }}
        }}
        "
    )
}
