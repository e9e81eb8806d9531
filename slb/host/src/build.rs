use crate::fabric::UnderlayFib;
use crate::goal::{HostGoal, NatRule, Port, SnatLease};
use crate::policy::{LocalPort, MOST_FLOATING, Nat, Network, Place, Policy};
use crate::ranges::{AddressRange, Ranges};
use crate::snat::{Block, CLASSES, Leased, class};
use crate::{ALL_PORTS, ROUTER_MAC};
use penstock_engine::EncapTemplate;
use penstock_model::{Addr16, EncapId, Epoch, PortId, Protocol, Underlay, Vni};
use penstock_policy::{AclId, CompiledAcl, CompiledNetwork, NextHop, VirtualNetwork};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

/// A goal state that cannot be done, and which field of it is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct GoalError {
    /// Path in the goal state: `ports[2].acl`.
    pub field: String,
    pub problem: String,
}

/// What a goal state is compiled against: this machine.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The containers' devices: which port is which network interface. Ports of the goal that are not here are left out.
    pub local_ports: &'a [(PortId, String)],
    /// This host's underlay address.
    pub own: IpAddr,
    pub underlay_port: PortId,
    pub fib: Arc<dyn UnderlayFib>,
    /// Differs whenever `fib` answers differently.
    pub fib_generation: u64,
}

impl Policy {
    /// Compiles `goal`. `previous` is the policy that this one replaces: encapsulations keep their ids and networks that
    /// have not changed their epochs, so that flows of other tenants go on untouched.
    ///
    /// # Errors
    /// The first field that contradicts another or this machine.
    pub fn build(goal: &HostGoal, here: &Surroundings<'_>, previous: &Policy) -> Result<Self, GoalError> {
        let mut builder = Builder {
            goal,
            here,
            previous,
            lists: BTreeMap::new(),
            lists_before: previous.acls.iter().map(|acl| ((acl.network(), acl.name()), acl)).collect(),
            policy: Policy::empty(here.own, here.underlay_port, here.fib.clone()),
        };
        builder.policy.revision = goal.revision;
        builder.policy.fib_generation = here.fib_generation;
        builder.policy.last_epoch = previous.last_epoch;
        builder.policy.generation = previous.generation.wrapping_add(1);
        builder.policy.journal = previous.journal.clone();
        builder.vteps()?;
        builder.networks()?;
        builder.ports()?;
        builder.nat_rules()?;
        builder.snat()?;
        builder.probes()?;
        builder.encapsulations()?;
        builder.places()?;
        builder.site()?;
        builder.epochs();
        Ok(builder.policy)
    }
}

struct Builder<'a> {
    goal: &'a HostGoal,
    here: &'a Surroundings<'a>,
    previous: &'a Policy,
    /// Where a list is among `policy.acls`, as compiled for a network.
    lists: BTreeMap<(AclId, usize), usize>,
    /// By network and name.
    lists_before: HashMap<(&'a str, &'a str), &'a CompiledAcl>,
    policy: Policy,
}

type Done = Result<(), GoalError>;

fn refuse<T>(field: impl Display, problem: impl Display) -> Result<T, GoalError> {
    Err(GoalError { field: field.to_string(), problem: problem.to_string() })
}

