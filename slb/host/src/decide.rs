use crate::ROUTER_MAC;
use crate::chance::Chance;
use crate::keys::{answer_of, answer_to, in_zone};
use crate::policy::{LocalPort, Nat, Network, Place, Policy};
use crate::snat::{self, Claim};
use penstock_engine::{Resolution, Why};
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, DropReason, FlowKey, Mac, PortId, Protocol, Underlay};
use penstock_policy::{AclDirection, Endpoint, NextHop, Route, Target, UserRoute, Way};
use penstock_wire::geneve::NextOwners;
use penstock_wire::{Fragment, Headers};

/// Idle times. TCP once it is established: Azure's longest for a load balancer rule; UDP: RFC 4787 REQ-5 asks for two minutes at least.
/// Connections that open or close go by `penstock_engine::TcpIdle`.
const TCP_IDLE_SECONDS: u16 = 1800;
const OTHER_IDLE_SECONDS: u16 = 120;
/// A denied flow costs its entry only while its sender insists. Long enough for the sweep of an idle worker's table to come
/// round within 18 of them (see `FlowTable`).
const DENIED_IDLE_SECONDS: u16 = 30;

/// A later fragment whose first one is not known.
fn is_portless(h: &Headers) -> bool {
    h.fragment == Fragment::Later && (h.src_port, h.dst_port) == (0, 0)
}

/// What is remembered of a flow: the decision itself, so that a flow is one place in memory (128 bytes with its key).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFlow(pub Transposition);

impl Default for HostFlow {
    fn default() -> Self {
        Self(Transposition::drop(DropReason::NoPolicy))
    }
}

pub(crate) type Decided = Resolution<FlowKey, HostFlow>;

/// What the first packet of a flow is decided with.
pub(crate) struct Decision<'a, W> {
    pub(crate) policy: &'a Policy,
    pub(crate) port: &'a LocalPort,
    pub(crate) network: &'a Network,
    /// An underlay destination that turned out to be unresolved.
    pub(crate) unresolved: &'a mut Option<std::net::IpAddr>,
    pub(crate) chance: &'a mut Chance,
    pub(crate) why: &'a mut W,
}

impl<'a, W: Why> Decision<'a, W> {
    /// A packet from the provider network for the container: `key` is as it came out of its encapsulation.
    pub(crate) fn inbound(&mut self, key: &FlowKey, h: &Headers, prior: Option<&Transposition>) -> Decided {
        if let Some(p) = prior.filter(|p| p.flags.has(Flags::REPLY)) {
            return self.reply_to_container(key, p);
        }
        if self.port.owns(key.dst) {
            self.why.because("nat", || format!("{:?} is the container's own address", key.dst));
            return self.inbound_to(key, h, None, prior);
        }
        if self.is_transit(key, h, prior) {
            self.why.because("appliance", || format!("\"{}\" passes on what is for {:?}", self.port.name, key.dst));
            return self.inbound_to(key, h, None, prior);
        }
        if is_portless(h) {
            self.why.because("nat", || {
                "a later fragment for a virtual address, whose first is not known, has no ports to translate by"
                    .to_owned()
            });
            return Resolution::Drop(DropReason::FragmentUnsupported);
        }
        if prior.is_none()
            && let Some(passed) = self.second_chance(key, h)
        {
            return passed;
        }
        match self.mapping_of(key, prior) {
            Ok(nat) => self.inbound_to(key, h, Some(nat), prior),
            Err(reason) => Resolution::Drop(reason),
        }
    }

    /// Whether an appliance is to pass on the packet. What a mux names next owners of is for a virtual address of the port, though
    /// it may have left the pool, and so is a flow that is remembered as translated.
    fn is_transit(&self, key: &FlowKey, h: &Headers, prior: Option<&Transposition>) -> bool {
        self.port.passes_on(h) && self.chance.next.is_empty() && prior.and_then(|p| self.kept(key, p)).is_none()
    }

