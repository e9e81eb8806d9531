//! Which addresses and ports a flow has on either side of a connection whose addresses are translated.
use crate::TunnelNat;
use crate::decide::Asked;
use crate::error::GoalError;
use crate::key::{GatewayKey, Way};
use crate::policy::Policy;
use crate::tenant::Site;
use penstock_engine::Why;
use penstock_flow::{End, Flags, Mappings, Scope, Transposition};
use penstock_model::{Addr16, Coarse, DropReason, FlowKey, Protocol, TunnelId};
use penstock_policy::{CompiledNat, Inward, NatPool, Outward};
use std::time::Duration;

/// Ports that are looked at for one mapping, of each address; with half of them taken, the odds that none is free are one in 2^64.
const TRIES: u64 = 64;
/// Addresses of a pool that are looked at beside the one that a host has for all its flows.
const MOST_ADDRESSES: u64 = 4;

/// How a site's addresses and the tenant's are translated, compiled.
#[derive(Debug)]
pub(crate) struct SiteNat {
    rules: TunnelNat,
    /// Inside is the site.
    site: CompiledNat,
    /// Inside is the tenant.
    tenant: CompiledNat,
}

/// Who is inside.
#[derive(Debug, Clone, Copy)]
enum Inside {
    Site = 0,
    Tenant = 1,
}

impl SiteNat {
    /// `None` if there are no rules.
    ///
    /// # Errors
    /// The rule that cannot be kept, by its field.
    pub(crate) fn compile(rules: &TunnelNat) -> Result<Option<Self>, GoalError> {
        if rules.site.is_empty() && rules.tenant.is_empty() {
            return Ok(None);
        }
        let compile = |side: &str, rules| {
            CompiledNat::compile(rules)
                .map_err(|e| GoalError::new(format!("nat.{side}{}", e.field), e.problem.to_string()))
        };
        let (site, tenant) = (compile("site", &rules.site)?, compile("tenant", &rules.tenant)?);
        Ok(Some(Self { rules: rules.clone(), site, tenant }))
    }

    pub(crate) fn rules(&self) -> &TunnelNat {
        &self.rules
    }
}

impl Site {
    fn half(&self, inside: Inside, protocol: Protocol) -> Option<Half<'_>> {
        let nat = self.nat.as_ref()?;
        let rules = match inside {
            Inside::Site => &nat.site,
            Inside::Tenant => &nat.tenant,
        };
        let scope = Scope { tenant: self.tenant, translation: self.id.0 * 2 + inside as u32, protocol };
        Some(Half { rules, scope })
    }
}

/// One direction of a connection's translation, for one protocol.
#[derive(Clone, Copy)]
struct Half<'n> {
    rules: &'n CompiledNat,
    scope: Scope,
}

/// Makes translations: knows what pools have given to whom.
#[derive(Debug)]
pub(crate) struct Translator<'m> {
    pub(crate) mappings: &'m mut Mappings,
    pub(crate) now: Coarse,
}

