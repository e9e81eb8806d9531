use crate::Plan;
use penstock_model::{BackendId, Nanos};
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
}

#[derive(Serialize, Deserialize)]
struct Kept {
    blocks: Vec<(IpAddr, u16, Holder)>,
    wants: Vec<(BackendId, Wish)>,
}

impl Leases {
    /// `services`: ports of virtual IPs that are taken by services.
    pub(crate) fn update(
        &mut self,
        rules: &[OutboundIntent],
        services: &BTreeSet<(IpAddr, u16)>,
        plan: &Plan,
        demand: &BTreeMap<BackendId, Demand>,
        now: Nanos,
    ) -> LeasePlan {
        let before = self.blocks.clone();
        let ids: BTreeMap<&str, BackendId> = plan.backends.iter().map(|b| (b.name.as_str(), b.id)).collect();
        let rules: Vec<Rule<'_>> = rules.iter().map(|rule| Rule::new(rule, &ids, services)).collect();
        self.release(&rules, now);
        let mut out = LeasePlan::default();
        for rule in &rules {
            for backend in &rule.members {
                let blocks = self.wish(*backend, rule, demand.get(backend).copied());
                let missing = self.give(*backend, blocks, rule);
                if missing > 0 {
                    *out.short.entry(rule.name.to_owned()).or_default() += 1;
                }
            }
            for vip in rule.free.keys() {
                out.free.insert(*vip, self.free(rule, *vip).count());
            }
        }
        let members: BTreeSet<BackendId> = rules.iter().flat_map(|r| r.members.iter().copied()).collect();
        self.wants.retain(|backend, _| members.contains(backend));
        let lease = |((vip, block), holder): (&(IpAddr, u16), &Holder)| {
            holder.left_at.is_none().then_some(Lease { vip: *vip, first: block * BLOCK, backend: holder.backend })
        };
        out.leases = self.blocks.iter().filter_map(lease).collect();
        out.changed = self.blocks != before;
        out
    }

    /// When a block comes out of quarantine.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        self.blocks.values().filter_map(|h| h.left_at).min().map(|at| Nanos(at).plus(QUARANTINE))
    }

    /// What no rule explains goes into quarantine, and out of it when its time has come.
    fn release(&mut self, rules: &[Rule<'_>], now: Nanos) {
        for (place, holder) in &mut self.blocks {
            let is_explained = rules.iter().any(|r| r.has(place) && r.members.contains(&holder.backend));
            match &mut holder.left_at {
                None if !is_explained => holder.left_at = Some(now.0),
                // The clock starts again with the machine: what seems to lie in the future happened just now.
                Some(at) => *at = (*at).min(now.0),
                None => {}
            }
        }
        self.blocks.retain(|_, h| h.left_at.is_none_or(|at| now.since(Nanos(at)) < QUARANTINE));
    }

    /// More than before if since the last time more than one claim in eight was strained (then three in five ports are taken) or
    /// any found none: twice as many.
    fn wish(&mut self, backend: BackendId, rule: &Rule<'_>, demand: Option<Demand>) -> usize {
        let wish = self.wants.entry(backend).or_default();
        wish.blocks = wish.blocks.max(rule.at_first);
        let Some(now) = demand else { return wish.blocks };
        // A host that started anew counts from 0.
        let seen = if now.claims < wish.seen.claims { Demand::default() } else { wish.seen };
        let (claims, strained) = (now.claims - seen.claims, now.strained.saturating_sub(seen.strained));
        let is_short = now.exhausted > seen.exhausted || strained > claims / 8;
        wish.seen = now;
        if is_short {
            wish.blocks = (wish.blocks * 2).min(MAX_BLOCKS);
        }
        wish.blocks
    }

    /// Gives blocks until the backend has as many as it should; returns how many it lacks.
    fn give(&mut self, backend: BackendId, blocks: usize, rule: &Rule<'_>) -> usize {
        let has =
            self.blocks.iter().filter(|(p, h)| h.backend == backend && h.left_at.is_none() && rule.has(p)).count();
        for given in has..blocks {
            let Some(place) = self.next_for(backend, rule) else { return blocks - given };
            self.blocks.insert(place, Holder { backend, left_at: None });
        }
        0
    }

    /// One that it had and that is in quarantine; else the first of the virtual IP that has most left.
    fn next_for(&self, backend: BackendId, rule: &Rule<'_>) -> Option<(IpAddr, u16)> {
        let own = self.blocks.iter().find(|(p, h)| h.backend == backend && h.left_at.is_some() && rule.has(p));
        if let Some((place, _)) = own {
            return Some(*place);
        }
        let roomiest = rule.free.keys().max_by_key(|vip| self.free(rule, **vip).count())?;
        self.free(rule, *roomiest).next().map(|block| (*roomiest, block))
    }

    fn free(&self, rule: &Rule<'_>, vip: IpAddr) -> impl Iterator<Item = u16> {
        let blocks = rule.free.get(&vip).into_iter().flatten().copied();
        blocks.filter(move |block| !self.blocks.contains_key(&(vip, *block)))
    }
}

/// A rule with its blocks and the ids of its members.
struct Rule<'a> {
    name: &'a str,
    members: BTreeSet<BackendId>,
    /// Blocks without a service, by virtual IP.
    free: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// Blocks that each member gets from the start.
    at_first: usize,
}

impl<'a> Rule<'a> {
    fn new(said: &'a OutboundIntent, ids: &BTreeMap<&str, BackendId>, services: &BTreeSet<(IpAddr, u16)>) -> Self {
        let taken = |vip: IpAddr, block: u16| {
            let first = block * BLOCK;
            services.range((vip, first)..=(vip, first + (BLOCK - 1))).next().is_some()
        };
        let all = FIRST_PORT / BLOCK..=u16::MAX / BLOCK;
        let free = |vip: &IpAddr| (*vip, all.clone().filter(|block| !taken(*vip, *block)).collect());
        let members: BTreeSet<BackendId> = said.members.iter().filter_map(|m| ids.get(m.as_str()).copied()).collect();
        Self {
            name: &said.name,
            at_first: at_first(members.len()),
            free: said.vips.iter().map(free).collect(),
            members,
        }
    }

    fn has(&self, (vip, block): &(IpAddr, u16)) -> bool {
        self.free.get(vip).is_some_and(|blocks| blocks.contains(block))
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
    use crate::BackendPlan;
    use penstock_model::{Dip, Mac, Overlay, Underlay, Vni};

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
        leases: Leases,
        services: BTreeSet<(IpAddr, u16)>,
        demand: BTreeMap<BackendId, Demand>,
        now: Nanos,
    }

    impl World {
        fn new() -> Self {
            Self { leases: Leases::default(), services: BTreeSet::new(), demand: BTreeMap::new(), now: T0 }
        }

        fn step(&mut self, rules: &[OutboundIntent]) -> LeasePlan {
            let plan = self.leases.update(rules, &self.services, &plan(600), &self.demand, self.now);
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