    /// No flow is known for a packet that need not be the first of one: to the next who may know it. Nobody is asked twice,
    /// and the last who is asked takes it as it is.
    fn second_chance(&mut self, key: &FlowKey, h: &Headers) -> Option<Decided> {
        if h.protocol == Protocol::TCP && h.tcp_flags.opens() {
            return None;
        }
        let mut left = self.chance.next.after(|owner| self.port.owns(*owner));
        while let Some((owner, rest)) = left.split_first() {
            left = rest;
            let Some((endpoint, Some(place))) = self.network.endpoint(owner) else { continue };
            // Who is asked next takes the list up behind its own address: one that had it not would ask all again.
            if matches!(place, Place::Local(id) if !self.policy.port(id).is_some_and(|p| p.owns(owner))) {
                continue;
            }
            self.why.because("second chance", || {
                let (here, there) = (&self.port.name, &endpoint.network_interface);
                format!("no flow of \"{here}\" explains the packet: it is passed to \"{there}\" ({owner:?})")
            });
            self.chance.is_passed = true;
            return Some(match place {
                Place::Local(id) => Resolution::Instead(in_zone(id, key)),
                Place::Remote(id) => self.pass_on(id, endpoint.mac, &left),
            });
        }
        None
    }

    fn pass_on(&mut self, id: penstock_model::EncapId, mac: Mac, left: &NextOwners) -> Decided {
        let way = self.encapsulated(id, mac).decapsulated();
        if !left.is_empty() {
            self.chance.onward = self.policy.encap(id).ok().map(|template| template.naming(left));
        }
        Resolution::Once(HostFlow(way))
    }

    /// The rule of a VIP, or, if it has been removed, what an older epoch of this flow knew: established connections go on.
    fn mapping_of(&mut self, key: &FlowKey, prior: Option<&Transposition>) -> Result<Nat, DropReason> {
        if let Some(nat) = self.port.nat_in(key.dst, key.protocol(), key.dst_port) {
            self.why.because("nat", || {
                if nat.is_floating {
                    return format!("service {}: the container itself has {:?}", nat.service, nat.vip);
                }
                format!(
                    "service {}: {:?}:{} is {:?}:{} here",
                    nat.service, nat.vip, nat.vip_port, nat.dip, nat.dip_port
                )
            });
            return Ok(nat);
        }
        if let Some(nat) = prior.and_then(|p| self.kept(key, p)) {
            self.why
                .because("nat", || format!("no rule any more; the flow keeps {:?}:{}", nat.delivered(), nat.dip_port));
            return Ok(nat);
        }
        let reason = match self.port.has_vip(key.dst) {
            true => DropReason::NoServiceOnPort,
            false if self.port.snat.iter().any(|l| l.has_vip(key.dst)) => DropReason::NoReverseMapping,
            false => DropReason::UnknownPort,
        };
        self.why.because("nat", || format!("{:?} is no address of this port and no rule translates it", key.dst));
        Err(reason)
    }

    /// What an older epoch of the flow was translated by.
    fn kept(&self, key: &FlowKey, prior: &Transposition) -> Option<Nat> {
        let is_floating = prior.dst == key.dst && self.port.floats(key.dst);
        let is_own = self.port.owns(prior.dst);
        if !prior.flags.has(Flags::DST) || !(is_own || is_floating) {
            return None;
        }
        Some(Nat {
            service: penstock_model::ServiceId(0),
            protocol: key.protocol(),
            vip: key.dst,
            vip_port: key.dst_port,
            dip: if is_floating { self.port.own_like(key.dst)? } else { prior.dst },
            dip_port: prior.dst_port,
            is_floating,
            idle_seconds: 0,
        })
    }

    fn inbound_to(&mut self, key: &FlowKey, h: &Headers, nat: Option<Nat>, prior: Option<&Transposition>) -> Decided {
        let (dst, dip, dip_port) = nat.map_or((key.dst, key.dst, key.dst_port), |n| (n.delivered(), n.dip, n.dip_port));
        let as_seen_at = |dst| FlowKey::new(key.tenant(), key.src, dst, key.protocol(), key.src_port, dip_port);
        let translated = as_seen_at(dst);
        let mut value = self.deliver(self.port).decapsulated();
        if nat.is_some() {
            value = value.with_dst(dst).with_dst_port(dip_port);
        }
        if is_portless(h) {
            return self.later_fragment(value);
        }
        if nat.is_some() && self.network.compiled.contains(key.src.to_ip()) {
            self.why.because("anti-spoofing", || {
                format!("{:?} is of the tenant's network and cannot come by a virtual address", key.src)
            });
            return Resolution::Drop(DropReason::SpoofedSource);
        }
        if !self.permits(self.port, AclDirection::Inbound, &as_seen_at(dip)) {
            return denied(value, prior);
        }
        let back = match nat {
            Some(n) => Ok(self.direct_return(key.src, Some((n.vip, n.vip_port)))),
            None => self.route(&translated.reversed()),
        };
        let peer = back.ok().map(|t| (answer_of(self.port, &translated), HostFlow(t.with_flag(Flags::REPLY))));
        Resolution::Install { value: HostFlow(value), peer, idle_seconds: idle_of(nat.as_ref(), key.protocol()) }
    }