impl Translator<'_> {
    /// The flow `asked.flow` from a site, as the tenant sees it.
    pub(crate) fn for_tenant(&mut self, site: &Site, asked: &Asked, why: &mut impl Why) -> Result<FlowKey, DropReason> {
        self.translate(site, asked.flow, [Inside::Site, Inside::Tenant], asked, "the tenant", why)
    }

    /// A flow as the tenant sees it, as the site `site` that it goes to does.
    pub(crate) fn for_site(
        &mut self,
        site: &Site,
        flow: FlowKey,
        asked: &Asked,
        why: &mut impl Why,
    ) -> Result<FlowKey, DropReason> {
        self.translate(site, flow, [Inside::Tenant, Inside::Site], asked, "the site", why)
    }

    fn translate(
        &mut self,
        site: &Site,
        flow: FlowKey,
        [source, destination]: [Inside; 2],
        asked: &Asked,
        whom: &str,
        why: &mut impl Why,
    ) -> Result<FlowKey, DropReason> {
        let protocol = flow.protocol();
        let (Some(source), Some(destination)) = (site.half(source, protocol), site.half(destination, protocol)) else {
            return Ok(flow);
        };
        let (src, dst) = (source_of(&flow), destination_of(&flow));
        let dst = told(self.inward(&destination, dst, asked), dst, site, why)?;
        let src = told(self.outward(&source, src, asked), src, site, why)?;
        let out = between(&flow, src, dst);
        if out != flow {
            why.because("nat", || format!("{flow:?} is {out:?} for {whom}, by the rules of {}", site.name));
        }
        Ok(out)
    }

    /// What is inside goes out.
    fn outward(&mut self, half: &Half<'_>, end: End, asked: &Asked) -> Result<End, DropReason> {
        let Half { rules, scope } = half;
        // Who answers by a forwarded port answers as who was asked.
        let forwarded = rules.forward(scope.protocol, asked.was.addr, asked.was.port);
        if asked.is_reply && forwarded == Some((end.addr, end.port)) {
            return Ok(asked.was);
        }
        match rules.outward(end.addr) {
            Outward::Same => Ok(end),
            Outward::Static(addr) => Ok(End { addr, ..end }),
            Outward::Pool(index) => {
                let pool = rules.pool(index).ok_or(DropReason::NoPolicy)?;
                self.given(half, pool, end, asked.is_reply)
            }
        }
    }

    /// The end that a pool has given to `end`, or gives now.
    fn given(&mut self, half: &Half<'_>, pool: &NatPool, end: End, is_reply: bool) -> Result<End, DropReason> {
        let keep = kept(half.scope.protocol).ok_or(DropReason::Unsupported)?;
        if end.port == 0 {
            return Err(DropReason::FragmentUnsupported);
        }
        if let Some(outside) = self.mappings.outside_of(&half.scope, end) {
            if pool.has(outside.addr, outside.port) && half.is_free_of_forwards(outside) {
                self.mappings.renew(&half.scope, end, keep, self.now);
                return Ok(outside);
            }
            // The rules have changed.
            self.mappings.remove(&half.scope, end);
        }
        if is_reply {
            return Err(DropReason::NoReverseMapping);
        }
        let outside = self.free_end(half, pool, end).ok_or(DropReason::NatExhausted)?;
        self.mappings.bind(&half.scope, end, outside, keep, self.now).map_err(|_| DropReason::NatExhausted)?;
        Ok(outside)
    }

    /// A host has one address for all its flows as long as that has ports (RFC 4787 REQ-2), and ports that are hard to guess (RFC
    /// 6056).
    fn free_end(&self, half: &Half<'_>, pool: &NatPool, end: End) -> Option<End> {
        let (addresses, ports) = (pool.addresses(), pool.ports());
        let own = self.mappings.hash(&half.scope, End { port: 0, ..end }) % addresses;
        let hash = self.mappings.hash(&half.scope, end);
        let step = if ports <= TRIES { 1 } else { (hash >> 32 | 1) % ports };
        (0..addresses.min(MOST_ADDRESSES)).find_map(|a| {
            (0..ports.min(TRIES)).find_map(|n| {
                let (addr, port) = pool.nth((own + a) % addresses, (hash % ports + n * step) % ports)?;
                let outside = End { addr, port };
                let is_free =
                    half.is_free_of_forwards(outside) && self.mappings.inside_of(&half.scope, outside).is_none();
                is_free.then_some(outside)
            })
        })
    }

    /// What is outside comes in.
    fn inward(&mut self, half: &Half<'_>, end: End, asked: &Asked) -> Result<End, DropReason> {
        let Half { rules, scope } = half;
        match rules.inward(scope.protocol, end.addr, end.port) {
            Inward::Same => Ok(end),
            Inward::Static(addr) => Ok(End { addr, ..end }),
            Inward::Forward(addr, port) => Ok(End { addr, port }),
            Inward::Nobody => Err(DropReason::NoReverseMapping),
            Inward::Pool(index) => {
                let is_open = asked.is_reply || rules.pool(index).is_some_and(NatPool::is_open);
                let inside = self.mappings.inside_of(scope, end).filter(|_| is_open);
                let inside = inside.filter(|e| rules.outward(e.addr) == Outward::Pool(index));
                let inside = inside.ok_or(DropReason::NoReverseMapping)?;
                if let Some(keep) = kept(scope.protocol) {
                    self.mappings.renew(scope, inside, keep, self.now);
                }
                Ok(inside)
            }
        }
    }
}

/// A refusal has its reason in the trace.
fn told(outcome: Result<End, DropReason>, end: End, site: &Site, why: &mut impl Why) -> Result<End, DropReason> {
    if let Err(reason) = outcome {
        why.because("nat", || format!("{:?}:{}, by the rules of {}: {reason}", end.addr, end.port, site.name));
    }
    outcome
}

impl Half<'_> {
    fn is_free_of_forwards(&self, outside: End) -> bool {
        self.rules.forward(self.scope.protocol, outside.addr, outside.port).is_none()
    }

    /// Where a source is outside, of a flow that lives: so does its mapping.
    fn touch_outward(&self, mappings: &mut Mappings, end: End) -> End {
        match self.rules.outward(end.addr) {
            Outward::Same => end,
            Outward::Static(addr) => End { addr, ..end },
            Outward::Pool(_) => mappings.touch_inside(&self.scope, end).unwrap_or(end),
        }
    }

    fn touch_inward(&self, mappings: &mut Mappings, end: End) -> End {
        match self.rules.inward(self.scope.protocol, end.addr, end.port) {
            Inward::Same | Inward::Nobody => end,
            Inward::Static(addr) => End { addr, ..end },
            Inward::Forward(addr, port) => End { addr, port },
            Inward::Pool(_) => mappings.touch_outside(&self.scope, end).unwrap_or(end),
        }
    }
}

