//! Whom a mux announces virtual IPs to.
use crate::secrets::{Sealer, SecretError};
use penstock_admin_types::intent::{Node, PeerRouter, Router};
use penstock_routing_proto::{BfdGoal, PeerGoal, Policy, RouterGoal, SecretText};
use std::net::IpAddr;

pub(super) fn goal(mux: &Node, sealer: &Sealer) -> Result<Option<RouterGoal>, SecretError> {
    let Some(router) = &mux.router else { return Ok(None) };
    let key = router.key.as_ref().map(|k| sealer.open_value(k)).transpose()?;
    let key = key.map(|k| SecretText(k.to_string()));
    let peers = router.peers.iter().map(|p| peer(p, router, mux.address, key.clone())).collect();
    Ok(Some(RouterGoal { local_as: router.local_as, peers, ..RouterGoal::default() }))
}

fn peer(said: &PeerRouter, router: &Router, own: Option<IpAddr>, key: Option<SecretText>) -> PeerGoal {
    let new = PeerGoal::new(said.name.clone(), said.address, said.remote_as);
    // Routers know a session by where it comes from: the node's own address, where it is of the family.
    let natural = own.filter(|a| a.is_ipv4() == said.address.is_ipv4());
    let default = BfdGoal::default();
    PeerGoal {
        local_address: said.local_address.or(natural),
        hold_seconds: said.hold_seconds.unwrap_or(new.hold_seconds),
        hops: said.hops,
        md5_key: key,
        // The table has nothing but own virtual IPs; what routers tell is the kernel's affair.
        export: Some(Policy::accept_all()),
        import: (said.remote_as == router.local_as).then(Policy::default),
        bfd: said.bfd.map(|b| BfdGoal {
            interval_ms: b.interval_ms.unwrap_or(default.interval_ms),
            multiplier: b.multiplier.unwrap_or(default.multiplier),
        }),
        ..new
    }
}
