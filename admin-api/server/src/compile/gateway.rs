use super::networks::{Lists, Networks};
use super::{site_router, vteps};
use crate::secrets::{Sealer, SecretError};
use penstock_admin_types::intent::{Connection, ConnectionKind, Node};
use penstock_admin_types::{Intent, ResourcePath};
use penstock_gateway_proto::{Caps, GatewayGoal, Secret32, Tunnel, TunnelKind, TunnelNat};
use penstock_model::Underlay;
use std::collections::BTreeSet;

/// Goals of gateways, as they would be published.
pub(crate) struct GatewayGoals<'a> {
    intent: &'a Intent,
    networks: Networks<'a>,
    sealer: &'a Sealer,
}

impl<'a> GatewayGoals<'a> {
    pub(crate) fn new(intent: &'a Intent, sealer: &'a Sealer) -> Self {
        Self { intent, networks: Networks::new(intent), sealer }
    }

    pub(crate) fn of(&self, gateway: &Node) -> Result<GatewayGoal, SecretError> {
        goal(self.intent, &self.networks, gateway, self.sealer)
    }
}

pub(super) fn goal<'a>(
    intent: &'a Intent,
    networks: &Networks<'a>,
    gateway: &Node,
    sealer: &Sealer,
) -> Result<GatewayGoal, SecretError> {
    let mut lists = Lists::default();
    let own = || intent.connections.iter().filter(|c| c.gateway == gateway.path);
    let present: BTreeSet<&ResourcePath> = own().map(|c| &c.network).collect();
    let shown = present
        .iter()
        .filter_map(|path| intent.networks.get(*path))
        .map(|network| networks.network(network, Some(&gateway.path), &mut lists))
        .collect();
    let tunnels = own().map(|c| tunnel(intent, c, sealer)).collect::<Result<Vec<_>, _>>()?;
    let routers = intent.site_routers.iter().filter(|r| r.gateway == gateway.path);
    Ok(GatewayGoal {
        vteps: vteps(intent, false),
        networks: shown,
        acls: lists.acls,
        tunnels: tunnels.into_iter().flatten().collect(),
        routers: routers.filter_map(|r| site_router::router(intent, r)).collect(),
        ..GatewayGoal::default()
    })
}

fn tunnel(intent: &Intent, c: &Connection, sealer: &Sealer) -> Result<Option<Tunnel>, SecretError> {
    let Some(network) = intent.networks.get(&c.network) else { return Ok(None) };
    let open = |v| sealer.open_key(v).map(Secret32);
    let kind = match &c.kind {
        ConnectionKind::WireGuard {
            private_key,
            preshared_key,
            peer_public_key,
            listen_port,
            endpoint,
            persistent_keepalive_seconds,
        } => TunnelKind::WireGuard {
            private_key: open(private_key)?,
            peer_public_key: *peer_public_key,
            preshared_key: preshared_key.as_ref().map(open).transpose()?,
            listen_port: *listen_port,
            endpoint: *endpoint,
            persistent_keepalive_seconds: *persistent_keepalive_seconds,
        },
        ConnectionKind::Gre { peer, key, checksum } => {
            TunnelKind::Gre { peer: Underlay(*peer), key: *key, checksum: *checksum }
        }
    };
    Ok(Some(Tunnel {
        id: c.id,
        name: c.path.name().to_owned(),
        tenant: network.tenant,
        prefixes: c.prefixes.clone(),
        kind,
        caps: Caps { received: c.received_cap, transmitted: c.transmitted_cap },
        nat: TunnelNat { site: c.nat.site.clone(), tenant: c.nat.tenant.clone() },
    }))
}
