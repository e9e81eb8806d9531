mod room;
#[cfg(test)]
mod tests;

use self::room::{Room, Rule};
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

/// Whom blocks are given to.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Nothing,
    First,
    Growth,
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
        let wishes = self.wishes(&room, demand);
        let scarce = room.scarce();
        // Where there is little, who has nothing goes first; who grows goes last.
        for turn in [Turn::Nothing, Turn::First, Turn::Growth] {
            for (n, backend, rule) in room.members() {
                let blocks = match turn {
                    Turn::Nothing if scarce.is_disjoint(&rule.vips) => continue,
                    Turn::Nothing => 1,
                    Turn::First => rule.at_first,
                    Turn::Growth => wishes.get(&backend).copied().unwrap_or(rule.at_first),
                };
                out.changed |= self.give(backend, blocks.saturating_sub(room.has(n, backend)), rule, &mut room);
            }
        }
        for (n, backend, rule) in room.members() {
            if wishes.get(&backend).is_some_and(|wish| room.has(n, backend) < *wish) {
                *out.short.entry(rule.name.to_owned()).or_default() += 1;
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

    /// How many blocks each member should have, by each of its rules.
    fn wishes(&mut self, room: &Room<'_>, demand: &BTreeMap<BackendId, Demand>) -> BTreeMap<BackendId, usize> {
        let mut wishes = BTreeMap::new();
        for (backend, of) in &room.rules_of {
            let at_first = of.iter().filter_map(|n| room.rules.get(*n)).map(|rule| rule.at_first).max();
            let has = of.iter().map(|n| room.has(*n, *backend)).max().unwrap_or(0);
            let wish = self.wish(*backend, at_first.unwrap_or(0), has, room.hosts.get(backend), demand.get(backend));
            wishes.insert(*backend, wish);
        }
        wishes
    }

    /// More than before if since the last time more than one claim in eight was strained (then three in five ports are taken) or
    /// any found none: twice as many. Of a few claims one in eight says nothing, so they are judged with those that follow; and
    /// who has not been given yet what it should have is not asked whether that is enough.
    fn wish(
        &mut self,
        backend: BackendId,
        at_first: usize,
        has: usize,
        host: Option<&Underlay<IpAddr>>,
        demand: Option<&Demand>,
    ) -> usize {
        let wish = self.wants.entry(backend).or_default();
        wish.blocks = wish.blocks.max(at_first);
        let Some(now) = demand.copied() else { return wish.blocks };
        // A host that started anew counts from 0, and so does one that the container has come to.
        if now.claims < wish.seen.claims || wish.host.as_ref() != host {
            (wish.seen, wish.host) = (Demand::default(), host.copied());
        }
        let claims = now.claims.saturating_sub(wish.seen.claims);
        let strained = now.strained.saturating_sub(wish.seen.strained);
        let is_exhausted = now.exhausted > wish.seen.exhausted;
        if claims < JUDGED_CLAIMS && !is_exhausted {
            return wish.blocks;
        }
        wish.seen = now;
        if has >= wish.blocks && (is_exhausted || strained > claims / 8) {
            wish.blocks = (wish.blocks * 2).min(MAX_BLOCKS);
        }
        wish.blocks
    }

    /// Gives so many more blocks to the backend, if there are; says whether it gave any.
    fn give(&mut self, backend: BackendId, missing: usize, rule: &Rule<'_>, room: &mut Room<'_>) -> bool {
        for given in 0..missing {
            let Some(place) = room.next_for(backend, rule) else { return given > 0 };
            self.blocks.insert(place, Holder { backend, left_at: None });
        }
        missing > 0
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
