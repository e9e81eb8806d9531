use crate::ALL_PORTS;
use crate::fabric::UnderlayFib;
use crate::ranges::Ranges;
use crate::snat::Leased;
use ipnetwork::IpNetwork;
use penstock_engine::EncapTemplate;
use penstock_model::{
    Addr16, DropReason, EncapId, Epoch, Mac, PortId, Protocol, Revision, ServiceId, TenantId, Underlay, Vni,
};
use penstock_policy::{AclJournal, CompiledAcl, CompiledNetwork, Endpoint, Sender, Target};
use penstock_wire::Headers;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What the host does, compiled from a goal state and the state of the provider network. Immutable; replaced whole.
///
/// Memory: about 200 bytes an endpoint, 90 an encapsulation (one for each network and peer host), 64 a NAT rule, 64 an own address range
/// of the site, 120 a block of leased ports.
#[derive(Debug)]
pub struct Policy {
    pub(crate) revision: Revision,
    pub(crate) own: IpAddr,
    pub(crate) underlay_port: PortId,
    /// Sorted.
    pub(crate) vteps: Vec<Addr16>,
    pub(crate) networks: Vec<Network>,
    pub(crate) by_vni: HashMap<Vni, usize>,
    /// By [`PortId`]; `None`: a device that no port of the goal uses.
    pub(crate) ports: Vec<Option<LocalPort>>,
    pub(crate) by_mac: HashMap<(Vni, Mac), PortId>,
    pub(crate) encaps: Vec<Option<EncapTemplate>>,
    pub(crate) encap_ids: HashMap<(Vni, IpAddr), EncapId>,
    /// Addresses of this host, of the fabric's other nodes and of the site: no container's affair.
    pub(crate) site: Ranges,
    /// Where outbound NAT does not go.
    pub(crate) nat_exemptions: Ranges,
    /// Addresses that have leased ports, in the order of their ports: what is counted for each is at the same place.
    pub(crate) leased: Vec<(PortId, Addr16)>,
    /// One for each list and network that uses it.
    pub(crate) acls: Vec<CompiledAcl>,
    pub(crate) fib: Arc<dyn UnderlayFib>,
    /// The generation of `fib` that epochs were given for.
    pub(crate) fib_generation: u64,
    /// The last epoch given to any network: epochs are never shared.
    pub(crate) last_epoch: u32,
    /// Counts policies, one after the other.
    pub(crate) generation: u32,
    pub(crate) journal: Option<AclJournal>,
}

/// Virtual IPs that a container once had which are remembered, so that its connections go on when it leaves the pool.
pub(crate) const MOST_FLOATING: usize = 64;

/// A container's port, as packets need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalPort {
    pub(crate) id: PortId,
    pub(crate) name: String,
    pub(crate) network: usize,
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpNetwork>,
    /// The same addresses as packets carry them.
    pub(crate) own: Vec<Addr16>,
    pub(crate) acl: Option<usize>,
    pub(crate) forwards: bool,
    pub(crate) nat: Vec<Nat>,
    /// Virtual IPs that the container has itself or, as far as [`MOST_FLOATING`] reaches, had before: a source of answers.
    pub(crate) floating: Vec<Addr16>,
    /// By address, sorted.
    pub(crate) snat: Vec<Leased>,
    /// Where the first of `snat` is in [`Policy::leased`].
    pub(crate) leased_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nat {
    pub(crate) service: ServiceId,
    pub(crate) protocol: Protocol,
    pub(crate) vip: Addr16,
    pub(crate) vip_port: u16,
    pub(crate) dip: Addr16,
    pub(crate) dip_port: u16,
    /// The container has the virtual IP itself.
    pub(crate) is_floating: bool,
    /// Of established TCP connections; 0: [`penstock_engine::TcpIdle`] says.
    pub(crate) idle_seconds: u16,
}

impl Nat {
    /// The destination that the container sees.
    pub(crate) fn delivered(&self) -> Addr16 {
        if self.is_floating { self.vip } else { self.dip }
    }

    fn has_all_ports(&self) -> bool {
        self.vip_port == ALL_PORTS
    }

