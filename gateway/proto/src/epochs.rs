//! When a tenant's flows are to be decided again: numbers given on this node, a new one for each change.
use crate::network::Network;
use crate::policy::Policy;
use crate::tenant::{Site, SiteContent};
use penstock_model::{Epoch, TenantId};
use penstock_policy::{Acl, AclId, VirtualNetwork};
use std::collections::{BTreeMap, BTreeSet};

/// All that the decisions about a tenant's packets follow from. Where it is equal, flows are replayed as they are.
#[derive(Debug, PartialEq, Eq, Default)]
struct Content<'p> {
    networks: Vec<&'p VirtualNetwork>,
    lists: BTreeMap<AclId, &'p Acl>,
    sites: Vec<SiteContent<'p>>,
}

/// Gives the networks of each tenant one epoch: that of `previous` if nothing about the tenant has changed, else the next
/// number. Returns the last number given.
///
/// One for all networks of a tenant, because the two directions of a flow may be decided in different ones. Numbers in
/// sequence, because flow entries keep only the low 16 bits: two states of a policy meet in them after 65,536 changes and
/// not, as with hashes, by chance.
pub(crate) fn give(networks: &mut [Network], sites: &[Option<Site>], acls: &[Acl], previous: Option<&Policy>) -> u32 {
    let before = previous.map(|p| contents(p.networks(), p.sites(), p.acls())).unwrap_or_default();
    let mut last = previous.map_or(0, Policy::last_epoch);
    let mut epochs = BTreeMap::new();
    for (tenant, (_, content)) in contents(networks, sites, acls) {
        let kept = before.get(&tenant).filter(|(_, old)| *old == content).map(|(epoch, _)| *epoch);
        let epoch = kept.unwrap_or_else(|| {
            last = last.wrapping_add(1);
            Epoch(last)
        });
        epochs.insert(tenant, epoch);
    }
    for network in networks {
        if let Some(epoch) = epochs.get(&network.tenant()) {
            network.set_epoch(*epoch);
        }
    }
    last
}

fn contents<'p>(
    networks: &'p [Network],
    sites: &'p [Option<Site>],
    acls: &'p [Acl],
) -> BTreeMap<TenantId, (Epoch, Content<'p>)> {
    let mut tenants: BTreeMap<TenantId, (Epoch, Content<'p>)> = BTreeMap::new();
    for network in networks {
        let (epoch, content) = tenants.entry(network.tenant()).or_default();
        *epoch = network.epoch();
        content.networks.push(network.intent());
        let used: BTreeSet<AclId> = network.intent().endpoints.iter().filter_map(|e| e.acl).collect();
        content.lists.extend(used.into_iter().filter_map(|id| Some((id, acls.get(id.0 as usize)?))));
    }
    for site in sites.iter().flatten() {
        if let Some((_, content)) = tenants.get_mut(&site.tenant) {
            content.sites.push(site.content());
        }
    }
    tenants
}
