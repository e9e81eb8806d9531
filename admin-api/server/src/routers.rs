//! `routers` of the status: what each node that speaks BGP says of its neighbours and routes.
//!
//! | list | an item |
//! | --- | --- |
//! | `routers` | `node router localASN id draining announced prefixes paths error peers[] routes[] withheld[]` |
//! | `peers` | `name address remoteASN state upSeconds id holdSeconds received advertised established messagesReceived messagesSent malformed lastError bfd` |
//! | `bfd` | `state detectionMilliseconds received sent downs diagnostic` |
//! | `routes` | `prefix paths[] advertisedTo[] notAdvertised[{peer, reason}]`: some of them, own ones first |
//! | `paths` | `peer best whyNot nextHop asPath communities localPreference med stale` |
//! | `withheld` | `prefix reason`: virtual IPs that are not announced |
//!
//! `router` is the path of a tenant's router at a gateway; a mux has one, without a name.
use penstock_routing_proto::{BfdStatus, PathStatus, PeerStatus, RouteStatus, RouterStatus};
use penstock_southbound::NodeReport;
use serde_json::{Value, json};

/// None, where the node has no neighbours.
pub(crate) fn routers(node: &str, report: &NodeReport) -> Vec<Value> {
    match report {
        NodeReport::Mux(status) => status.router.iter().map(|r| of(node, None, r)).collect(),
        NodeReport::Gateway(status) => status.routers.iter().map(|r| of(node, Some(&r.name), &r.status)).collect(),
        NodeReport::Host(_) => Vec::new(),
    }
}

fn of(node: &str, name: Option<&str>, r: &RouterStatus) -> Value {
    json!({
        "node": node,
        "router": name,
        "localASN": r.local_as,
        "id": r.id,
        "draining": r.draining,
        "announced": r.announced,
        "prefixes": r.prefixes,
        "paths": r.paths,
        "error": r.error,
        "peers": r.peers.iter().map(peer).collect::<Vec<_>>(),
        "routes": r.routes.iter().map(route).collect::<Vec<_>>(),
        "withheld": r.withheld.iter().map(|w| json!({"prefix": w.prefix, "reason": w.reason})).collect::<Vec<_>>(),
    })
}

fn peer(p: &PeerStatus) -> Value {
    json!({
        "name": p.name,
        "address": p.address,
        "remoteASN": p.remote_as,
        "state": p.state,
        "upSeconds": p.up_seconds,
        "id": p.id,
        "holdSeconds": p.hold_seconds,
        "received": p.received,
        "advertised": p.advertised,
        "established": p.established,
        "messagesReceived": p.messages_received,
        "messagesSent": p.messages_sent,
        "malformed": p.malformed,
        "lastError": p.last_error,
        "bfd": p.bfd.as_ref().map(bfd),
    })
}

fn bfd(b: &BfdStatus) -> Value {
    json!({
        "state": b.state,
        "detectionMilliseconds": b.detection_ms,
        "received": b.received,
        "sent": b.sent,
        "downs": b.downs,
        "diagnostic": b.diagnostic,
    })
}

pub(crate) fn route(r: &RouteStatus) -> Value {
    let not = r.not_advertised.iter().map(|(peer, reason)| json!({"peer": peer, "reason": reason}));
    json!({
        "prefix": r.prefix,
        "paths": r.paths.iter().map(path).collect::<Vec<_>>(),
        "advertisedTo": r.advertised_to,
        "notAdvertised": not.collect::<Vec<_>>(),
    })
}

fn path(p: &PathStatus) -> Value {
    json!({
        "peer": p.peer,
        "best": p.best,
        "whyNot": p.why_not,
        "nextHop": p.next_hop,
        "asPath": p.as_path,
        "communities": p.communities,
        "localPreference": p.local_pref,
        "med": p.med,
        "stale": p.stale,
    })
}
