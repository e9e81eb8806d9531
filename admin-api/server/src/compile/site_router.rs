//! What the routers of virtual gateways are to do.
use penstock_admin_types::Intent;
use penstock_admin_types::intent::{Connection, Network, PolicyEntry, PolicySet, SitePeer, SiteRouter};
use penstock_gateway_proto::TenantRouter;
use penstock_routing_proto::{
    CommunityText, Family, Match, PeerGoal, Policy, Prefix, PrefixRange, RouterGoal, Rule, Set,
};
use std::collections::BTreeSet;

/// `None`: its network is not there.
pub(super) fn router(intent: &Intent, said: &SiteRouter) -> Option<TenantRouter> {
    let network = intent.networks.get(&said.network)?;
    let peers = said.peers.iter().map(|p| peer(intent, network, said, p)).collect();
    Some(TenantRouter {
        name: said.path.name().to_owned(),
        vni: network.vni,
        goal: RouterGoal { local_as: said.local_as, id: said.id, cluster_id: said.cluster_id, peers },
        sites: said.peers.iter().map(|p| (p.path.name().to_owned(), p.tunnel)).collect(),
        own: own(network),
    })
}

fn own(network: &Network) -> BTreeSet<Prefix> {
    network.prefixes.iter().filter_map(|p| Prefix::try_from(*p).ok()).collect()
}

fn peer(intent: &Intent, network: &Network, router: &SiteRouter, said: &SitePeer) -> PeerGoal {
    let families = [Some(said.own_address), said.other_address];
    PeerGoal {
        local_address: Some(said.own_address),
        other_next_hop: said.other_address,
        families: families.into_iter().flatten().map(Family::of).collect(),
        hold_seconds: said.hold_seconds,
        max_prefixes: Some(said.max_prefixes),
        passive: said.is_passive,
        reflector_client: said.is_reflector_client,
        import: Some(import(intent, network, router, said)),
        export: Some(export(network, router, said)),
        ..PeerGoal::new(said.path.name(), said.address, said.remote_as)
    }
}

/// Nothing that a site tells may take the place of what is here, or of a route that the tenant has set.
fn import(intent: &Intent, network: &Network, router: &SiteRouter, said: &SitePeer) -> Policy {
    let Some(map) = &said.import else { return Policy::default() };
    let here = own(network).into_iter().map(PrefixRange::within);
    // A site may tell more of what leads to itself, and nothing of what leads to others.
    let range = |c: &Connection, prefix: Prefix| {
        let is_others = c.id != said.tunnel && prefix.length() > 0;
        if is_others { PrefixRange::within(prefix) } else { PrefixRange::exactly(prefix) }
    };
    let connections = intent.connections.iter().filter(|c| c.network == router.network);
    let routes = connections.flat_map(|c| c.prefixes.iter().map(move |p| (c, *p)));
    let routes = routes.filter_map(|(c, p)| Some(range(c, Prefix::try_from(p).ok()?)));
    let prefixes = here.chain(routes).collect();
    let reserved = Rule { matches: Match { prefixes, ..Match::default() }, accept: false, set: Set::default() };
    Policy { rules: std::iter::once(reserved).chain(map.entries.iter().map(rule)).collect() }
}

fn export(network: &Network, router: &SiteRouter, said: &SitePeer) -> Policy {
    match &said.export {
        Some(map) => Policy { rules: map.entries.iter().map(rule).collect() },
        // What is reflected is what another peer's policy has let in.
        None if said.remote_as == router.local_as => Policy::accept_all(),
        None => {
            let prefixes = own(network).into_iter().map(PrefixRange::exactly).collect();
            let matches = Match { prefixes, ..Match::default() };
            Policy { rules: vec![Rule { matches, accept: true, set: Set::default() }] }
        }
    }
}

fn rule(entry: &PolicyEntry) -> Rule {
    let within = |list: &[ipnetwork::IpNetwork]| {
        list.iter().filter_map(|p| Prefix::try_from(*p).ok()).map(PrefixRange::within).collect()
    };
    let matches = Match {
        prefixes: within(&entry.prefixes),
        except: within(&entry.except),
        next_hops: entry.next_hops.clone(),
        as_ranges: entry.as_ranges.clone(),
        communities: communities(&entry.communities),
        ..Match::default()
    };
    Rule { matches, accept: entry.permits, set: set(&entry.set) }
}

fn set(said: &PolicySet) -> Set {
    Set {
        local_pref: said.local_pref,
        med: said.med,
        clear_med: said.clear_med,
        prepend: u8::try_from(said.prepend.len()).unwrap_or(u8::MAX),
        remove_communities: communities(&said.remove_communities),
        remove_all_communities: said.remove_all_communities,
        add_communities: communities(&said.add_communities),
    }
}

fn communities(list: &[String]) -> Vec<CommunityText> {
    list.iter().filter_map(|c| c.clone().try_into().ok()).collect()
}