    /// The rule as it is for one port of all that it has.
    fn at(&self, port: u16) -> Self {
        if self.has_all_ports() { Self { vip_port: port, dip_port: port, ..*self } } else { *self }
    }
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) compiled: CompiledNetwork,
    pub(crate) tenant: TenantId,
    pub(crate) vni: Vni,
    /// Of this node: unique over all networks and generations, so that a flow never outlives what it was decided by.
    pub(crate) epoch: Epoch,
    /// Where each endpoint of the network is; `None`: of this host, but without a device.
    pub(crate) places: Vec<Option<Place>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Local(PortId),
    Remote(EncapId),
}

impl Policy {
    /// The policy before any goal state: every packet is dropped.
    #[must_use]
    pub fn empty(own: IpAddr, underlay_port: PortId, fib: Arc<dyn UnderlayFib>) -> Self {
        Self {
            revision: Revision::default(),
            own,
            underlay_port,
            vteps: Vec::new(),
            networks: Vec::new(),
            by_vni: HashMap::new(),
            ports: Vec::new(),
            by_mac: HashMap::new(),
            encaps: Vec::new(),
            encap_ids: HashMap::new(),
            site: Ranges::default(),
            nat_exemptions: Ranges::default(),
            leased: Vec::new(),
            acls: Vec::new(),
            fib,
            fib_generation: 0,
            last_epoch: 0,
            generation: 0,
            journal: None,
        }
    }

