use penstock_model::{Dip, Mac, Protocol, Underlay};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// All load balancers, as their operators want them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LbIntent {
    pub services: Vec<ServiceIntent>,
    pub pools: Vec<PoolIntent>,
    /// What pools may name, and have named: the endpoints that exist. Those that no pool names or has named lately are not
    /// planned.
    pub backends: Vec<BackendIntent>,
}

/// One frontend of one rule: VIP, protocol, port -> pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceIntent {
    /// Unique, as `loadBalancers/web/loadBalancingRules/http`; with the frontend's name behind it if a rule has several.
    pub name: String,
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// [`PoolIntent::name`].
    pub pool: String,
    /// The probe that decides about the pool's members for this rule. `None`: all are always healthy.
    pub probe: Option<String>,
    pub all_down: AllDown,
    pub distribution: Distribution,
}

/// Which fields of a packet choose the slot (`loadDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Distribution {
    /// 5-tuple.
    #[default]
    Default,
    /// 2-tuple: addresses.
    SourceIp,
    /// 3-tuple: addresses and protocol.
    SourceIpProtocol,
}

/// A backend address pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolIntent {
    /// Unique, as `loadBalancers/web/backendAddressPools/servers`.
    pub name: String,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// [`BackendIntent::name`].
    pub backend: String,
    /// Share of new connections, relative to the others. 0: drains; connections that it has go on while the change settles.
    pub weight: u32,
}

/// What happens to new connections of a rule when every member is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum AllDown {
    /// The table is empty, muxes drop with `NoHealthyBackend`: what the Network Controller's load balancer does.
    #[default]
    Drop,
    /// All members are in the table: better a slow answer than none, where probes are known to overshoot.
    Serve,
    /// Those who were in the table last stay in it, as far as they are members still.
    Keep,
}

/// An address that can be a member of pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendIntent {
    /// Unique, as `networkInterfaces/web1/ipConfigurations/ip1`.
    pub name: String,
    /// `resourceId` of the network interface: by it the probes' results are found.
    pub network_interface: String,
    pub dip: Dip,
    pub mac: Mac,
    pub host: Underlay<IpAddr>,
    /// It gets no packets any more, also none of older connections.
    pub retired: bool,
}
