use penstock_model::{BackendId, Dip, Mac, PoolId, Protocol, Revision, ServiceId, Underlay};
use penstock_routing_proto::RouterGoal;
use penstock_spread::SlotTable;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Previous owners of a slot that are remembered.
pub const MAX_PREVIOUS: usize = penstock_wire::geneve::MAX_NEXT_OWNERS;

/// Everything that a mux should be doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct MuxGoal {
    pub revision: Revision,
    /// Secret of the slot hash. The same on every mux, so that any of them takes over a flow without moving it; unknown to
    /// clients, so that they cannot aim at one backend.
    #[serde(default)]
    pub hash_seed: [u64; 2],
    pub services: Vec<Service>,
    pub pools: Vec<Pool>,
    pub backends: Vec<Backend>,
    #[serde(default)]
    pub snat: Vec<SnatBlock>,
    /// The routers that virtual IPs are announced to; none: others see to it that packets come here.
    #[serde(default)]
    pub router: Option<RouterGoal>,
    /// It is taken out of service: routers are to use others. What comes all the same is forwarded.
    #[serde(default)]
    pub draining: bool,
    /// At most one for each virtual IP; one that is not named has no limit.
    #[serde(default)]
    pub limits: Vec<VipLimit>,
}

/// What a virtual IP may take of one mux.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipLimit {
    pub vip: IpAddr,
    pub packets_per_second: Option<VipRate>,
    /// TCP connections that are opened, and other flows that the flow table would have to remember.
    pub new_flows_per_second: Option<VipRate>,
}

/// So many in a second: from 1 to a hundred million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VipRate(u32);

impl VipRate {
    pub const MAX: Self = Self(100_000_000);

    #[must_use]
    pub const fn new(per_second: u32) -> Option<Self> {
        if per_second >= 1 && per_second <= Self::MAX.0 { Some(Self(per_second)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for VipRate {
    type Error = String;

    fn try_from(per_second: u32) -> Result<Self, String> {
        Self::new(per_second).ok_or_else(|| format!("{per_second} is not from 1 to {}", Self::MAX.0))
    }
}

impl From<VipRate> for u32 {
    fn from(rate: VipRate) -> Self {
        rate.get()
    }
}

/// Ports of a virtual IP that a container sends by: what comes back to them is for it. `first` is a multiple of `1 << shift`, the
/// number of ports, which is one for each virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatBlock {
    pub vip: IpAddr,
    pub first: u16,
    pub shift: u8,
    pub backend: BackendId,
}

/// A frontend of a load balancing rule: VIP, protocol, port -> pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    /// `loadBalancers/<lb>/loadBalancingRules/<rule>`: shown by `trace` and metrics.
    pub name: String,
    pub vip: IpAddr,
    pub protocol: Protocol,
    /// [`ALL_PORTS`]: each that no other rule of the virtual IP is for.
    pub port: u16,
    pub pool: PoolId,
    pub distribution: Distribution,
}

/// The port of a rule that is for all ports.
pub const ALL_PORTS: u16 = 0;

/// Which fields choose the slot (`loadDistribution` of the rule).
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

/// A backend pool with its table, and the owners before while changes settle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub id: PoolId,
    pub name: String,
    /// Grows with every change of `table`.
    pub version: u64,
    pub table: SlotTable,
    /// Who owned each slot before its last change, before the one before that, and so on: packets that cannot be the first of a
    /// flow may belong to them. Healthy members only; where a slot has had fewer owners, one that it has otherwise. At most
    /// [`MAX_PREVIOUS`].
    #[serde(default)]
    pub previous: Vec<SlotTable>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub id: BackendId,
    /// `resourceId` of the network interface.
    pub name: String,
    pub dip: Dip,
    /// The container's Ethernet address: the inner destination, by which the host finds the port.
    pub mac: Mac,
    pub host: Underlay<IpAddr>,
}