    /// The answer to a flow that the container opened, by its own address or a leased port. `key` is the answer's; the ACL judges
    /// the direction that opened it.
    fn reply_to_container(&mut self, key: &FlowKey, prior: &Transposition) -> Decided {
        let mut value = self.deliver(self.port).decapsulated().with_flag(Flags::REPLY);
        let mut opened = key.reversed();
        if prior.flags.has(Flags::DST) {
            value = value.with_dst(prior.dst).with_dst_port(prior.dst_port);
            (opened.src, opened.src_port) = (prior.dst, prior.dst_port);
            if !self.port.has_snat(prior.dst, key.protocol(), key.dst, key.dst_port) {
                self.why.because("snat", || "the port is not leased any more".to_owned());
                return Resolution::Drop(DropReason::NoReverseMapping);
            }
        }
        if !self.permits(self.port, AclDirection::Outbound, &opened) {
            return remembered_denial(value);
        }
        Resolution::Install { value: HostFlow(value), peer: None, idle_seconds: idle(key.protocol()) }
    }

    /// A packet that the container sent.
    pub(crate) fn outbound(&mut self, key: &FlowKey, h: &Headers, prior: Option<&Transposition>) -> Decided {
        if let Some(p) = prior.filter(|p| p.flags.has(Flags::REPLY)) {
            let vip = p.flags.has(Flags::SRC).then_some((p.src, p.src_port));
            return self.reply_from_container(key, vip, true);
        }
        if self.port.floats(key.src) && !self.port.owns(key.src) {
            return self.answer_by_floating(key, h);
        }
        if self.port.owns(key.dst) {
            return Resolution::Drop(DropReason::MartianDestination);
        }
        match self.route(key) {
            Ok(value) if is_portless(h) => self.later_fragment(value),
            Ok(value) => self.outbound_by(key, value, prior),
            Err(DropReason::NoRoute) => match self.snat(key, h, prior) {
                Some(decided) => decided,
                None => self.without_route(key, h),
            },
            Err(reason) => Resolution::Drop(reason),
        }
    }

    /// No flow explains why the container sends by a virtual IP that it has itself: it may answer, and open nothing.
    fn answer_by_floating(&mut self, key: &FlowKey, h: &Headers) -> Decided {
        let opens = key.protocol() == Protocol::TCP && h.tcp_flags.opens();
        if opens {
            self.why.because("anti-spoofing", || format!("the container may answer by {:?}, not open by it", key.src));
            return Resolution::Drop(DropReason::SpoofedSource);
        }
        self.without_route(key, h)
    }

    fn outbound_by(&mut self, key: &FlowKey, value: Transposition, prior: Option<&Transposition>) -> Decided {
        if !self.permits(self.port, AclDirection::Outbound, key) {
            return denied(value, prior);
        }
        let Some(other) = self.delivered_to(&value) else {
            let back = self.deliver(self.port).decapsulated().with_flag(Flags::REPLY);
            return Resolution::Install {
                value: HostFlow(value),
                peer: Some((answer_to(self.port.id, key), HostFlow(back))),
                idle_seconds: idle(key.protocol()),
            };
        };
        if !self.permits(other, AclDirection::Inbound, key) {
            return denied(value, prior);
        }
        let back = routed_if(self.deliver(self.port), !other.on_link(key.src)).with_flag(Flags::REPLY);
        Resolution::Install {
            value: HostFlow(value),
            peer: Some((answer_of(other, key), HostFlow(back))),
            idle_seconds: idle(key.protocol()),
        }
    }

    /// The container answers a flow that somebody else opened, to its own address or (`vip`) to a virtual one.
    fn reply_from_container(&mut self, key: &FlowKey, vip: Option<(Addr16, u16)>, is_known: bool) -> Decided {
        let routed = match vip {
            // No client is there, and what is the tenant's own does not leave the overlay.
            Some(_) if self.network.compiled.contains(key.dst.to_ip()) => Err(DropReason::NoRoute),
            Some(_) => Ok(self.direct_return(key.dst, vip)),
            None => self.route(key),
        };
        let value = match routed {
            Ok(value) => value.with_flag(Flags::REPLY),
            Err(reason) => return Resolution::Drop(reason),
        };
        let mut opened = key.reversed();
        if self.port.floats(opened.dst) && !self.port.owns(opened.dst) {
            opened.dst = self.port.own_like(opened.dst).unwrap_or(opened.dst);
        }
        let sender_permits = match self.delivered_to(&value) {
            Some(opener) if vip.is_none() => self.permits(opener, AclDirection::Outbound, &opened),
            _ => true,
        };
        if !sender_permits || !self.permits(self.port, AclDirection::Inbound, &opened) {
            return if is_known { remembered_denial(value) } else { Resolution::Drop(DropReason::AclDenied) };
        }
        let rule = vip.and_then(|(vip, port)| self.port.nat_in(vip, key.protocol(), port));
        Resolution::Install { value: HostFlow(value), peer: None, idle_seconds: idle_of(rule.as_ref(), key.protocol()) }
    }

