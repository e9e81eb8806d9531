use crate::{BackendPlan, Plan};
use penstock_model::{BackendId, Nanos, Underlay};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Ports of a block: a power of two, so that a mux finds the block of a port by a shift.
pub const BLOCK: u16 = 64;
/// Ports below stay with services (RFC 6335 section 6: system ports).
const FIRST_PORT: u16 = 1024;
/// Blocks that one container may come to have: 16,384 ports.
const MAX_BLOCKS: usize = 256;
/// New claims of a backend that are enough to tell how full its ports are.
const JUDGED_CLAIMS: u64 = 64;
/// How long a block that was given back is leased to nobody else: answers to its last connections may be on their way, and
/// servers remember closed ones (RFC 9293 section 3.4.2: two maximum segment lifetimes, 4 minutes).
pub const QUARANTINE: Duration = Duration::from_secs(240);

/// Containers that reach the outside by virtual IPs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundIntent {
    /// Unique, as `loadBalancers/web/outboundNatRules/out`.
    pub name: String,
    pub vips: Vec<IpAddr>,
    /// [`crate::BackendIntent::name`].
    pub members: Vec<String>,
}

/// Blocks are of one virtual IP: `first..first + BLOCK` belong to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    pub vip: IpAddr,
    pub first: u16,
    pub backend: BackendId,
}

/// How a backend gets on with its ports, counted by its host since that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Demand {
    pub claims: u64,
    /// Claims that found a port only after several that were taken.
    pub strained: u64,
    /// Claims that found none.
    pub exhausted: u64,
}

/// What came of leasing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeasePlan {
    pub leases: Vec<Lease>,
    /// Whether anything differs from before: it has to be stored and shipped.
    pub changed: bool,
    /// Backends that should have more blocks than their rule's virtual IPs have left, by rule.
    pub short: BTreeMap<String, usize>,
    /// Blocks that are free now, by virtual IP.
    pub free: BTreeMap<IpAddr, usize>,
    /// Backends that can be given more: they have not the most yet, and their virtual IPs have some left.
    pub may_grow: BTreeSet<BackendId>,
}

/// Who has which ports of which virtual IP. Leases stay with their backend while a rule says so; more are given before those
/// that it has run out.
///
/// Memory: 40 bytes a block; a virtual IP has at most 1,008.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub(crate) struct Leases {
    blocks: BTreeMap<(IpAddr, u16), Holder>,
    /// Blocks that each backend should have, where it is more than at first, and its last counts.
    wants: BTreeMap<BackendId, Wish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    backend: BackendId,
    /// When it was given back.
    left_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Wish {
    blocks: usize,
    seen: Demand,
    /// Who counted `seen`: another host counts anew.
    #[serde(default)]
    host: Option<Underlay<IpAddr>>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    blocks: Vec<(IpAddr, u16, Holder)>,
    wants: Vec<(BackendId, Wish)>,
}