/// A flow is alive, and the mappings that it goes by with it.
pub(crate) fn touch(policy: &Policy, mappings: &mut Mappings, key: &GatewayKey, t: &Transposition) {
    if !t.flags.has(Flags::SRC | Flags::DST) {
        return;
    }
    let site = |id| policy.tunnel(id).map(|(site, _)| site);
    let from = match key.way() {
        Some(Way::Tunnel(id)) => site(id),
        _ => None,
    };
    let to = if t.flags.has(Flags::TUNNEL) { site(TunnelId(t.encap)) } else { None };
    let (protocol, mut src, mut dst) = (key.flow.protocol(), source_of(&key.flow), destination_of(&key.flow));
    for (site, source, destination) in [(from, Inside::Site, Inside::Tenant), (to, Inside::Tenant, Inside::Site)] {
        let Some(site) = site else { continue };
        src = site.half(source, protocol).map_or(src, |half| half.touch_outward(mappings, src));
        dst = site.half(destination, protocol).map_or(dst, |half| half.touch_inward(mappings, dst));
    }
}

/// The source of an error that a router on the way of a flow sent, for the other side: its own address if that is translated one to
/// one, else that of the flow's end, which stands for all behind it (RFC 5508 section 4.3).
pub(crate) fn source_of_error(policy: &Policy, key: &GatewayKey, t: &Transposition, src: Addr16) -> Addr16 {
    let flow = translated(&key.flow, t);
    if src == key.flow.src {
        return flow.src;
    }
    let from = match key.way() {
        Some(Way::Tunnel(id)) => Some((id, Inside::Site)),
        _ => None,
    };
    let to = t.flags.has(Flags::TUNNEL).then_some((TunnelId(t.encap), Inside::Tenant));
    let mut out = src;
    for (id, inside) in [from, to].into_iter().flatten() {
        let half = policy.tunnel(id).and_then(|(site, _)| site.half(inside, key.flow.protocol()));
        match half.map_or(Outward::Same, |half| half.rules.outward(out)) {
            Outward::Same => {}
            Outward::Static(addr) => out = addr,
            Outward::Pool(_) => return flow.src,
        }
    }
    out
}

/// How long a mapping stays at least after a flow was decided by it: RFC 5382 REQ-5 (a connection that opens), RFC 4787 REQ-5, RFC
/// 5508 REQ-2. `None`: the protocol has no ports.
fn kept(protocol: Protocol) -> Option<Duration> {
    match protocol {
        Protocol::TCP => Some(Duration::from_secs(240)),
        Protocol::UDP => Some(Duration::from_secs(300)),
        Protocol::ICMP | Protocol::ICMPV6 => Some(Duration::from_secs(60)),
        _ => None,
    }
}

/// A decision that also makes the flow `from` the flow `to`.
pub(crate) fn rewriting(mut t: Transposition, from: &FlowKey, to: &FlowKey) -> Transposition {
    if from.src != to.src {
        t = t.with_src(to.src);
    }
    if from.dst != to.dst {
        t = t.with_dst(to.dst);
    }
    if from.src_port != to.src_port {
        t = t.with_src_port(to.src_port);
    }
    if from.dst_port != to.dst_port {
        t = t.with_dst_port(to.dst_port);
    }
    t
}

/// What a decision makes of a flow.
pub(crate) fn translated(flow: &FlowKey, t: &Transposition) -> FlowKey {
    let mut out = *flow;
    if t.flags.has(Flags::SRC) {
        out.src = t.src;
    }
    if t.flags.has(Flags::DST) {
        out.dst = t.dst;
    }
    if t.flags.has(Flags::SRC_PORT) {
        out.src_port = t.src_port;
    }
    if t.flags.has(Flags::DST_PORT) {
        out.dst_port = t.dst_port;
    }
    out
}

pub(crate) fn source_of(flow: &FlowKey) -> End {
    End { addr: flow.src, port: flow.src_port }
}

fn destination_of(flow: &FlowKey) -> End {
    End { addr: flow.dst, port: flow.dst_port }
}

/// An echo has one identifier, which stands for both ports.
fn is_echo(flow: &FlowKey) -> bool {
    matches!(flow.protocol(), Protocol::ICMP | Protocol::ICMPV6)
}

/// The flow with other ends.
fn between(flow: &FlowKey, src: End, dst: End) -> FlowKey {
    let mut out = *flow;
    (out.src, out.src_port, out.dst, out.dst_port) = (src.addr, src.port, dst.addr, dst.port);
    if is_echo(flow) {
        let id = if dst.port != flow.dst_port { dst.port } else { src.port };
        (out.src_port, out.dst_port) = (id, id);
    }
    out
}
