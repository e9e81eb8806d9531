//! The table: every path to every prefix that a peer told or that is our own, and which of them is the best.
//!
//! Memory: about 100 bytes a prefix and 40 a path; equal attributes of one message are kept once (about 300 bytes).
use crate::prefix::{Family, Prefix};
use crate::wire::attributes::Attributes;
use crate::wire::update::Nlri;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::sync::Arc;

pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// A peer, for as long as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What the choice between paths asks about the peer that told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    pub peer: PeerId,
    pub external: bool,
    /// A client of this reflector (RFC 4456).
    pub client: bool,
    pub id: Ipv4Addr,
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Own,
    Peer(Arc<PeerFacts>),
}

impl Source {
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Own => None,
            Self::Peer(facts) => Some(facts.peer),
        }
    }

    fn external(&self) -> bool {
        matches!(self, Self::Peer(facts) if facts.external)
    }
}

/// Why a path that a peer told is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Own AS in the path.
    Loop,
    /// Our identifier or cluster in it (RFC 4456, 8).
    ReflectionLoop,
    /// An external peer must stand first in the path.
    FirstAs,
    /// Nobody may be routed there.
    Martian,
    /// Our own address, or one that no neighbour has.
    NextHop,
    Policy,
}

impl Refusal {
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Loop => "its path has our own AS in it",
            Self::ReflectionLoop => "it was reflected by us before",
            Self::FirstAs => "its path does not begin with the peer's AS",
            Self::Martian => "nothing may be routed to this prefix",
            Self::NextHop => "its next hop cannot be used",
            Self::Policy => "the import policy refuses it",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub source: Source,
    /// By which the peer tells its paths apart.
    pub path_id: u32,
    /// As the peer told it.
    pub told: Arc<Attributes>,
    /// As the import policy left it, or why it is not used.
    pub used: Result<Arc<Attributes>, Refusal>,
    /// Of a peer that restarts (RFC 4724).
    pub stale: bool,
}

impl Path {
    /// Who told it; nobody, if it is our own.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        self.source.peer()
    }

    fn key(&self) -> (Option<PeerId>, u32) {
        (self.source.peer(), self.path_id)
    }
}

/// What decided between two paths (RFC 4271, 9.1.2.2, and RFC 4456, 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    LocalPreference,
    Own,
    PathLength,
    Origin,
    Med,
    External,
    Identifier,
    ClusterList,
    Address,
    PathId,
}

impl Step {
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::LocalPreference => "lower local preference",
            Self::Own => "not our own",
            Self::PathLength => "longer AS path",
            Self::Origin => "worse origin",
            Self::Med => "higher MED from the same AS",
            Self::External => "from an internal peer",
            Self::Identifier => "higher BGP identifier",
            Self::ClusterList => "reflected more often",
            Self::Address => "higher peer address",
            Self::PathId => "higher path identifier",
        }
    }
}

/// All paths to one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    paths: Vec<Path>,
    best: Option<usize>,
}

impl Entry {
    #[must_use]
    pub fn best(&self) -> Option<&Path> {
        self.best.and_then(|i| self.paths.get(i))
    }

    #[must_use]
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    pub fn usable(&self) -> impl Iterator<Item = (&Path, &Arc<Attributes>)> {
        self.paths.iter().filter_map(|p| Some((p, p.used.as_ref().ok()?)))
    }

    /// The best path and those that differ from it only in who told them: packets may be spread over all.
    pub fn multipath(&self) -> impl Iterator<Item = &Path> {
        let best = self.best();
        self.paths.iter().filter(move |p| {
            let (Some(best), true) = (best, p.used.is_ok()) else { return false };
            std::ptr::eq(best, *p) || compare(best, p, true).is_none_or(|(_, step)| step >= Step::Identifier)
        })
    }

    /// Why a path is not the best; `None` for the best one.
    #[must_use]
    pub fn why_not(&self, path: &Path) -> Option<&'static str> {
        if let Err(refusal) = path.used {
            return Some(refusal.sentence());
        }
        let best = self.best().filter(|b| !std::ptr::eq(*b, path))?;
        compare(best, path, true).map(|(_, step)| step.sentence())
    }

    fn choose(&mut self) {
        self.best = choose(&self.paths);
    }
}

/// Within each neighbouring AS first, where MEDs can be compared, then between the winners: the order in which paths came
/// plays no part.
fn choose(paths: &[Path]) -> Option<usize> {
    let mut winners: Vec<(Option<u32>, usize, &Path)> = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let Ok(used) = &path.used else { continue };
        let neighbour = used.as_path.0.first().copied();
        match winners.iter_mut().find(|(n, ..)| *n == neighbour) {
            Some(w) if better(path, w.2, true) => (w.1, w.2) = (i, path),
            Some(_) => {}
            None => winners.push((neighbour, i, path)),
        }
    }
    let first = winners.first().copied()?;
    let best = winners.into_iter().fold(first, |best, w| if better(w.2, best.2, false) { w } else { best });
    Some(best.1)
}

fn better(a: &Path, b: &Path, with_med: bool) -> bool {
    matches!(compare(a, b, with_med), Some((Ordering::Less, _)))
}

