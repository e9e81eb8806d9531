use crate::{CompiledNetwork, Endpoint, Lpm, PolicyError, Problem, Target};
use ipnetwork::IpNetwork;
use penstock_model::{FlowKey, Overlay};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where an operator's route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserHop {
    /// Endpoints of the network that pass on what is not for them. Which one of several follows from the two addresses of a
    /// packet, whichever of them sends: both directions of a connection go by the same.
    Appliances(Vec<Overlay<IpAddr>>),
    /// The endpoints of the network themselves.
    Network,
    /// The connections of the network.
    Gateway,
    /// Out of the overlay.
    Internet,
    Discard,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoute {
    /// The name that the operator gave it: shown by `trace`.
    pub name: String,
    pub prefix: IpNetwork,
    pub next_hop: UserHop,
}

/// Routes that come before the network's own where their prefix is as long or longer. The network's own are its address
/// space and the prefixes of its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    pub name: String,
    /// Who sends by it: the endpoints of these subnets.
    pub subnets: Vec<IpNetwork>,
    /// Whether what comes from sites goes by it.
    pub from_sites: bool,
    pub routes: Vec<UserRoute>,
}

/// Who sends: this says which table is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// An endpoint, by its own address, which need not be the packet's source.
    Endpoint(IpAddr),
    Site,
}

/// Where a packet goes, an operator's routes considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// As [`CompiledNetwork::lookup`] says.
    System(Target<'a>),
    Appliance {
        index: u32,
        endpoint: &'a Endpoint,
        route: &'a UserRoute,
    },
    Internet {
        route: &'a UserRoute,
    },
    Discard {
        route: &'a UserRoute,
    },
}

/// The tables of one network.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserRoutes {
    tables: Vec<(RouteTable, Lpm<u32>)>,
}

impl UserRoutes {
    pub(crate) fn compile(tables: &[RouteTable]) -> Result<Self, PolicyError> {
        let mut seen: BTreeMap<IpNetwork, usize> = BTreeMap::new();
        let mut out = Vec::with_capacity(tables.len());
        for (t, table) in tables.iter().enumerate() {
            for (s, subnet) in table.subnets.iter().enumerate() {
                if let Some(first) = seen.insert(*subnet, t) {
                    let problem = Problem::Duplicate { value: subnet.to_string(), first: format!("tables[{first}]") };
                    return Err(PolicyError::new(format_args!("tables[{t}].subnets[{s}]"), problem));
                }
            }
            let routes = (0u32..).zip(&table.routes).map(|(index, route)| (route.prefix, index));
            let lpm = Lpm::build(routes).map_err(|e| e.of(&format!("tables[{t}].routes")))?;
            out.push((table.clone(), lpm));
        }
        Ok(Self { tables: out })
    }

    /// The route of the sender's table for `dst`.
    fn find(&self, from: Sender, dst: IpAddr) -> Option<&UserRoute> {
        let is_asked = |table: &RouteTable| match from {
            Sender::Site => table.from_sites,
            Sender::Endpoint(addr) => table.subnets.iter().any(|subnet| subnet.contains(addr)),
        };
        let (table, lpm) = self.tables.iter().find(|(table, _)| is_asked(table))?;
        table.routes.get(*lpm.lookup(dst)? as usize)
    }
}

impl CompiledNetwork {
    /// Where a packet of `flow` goes that `from` sends. No allocation, no lock.
    #[must_use]
    pub fn way(&self, from: Sender, flow: &FlowKey) -> Way<'_> {
        let dst = flow.dst.to_ip();
        let system = self.lookup(dst);
        let own_length = match system {
            // The router's own addresses are nobody else's.
            Target::Gateway { .. } => return Way::System(system),
            Target::Route { route, .. } => Some(route.prefix.prefix()),
            Target::Endpoint { .. } | Target::NoRoute => self.own_prefix(dst).map(|p| p.prefix()),
        };
        let Some(route) = self.user_routes().find(from, dst) else { return Way::System(system) };
        if own_length.is_some_and(|own| own > route.prefix.prefix()) {
            return Way::System(system);
        }
        match (&route.next_hop, system) {
            (UserHop::Appliances(all), _) => self.appliance(all, from, flow, route),
            (UserHop::Network, Target::Endpoint { .. }) | (UserHop::Gateway, Target::Route { .. }) => {
                Way::System(system)
            }
            (UserHop::Network | UserHop::Gateway, _) => Way::System(Target::NoRoute),
            (UserHop::Internet, _) => Way::Internet { route },
            (UserHop::Discard, _) => Way::Discard { route },
        }
    }

    /// What an appliance itself sends, by whichever of its addresses, is not led back to it. Where none of a route's appliances is there, nothing passes: they
    /// may be there to guard.
    fn appliance<'a>(&'a self, all: &[Overlay<IpAddr>], from: Sender, flow: &FlowKey, route: &'a UserRoute) -> Way<'a> {
        if let Sender::Endpoint(own) = from
            && all.iter().any(|addr| addr.0 == own || self.is_of_one_interface(addr.0, own))
        {
            return Way::System(self.lookup(flow.dst.to_ip()));
        }
        let there = all.iter().filter_map(|addr| Some((addr.0, self.endpoint(addr.0)?)));
        match there.max_by_key(|(addr, _)| weight(flow, *addr)) {
            Some((_, (index, endpoint))) => Way::Appliance { index, endpoint, route },
            None => Way::Discard { route },
        }
    }

    fn is_of_one_interface(&self, a: IpAddr, b: IpAddr) -> bool {
        let interface = |addr| self.endpoint(addr).map(|(_, endpoint)| &endpoint.network_interface);
        interface(a).is_some_and(|a| interface(b) == Some(a))
    }
}

/// Highest random weight: when an appliance comes or goes, no flows of others change places. The same for both directions.
fn weight(flow: &FlowKey, appliance: IpAddr) -> u64 {
    let number = |addr: penstock_model::Addr16| u128::from_be_bytes(addr.0);
    let pair = number(flow.src).wrapping_add(number(flow.dst));
    let appliance = number(appliance.into());
    [pair, pair >> 64, appliance, appliance >> 64].into_iter().fold(0, |hash, word| mix(hash ^ word as u64))
}

/// The finalizer of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