    /// Out of the overlay by a virtual IP, if ports of one are leased to the container. Not for answers of a service that has been
    /// forgotten, not towards the site's own networks and nodes, and not for a TCP connection that is under way by another port: its
    /// other end would refuse it.
    fn snat(&mut self, key: &FlowKey, h: &Headers, prior: Option<&Transposition>) -> Option<Decided> {
        let ports = self.port.snat_ports(key.src, key.protocol());
        let opens = key.protocol() == Protocol::TCP && h.tcp_flags.opens();
        // A datagram from any port may be an answer where a rule is for all ports; there it is taken for a new flow.
        let is_served = match key.protocol() {
            Protocol::TCP => self.port.nat_out(key.src, key.protocol(), key.src_port).is_some(),
            _ => self.port.is_port_of_rule(key.src, key.protocol(), key.src_port),
        };
        let is_answer = prior.is_none() && !opens && is_served;
        if ports == 0 || is_answer || !snat::is_translatable(h) {
            return None;
        }
        if self.network.compiled.contains(key.dst.to_ip()) && !self.is_led_out(key) {
            return Some(Resolution::Drop(DropReason::NoRoute));
        }
        if self.policy.site.contains(key.dst) {
            self.why.because("snat", || format!("{:?} is the site's own", key.dst));
            return Some(Resolution::Drop(DropReason::NoRoute));
        }
        if self.policy.nat_exemptions.contains(key.dst) {
            self.why.because("snat", || format!("{:?} is exempt from outbound NAT", key.dst));
            return Some(Resolution::Drop(DropReason::NoRoute));
        }
        let kept = prior.filter(|p| p.flags.has(Flags::SRC));
        let claim = Claim {
            port: self.port.id,
            out: self.direct_return(key.dst, None),
            back: self.deliver(self.port).decapsulated(),
            first: kept.map(|p| (p.src, p.src_port)),
        };
        if !self.permits(self.port, AclDirection::Outbound, key) {
            let out = claim.out;
            return Some(denied(kept.map_or(out, |p| out.with_src(p.src).with_src_port(p.src_port)), prior));
        }
        if key.protocol() == Protocol::TCP && !opens && kept.is_none() {
            self.why.because("snat", || "no flow explains the segment, and it opens none".to_owned());
            return Some(Resolution::Drop(DropReason::NoReverseMapping));
        }
        // While a flow is denied its answers may be forgotten and its port taken by another: it asks for it again.
        let was_denied = kept.is_some_and(|p| p.drop_reason() == Some(DropReason::AclDenied));
        let holds = |p: &&Transposition| self.port.has_snat(key.src, key.protocol(), p.src, p.src_port);
        if let Some(p) = kept.filter(holds).filter(|_| !was_denied) {
            self.why.because("snat", || format!("the flow keeps {:?} port {}", p.src, p.src_port));
            let (value, peer) = snat::translated(&claim, key, p.src, p.src_port);
            return Some(Resolution::Install { value, peer: Some(peer), idle_seconds: idle(key.protocol()) });
        }
        self.why.because("snat", || format!("by one of {ports} ports that are leased to {:?}", key.src));
        self.chance.claim = Some(claim);
        Some(Resolution::Claim { idle_seconds: idle(key.protocol()), none: DropReason::SnatPortsExhausted })
    }