impl Builder<'_> {
    fn vteps(&mut self) -> Done {
        let vteps: BTreeSet<Addr16> = self.goal.vteps.iter().map(|v| Addr16::from(v.0)).collect();
        self.policy.vteps = vteps.into_iter().collect();
        Ok(())
    }

    fn networks(&mut self) -> Done {
        for (i, n) in self.goal.networks.iter().enumerate() {
            if self.policy.by_vni.insert(n.vni, i).is_some() {
                return refuse(format_args!("networks[{i}].vni"), format_args!("another network has VNI {}", n.vni));
            }
            check_routes(i, n)?;
            // The lists of ports are compiled with the ports: endpoints of other hosts are guarded there.
            let compiled = CompiledNetwork::compile(&without_lists(n), &[])
                .map_err(|e| GoalError { field: format!("networks.{}", e.field), problem: e.problem.to_string() })?;
            let (tenant, vni, epoch) = (n.tenant, n.vni, n.epoch);
            self.policy.networks.push(Network { compiled, tenant, vni, epoch, places: Vec::new() });
        }
        Ok(())
    }

    fn ports(&mut self) -> Done {
        let slots = self.here.local_ports.iter().map(|(id, _)| usize::from(id.0) + 1).max().unwrap_or(0);
        self.policy.ports.resize(slots, None);
        let mut names = BTreeSet::new();
        for (i, port) in self.goal.ports.iter().enumerate() {
            let at = format!("ports[{i}]");
            if !names.insert(&port.network_interface) {
                return refuse(
                    format_args!("{at}.network_interface"),
                    format_args!("\"{}\" is there twice", port.network_interface),
                );
            }
            let network = self.network_of(port, &at)?;
            let acl = self.list_of(port.acl, network, &at)?;
            let local = self.here.local_ports.iter().find(|(_, name)| *name == port.network_interface);
            let Some((id, _)) = local else { continue };
            if self.policy.by_mac.insert((port.vni, port.mac), *id).is_some() {
                return refuse(format_args!("{at}.mac"), format_args!("another port of the network has {}", port.mac));
            }
            let compiled = LocalPort {
                id: *id,
                name: port.network_interface.clone(),
                network,
                mac: port.mac,
                addresses: port.addresses.clone(),
                own: port.addresses.iter().map(|a| Addr16::from(a.ip())).collect(),
                acl,
                forwards: port.forwards,
                nat: Vec::new(),
                floating: Vec::new(),
                snat: Vec::new(),
                leased_at: 0,
            };
            if let Some(slot) = self.policy.ports.get_mut(usize::from(id.0)) {
                *slot = Some(compiled);
            }
        }
        Ok(())
    }

    fn network_of(&self, port: &Port, at: &str) -> Result<usize, GoalError> {
        let Some((i, network)) =
            self.policy.by_vni.get(&port.vni).and_then(|i| Some((*i, self.policy.networks.get(*i)?)))
        else {
            return refuse(format_args!("{at}.vni"), format_args!("no network has VNI {}", port.vni));
        };
        if network.tenant != port.tenant {
            let problem = format!(
                "network \"{}\" belongs to tenant {}, the port to {}",
                network.name(),
                network.tenant,
                port.tenant
            );
            return refuse(format_args!("{at}.tenant"), problem);
        }
        if port.mac.is_group() || port.mac == ROUTER_MAC {
            return refuse(format_args!("{at}.mac"), format_args!("{} cannot be a container's", port.mac));
        }
        if let Some(a) = port.addresses.iter().find(|a| !network.compiled.contains(a.ip())) {
            return refuse(
                format_args!("{at}.addresses"),
                format_args!("{} is outside network \"{}\"", a.ip(), network.name()),
            );
        }
        if let Some(a) = port.addresses.iter().find(|a| network.is_gateway(a.ip())) {
            return refuse(format_args!("{at}.addresses"), format_args!("{} is the gateway of its subnet", a.ip()));
        }
        Ok(i)
    }

    fn list_of(&mut self, acl: Option<AclId>, network: usize, at: &str) -> Result<Option<usize>, GoalError> {
        let Some(id) = acl else { return Ok(None) };
        if let Some(known) = self.lists.get(&(id, network)) {
            return Ok(Some(*known));
        }
        let (name, prefixes) = self.goal.networks.get(network).map_or(("", &[][..]), |n| (&n.name, &n.prefixes));
        let Some(list) = self.goal.acls.get(id.0 as usize) else {
            return refuse(format_args!("{at}.acl"), format_args!("there is no access control list {}", id.0));
        };
        let compiled = CompiledAcl::compile(list, prefixes)
            .map_err(|e| GoalError { field: format!("acls.{}", e.field), problem: e.problem.to_string() })?;
        let before = self.lists_before.get(&(name, list.name.as_str())).copied();
        let index = self.policy.acls.len();
        self.policy.acls.push(compiled.continuing(name, self.policy.journal.as_ref(), before));
        self.lists.insert((id, network), index);
        Ok(Some(index))
    }

    fn goal_port(&self, name: &str, at: &str) -> Result<&Port, GoalError> {
        match self.goal.ports.iter().find(|p| p.network_interface == name) {
            Some(port) => Ok(port),
            None => refuse(format_args!("{at}.network_interface"), format_args!("no port is \"{name}\"")),
        }
    }

    fn nat_rules(&mut self) -> Done {
        for (i, rule) in self.goal.nat_rules.iter().enumerate() {
            let at = format!("nat_rules[{i}]");
            let port = self.goal_port(&rule.network_interface, &at)?;
            check_nat(rule, port, &at)?;
            let Some(id) = self.policy.port_of(&rule.network_interface) else { continue };
            let nat = Nat {
                service: rule.service,
                protocol: rule.protocol,
                vip: rule.vip.into(),
                vip_port: rule.vip_port,
                dip: rule.dip.0.into(),
                dip_port: rule.dip_port,
                is_floating: rule.floating,
                idle_seconds: rule.idle_seconds.unwrap_or_default(),
            };
            let Some(Some(local)) = self.policy.ports.get_mut(usize::from(id.0)) else { continue };
            if local.nat.iter().any(|n| (n.vip, n.protocol, n.vip_port) == (nat.vip, nat.protocol, nat.vip_port)) {
                let problem =
                    format!("another rule of the port is for {} {}:{}", rule.protocol, rule.vip, rule.vip_port);
                return refuse(format_args!("{at}.vip_port"), problem);
            }
            local.nat.push(nat);
            if nat.is_floating && !local.floats(nat.vip) {
                local.floating.push(nat.vip);
            }
        }
        self.remember_floating();
        Ok(())
    }

    /// Who leaves a pool goes on answering those who are connected: flows say to whom, this that it may.
    fn remember_floating(&mut self) {
        for local in self.policy.ports.iter_mut().flatten() {
            let same = |p: &&LocalPort| p.name == local.name && p.mac == local.mac;
            let Some(before) = self.previous.port(local.id).filter(same) else { continue };
            for vip in &before.floating {
                if local.floating.len() < MOST_FLOATING && !local.floating.contains(vip) && !local.own.contains(vip) {
                    local.floating.push(*vip);
                }
            }
        }
    }

    fn snat(&mut self) -> Done {
        for (i, lease) in self.goal.snat.iter().enumerate() {
            let at = format!("snat[{i}]");
            let port = self.goal_port(&lease.network_interface, &at)?;
            if !port.addresses.iter().any(|a| a.ip() == lease.dip.0) {
                return refuse(format_args!("{at}.dip"), format_args!("{} is not an address of its port", lease.dip.0));
            }
            if lease.vip.is_ipv4() != lease.dip.0.is_ipv4() {
                return refuse(format_args!("{at}.vip"), "not of the family of the container's address");
            }
            if lease.count == 0 || lease.first.checked_add(lease.count - 1).is_none() || lease.first == 0 {
                return refuse(format_args!("{at}.count"), format_args!("{} ports from {}", lease.count, lease.first));
            }
        }
        self.nothing_is_leased_twice()?;
        let mut leased: BTreeMap<(PortId, Addr16), [Vec<Block>; CLASSES]> = BTreeMap::new();
        for lease in &self.goal.snat {
            let Some(id) = self.policy.port_of(&lease.network_interface) else { continue };
            let tables = leased.entry((id, lease.dip.0.into())).or_default();
            for (_, table) in tables.iter_mut().enumerate().filter(|(class, _)| serves(lease, *class)) {
                table.push(block(lease));
            }
        }
        for ((id, dip), tables) in leased {
            let at = self.policy.leased.len();
            let Some(Some(local)) = self.policy.ports.get_mut(usize::from(id.0)) else { continue };
            if local.snat.is_empty() {
                local.leased_at = at;
            }
            local.snat.push(Leased::new(dip, tables));
            self.policy.leased.push((id, dip));
        }
        Ok(())
    }

    /// Two containers with one port would get each other's answers.
    fn nothing_is_leased_twice(&self) -> Done {
        for class in 0..CLASSES {
            let of_class = self.goal.snat.iter().enumerate().filter(|(_, lease)| serves(lease, class));
            let mut all: Vec<(Block, usize, &SnatLease)> = of_class.map(|(i, l)| (block(l), i, l)).collect();
            all.sort_unstable_by_key(|(block, i, _)| (*block, *i));
            // The lease that reaches furthest so far.
            let mut before: Option<(Block, usize, &SnatLease)> = None;
            for (block, i, lease) in all {
                let Some((other, n, owner)) = before.filter(|(o, ..)| o.vip == block.vip && block.first <= o.last)
                else {
                    before = Some((block, i, lease));
                    continue;
                };
                if (&owner.network_interface, owner.dip) != (&lease.network_interface, lease.dip) {
                    let problem = format!("{} port {} is of snat[{n}], another container's", lease.vip, block.first);
                    return refuse(format_args!("snat[{i}].first"), problem);
                }
                if block.last > other.last {
                    before = Some((block, i, lease));
                }
            }
        }
        Ok(())
    }

    fn probes(&self) -> Done {
        for (i, probe) in self.goal.probes.iter().enumerate() {
            let at = format!("probes[{i}]");
            let port = self.goal_port(&probe.network_interface, &at)?;
            if !port.addresses.iter().any(|a| a.ip() == probe.dip.0) {
                return refuse(format_args!("{at}.dip"), format_args!("{} is not an address of its port", probe.dip.0));
            }
            if probe.interval_seconds == 0 {
                return refuse(format_args!("{at}.interval_seconds"), "must be at least 1");
            }
            if probe.count == 0 {
                return refuse(format_args!("{at}.count"), "must be at least 1");
            }
        }
        Ok(())
    }

    /// One encapsulation for each network and each other host or gateway that it uses.
    fn encapsulations(&mut self) -> Done {
        let mut wanted = BTreeSet::new();
        for (i, n) in self.goal.networks.iter().enumerate() {
            let hosts = n.endpoints.iter().enumerate().map(|(k, e)| (e.host, format!("endpoints[{k}].host")));
            let gateways = n.routes.iter().enumerate().filter_map(|(k, r)| match r.next_hop {
                NextHop::Vtep { addr, .. } => Some((addr, format!("routes[{k}].next_hop"))),
                _ => None,
            });
            for (Underlay(host), field) in hosts.chain(gateways) {
                if host.is_ipv4() != self.here.own.is_ipv4() {
                    let problem = format!("{host} and this host's {} are of different families", self.here.own);
                    return refuse(format_args!("networks[{i}].{field}"), problem);
                }
                if host != self.here.own {
                    wanted.insert((n.vni, host));
                }
            }
        }
        self.assign_encap_ids(&wanted);
        Ok(())
    }

    /// Ids that are still wanted stay. A free id may be given anew: whoever used it was of a network that has changed, so its
    /// flows are resolved again before they are replayed.
    fn assign_encap_ids(&mut self, wanted: &BTreeSet<(Vni, IpAddr)>) {
        let mut taken = BTreeSet::new();
        for key in wanted {
            if let Some(id) = self.previous.encap_ids.get(key) {
                self.policy.encap_ids.insert(*key, *id);
                taken.insert(id.0);
            }
        }
        let mut free = (0..EncapId::NONE.0).filter(|id| !taken.contains(id));
        for key in wanted {
            if !self.policy.encap_ids.contains_key(key) {
                let Some(id) = free.next() else { return };
                self.policy.encap_ids.insert(*key, EncapId(id));
            }
        }
        let slots = self.policy.encap_ids.values().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        self.policy.encaps.resize(slots, None);
        let (own, out) = (self.here.own, self.here.underlay_port);
        for ((vni, host), id) in &self.policy.encap_ids {
            let template = self.here.fib.hop(*host).and_then(|hop| {
                EncapTemplate::vxlan(Underlay(own), Underlay(*host), *vni, hop.eth_src, hop.eth_dst, out)
            });
            if let Some(slot) = self.policy.encaps.get_mut(id.0 as usize) {
                *slot = template;
            }
        }
    }

    fn places(&mut self) -> Done {
        let ports: HashMap<&str, &Port> = self.goal.ports.iter().map(|p| (p.network_interface.as_str(), p)).collect();
        for (i, n) in self.goal.networks.iter().enumerate() {
            for (k, e) in n.endpoints.iter().enumerate().filter(|(_, e)| e.host.0 == self.here.own) {
                let Some(port) = ports.get(e.network_interface.as_str()) else { continue };
                // Else what is for the endpoint would go to a port that is another's, or that does not know it.
                if port.vni != n.vni || !port.addresses.iter().any(|a| a.ip() == e.addr.0) {
                    let problem = format!(
                        "\"{}\" is of network id {} and has not {} of network id {}",
                        port.network_interface, port.vni, e.addr.0, n.vni
                    );
                    return refuse(format_args!("networks[{i}].endpoints[{k}].network_interface"), problem);
                }
            }
            let places = n.endpoints.iter().map(|e| self.place(n.vni, e)).collect();
            if let Some(network) = self.policy.networks.get_mut(i) {
                network.places = places;
            }
        }
        Ok(())
    }

    /// What the goal says, and the nodes that are named otherwise.
    fn site(&mut self) -> Done {
        for (name, ranges) in [("site", &self.goal.site), ("nat_exemptions", &self.goal.nat_exemptions)] {
            if let Some(i) = ranges.iter().position(|r| !r.is_sound()) {
                return refuse(format_args!("{name}[{i}]"), "is no range of addresses");
            }
        }
        let vteps = self.goal.vteps.iter().map(|v| v.0);
        let hosts = self.policy.encap_ids.keys().map(|(_, host)| *host);
        let nodes = std::iter::once(self.here.own).chain(vteps).chain(hosts).map(AddressRange::from);
        self.policy.site = self.goal.site.iter().copied().chain(nodes).collect();
        self.policy.nat_exemptions = self.goal.nat_exemptions.iter().copied().collect::<Ranges>();
        Ok(())
    }

    /// Where an endpoint is; `None` if it is of this host and no device is configured for it.
    fn place(&self, vni: Vni, e: &penstock_policy::Endpoint) -> Option<Place> {
        if e.host.0 == self.here.own {
            return self.policy.port_of(&e.network_interface).map(Place::Local);
        }
        self.policy.encap_to(vni, e.host).map(Place::Remote)
    }

    /// Keeps the epoch of each network about which nothing has changed and gives the others one that was never used.
    fn epochs(&mut self) {
        let mut last = self.policy.last_epoch;
        let fresh: Vec<Option<Epoch>> = (0..self.policy.networks.len()).map(|i| self.unchanged(i)).collect();
        for (network, kept) in self.policy.networks.iter_mut().zip(fresh) {
            network.epoch = kept.unwrap_or_else(|| {
                last = last.wrapping_add(1);
                Epoch(last)
            });
        }
        self.policy.last_epoch = last;
    }

    fn leads_out_as_before(&self) -> bool {
        (&self.previous.site, &self.previous.nat_exemptions) == (&self.policy.site, &self.policy.nat_exemptions)
    }

    fn unchanged(&self, index: usize) -> Option<Epoch> {
        let now = self.policy.networks.get(index)?;
        let before = self.previous.network_by_vni(now.vni)?;
        let same = before.compiled.network().epoch == now.compiled.network().epoch
            && before.tenant == now.tenant
            && self.previous.fib_generation == self.policy.fib_generation
            && ports_of(self.previous, now.vni).eq(ports_of(&self.policy, now.vni))
            && (self.leads_out_as_before() || !ports_of(&self.policy, now.vni).any(|(.., snat)| !snat.is_empty()));
        same.then_some(before.epoch)
    }
}

