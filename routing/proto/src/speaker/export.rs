use super::{Live, Peer, Speaker};
use crate::policy::Outcome;
use crate::prefix::{Family, Prefix};
use crate::rib::{Entry, Path, PeerId, Source};
use crate::wire::attributes::{Attributes, Community};
use crate::wire::update::{self, Agreed, Nlri};
use penstock_model::Nanos;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Prefixes that are looked at for one message.
const LOOK_AHEAD: usize = 512;

/// What telling a peer asks about this node.
struct Voice<'a> {
    own_as: u32,
    cluster: Ipv4Addr,
    draining: bool,
    peer: &'a Peer,
    live: &'a Live,
    agreed: &'a Agreed,
}

impl Voice<'_> {
    /// A path as the peer is told of it.
    fn tell(&self, prefix: Prefix, path: &Path, used: &Attributes) -> Result<Attributes, &'static str> {
        let external = self.agreed.dialect.external;
        self.may(path, used)?;
        let mut told = used.clone();
        match &path.source {
            Source::Peer(facts) if !external && !facts.external => {
                // RFC 4456, 8: reflected, with next hop and preference as they are.
                told.originator = told.originator.or(Some(facts.id));
                told.cluster_list.insert(0, self.cluster);
            }
            Source::Peer(_) if external => told.med = None,
            _ => {}
        }
        if external {
            told.local_pref = None;
        }
        if external || path.source == Source::Own {
            told.next_hop = self.next_hop(prefix.family()).ok_or("there is no next hop of the prefix's family")?.into();
        }
        if self.draining {
            told.add_community(Community::GRACEFUL_SHUTDOWN);
            told.local_pref = (!external).then_some(0);
        }
        match &self.peer.goal.export {
            Some(policy) => match policy.evaluate(prefix, &told, self.own_as) {
                Outcome::Refused => return Err("the export policy refuses it"),
                Outcome::Accepted => {}
                Outcome::Changed(changed) => told = *changed,
            },
            None if external => return Err("an external peer without an export policy is told nothing (RFC 8212)"),
            None => {}
        }
        if external {
            told.as_path.prepend(self.own_as, 1);
        }
        Ok(told)
    }

    fn may(&self, path: &Path, used: &Attributes) -> Result<(), &'static str> {
        let external = self.agreed.dialect.external;
        if used.has(Community::NO_ADVERTISE) {
            return Err("it carries no-advertise");
        }
        if external && (used.has(Community::NO_EXPORT) || used.has(Community::NO_EXPORT_SUBCONFED)) {
            return Err("it carries no-export");
        }
        if external && used.as_path.contains(self.peer.goal.remote_as) {
            return Err("its path has the peer's AS in it");
        }
        let Source::Peer(facts) = &path.source else { return Ok(()) };
        if facts.peer == self.live.facts.peer {
            return Err("the peer told it");
        }
        if used.originator == Some(self.live.facts.id) {
            return Err("it comes from the peer, by reflection");
        }
        let between_internal = !external && !facts.external;
        if between_internal && !facts.client && !self.live.facts.client {
            return Err("it is of an internal peer, and neither is a client (RFC 4456)");
        }
        Ok(())
    }

    fn next_hop(&self, family: Family) -> Option<IpAddr> {
        let local = self.live.ends.local.ip();
        let natural = Family::of(local) == family || (family == Family::Ipv4 && self.agreed.extended_next_hop);
        let other = self.peer.goal.other_next_hop.filter(|h| Family::of(*h) == family);
        if Family::of(local) == family { Some(local) } else { other.or(natural.then_some(local)) }
            .filter(|a| !a.is_unspecified())
    }

    /// What the peer is to know of a prefix, by path identifier.
    fn wanted(&self, prefix: Prefix, entry: Option<&Entry>) -> Vec<(u32, Attributes)> {
        let Some(entry) = entry.filter(|_| self.agreed.families.contains(&prefix.family())) else { return Vec::new() };
        let told = |path: &Path, used: &Attributes| self.tell(prefix, path, used).ok();
        if self.agreed.paths_sent.contains(&prefix.family()) {
            return entry.usable().filter_map(|(path, used)| Some((path_id(path), told(path, used)?))).collect();
        }
        let best = entry.best().and_then(|b| told(b, b.used.as_ref().ok()?));
        best.map(|t| (0, t)).into_iter().collect()
    }
}

/// Distinct for all paths of a prefix: which peer, and which of its paths. Peers that send several paths use small numbers.
fn path_id(path: &Path) -> u32 {
    let peer = path.source.peer().map_or(0, |p| p.0.wrapping_add(1));
    peer << 16 | (path.path_id & 0xffff)
}