    /// No route: the only thing that explains the packet is a service whose flow this host has forgotten (it restarted).
    ///
    /// That is believed of TCP that opens nothing: its receiver has a connection or refuses. UDP would be a way to send
    /// anything to anybody unasked, so a UDP flow that was forgotten is lost until its client sends again. And it is never
    /// believed towards the site's own, which is no client.
    fn without_route(&mut self, key: &FlowKey, h: &Headers) -> Decided {
        if is_portless(h) {
            return Resolution::Drop(DropReason::FragmentUnsupported);
        }
        let opens = key.protocol() == Protocol::TCP && h.tcp_flags.opens();
        let Some(nat) = self.port.nat_out(key.src, key.protocol(), key.src_port).filter(|_| !opens) else {
            return Resolution::Drop(DropReason::NoRoute);
        };
        if key.protocol() != Protocol::TCP || self.policy.site.contains(key.dst) {
            self.why.because("nat", || format!("no flow explains why the container sends to {:?}", key.dst));
            return Resolution::Drop(DropReason::NoReverseMapping);
        }
        self.why
            .because("nat", || format!("no flow, but service {} explains {:?}:{}", nat.service, nat.dip, nat.dip_port));
        self.reply_from_container(key, Some((nat.vip, nat.vip_port)), false)
    }

    /// Later fragments have no ports: they pass by addresses, as without their first fragment they are nothing.
    fn later_fragment(&mut self, value: Transposition) -> Decided {
        self.why.because("acl", || "a later fragment has no ports: its first fragment is what was judged".to_owned());
        Resolution::Once(HostFlow(value))
    }

    /// The way of a packet from this port to an address of the tenant's network.
    fn route(&mut self, key: &FlowKey) -> Result<Transposition, DropReason> {
        let target = match self.network.compiled.way(self.port.sender(key.src), key) {
            Way::System(target) => target,
            Way::Appliance { index, endpoint, route } => {
                self.because_of(route, key.dst, || format!("appliance \"{}\"", endpoint.network_interface));
                return self.way_to_endpoint(index, endpoint).map(|way| routed_if(way, true));
            }
            Way::Internet { route } => {
                self.because_of(route, key.dst, || "out of the overlay".to_owned());
                return Err(DropReason::NoRoute);
            }
            Way::Discard { route } => {
                self.because_of(route, key.dst, || "nowhere".to_owned());
                return Err(DropReason::RouteDiscard);
            }
        };
        match target {
            Target::Endpoint { index, endpoint } => {
                let routed = !self.port.on_link(key.dst);
                self.way_to_endpoint(index, endpoint).map(|way| routed_if(way, routed))
            }
            Target::Route { route, .. } => self.by_route(key.dst, route),
            Target::Gateway { .. } | Target::NoRoute => {
                self.why.because("route", || {
                    format!("network \"{}\" has no endpoint and no route for {:?}", self.network.name(), key.dst)
                });
                Err(DropReason::NoRoute)
            }
        }
    }

    /// Whether an operator's route says so.
    fn is_led_out(&self, key: &FlowKey) -> bool {
        matches!(self.network.compiled.way(self.port.sender(key.src), key), Way::Internet { .. })
    }

    fn because_of(&mut self, route: &UserRoute, dst: Addr16, whither: impl FnOnce() -> String) {
        self.why
            .because("route", || format!("route \"{}\" leads {dst:?} ({}) to {}", route.name, route.prefix, whither()));
    }

    fn way_to_endpoint(&mut self, index: u32, endpoint: &Endpoint) -> Result<Transposition, DropReason> {
        let name = &endpoint.network_interface;
        match self.network.place(index) {
            Some(Place::Local(id)) => {
                self.why.because("route", || format!("\"{name}\" is on this host"));
                self.policy.port(id).map(|p| self.deliver(p)).ok_or(DropReason::UnknownPort)
            }
            Some(Place::Remote(id)) => {
                self.why.because("route", || format!("\"{name}\" is on host {}", endpoint.host.0));
                Ok(self.encapsulated(id, endpoint.mac))
            }
            None => {
                self.why.because("route", || format!("\"{name}\" is of this host, but no device is configured for it"));
                Err(DropReason::UnknownPort)
            }
        }
    }

    fn by_route(&mut self, dst: Addr16, route: &Route) -> Result<Transposition, DropReason> {
        let prefix = route.prefix;
        match route.next_hop {
            NextHop::Vtep { addr, mac } => {
                self.why.because("route", || format!("{dst:?} is in {prefix}, by tunnel endpoint {}", addr.0));
                self.way_to_vtep(addr, mac).map(|way| routed_if(way, true))
            }
            NextHop::Discard => {
                self.why.because("route", || format!("{dst:?} is in {prefix}, which is discarded"));
                Err(DropReason::RouteDiscard)
            }
            NextHop::Tunnel(_) => Err(DropReason::Unsupported),
        }
    }

