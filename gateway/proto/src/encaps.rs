use penstock_engine::EncapTemplate;
use penstock_model::{EncapId, Vni};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The encapsulations of one policy. An id stays with its (host, network) from policy to policy, because flows remember it:
/// a flow of an unchanged tenant is replayed under the next policy without being resolved again.
///
/// An id that fell free is given out again: whoever used it belonged to a tenant that changed, so its flows are stale.
#[derive(Debug, Default)]
pub(crate) struct Encaps {
    ids: BTreeMap<(Vni, IpAddr), EncapId>,
    /// By id; `None` while the underlay next hop is not resolved, or if the id is free.
    templates: Vec<Option<EncapTemplate>>,
}

impl Encaps {
    /// Ids for all of `wanted`, those that `previous` had unchanged.
    pub(crate) fn assign(wanted: &BTreeSet<(Vni, IpAddr)>, previous: Option<&Encaps>) -> Self {
        let kept: BTreeMap<_, _> = previous
            .map(|p| p.ids.iter().filter(|(k, _)| wanted.contains(k)).map(|(k, id)| (*k, *id)).collect())
            .unwrap_or_default();
        let taken: BTreeSet<u32> = kept.values().map(|id: &EncapId| id.0).collect();
        let mut free = (0u32..).filter(|i| !taken.contains(i));
        let mut ids = kept;
        for key in wanted {
            if !ids.contains_key(key)
                && let Some(id) = free.next()
            {
                ids.insert(*key, EncapId(id));
            }
        }
        let len = ids.values().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        Self { ids, templates: vec![None; len] }
    }

    pub(crate) fn id(&self, vni: Vni, host: IpAddr) -> Option<EncapId> {
        self.ids.get(&(vni, host)).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Vni, IpAddr, EncapId)> + '_ {
        self.ids.iter().map(|((vni, host), id)| (*vni, *host, *id))
    }

    pub(crate) fn fill(&mut self, id: EncapId, template: Option<EncapTemplate>) {
        if let Some(slot) = self.templates.get_mut(id.0 as usize) {
            *slot = template;
        }
    }

    pub(crate) fn template(&self, id: u32) -> Option<&EncapTemplate> {
        self.templates.get(id as usize).and_then(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(keys: &[(u32, &str)]) -> BTreeSet<(Vni, IpAddr)> {
        keys.iter().map(|(v, h)| (Vni::new(*v).unwrap(), h.parse().unwrap())).collect()
    }

    #[test]
    fn an_id_stays_with_its_host_when_others_come_and_go() {
        let first = Encaps::assign(&wanted(&[(1, "10.0.0.1"), (1, "10.0.0.2"), (2, "10.0.0.1")]), None);
        let second = Encaps::assign(&wanted(&[(1, "10.0.0.0"), (1, "10.0.0.2"), (2, "10.0.0.1")]), Some(&first));
        let vni = |n| Vni::new(n).unwrap();
        let host: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        assert_eq!(first.id(vni(2), host), second.id(vni(2), host));
        assert_eq!(first.id(vni(1), other), second.id(vni(1), other));
        assert_eq!(second.id(vni(1), host), None);
        let new: IpAddr = "10.0.0.0".parse().unwrap();
        assert_eq!(second.id(vni(1), new), first.id(vni(1), host), "the id that fell free is used again");
    }
}