/// `Less`: `a` is preferred. `None`: they are the same.
fn compare(a: &Path, b: &Path, with_med: bool) -> Option<(Ordering, Step)> {
    let (Ok(x), Ok(y)) = (&a.used, &b.used) else { return None };
    let preference = |t: &Attributes| t.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
    let same_neighbour = with_med && x.as_path.0.first() == y.as_path.0.first();
    let med = |t: &Attributes| if same_neighbour { t.med.unwrap_or(0) } else { 0 };
    let id = |p: &Path, t: &Attributes| match &p.source {
        Source::Own => Ipv4Addr::UNSPECIFIED,
        Source::Peer(facts) => t.originator.unwrap_or(facts.id),
    };
    let address = |p: &Path| match &p.source {
        Source::Own => None,
        Source::Peer(facts) => Some(facts.address),
    };
    let steps: [(Step, &dyn Fn() -> Ordering); 10] = [
        (Step::LocalPreference, &|| preference(y).cmp(&preference(x))),
        (Step::Own, &|| (b.source == Source::Own).cmp(&(a.source == Source::Own))),
        (Step::PathLength, &|| x.as_path.0.len().cmp(&y.as_path.0.len())),
        (Step::Origin, &|| x.origin.cmp(&y.origin)),
        (Step::Med, &|| med(x).cmp(&med(y))),
        (Step::External, &|| b.source.external().cmp(&a.source.external())),
        (Step::Identifier, &|| id(a, x).cmp(&id(b, y))),
        (Step::ClusterList, &|| x.cluster_list.len().cmp(&y.cluster_list.len())),
        (Step::Address, &|| address(a).cmp(&address(b))),
        (Step::PathId, &|| a.path_id.cmp(&b.path_id)),
    ];
    steps.into_iter().map(|(step, decide)| (decide(), step)).find(|(order, _)| order.is_ne())
}

/// Prefixes in order. Every change says whether what others are to be told may have changed.
#[derive(Debug, Default)]
pub struct Rib {
    entries: BTreeMap<Prefix, Entry>,
    paths: usize,
}

impl Rib {
    #[must_use]
    pub fn entry(&self, prefix: Prefix) -> Option<&Entry> {
        self.entries.get(&prefix)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &Entry)> {
        self.entries.iter().map(|(p, e)| (*p, e))
    }

    pub fn prefixes(&self, family: Family) -> impl Iterator<Item = Prefix> {
        self.entries.keys().copied().filter(move |p| p.family() == family)
    }

    /// From `first` on, in order.
    pub fn from(&self, first: Option<Prefix>) -> impl Iterator<Item = (Prefix, &Entry)> {
        let first = first.map_or(Bound::Unbounded, Bound::Included);
        self.entries.range((first, Bound::Unbounded)).map(|(p, e)| (*p, e))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Paths of all prefixes, also those that are refused.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.paths
    }

    /// Puts a path in, in place of the one with the same key. Whether anything changed, and whether it is a new key.
    pub fn insert(&mut self, prefix: Prefix, path: Path) -> (bool, bool) {
        let entry = self.entries.entry(prefix).or_default();
        match entry.paths.iter_mut().find(|p| p.key() == path.key()) {
            Some(old) if *old == path => (false, false),
            Some(old) => {
                *old = path;
                entry.choose();
                (true, false)
            }
            None => {
                entry.paths.push(path);
                entry.choose();
                self.paths += 1;
                (true, true)
            }
        }
    }

    /// Takes out one path. Whether it was there.
    pub fn remove(&mut self, prefix: Prefix, peer: Option<PeerId>, path_id: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&prefix) else { return false };
        let Some(at) = entry.paths.iter().position(|p| p.key() == (peer, path_id)) else { return false };
        entry.paths.remove(at);
        self.paths -= 1;
        entry.choose();
        if entry.paths.is_empty() {
            self.entries.remove(&prefix);
        }
        true
    }

    /// Takes out what `gone` says of a peer's paths; which it were.
    pub fn remove_of(&mut self, peer: PeerId, gone: impl Fn(Prefix, &Path) -> bool) -> Vec<Nlri> {
        let of = |prefix: Prefix, p: &Path| p.source.peer() == Some(peer) && gone(prefix, p);
        let mut removed = Vec::new();
        for (prefix, entry) in &self.entries {
            let paths = entry.paths.iter().filter(|p| of(*prefix, p));
            removed.extend(paths.map(|p| Nlri { prefix: *prefix, path_id: p.path_id }));
        }
        for n in &removed {
            self.remove(n.prefix, Some(peer), n.path_id);
        }
        removed
    }

    pub fn mark_stale(&mut self, peer: PeerId) {
        let paths = self.entries.values_mut().flat_map(|e| &mut e.paths);
        paths.filter(|p| p.source.peer() == Some(peer)).for_each(|p| p.stale = true);
    }

    /// Judges a peer's paths anew; those where that made a difference.
    pub fn judge(
        &mut self,
        peer: PeerId,
        judge: impl Fn(Prefix, &Arc<Attributes>) -> Result<Arc<Attributes>, Refusal>,
    ) -> Vec<Nlri> {
        let mut changed = Vec::new();
        for (prefix, entry) in &mut self.entries {
            let mut here = false;
            for path in entry.paths.iter_mut().filter(|p| p.source.peer() == Some(peer)) {
                let used = judge(*prefix, &path.told);
                if used != path.used {
                    here = true;
                    changed.push(Nlri { prefix: *prefix, path_id: path.path_id });
                }
                path.used = used;
            }
            if here {
                entry.choose();
            }
        }
        changed
    }
}