/// What flows depend on of a port, apart from indices into tables of one policy.
type OfPort<'a> = ((PortId, penstock_model::Mac, bool), &'a [Addr16], &'a [Nat], &'a [Leased]);

fn ports_of(policy: &Policy, vni: Vni) -> impl Iterator<Item = OfPort<'_>> {
    let of = move |p: &&LocalPort| policy.network_of(p).is_some_and(|n| n.vni == vni);
    policy
        .ports
        .iter()
        .flatten()
        .filter(of)
        .map(|p| ((p.id, p.mac, p.forwards), p.own.as_slice(), p.nat.as_slice(), p.snat.as_slice()))
}

/// Whether flows of the class may leave by the lease.
fn serves(lease: &SnatLease, of: usize) -> bool {
    lease.protocol.is_none_or(|p| class(p) == Some(of))
}

fn block(lease: &SnatLease) -> Block {
    Block { vip: lease.vip.into(), first: lease.first, last: lease.first.saturating_add(lease.count.saturating_sub(1)) }
}

fn check_routes(index: usize, network: &VirtualNetwork) -> Done {
    match network.routes.iter().position(|r| matches!(r.next_hop, NextHop::Tunnel(_))) {
        Some(k) => refuse(format_args!("networks[{index}].routes[{k}].next_hop"), "a host has no tunnels"),
        None => Ok(()),
    }
}

