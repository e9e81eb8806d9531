use super::{BLOCK, FIRST_PORT, Holder, OutboundIntent, steps};
use crate::BackendPlan;
use penstock_model::{BackendId, Underlay};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A rule with the ids of its members and their hosts.
pub(super) struct Rule<'a> {
    pub(super) name: &'a str,
    pub(super) members: BTreeSet<(BackendId, Underlay<IpAddr>)>,
    pub(super) vips: BTreeSet<IpAddr>,
    /// Blocks that each member gets from the start.
    pub(super) at_first: usize,
}

impl<'a> Rule<'a> {
    pub(super) fn new(said: &'a OutboundIntent, backends: &BTreeMap<&str, &BackendPlan>) -> Self {
        let known = said.members.iter().filter_map(|m| backends.get(m.as_str()));
        let members: BTreeSet<_> = known.map(|b| (b.id, b.host)).collect();
        let vips = said.vips.iter().copied().collect();
        Self { name: &said.name, at_first: at_first(members.len()), vips, members }
    }
}

/// What the rules' virtual IPs have to give, and who has what: looked up for each block and member instead of searched.
pub(super) struct Room<'a> {
    pub(super) rules: &'a [Rule<'a>],
    pub(super) rules_of: BTreeMap<BackendId, Vec<usize>>,
    pub(super) hosts: BTreeMap<BackendId, Underlay<IpAddr>>,
    pub(super) vips: BTreeMap<IpAddr, Blocks>,
    /// Blocks of a member by a rule, the rule by its place.
    has: BTreeMap<(usize, BackendId), usize>,
    /// In quarantine, by who had them.
    left: BTreeMap<BackendId, BTreeSet<(IpAddr, u16)>>,
}

/// The blocks of a virtual IP.
pub(super) struct Blocks {
    /// Without a service.
    usable: BTreeSet<u16>,
    /// Of these, nobody's.
    pub(super) free: BTreeSet<u16>,
}

impl<'a> Room<'a> {
    pub(super) fn new(rules: &'a [Rule<'a>], services: &BTreeSet<(IpAddr, u16)>) -> Self {
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
        let hosts = rules.iter().flat_map(|rule| rule.members.iter().copied()).collect();
        Self { rules, rules_of, hosts, vips, has: BTreeMap::new(), left: BTreeMap::new() }
    }

    /// Each rule's place with each of its members.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, BackendId, &'a Rule<'a>)> + use<'a> {
        let of = |(n, rule): (usize, &'a Rule<'a>)| rule.members.iter().map(move |(backend, _)| (n, *backend, rule));
        self.rules.iter().enumerate().flat_map(of).inspect(|_| steps::count(1))
    }

    /// Virtual IPs that have too little for what all should have at first. Elsewhere all is given at once, so that the ports of a
    /// member are one range.
    pub(super) fn scarce(&self) -> BTreeSet<IpAddr> {
        let mut missing: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (n, backend, rule) in self.members() {
            let blocks = rule.at_first.saturating_sub(self.has(n, backend));
            if blocks > 0 {
                rule.vips.iter().for_each(|vip| *missing.entry(*vip).or_default() += blocks);
            }
        }
        missing.into_iter().filter(|(vip, blocks)| *blocks > self.free_of(*vip)).map(|(vip, _)| vip).collect()
    }

    pub(super) fn has(&self, rule: usize, backend: BackendId) -> usize {
        self.has.get(&(rule, backend)).copied().unwrap_or(0)
    }

    /// The rules by which the backend has the block.
    pub(super) fn explain(&self, (vip, block): (IpAddr, u16), backend: BackendId) -> impl Iterator<Item = usize> {
        let is_usable = self.vips.get(&vip).is_some_and(|blocks| blocks.usable.contains(&block));
        let rules = self.rules_of.get(&backend).filter(|_| is_usable).into_iter().flatten().copied();
        rules.filter(move |n| {
            steps::count(1);
            self.rules.get(*n).is_some_and(|rule| rule.vips.contains(&vip))
        })
    }

    /// Takes note of what is leased or in quarantine.
    pub(super) fn count(&mut self, held: &BTreeMap<(IpAddr, u16), Holder>) {
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
    pub(super) fn next_for(&mut self, backend: BackendId, rule: &Rule<'_>) -> Option<(IpAddr, u16)> {
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

    pub(super) fn free_of(&self, vip: IpAddr) -> usize {
        self.vips.get(&vip).map_or(0, |blocks| blocks.free.len())
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
