use super::{Peer, Speaker};
use crate::prefix::Prefix;
use crate::rib::{Entry, Path, PeerId};
use crate::status::{Chosen, PathStatus, PeerStatus, RouteStatus, RouterStatus};
use penstock_model::Nanos;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Speaker {
    #[must_use]
    pub fn own_as(&self) -> u32 {
        self.goal.local_as
    }

    #[must_use]
    pub fn own_id(&self) -> Ipv4Addr {
        self.id()
    }

    /// The identifier of a peer that is up.
    #[must_use]
    pub fn remote_id(&self, id: PeerId) -> Option<Ipv4Addr> {
        Some(self.peers.get(&id)?.session.remote()?.id)
    }

    /// Differs from what it was where [`Self::chosen`] may, too.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Every prefix that is a peer's, and whose path is used.
    #[must_use]
    pub fn chosen(&self) -> Vec<Chosen> {
        let names: BTreeMap<PeerId, Arc<str>> =
            self.peers.iter().map(|(id, p)| (*id, Arc::from(p.goal.name.as_str()))).collect();
        let of = |(prefix, entry): (Prefix, &Entry)| {
            let best = entry.best()?.source.peer()?;
            let others = entry.usable().filter_map(|(path, _)| path.source.peer()).filter(|peer| *peer != best);
            let peers = std::iter::once(best).chain(others).filter_map(|peer| names.get(&peer)).cloned();
            Some(Chosen { prefix, peers: peers.collect() })
        };
        self.rib.iter().filter_map(of).collect()
    }

    /// With at most `routes` prefixes of the table, own ones first.
    #[must_use]
    pub fn status(&self, routes: usize, now: Nanos) -> RouterStatus {
        let others = self.rib.iter().map(|(p, _)| p).filter(|p| !self.own.contains(p));
        let shown = self.own.iter().copied().chain(others).take(routes);
        let is_told = |prefix: Prefix| self.peers.keys().any(|id| self.told(*id, prefix) == Some(Ok(())));
        RouterStatus {
            local_as: self.goal.local_as,
            id: Some(self.id()),
            draining: self.draining,
            peers: self.peers.values().map(|p| p.status(now)).collect(),
            prefixes: self.rib.len() as u64,
            paths: self.rib.paths() as u64,
            announced: self.own.iter().filter(|p| is_told(**p)).count() as u64,
            routes: shown.filter_map(|p| self.route(p)).collect(),
            withheld: Vec::new(),
            collectors: Vec::new(),
            error: None,
        }
    }

    /// Everything about one prefix: its paths, which is used and why not the others, who is told and who not.
    #[must_use]
    pub fn route(&self, prefix: Prefix) -> Option<RouteStatus> {
        let entry = self.rib.entry(prefix)?;
        let mut out = RouteStatus {
            prefix,
            paths: entry.paths().iter().map(|p| self.path(entry, p)).collect(),
            advertised_to: Vec::new(),
            not_advertised: Vec::new(),
        };
        for (id, peer) in &self.peers {
            match self.told(*id, prefix) {
                Some(Ok(())) => out.advertised_to.push(peer.goal.name.clone()),
                Some(Err(why)) => out.not_advertised.push((peer.goal.name.clone(), why.to_owned())),
                None => out.not_advertised.push((peer.goal.name.clone(), "the session is not established".to_owned())),
            }
        }
        Some(out)
    }

    fn path(&self, entry: &Entry, path: &Path) -> PathStatus {
        let shown = path.used.as_ref().unwrap_or(&path.told);
        PathStatus {
            peer: path.source.peer().and_then(|id| self.peers.get(&id)).map(|p| p.goal.name.clone()),
            best: entry.best().is_some_and(|b| std::ptr::eq(b, path)),
            why_not: entry.why_not(path).map(str::to_owned),
            next_hop: shown.next_hop.global,
            as_path: shown.as_path.to_string(),
            communities: shown.communities.iter().map(ToString::to_string).collect(),
            local_pref: shown.local_pref,
            med: shown.med,
            stale: path.stale,
        }
    }
}

impl Peer {
    fn status(&self, now: Nanos) -> PeerStatus {
        let counts = self.session.counts();
        let remote = self.session.remote();
        PeerStatus {
            name: self.goal.name.clone(),
            address: self.goal.address,
            remote_as: self.goal.remote_as,
            state: self.session.state(),
            up_seconds: self.session.established_at().map(|at| now.since(at).as_secs()),
            id: remote.map(|r| r.id),
            hold_seconds: remote.map(|r| r.hold.as_secs()),
            received: u64::from(self.received),
            advertised: self.live.as_ref().map_or(0, |l| l.sent.len() as u64),
            established: counts.established,
            messages_received: counts.received,
            messages_sent: counts.sent,
            malformed: counts.malformed,
            last_error: self.session.last_error().map(str::to_owned),
            bfd: None,
        }
    }
}