fn without_lists(network: &VirtualNetwork) -> VirtualNetwork {
    let mut network = network.clone();
    for endpoint in &mut network.endpoints {
        endpoint.acl = None;
    }
    network
}

fn check_nat(rule: &NatRule, port: &Port, at: &str) -> Done {
    if !port.addresses.iter().any(|a| a.ip() == rule.dip.0) {
        return refuse(format_args!("{at}.dip"), format_args!("{} is not an address of its port", rule.dip.0));
    }
    if rule.vip.is_ipv4() != rule.dip.0.is_ipv4() {
        return refuse(
            format_args!("{at}.vip"),
            format_args!("{} and {} are of different families", rule.vip, rule.dip.0),
        );
    }
    if !matches!(rule.protocol, Protocol::TCP | Protocol::UDP) {
        return refuse(format_args!("{at}.protocol"), format_args!("{} has no ports", rule.protocol));
    }
    if (rule.floating || rule.vip_port == ALL_PORTS) && rule.dip_port != rule.vip_port {
        let why = if rule.floating { "a floating virtual IP" } else { "a rule for all ports" };
        let problem = format!("{} is not {}, but {why} translates no port", rule.dip_port, rule.vip_port);
        return refuse(format_args!("{at}.dip_port"), problem);
    }
    if rule.floating && port.addresses.iter().any(|a| a.ip() == rule.vip) {
        return refuse(format_args!("{at}.vip"), format_args!("{} is an own address of the port", rule.vip));
    }
    if rule.idle_seconds == Some(0) {
        return refuse(format_args!("{at}.idle_seconds"), "must be at least 1");
    }
    Ok(())
}