    fn way_to_vtep(&mut self, addr: Underlay<std::net::IpAddr>, mac: Mac) -> Result<Transposition, DropReason> {
        let id = self.policy.encap_to(self.network.vni, addr).ok_or(DropReason::NoRoute)?;
        Ok(self.encapsulated(id, mac))
    }

    fn encapsulated(&mut self, id: penstock_model::EncapId, mac: Mac) -> Transposition {
        self.why.because("encapsulation", || match self.policy.encap(id) {
            Ok(_) => format!("VXLAN, network id {}", self.network.vni),
            Err(_) => format!("VXLAN, network id {}; its next hop is not resolved yet", self.network.vni),
        });
        if self.policy.encap(id).is_err() {
            let host = self.policy.encap_ids.iter().find(|(_, i)| **i == id).map(|((_, host), _)| *host);
            *self.unresolved = host.or(*self.unresolved);
        }
        Transposition::to_port(self.policy.underlay_port).with_eth(mac, ROUTER_MAC).encapsulated(id)
    }

    fn deliver(&mut self, port: &LocalPort) -> Transposition {
        self.why.because("deliver", || format!("to \"{}\" ({})", port.name, port.mac));
        Transposition::to_port(port.id).with_eth(port.mac, ROUTER_MAC)
    }

    /// Straight to the client, plain, never by the mux that the request came through (Ananta section 3.2.2).
    fn direct_return(&mut self, client: Addr16, vip: Option<(Addr16, u16)>) -> Transposition {
        let way = match self.policy.fib.hop(client.to_ip()) {
            Some(hop) => {
                self.why.because("route", || format!("direct return to {client:?} by {}", hop.eth_dst));
                Transposition::to_port(self.policy.underlay_port)
                    .with_eth(hop.eth_dst, hop.eth_src)
                    .with_ttl_decrement()
            }
            None => {
                self.why.because("route", || format!("the next hop to {client:?} is not resolved yet"));
                *self.unresolved = Some(client.to_ip());
                Transposition::drop(DropReason::NextHopUnresolved)
            }
        };
        // The mapping stays in the entry even while it drops: the next epoch resolves from it.
        match vip {
            Some((vip, port)) => way.with_src(vip).with_src_port(port),
            None => way,
        }
    }

    /// The port of this host that a packet goes to, if it leaves by none of the provider network.
    fn delivered_to(&self, value: &Transposition) -> Option<&'a LocalPort> {
        let is_local = !value.flags.has(Flags::DROP) && value.out != self.policy.underlay_port.0;
        is_local.then(|| self.policy.port(PortId(value.out))).flatten()
    }

    /// Whether the access control list of `port` lets the flow `key` through, seen in the direction that opens it.
    pub(crate) fn permits(&mut self, port: &LocalPort, direction: AclDirection, key: &FlowKey) -> bool {
        let Some(list) = port.acl.and_then(|i| self.policy.acls.get(i)) else {
            self.why.because("acl", || format!("\"{}\" has no access control list", port.name));
            return true;
        };
        let verdict = if W::DONE { list.decide(direction, key) } else { list.evaluate(direction, key) };
        self.why.because("acl", || format!("{} ({direction:?} of \"{}\")", list.explain(&verdict), port.name));
        verdict.allows()
    }
}

fn routed_if(way: Transposition, routed: bool) -> Transposition {
    if routed { way.with_ttl_decrement() } else { way }
}

/// A new flow that is denied costs no place in the table: who sends many of them must not push out what is allowed. One that
/// was allowed before keeps its place.
fn denied(value: Transposition, prior: Option<&Transposition>) -> Decided {
    match prior {
        Some(_) => remembered_denial(value),
        None => Resolution::Drop(DropReason::AclDenied),
    }
}

/// Remembers a denial with what the flow would do otherwise, so that a later epoch can resolve from it.
fn remembered_denial(value: Transposition) -> Decided {
    let mut value = value.with_flag(Flags::DROP);
    value.out = DropReason::AclDenied as u16;
    Resolution::Install { value: HostFlow(value), peer: None, idle_seconds: DENIED_IDLE_SECONDS }
}

/// Of a flow that a rule translates.
fn idle_of(rule: Option<&Nat>, protocol: Protocol) -> u16 {
    match rule {
        Some(nat) if protocol == Protocol::TCP && nat.idle_seconds != 0 => nat.idle_seconds,
        _ => idle(protocol),
    }
}

fn idle(protocol: Protocol) -> u16 {
    if protocol == Protocol::TCP { TCP_IDLE_SECONDS } else { OTHER_IDLE_SECONDS }
}
