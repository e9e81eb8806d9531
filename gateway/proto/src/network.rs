use crate::error::GoalError;
use ipnetwork::IpNetwork;
use penstock_engine::Why;
use penstock_model::{Addr16, DropReason, Epoch, FlowKey, TenantId, Vni};
use penstock_policy::{
    Acl, AclDirection, AclJournal, CompiledAcl, CompiledNetwork, Endpoint, NextHop, PolicyError, Sender, Target,
    VirtualNetwork, Way, gateway_of,
};
use std::net::IpAddr;

/// One virtual network, compiled.
#[derive(Debug)]
pub(crate) struct Network {
    /// Its place in the policy, as a list of one: what a tenant that is known by its VNI may see.
    place: [usize; 1],
    epoch: Epoch,
    compiled: CompiledNetwork,
}

/// Two references to networks are equal when they are to the same one.
impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place && std::ptr::eq(self, other)
    }
}

impl Eq for Network {}

impl Network {
    pub(crate) fn compile(place: usize, network: &VirtualNetwork, acls: &[Acl]) -> Result<Self, GoalError> {
        let compiled = CompiledNetwork::compile(network, acls).map_err(|e| in_goal(place, network, &e))?;
        Ok(Self { place: [place], epoch: network.epoch, compiled })
    }

    /// Counts go on where those of `previous` stopped.
    pub(crate) fn continuing(mut self, journal: Option<&AclJournal>, previous: Option<&Network>) -> Self {
        self.compiled = self.compiled.continuing(journal, previous.map(|p| &p.compiled));
        self
    }

    pub(crate) fn acls(&self) -> impl Iterator<Item = &CompiledAcl> {
        self.compiled.acls()
    }

    pub(crate) fn intent(&self) -> &VirtualNetwork {
        self.compiled.network()
    }

    pub(crate) fn place(&self) -> &[usize] {
        &self.place
    }

    pub(crate) fn name(&self) -> &str {
        &self.intent().name
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.intent().tenant
    }

    pub(crate) fn vni(&self) -> Vni {
        self.intent().vni
    }

    /// Of the whole tenant: both directions of a flow compare with it.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        self.compiled.contains(addr)
    }

    pub(crate) fn overlaps(&self, other: &Network) -> bool {
        let meets = |a: &IpNetwork, b: &IpNetwork| a.contains(b.network()) || b.contains(a.network());
        self.intent().prefixes.iter().any(|a| other.intent().prefixes.iter().any(|b| meets(a, b)))
    }

    /// The address that the network's router has towards `addr`.
    pub(crate) fn router_address(&self, addr: IpAddr) -> Option<IpAddr> {
        self.compiled.subnet_of(addr).map(|subnet| gateway_of(&subnet))
    }

    pub(crate) fn endpoint(&self, addr: Addr16) -> Option<&Endpoint> {
        self.compiled.endpoint(addr.to_ip()).map(|(_, endpoint)| endpoint)
    }

    /// Where packets to `dst` go that are not for an endpoint.
    pub(crate) fn route(&self, dst: Addr16, why: &mut impl Why) -> Option<NextHop> {
        let ip = dst.to_ip();
        match self.compiled.lookup(ip) {
            Target::Route { route, .. } => {
                why.because("route", || format!("{ip} is in {}: {:?}", route.prefix, route.next_hop));
                Some(route.next_hop)
            }
            Target::Endpoint { .. } | Target::Gateway { .. } => {
                why.because("route", || format!("{ip} is inside {}: its hosts deliver that themselves", self.name()));
                None
            }
            Target::NoRoute => {
                why.because("route", || format!("{} has no route to {ip}", self.name()));
                None
            }
        }
    }

    /// Who gets what a site sends in `flow`: the endpoint itself, or an appliance on the way to it.
    pub(crate) fn first_stop<'n>(
        &'n self,
        endpoint: &'n Endpoint,
        flow: &FlowKey,
        why: &mut impl Why,
    ) -> Result<&'n Endpoint, DropReason> {
        let (route, stop) = match self.compiled.way(Sender::Site, flow) {
            Way::System(Target::NoRoute) => return Err(DropReason::NoRoute),
            Way::System(_) => return Ok(endpoint),
            Way::Appliance { endpoint, route, .. } => (route, Ok(endpoint)),
            Way::Internet { route } => (route, Err(DropReason::NoRoute)),
            Way::Discard { route } => (route, Err(DropReason::RouteDiscard)),
        };
        why.because("route", || {
            let whither = stop.map_or("nowhere in this network", |appliance| &appliance.network_interface);
            format!("route {:?} leads {:?} ({}) to {whither}", route.name, flow.dst, route.prefix)
        });
        stop
    }

    /// Whether the endpoint's access rules allow `flow` in this direction.
    pub(crate) fn allows<W: Why>(
        &self,
        endpoint: &Endpoint,
        direction: AclDirection,
        flow: &FlowKey,
        why: &mut W,
    ) -> bool {
        let acl = self.compiled.acl_of(endpoint);
        let verdict = if W::DONE { acl.decide(direction, flow) } else { acl.evaluate(direction, flow) };
        why.because("acl", || format!("{direction:?} for {}: {}", endpoint.network_interface, acl.explain(&verdict)));
        verdict.allows()
    }
}

/// The policy names fields by the network's name; a goal has them by number.
fn in_goal(place: usize, network: &VirtualNetwork, error: &PolicyError) -> GoalError {
    let field = match error.field.strip_prefix(&network.name) {
        Some(rest) => format!("networks[{place}]{rest}"),
        None => error.field.clone(),
    };
    GoalError::new(field, error.problem.to_string())
}