impl Leases {
    /// `services`: ports of virtual IPs that are taken by services.
    ///
    /// Work: linear in blocks, members and virtual IPs, so that many rules cost a compile no more than their size.
    pub(crate) fn update(
        &mut self,
        rules: &[OutboundIntent],
        services: &BTreeSet<(IpAddr, u16)>,
        plan: &Plan,
        demand: &BTreeMap<BackendId, Demand>,
        now: Nanos,
    ) -> LeasePlan {
        let backends: BTreeMap<&str, &BackendPlan> = plan.backends.iter().map(|b| (b.name.as_str(), b)).collect();
        let rules: Vec<Rule<'_>> = rules.iter().map(|rule| Rule::new(rule, &backends)).collect();
        let mut room = Room::new(&rules, services);
        let mut out = LeasePlan { changed: self.release(&room, now), ..LeasePlan::default() };
        room.count(&self.blocks);
        for (n, rule) in rules.iter().enumerate() {
            for (backend, host) in &rule.members {
                steps::count(1);
                let blocks = self.wish(*backend, *host, rule, demand.get(backend).copied());
                let has = room.has.get(&(n, *backend)).copied().unwrap_or(0);
                let given = self.give(*backend, blocks.saturating_sub(has), rule, &mut room);
                out.changed |= given > 0;
                if has + given < blocks {
                    *out.short.entry(rule.name.to_owned()).or_default() += 1;
                }
            }
        }
        for rule in &rules {
            let has_room = rule.vips.iter().any(|vip| room.free_of(*vip) > 0);
            let may_grow = |(backend, _): &&(BackendId, Underlay<IpAddr>)| {
                has_room && self.wants.get(backend).is_none_or(|wish| wish.blocks < MAX_BLOCKS)
            };
            out.may_grow.extend(rule.members.iter().filter(may_grow).map(|(backend, _)| *backend));
        }
        self.wants.retain(|backend, _| room.rules_of.contains_key(backend));
        out.free = room.vips.iter().map(|(vip, blocks)| (*vip, blocks.free.len())).collect();
        let lease = |((vip, block), holder): (&(IpAddr, u16), &Holder)| {
            holder.left_at.is_none().then_some(Lease { vip: *vip, first: block * BLOCK, backend: holder.backend })
        };
        out.leases = self.blocks.iter().filter_map(lease).collect();
        out
    }

    /// When a block comes out of quarantine.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        self.blocks.values().filter_map(|h| h.left_at).min().map(|at| Nanos(at).plus(QUARANTINE))
    }

    /// What no rule explains goes into quarantine, and out of it when its time has come. Says whether anything has.
    fn release(&mut self, room: &Room<'_>, now: Nanos) -> bool {
        let mut changed = false;
        self.blocks.retain(|place, holder| {
            let before = holder.left_at;
            match &mut holder.left_at {
                None if room.explain(*place, holder.backend).next().is_none() => holder.left_at = Some(now.0),
                // The clock starts again with the machine: what seems to lie in the future happened just now.
                Some(at) => *at = (*at).min(now.0),
                None => {}
            }
            let stays = holder.left_at.is_none_or(|at| now.since(Nanos(at)) < QUARANTINE);
            changed |= !stays || before != holder.left_at;
            stays
        });
        changed
    }

    /// More than before if since the last time more than one claim in eight was strained (then three in five ports are taken) or
    /// any found none: twice as many. Of a few claims one in eight says nothing, so they are judged with those that follow.
    fn wish(&mut self, backend: BackendId, host: Underlay<IpAddr>, rule: &Rule<'_>, demand: Option<Demand>) -> usize {
        let wish = self.wants.entry(backend).or_default();
        wish.blocks = wish.blocks.max(rule.at_first);
        let Some(now) = demand else { return wish.blocks };
        // A host that started anew counts from 0, and so does one that the container has come to.
        if now.claims < wish.seen.claims || wish.host != Some(host) {
            (wish.seen, wish.host) = (Demand::default(), Some(host));
        }
        let claims = now.claims.saturating_sub(wish.seen.claims);
        let strained = now.strained.saturating_sub(wish.seen.strained);
        let is_exhausted = now.exhausted > wish.seen.exhausted;
        if claims < JUDGED_CLAIMS && !is_exhausted {
            return wish.blocks;
        }
        wish.seen = now;
        if is_exhausted || strained > claims / 8 {
            wish.blocks = (wish.blocks * 2).min(MAX_BLOCKS);
        }
        wish.blocks
    }

    /// Gives so many more blocks to the backend, if there are; returns how many it gave.
    fn give(&mut self, backend: BackendId, missing: usize, rule: &Rule<'_>, room: &mut Room<'_>) -> usize {
        for given in 0..missing {
            let Some(place) = room.next_for(backend, rule) else { return given };
            self.blocks.insert(place, Holder { backend, left_at: None });
        }
        missing
    }
}

/// A rule with the ids of its members and their hosts.
struct Rule<'a> {
    name: &'a str,
    members: BTreeSet<(BackendId, Underlay<IpAddr>)>,
    vips: BTreeSet<IpAddr>,
    /// Blocks that each member gets from the start.
    at_first: usize,
}