    /// This policy and those built after it note there what rules decide that are logged.
    #[must_use]
    pub fn with_journal(mut self, journal: AclJournal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// What rules have decided, by network, list and rule.
    pub fn acl_decisions(&self) -> impl Iterator<Item = (&str, &str, &str, u64)> {
        let of_list = |acl| CompiledAcl::decisions(acl).map(|(rule, count)| (acl.network(), acl.name(), rule, count));
        self.acls.iter().flat_map(of_list)
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Differs from that of the policy before: what was decided by one of another generation may not hold.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Underlay addresses whose next hop packets will need: to be solicited.
    #[must_use]
    pub fn destinations(&self) -> BTreeSet<IpAddr> {
        let vteps = self.vteps.iter().map(|a| a.to_ip());
        self.encap_ids.keys().map(|(_, host)| *host).chain(vteps).filter(|a| *a != self.own).collect()
    }

    /// The port of a network interface, if this host has it.
    #[must_use]
    pub fn port_of(&self, network_interface: &str) -> Option<PortId> {
        self.ports.iter().flatten().find(|p| p.name == network_interface).map(|p| p.id)
    }

    /// The Ethernet address of the container behind `port`.
    #[must_use]
    pub fn mac_of(&self, port: PortId) -> Option<Mac> {
        self.port(port).map(|p| p.mac)
    }

    pub(crate) fn port(&self, id: PortId) -> Option<&LocalPort> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    pub(crate) fn network_of(&self, port: &LocalPort) -> Option<&Network> {
        self.networks.get(port.network)
    }

    pub(crate) fn network_by_vni(&self, vni: Vni) -> Option<&Network> {
        self.by_vni.get(&vni).and_then(|i| self.networks.get(*i))
    }

    pub(crate) fn trusts(&self, source: Addr16) -> bool {
        self.vteps.binary_search(&source).is_ok()
    }

    /// Where what is counted of the leased ports of `dip` stands.
    pub(crate) fn leased_place(&self, port: PortId, dip: Addr16) -> Option<usize> {
        let port = self.port(port)?;
        port.leased_index(dip).map(|i| port.leased_at + i)
    }

    pub(crate) fn encap(&self, id: EncapId) -> Result<&EncapTemplate, DropReason> {
        match self.encaps.get(id.0 as usize) {
            Some(Some(template)) => Ok(template),
            _ => Err(DropReason::NextHopUnresolved),
        }
    }

    pub(crate) fn encap_to(&self, vni: Vni, host: Underlay<IpAddr>) -> Option<EncapId> {
        self.encap_ids.get(&(vni, host.0)).copied()
    }
}

impl Network {
    pub(crate) fn name(&self) -> &str {
        &self.compiled.network().name
    }

    /// Whether `addr` is the gateway (first address) of a subnet.
    pub(crate) fn is_gateway(&self, addr: IpAddr) -> bool {
        matches!(self.compiled.lookup(addr), Target::Gateway { .. })
    }

    /// The endpoint that has `addr` and where it is.
    pub(crate) fn endpoint(&self, addr: Addr16) -> Option<(&Endpoint, Option<Place>)> {
        let (index, endpoint) = self.compiled.endpoint(addr.to_ip())?;
        Some((endpoint, self.place(index)))
    }

    pub(crate) fn place(&self, index: u32) -> Option<Place> {
        self.places.get(index as usize).copied().flatten()
    }
}

impl LocalPort {
    pub(crate) fn owns(&self, addr: Addr16) -> bool {
        self.own.contains(&addr)
    }

    /// Who it is to the tables of its network when it sends by `src`: that address, or its first of the family.
    pub(crate) fn sender(&self, src: Addr16) -> Sender {
        let own = if self.owns(src) { src } else { self.own_like(src).unwrap_or_default() };
        Sender::Endpoint(own.to_ip())
    }

    /// Whether a packet from the provider network is for an appliance that passes it on: neither its own nor a virtual address's.
    pub(crate) fn passes_on(&self, h: &Headers) -> bool {
        self.forwards && !self.sends_as(h.dst) && !self.has_vip(h.dst) && !self.snat.iter().any(|l| l.has_vip(h.dst))
    }

    /// Whether `addr` is in a subnet of this port, so that a packet to it is not routed.
    pub(crate) fn on_link(&self, addr: Addr16) -> bool {
        let ip = addr.to_ip();
        self.addresses.iter().any(|a| a.contains(ip))
    }

    /// The rule for a port of a virtual IP, with that port in it if it is for all.
    pub(crate) fn nat_in(&self, vip: Addr16, protocol: Protocol, vip_port: u16) -> Option<Nat> {
        let own = |n: &&Nat| n.vip_port == vip_port;
        nearest(self.nat.iter().filter(|n| n.vip == vip && n.protocol == protocol), own, vip_port)
    }

    /// The rule that could have brought a packet to `dst:port` as the container sees it.
    pub(crate) fn nat_out(&self, dst: Addr16, protocol: Protocol, port: u16) -> Option<Nat> {
        let own = |n: &&Nat| n.dip_port == port && !n.has_all_ports();
        nearest(self.nat.iter().filter(|n| n.delivered() == dst && n.protocol == protocol), own, port)
    }

    /// Whether a rule for that very port could have brought a packet to `dst:port`.
    pub(crate) fn is_port_of_rule(&self, dst: Addr16, protocol: Protocol, port: u16) -> bool {
        let is = |n: &Nat| n.delivered() == dst && n.protocol == protocol && n.dip_port == port && !n.has_all_ports();
        self.nat.iter().any(is)
    }

    /// Whether the container has, or lately had, the virtual IP itself.
    pub(crate) fn floats(&self, vip: Addr16) -> bool {
        self.floating.contains(&vip)
    }

    /// Whether what the container sends by `addr` is its own: what else an appliance sends it passes on.
    pub(crate) fn sends_as(&self, addr: Addr16) -> bool {
        self.owns(addr) || self.floats(addr)
    }

    /// The container's own address of the family, which access control lists know it by.
    pub(crate) fn own_like(&self, addr: Addr16) -> Option<Addr16> {
        self.own.iter().copied().find(|own| own.is_v4() == addr.is_v4())
    }

    pub(crate) fn has_vip(&self, vip: Addr16) -> bool {
        self.nat.iter().any(|n| n.vip == vip)
    }
}

/// A rule for the very port goes before one that is for all.
fn nearest<'a>(rules: impl Iterator<Item = &'a Nat> + Clone, own: impl Fn(&&Nat) -> bool, port: u16) -> Option<Nat> {
    rules.clone().find(own).or_else(|| rules.clone().find(|n| n.has_all_ports())).map(|n| n.at(port))
}
