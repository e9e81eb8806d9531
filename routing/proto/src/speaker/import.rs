use super::Speaker;
use crate::goal::PeerGoal;
use crate::policy::Outcome;
use crate::prefix::Prefix;
use crate::rib::{Path, PeerId, Refusal, Source};
use crate::wire::attributes::{Attributes, Community};
use crate::wire::update::Nlri;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What judging a peer's routes asks about this node and the peer.
struct Judge<'a> {
    own_as: u32,
    own_id: Ipv4Addr,
    cluster: Ipv4Addr,
    own_address: Option<IpAddr>,
    goal: &'a PeerGoal,
}

impl Judge<'_> {
    fn external(&self) -> bool {
        self.goal.remote_as != self.own_as
    }

    fn judge(&self, prefix: Prefix, told: &Arc<Attributes>) -> Result<Arc<Attributes>, Refusal> {
        self.sound(prefix, told)?;
        let mut used = Arc::clone(told);
        // RFC 8326, 4.2: who is about to go is the last choice.
        if self.external() && told.has(Community::GRACEFUL_SHUTDOWN) {
            used = Arc::new(Attributes { local_pref: Some(0), ..(**told).clone() });
        }
        match &self.goal.import {
            Some(policy) => match policy.evaluate(prefix, &used, self.own_as) {
                Outcome::Refused => Err(Refusal::Policy),
                Outcome::Accepted => Ok(used),
                Outcome::Changed(changed) => Ok(Arc::new(*changed)),
            },
            None if self.external() => Err(Refusal::Policy),
            None => Ok(used),
        }
    }

    fn sound(&self, prefix: Prefix, told: &Attributes) -> Result<(), Refusal> {
        if prefix.is_martian() {
            return Err(Refusal::Martian);
        }
        if told.as_path.contains(self.own_as) {
            return Err(Refusal::Loop);
        }
        if self.external() && told.as_path.0.first() != Some(&self.goal.remote_as) {
            return Err(Refusal::FirstAs);
        }
        if told.originator == Some(self.own_id) || told.cluster_list.contains(&self.cluster) {
            return Err(Refusal::ReflectionLoop);
        }
        let hop = told.next_hop.global;
        let loopback = hop.is_loopback() || hop.is_unspecified() || hop.is_multicast();
        if loopback || self.own_address == Some(hop) {
            return Err(Refusal::NextHop);
        }
        Ok(())
    }
}

impl Speaker {
    fn judge_of(&self, id: PeerId) -> Option<Judge<'_>> {
        let peer = self.peers.get(&id)?;
        Some(Judge {
            own_as: self.goal.local_as,
            own_id: self.id(),
            cluster: self.cluster(),
            own_address: peer.live.as_ref().map(|l| l.ends.local.ip()),
            goal: &peer.goal,
        })
    }

    /// Whether more is told of a route than the peer may fill.
    pub(super) fn is_too_long(&self, id: PeerId, told: &Attributes) -> bool {
        let most = self.peers.get(&id).and_then(|peer| peer.goal.max_attribute_bytes);
        most.is_some_and(|most| told.bytes() > most as usize)
    }

    /// Takes routes as withdrawn by the peer.
    pub(super) fn forget(&mut self, id: PeerId, list: &[Nlri], changed: &mut Vec<Nlri>) {
        for n in list {
            if self.rib.remove(n.prefix, Some(id), n.path_id) {
                changed.push(*n);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.received = peer.received.saturating_sub(1);
                }
            }
        }
    }

    pub(super) fn learn(&mut self, id: PeerId, told: &Arc<Attributes>, list: &[Nlri], changed: &mut Vec<Nlri>) {
        let Some(judge) = self.judge_of(id) else { return };
        let Some(facts) = self.peers.get(&id).and_then(|p| p.live.as_ref()).map(|l| l.facts.clone()) else { return };
        // What nothing is taken of is not kept either: it can be asked for again.
        if judge.goal.takes_nothing(judge.own_as) {
            return;
        }
        let judged: Vec<_> = list.iter().map(|n| (*n, judge.judge(n.prefix, told))).collect();
        let mut last: Option<Arc<Attributes>> = None;
        for (n, used) in judged {
            // Equal results are one.
            let used = used.map(|u| match &last {
                Some(before) if **before == *u => before.clone(),
                _ => {
                    last = Some(u.clone());
                    u
                }
            });
            if let (Err(refusal), Some(peer)) = (&used, self.peers.get_mut(&id)) {
                peer.refused.count(*refusal);
            }
            let path = Path {
                source: Source::Peer(facts.clone()),
                path_id: n.path_id,
                told: told.clone(),
                used,
                stale: false,
            };
            let (different, new) = self.rib.insert(n.prefix, path);
            if different {
                changed.push(n);
            }
            if new && let Some(peer) = self.peers.get_mut(&id) {
                peer.received += 1;
            }
        }
    }

    /// After a change of the import policy: what the peer told is still there.
    pub(super) fn judge_again(&mut self, id: PeerId) {
        let mut rib = std::mem::take(&mut self.rib);
        let changed = match self.judge_of(id) {
            Some(judge) => rib.judge(id, |prefix, told| judge.judge(prefix, told)),
            None => Vec::new(),
        };
        self.rib = rib;
        self.spread_of(id, &changed);
    }
}
