//! What a change would do to traffic: said before it is made.
use crate::access::Caller;
use crate::hub::GoalHub;
use crate::state::State;
use crate::status;
use penstock_admin_types::intent::{Connection, Service};
use penstock_admin_types::{ResourcePath, value};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where a service is found; what stands behind it may change.
type Frontend = (IpAddr, String, u16);

/// Virtual addresses that come and go, services and backends whose connections move or end, sessions that begin anew.
/// A tenant is told of its own, and no names of servers and gateways.
pub(crate) fn impact(before: &State, after: &State, hub: &GoalHub, caller: &Caller) -> Value {
    let names = !caller.role.is_tenants();
    let traffic = value_of(&status::status(before, hub), "services");
    let (old, new) = (services(before), services(after));
    let gone: Vec<Value> =
        old.iter().filter(|(f, _)| !new.contains_key(*f)).map(|(f, s)| with_traffic(f, s, &traffic)).collect();
    let changed: Vec<Value> = old
        .iter()
        .filter(|(f, s)| new.get(*f).is_some_and(|n| differs(s, n)))
        .map(|(f, s)| with_traffic(f, s, &traffic))
        .collect();
    let vips = |of: &BTreeMap<Frontend, &Service>| of.keys().map(|(vip, _, _)| *vip).collect::<BTreeSet<_>>();
    let (old_vips, new_vips) = (vips(&old), vips(&new));
    let (old_members, new_members) = (members(before), members(after));
    json!({
        "virtualAddressesAnnounced": new_vips.difference(&old_vips).collect::<Vec<_>>(),
        "virtualAddressesWithdrawn": old_vips.difference(&new_vips).collect::<Vec<_>>(),
        "servicesAdded": new.iter().filter(|(f, _)| !old.contains_key(*f)).map(|(f, s)| shown(f, s)).collect::<Vec<_>>(),
        "servicesRemoved": gone,
        "servicesChanged": changed,
        "backendsAdded": pairs(&new_members, &old_members),
        "backendsRemoved": pairs(&old_members, &new_members),
        "interfacesMoved": moved(before, after, names),
        "sessionsInterrupted": interrupted(before, after, names),
    })
}

fn value_of(status: &Value, list: &str) -> Vec<Value> {
    value::list(status, list).to_vec()
}

fn services(state: &State) -> BTreeMap<Frontend, &Service> {
    state.intent.services.iter().map(|s| ((s.vip, s.protocol.to_string(), s.port), s)).collect()
}

/// Whether connections of a service may end up elsewhere.
fn differs(a: &Service, b: &Service) -> bool {
    (&a.pool, a.backend_port, a.distribution) != (&b.pool, b.backend_port, b.distribution)
}

fn shown((vip, protocol, port): &Frontend, service: &Service) -> Value {
    json!({"rule": service.path.as_str(), "vip": vip, "protocol": protocol, "port": port})
}

/// With what it carries now: that is at risk.
fn with_traffic(frontend: &Frontend, service: &Service, traffic: &[Value]) -> Value {
    let (vip, protocol, port) = frontend;
    let mut out = shown(frontend, service);
    let same = |t: &&Value| {
        value::get_text(t, "vip").as_deref() == Some(vip.to_string().as_str())
            && value::get_text(t, "protocol").is_some_and(|p| p.eq_ignore_ascii_case(protocol))
            && value::get_int(t, "port") == Some(i64::from(*port))
    };
    if let (Some(now), Some(map)) = (traffic.iter().find(same), out.as_object_mut()) {
        for name in ["packetsPerSecond", "bitsPerSecond"] {
            map.insert(name.to_owned(), now.get(name).cloned().unwrap_or_default());
        }
    }
    out
}

/// Each (pool, member).
fn members(state: &State) -> BTreeSet<(&ResourcePath, &ResourcePath)> {
    let configurations = state.intent.interfaces.values().flat_map(|i| &i.ip_configurations);
    configurations.flat_map(|c| c.pools.iter().map(move |pool| (pool, &c.path))).collect()
}

fn pairs(a: &BTreeSet<(&ResourcePath, &ResourcePath)>, b: &BTreeSet<(&ResourcePath, &ResourcePath)>) -> Vec<Value> {
    a.difference(b).map(|(pool, member)| json!({"pool": pool.as_str(), "member": member.as_str()})).collect()
}

/// Interfaces that another host has afterwards, or none.
fn moved(before: &State, after: &State, names: bool) -> Vec<Value> {
    let server = |path: &Option<ResourcePath>| path.as_ref().map(|p| p.as_str().to_owned());
    before
        .intent
        .interfaces
        .values()
        .filter_map(|old| {
            let new = after.intent.interfaces.get(&old.path);
            let (from, to) = (server(&old.server), new.and_then(|n| server(&n.server)));
            (from != to).then(|| match names {
                true => json!({"networkInterface": old.path.as_str(), "from": from, "to": to}),
                false => json!({"networkInterface": old.path.as_str()}),
            })
        })
        .collect()
}

/// Connections of sites that end, or begin anew with other parameters.
fn interrupted(before: &State, after: &State, names: bool) -> Vec<Value> {
    let now: BTreeMap<&ResourcePath, _> = after.intent.connections.iter().map(|c| (&c.path, c)).collect();
    let ended = before.intent.connections.iter().filter(|old| {
        now.get(&old.path).is_none_or(|new| old.kind != new.kind || old.gateway != new.gateway || old.id != new.id)
    });
    let shown = |c: &Connection| match names {
        true => json!({"networkConnection": c.path.as_str(), "gateway": c.gateway.as_str()}),
        false => json!({"networkConnection": c.path.as_str()}),
    };
    ended.map(shown).collect()
}