/// One message's worth: equal attributes, or withdrawals, of one family.
#[derive(Debug, Default)]
struct Group {
    attributes: Option<Arc<Attributes>>,
    list: Vec<Nlri>,
    /// Prefixes that the message settles.
    done: Vec<Prefix>,
}

impl Speaker {
    /// Sends the peer one more message of what it is to be told; false when there is nothing more. To be called while the
    /// peer's output has room: what a slow peer has not been told yet costs a prefix, not a message.
    pub fn fill(&mut self, id: PeerId, now: Nanos) -> bool {
        let message = self.next_message(id);
        let Some(message) = message else { return false };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.session.send(message, now);
        }
        self.collect_one(id, now);
        true
    }

    fn next_message(&mut self, id: PeerId) -> Option<Vec<u8>> {
        loop {
            let agreed = self.peers.get(&id)?.session.remote()?.agreed.clone();
            let group = self.gather(id, &agreed)?;
            let Some(Peer { live: Some(live), .. }) = self.peers.get_mut(&id) else { return None };
            for prefix in &group.done {
                live.dirty.remove(prefix);
            }
            if group.list.is_empty() {
                if !group.done.is_empty() {
                    continue;
                }
                // All is said: the end of each family is said once.
                let family = live.end_of_rib_due.pop_first()?;
                return Some(update::end_of_rib(family));
            }
            let (message, taken) = match &group.attributes {
                None => update::withdraw(&group.list, &agreed),
                Some(attributes) => match update::announce(attributes, &group.list, &agreed) {
                    Some(sent) => sent,
                    // Too long for a message: as if it were not there.
                    None => update::withdraw(&group.list, &agreed),
                },
            };
            for (i, n) in group.list.iter().enumerate() {
                if i >= taken {
                    live.dirty.insert(n.prefix);
                    continue;
                }
                match &group.attributes {
                    Some(attributes) => drop(live.sent.insert(*n, Some(attributes.clone()))),
                    None => drop(live.sent.remove(n)),
                }
            }
            return Some(message);
        }
    }

    /// What the next message can say. `None`: the peer is not there.
    fn gather(&self, id: PeerId, agreed: &Agreed) -> Option<Group> {
        let voice = self.voice(id, agreed)?;
        let mut group = Group::default();
        for prefix in voice.live.dirty.iter().take(LOOK_AHEAD) {
            let wanted = voice.wanted(*prefix, self.rib.entry(*prefix));
            let mut settled = true;
            for change in changes(*prefix, &wanted, voice.live) {
                let same_family = group.list.first().is_none_or(|n| n.prefix.family() == prefix.family());
                let same = group.list.is_empty() || group.attributes.as_deref() == change.1;
                if same && same_family {
                    if group.list.is_empty() {
                        group.attributes = change.1.cloned().map(Arc::new);
                    }
                    group.list.push(change.0);
                } else {
                    settled = false;
                }
            }
            if settled {
                group.done.push(*prefix);
            }
        }
        Some(group)
    }

    fn voice<'a>(&'a self, id: PeerId, agreed: &'a Agreed) -> Option<Voice<'a>> {
        let peer = self.peers.get(&id)?;
        let live = peer.live.as_ref()?;
        Some(Voice { own_as: self.goal.local_as, cluster: self.cluster(), draining: self.draining, peer, live, agreed })
    }

    /// Whether a peer is told of a prefix, or why not. `None`: it is not there to be told.
    pub(super) fn told(&self, id: PeerId, prefix: Prefix) -> Option<Result<(), &'static str>> {
        let agreed = &self.peers.get(&id)?.session.remote()?.agreed;
        let voice = self.voice(id, agreed)?;
        if !agreed.families.contains(&prefix.family()) {
            return Some(Err("the family is not exchanged with the peer"));
        }
        let best = self.rib.entry(prefix)?.best()?;
        let used = best.used.as_ref().ok()?;
        Some(voice.tell(prefix, best, used).map(|_| ()))
    }
}

/// From what the peer has been told to what it is to know.
fn changes<'a>(prefix: Prefix, wanted: &'a [(u32, Attributes)], live: &Live) -> Vec<(Nlri, Option<&'a Attributes>)> {
    let all = Nlri { prefix, path_id: 0 }..=Nlri { prefix, path_id: u32::MAX };
    let gone = live.sent.range(all).map(|(n, _)| *n).filter(|n| !wanted.iter().any(|(id, _)| *id == n.path_id));
    let mut out: Vec<(Nlri, Option<&Attributes>)> = gone.map(|n| (n, None)).collect();
    for (path_id, attributes) in wanted {
        let n = Nlri { prefix, path_id: *path_id };
        if live.sent.get(&n).and_then(Option::as_deref) != Some(attributes) {
            out.push((n, Some(attributes)));
        }
    }
    out
}