impl<'a> Rule<'a> {
    fn new(said: &'a OutboundIntent, backends: &BTreeMap<&str, &BackendPlan>) -> Self {
        let known = said.members.iter().filter_map(|m| backends.get(m.as_str()));
        let members: BTreeSet<_> = known.map(|b| (b.id, b.host)).collect();
        let vips = said.vips.iter().copied().collect();
        Self { name: &said.name, at_first: at_first(members.len()), vips, members }
    }
}

/// What the rules' virtual IPs have to give, and who has what: looked up for each block and member instead of searched.
struct Room<'a> {
    rules: &'a [Rule<'a>],
    rules_of: BTreeMap<BackendId, Vec<usize>>,
    vips: BTreeMap<IpAddr, Blocks>,
    /// Blocks of a member by a rule, the rule by its place.
    has: BTreeMap<(usize, BackendId), usize>,
    /// In quarantine, by who had them.
    left: BTreeMap<BackendId, BTreeSet<(IpAddr, u16)>>,
}

/// The blocks of a virtual IP.
struct Blocks {
    /// Without a service.
    usable: BTreeSet<u16>,
    /// Of these, nobody's.
    free: BTreeSet<u16>,
}

impl<'a> Room<'a> {
    fn new(rules: &'a [Rule<'a>], services: &BTreeSet<(IpAddr, u16)>) -> Self {
        let mut rules_of: BTreeMap<BackendId, Vec<usize>> = BTreeMap::new();
        for (n, rule) in rules.iter().enumerate() {
            rule.members.iter().for_each(|(backend, _)| rules_of.entry(*backend).or_default().push(n));
        }
        let served: BTreeSet<(IpAddr, u16)> = services.iter().map(|(vip, port)| (*vip, port / BLOCK)).collect();
        let vips: BTreeSet<IpAddr> = rules.iter().flat_map(|rule| rule.vips.iter().copied()).collect();
        let blocks = |vip: IpAddr| {
            let all = FIRST_PORT / BLOCK..=u16::MAX / BLOCK;
            let usable: BTreeSet<u16> = all.filter(|block| !served.contains(&(vip, *block))).collect();
            steps::count(usable.len());
            (vip, Blocks { free: usable.clone(), usable })
        };
        let vips = vips.into_iter().map(blocks).collect();
        Self { rules, rules_of, vips, has: BTreeMap::new(), left: BTreeMap::new() }
    }

    /// The rules by which the backend has the block.
    fn explain(&self, (vip, block): (IpAddr, u16), backend: BackendId) -> impl Iterator<Item = usize> {
        let is_usable = self.vips.get(&vip).is_some_and(|blocks| blocks.usable.contains(&block));
        let rules = self.rules_of.get(&backend).filter(|_| is_usable).into_iter().flatten().copied();
        rules.filter(move |n| {
            steps::count(1);
            self.rules.get(*n).is_some_and(|rule| rule.vips.contains(&vip))
        })
    }

    /// Takes note of what is leased or in quarantine.
    fn count(&mut self, held: &BTreeMap<(IpAddr, u16), Holder>) {
        for (place, holder) in held {
            if let Some(blocks) = self.vips.get_mut(&place.0) {
                blocks.free.remove(&place.1);
            }
            let of: Vec<usize> = self.explain(*place, holder.backend).collect();
            if holder.left_at.is_some() && !of.is_empty() {
                self.left.entry(holder.backend).or_default().insert(*place);
                continue;
            }
            of.into_iter().for_each(|n| *self.has.entry((n, holder.backend)).or_default() += 1);
        }
    }

    /// One that it had and that is in quarantine; else the first of the virtual IP that has most left.
    fn next_for(&mut self, backend: BackendId, rule: &Rule<'_>) -> Option<(IpAddr, u16)> {
        let place = self.own(backend, rule).or_else(|| self.roomiest(rule))?;
        let of: Vec<usize> = self.explain(place, backend).collect();
        of.into_iter().for_each(|n| *self.has.entry((n, backend)).or_default() += 1);
        Some(place)
    }

    fn own(&mut self, backend: BackendId, rule: &Rule<'_>) -> Option<(IpAddr, u16)> {
        let left = self.left.get_mut(&backend)?;
        let first = |vip: &IpAddr| {
            steps::count(1);
            left.range((*vip, 0)..=(*vip, u16::MAX)).next().copied()
        };
        let place = rule.vips.iter().find_map(first)?;
        left.remove(&place);
        Some(place)
    }

    fn roomiest(&mut self, rule: &Rule<'_>) -> Option<(IpAddr, u16)> {
        steps::count(rule.vips.len());
        let vip = *rule.vips.iter().max_by_key(|vip| self.free_of(**vip))?;
        self.vips.get_mut(&vip)?.free.pop_first().map(|block| (vip, block))
    }

    fn free_of(&self, vip: IpAddr) -> usize {
        self.vips.get(&vip).map_or(0, |blocks| blocks.free.len())
    }
}

/// Counts what is looked at, for the test that it grows with the rules and no faster.
mod steps {
    #[cfg(test)]
    thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

    #[cfg(not(test))]
    pub(super) fn count(_: usize) {}

    #[cfg(test)]
    pub(super) fn count(n: usize) {
        STEPS.set(STEPS.get() + n);
    }

    #[cfg(test)]
    pub(super) fn take() -> usize {
        STEPS.take()
    }
}

/// Blocks of each of so many members: as many ports as Azure's load balancer preallocates.
fn at_first(members: usize) -> usize {
    let ports = match members {
        0..=50 => 1024,
        51..=100 => 512,
        101..=200 => 256,
        201..=400 => 128,
        _ => 64,
    };
    ports / usize::from(BLOCK)
}

impl From<Leases> for Kept {
    fn from(leases: Leases) -> Self {
        Self {
            blocks: leases.blocks.into_iter().map(|((vip, block), holder)| (vip, block, holder)).collect(),
            wants: leases.wants.into_iter().collect(),
        }
    }
}

impl From<Kept> for Leases {
    fn from(kept: Kept) -> Self {
        Self {
            blocks: kept.blocks.into_iter().map(|(vip, block, holder)| ((vip, block), holder)).collect(),
            wants: kept.wants.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::{Dip, Mac, Overlay, Vni};

    const T0: Nanos = Nanos::from_secs(1000);

    fn vip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    fn plan(members: u32) -> Plan {
        let backend = |n: u32| BackendPlan {
            id: BackendId(n),
            name: format!("b{n}"),
            network_interface: format!("b{n}"),
            dip: Dip { vni: Vni::new(1).unwrap(), addr: Overlay(IpAddr::from(n.to_be_bytes())) },
            mac: Mac([2; 6]),
            host: Underlay(vip(200)),
        };
        Plan { backends: (0..members).map(backend).collect(), ..Plan::default() }
    }

    fn rule(vips: &[u8], members: impl IntoIterator<Item = u32>) -> OutboundIntent {
        OutboundIntent {
            name: "out".to_owned(),
            vips: vips.iter().map(|n| vip(*n)).collect(),
            members: members.into_iter().map(|n| format!("b{n}")).collect(),
        }
    }

    struct World {
        members: u32,
        host: u8,
        leases: Leases,
        services: BTreeSet<(IpAddr, u16)>,
        demand: BTreeMap<BackendId, Demand>,
        now: Nanos,
    }

    impl World {
        fn new() -> Self {
            let (members, host) = (600, 200);
            Self {
                members,
                host,
                leases: Leases::default(),
                services: BTreeSet::new(),
                demand: BTreeMap::new(),
                now: T0,
            }
        }

        fn step(&mut self, rules: &[OutboundIntent]) -> LeasePlan {
            let mut plan = plan(self.members);
            plan.backends.iter_mut().for_each(|b| b.host = Underlay(vip(self.host)));
            let plan = self.leases.update(rules, &self.services, &plan, &self.demand, self.now);
            let places: BTreeSet<_> = plan.leases.iter().map(|l| (l.vip, l.first)).collect();
            assert_eq!(places.len(), plan.leases.len(), "a block is leased twice");
            let kept = serde_json::to_string(&self.leases).unwrap();
            assert_eq!(serde_json::from_str::<Leases>(&kept).unwrap(), self.leases);
            plan
        }
    }

    fn of(plan: &LeasePlan, backend: u32) -> Vec<Lease> {
        plan.leases.iter().filter(|l| l.backend == BackendId(backend)).copied().collect()
    }

    #[test]
    fn members_are_given_ports_at_first_by_their_number_and_keep_them() {
        let mut w = World::new();
        let first = w.step(&[rule(&[1], 0..3)]);
        assert!((0..3).all(|n| of(&first, n).len() == 16) && first.changed && first.short.is_empty());
        assert_eq!((first.leases[0].first, first.free[&vip(1)]), (1024, 1008 - 48));
        let again = w.step(&[rule(&[1], 0..3)]);
        assert_eq!((again.leases.clone(), again.changed), (first.leases, false));
        let more = w.step(&[rule(&[1], 0..120)]);
        assert!((0..3).all(|n| of(&more, n) == of(&again, n)), "who has more keeps it");
        assert!((3..120).all(|n| of(&more, n).len() == 4));
    }

    #[test]
    fn several_virtual_ips_are_used_alike_and_ports_of_services_never() {
        let mut w = World::new();
        w.services.extend([(vip(1), 1030), (vip(2), 65_535), (vip(1), 443)]);
        let plan = w.step(&[rule(&[1, 2], 0..50)]);
        let count = |n| plan.leases.iter().filter(|l| l.vip == vip(n)).count();
        assert_eq!((count(1), count(2)), (400, 400));
        assert!(plan.leases.iter().all(|l| (l.vip, l.first) != (vip(1), 1024)));
        w.services.insert((vip(1), plan.leases[0].first + 7));
        let moved = w.step(&[rule(&[1, 2], 0..50)]);
        assert!(!moved.leases.contains(&plan.leases[0]) && moved.leases.len() == 800);
    }

    #[test]
    fn who_runs_short_gets_twice_as_much_before_the_end() {
        let mut w = World::new();
        let rules = [rule(&[1], 0..2)];
        w.step(&rules);
        w.demand.insert(BackendId(0), Demand { claims: 80, strained: 10, exhausted: 0 });
        assert!(!w.step(&rules).changed, "one in eight is usual");
        w.demand.insert(BackendId(0), Demand { claims: 160, strained: 30, exhausted: 0 });
        let grown = w.step(&rules);
        assert_eq!((of(&grown, 0).len(), of(&grown, 1).len()), (32, 16));
        assert!(!w.step(&rules).changed, "the same counts are no new demand");
        w.demand.insert(BackendId(0), Demand { claims: 3, strained: 0, exhausted: 1 });
        assert_eq!(of(&w.step(&rules), 0).len(), 64, "a host that started anew counts from 0");
    }

    #[test]
    fn a_few_claims_say_nothing_unless_one_found_no_port() {
        let mut w = World::new();
        let rules = [rule(&[1], 0..2)];
        w.step(&rules);
        let of_claims = |claims, strained, exhausted| Demand { claims, strained, exhausted };
        for n in 1..64 {
            w.demand.insert(BackendId(0), of_claims(n, n, 0));
            assert!(!w.step(&rules).changed, "{n} of {n}");
        }
        w.demand.insert(BackendId(0), of_claims(64, 64, 0));
        assert_eq!(of(&w.step(&rules), 0).len(), 32, "few at a time are judged together");
        w.demand.insert(BackendId(0), of_claims(65, 64, 1));
        assert_eq!(of(&w.step(&rules), 0).len(), 64);
    }

    #[test]
    fn another_host_counts_anew() {
        let mut w = World::new();
        let rules = [rule(&[1], 0..2)];
        w.step(&rules);
        w.demand.insert(BackendId(0), Demand { claims: 1000, strained: 10, exhausted: 7 });
        assert_eq!(of(&w.step(&rules), 0).len(), 32);
        // By the old host's counts: 100 claims, none exhausted.
        w.host = 201;
        w.demand.insert(BackendId(0), Demand { claims: 1100, strained: 10, exhausted: 5 });
        assert_eq!(of(&w.step(&rules), 0).len(), 64, "five found none on the new host");
        assert!(!w.step(&rules).changed);
    }

    #[test]
    fn only_who_can_be_given_more_may_grow() {
        let mut w = World::new();
        let rules = [rule(&[1], 0..2)];
        assert_eq!(w.step(&rules).may_grow, [0, 1].map(BackendId).into());
        for n in 1..=4 {
            w.demand.insert(BackendId(0), Demand { claims: n, strained: 0, exhausted: n });
            w.step(&rules);
        }
        let most = w.step(&rules);
        assert_eq!((of(&most, 0).len(), most.may_grow), (256, [BackendId(1)].into()));
        assert!(w.step(&[rule(&[1], 0..600)]).may_grow.len() > 500);
        for n in 0..600 {
            w.demand.insert(BackendId(n), Demand { claims: 9, strained: 0, exhausted: 9 });
        }
        let full = w.step(&[rule(&[1], 0..600)]);
        assert!(full.free[&vip(1)] == 0 && full.may_grow.is_empty(), "nothing is left");
    }

    #[test]
    fn the_work_of_a_compile_grows_with_the_rules_and_no_faster() {
        let work = |rules: u32, first: bool| {
            let mut w = World::new();
            w.members = rules * 50;
            let of = |n: u32| OutboundIntent { name: format!("out{n}"), ..rule(&[n as u8], n * 50..n * 50 + 50) };
            let rules: Vec<_> = (0..rules).map(of).collect();
            let backends = plan(w.members);
            let mut update = || w.leases.update(&rules, &w.services, &backends, &w.demand, w.now);
            steps::take();
            let plan = update();
            assert_eq!((plan.leases.len(), plan.short.len()), (rules.len() * 50 * 16, 0));
            if !first {
                steps::take();
                assert!(!update().changed);
            }
            steps::take()
        };
        for first in [true, false] {
            let (ten, hundred) = (work(10, first), work(100, first));
            assert!(hundred <= ten * 11, "{ten} steps for 10 rules, {hundred} for 100");
            // A block is looked at a few times, whosever it is.
            assert!(hundred < 100 * (1008 + 50 * 16 * 4 + 50 * 2), "{hundred}");
        }
    }

    #[test]
    fn what_a_member_leaves_is_leased_to_nobody_else_for_four_minutes() {
        let mut w = World::new();
        let both = [rule(&[1], 0..2)];
        let first = w.step(&both);
        let without = w.step(&[rule(&[1], 1..2)]);
        assert!(of(&without, 0).is_empty());
        let other = w.step(&[rule(&[1], 1..3)]);
        assert!(of(&other, 2).iter().all(|l| of(&first, 0).iter().all(|o| o.first != l.first)));
        assert_eq!(of(&w.step(&both), 0), of(&first, 0), "who comes back gets its own");
        w.step(&[rule(&[1], 1..2)]);
        assert_eq!(w.leases.poll_timeout(), Some(T0.plus(QUARANTINE)));
        w.now = T0.plus(QUARANTINE);
        let late = w.step(&[rule(&[1], [1, 3])]);
        assert_eq!(of(&late, 3)[0].first, 1024, "after that to anybody");
    }

    #[test]
    fn a_virtual_ip_that_has_no_more_is_said_so_by_rule() {
        let mut w = World::new();
        let plan = w.step(&[rule(&[1], 0..500)]);
        assert_eq!((plan.short.len(), plan.free[&vip(1)]), (0, 508));
        for n in 0..500 {
            w.demand.insert(BackendId(n), Demand { claims: 10, strained: 0, exhausted: 5 });
        }
        let plan = w.step(&[rule(&[1], 0..500)]);
        assert_eq!(plan.leases.len(), 1000);
        let plan = w.step(&[rule(&[1], 0..520)]);
        assert_eq!((plan.short["out"], plan.free[&vip(1)]), (12, 0));
    }
}
