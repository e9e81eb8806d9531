//! `GET /penstock/v1/status`: nodes, services with their backends, tunnels, networks; with counts and rates from the nodes' reports.
//!
//! | list | an item |
//! | --- | --- |
//! | `nodes` | `name role address connected detail goalRevision appliedRevision inSync goalError packetIo fallbacks{interface,without,reason,fix} flows received transmitted dropped{reason} packetsPerSecond bitsPerSecond` |
//! | `services` | `name vip protocol port pool tableVersion settling limited packets bytes packetsPerSecond bitsPerSecond healthy total backends[]` |
//! | `backends` | `networkInterface address host healthy detail slots packets bytes packetsPerSecond bitsPerSecond` |
//! | `drains` | `resource state secondsToDeadline left atStart percent unit` |
//! | `tunnels` | `name gateway network prefixes state endpoint handshakeAgeSeconds receivedBytes transmittedBytes receivedBitsPerSecond transmittedBitsPerSecond` |
//! | `networks` | `name vni prefixes interfaces` |
//! | `routers` | see [`routers`](crate::routers) |
//!
//! Counts are since the node started; rates over the last seconds; absent while a node has not reported. A drain's `left` and `percent` are
//! null, and its state `unknown`, while its node has not told this controller.
use crate::compile::{Members, unix_seconds};
use crate::hub::GoalHub;
use crate::state::State;
use penstock_admin_types::Intent;
use penstock_admin_types::intent::Service as Said;
use penstock_clock::MonotonicClock;
use penstock_gateway_proto::{GatewayStatus, TunnelState};
use penstock_model::{BackendId, Fallback, LedgerReport, PoolId, Protocol, ServiceId};
use penstock_mux_proto::{LimitCounts, MuxGoal, MuxStatus, Pool, Service, Traffic};
use penstock_slb_host::ProbeStatus;
use penstock_southbound::{NodeGoal, NodeReport, NodeRole};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A node's latest report, and one before with the seconds between.
struct Reported {
    role: NodeRole,
    name: String,
    now: Arc<NodeReport>,
    before: Option<(f64, Arc<NodeReport>)>,
}

pub(crate) fn status(state: &State, hub: &GoalHub) -> Value {
    let mut nodes = Vec::new();
    let mut reports = Vec::new();
    let mut mux_goal: Option<Arc<NodeGoal>> = None;
    hub.each(|role, name, node| {
        let goal = node.goal.borrow().clone();
        if role == NodeRole::Mux && mux_goal.is_none() {
            mux_goal.clone_from(&goal);
        }
        let report = node.report.as_ref().map(|now| Reported {
            role,
            name: name.to_owned(),
            now: now.clone(),
            before: node.earlier.as_ref().map(|(at, r)| (node.reported_at.since(*at).as_secs_f64(), r.clone())),
        });
        let goal = goal.map(|g| g.revision().0);
        let mut item = node_json(&state.intent, role, name, node.connected, goal, report.as_ref());
        if let (false, Some(map)) = (node.connected, item.as_object_mut()) {
            map.insert("detail".to_owned(), json!(node.absence(name, MonotonicClock::now())));
        }
        nodes.push(item);
        reports.extend(report);
    });
    let services = match mux_goal.as_deref() {
        Some(NodeGoal::Mux(goal)) => services(&state.intent, goal, &reports, &hub.probes(MonotonicClock::now())),
        _ => Vec::new(),
    };
    json!({
        "nodes": nodes,
        "services": services,
        "drains": hub.drains.shown(&state.intent, hub, unix_seconds()),
        "tunnels": tunnels(&state.intent, &reports),
        "networks": networks(&state.intent),
        "routers": reports.iter().flat_map(|r| crate::routers::routers(&r.name, &r.now)).collect::<Vec<_>>(),
    })
}

fn node_json(
    intent: &Intent,
    role: NodeRole,
    name: &str,
    connected: bool,
    goal: Option<u64>,
    report: Option<&Reported>,
) -> Value {
    let nodes = match role {
        NodeRole::Mux => &intent.muxes,
        NodeRole::Host => &intent.servers,
        NodeRole::Gateway => &intent.gateways,
    };
    let address = nodes.values().find(|n| n.name == name).and_then(|n| n.address);
    let applied = report.map(|r| r.now.revision().0);
    let mut out = json!({
        "name": name,
        "role": role.name(),
        "address": address,
        "connected": connected,
        "goalRevision": goal,
        "appliedRevision": applied,
        "inSync": connected && goal.is_some() && goal == applied,
    });
    if let (Some(map), Some(r)) = (out.as_object_mut(), report) {
        let (ledger, (packet_io, fallbacks), flows, error) = general(&r.now);
        let before = r.before.as_ref().map(|(s, b)| (*s, general(b).0));
        let packets = rate(ledger.received, before.map(|(s, b)| (s, b.received)));
        let bytes = rate(ledger.received_bytes, before.map(|(s, b)| (s, b.received_bytes)));
        let more = json!({
            "packetIo": packet_io,
            "fallbacks": fallbacks,
            "flows": flows,
            "received": ledger.received,
            "receivedBytes": ledger.received_bytes,
            "transmitted": ledger.transmitted,
            "transmittedBytes": ledger.transmitted_bytes,
            "dropped": ledger.dropped,
            "packetsPerSecond": packets,
            "bitsPerSecond": bytes * 8.0,
            "goalError": error,
        });
        map.extend(more.as_object().cloned().unwrap_or_default());
    }
    out
}

/// How packets go, and where by a slower way than the best.
type Ways<'a> = (&'a [String], &'a [Fallback]);

fn general(report: &NodeReport) -> (&LedgerReport, Ways<'_>, u64, Option<&String>) {
    match report {
        NodeReport::Mux(s) => (&s.ledger, (&s.packet_io, &s.fallbacks), s.flows, s.goal_error.as_ref()),
        NodeReport::Host(s) => (&s.ledger, (&s.packet_io, &s.fallbacks), s.flows, None),
        NodeReport::Gateway(s) => (&s.ledger, (&s.packet_io, &s.fallbacks), s.flows, s.goal_error.as_ref()),
    }
}

/// A second; 0 without a count before, or after a restart of the node.
fn rate(now: u64, before: Option<(f64, u64)>) -> f64 {
    match before {
        Some((seconds, before)) if seconds > 0.0 => (now.saturating_sub(before) as f64 / seconds * 10.0).round() / 10.0,
        _ => 0.0,
    }
}

/// Packets, bytes and their rates, summed over muxes.
#[derive(Default, Clone, Copy)]
struct Sum {
    packets: u64,
    bytes: u64,
    packet_rate: f64,
    byte_rate: f64,
}

fn sums<Id: Copy + Ord>(reports: &[Reported], list: impl Fn(&MuxStatus) -> &[Traffic<Id>]) -> BTreeMap<Id, Sum> {
    let mut out: BTreeMap<Id, Sum> = BTreeMap::new();
    for r in reports {
        let NodeReport::Mux(now) = &*r.now else { continue };
        let before: BTreeMap<Id, &Traffic<Id>> = match r.before.as_ref().map(|(_, b)| &**b) {
            Some(NodeReport::Mux(b)) => list(b).iter().map(|t| (t.id, t)).collect(),
            _ => BTreeMap::new(),
        };
        let seconds = r.before.as_ref().map_or(0.0, |(s, _)| *s);
        for t in list(now) {
            let sum = out.entry(t.id).or_default();
            let b = before.get(&t.id);
            sum.packets += t.packets;
            sum.bytes += t.bytes;
            sum.packet_rate += rate(t.packets, b.map(|b| (seconds, b.packets)));
            sum.byte_rate += rate(t.bytes, b.map(|b| (seconds, b.bytes)));
        }
    }
    out
}

/// What services and their backends are looked up in: a site has a hundred thousand of each.
struct Site<'a> {
    members: Members<'a>,
    pools: HashMap<PoolId, &'a Pool>,
    said: HashMap<(IpAddr, Protocol, u16), &'a Said>,
    backends: HashMap<(&'a str, IpAddr), BackendId>,
    probes: HashMap<(&'a str, &'a str, IpAddr), &'a ProbeStatus>,
    traffic: BTreeMap<BackendId, Sum>,
}

impl<'a> Site<'a> {
    fn new(intent: &'a Intent, goal: &'a MuxGoal, reports: &[Reported], probes: &'a [ProbeStatus]) -> Self {
        Self {
            members: Members::new(intent, 0),
            pools: goal.pools.iter().map(|p| (p.id, p)).collect(),
            said: intent.services.iter().map(|s| ((s.vip, s.protocol, s.port), s)).collect(),
            backends: goal.backends.iter().map(|b| ((b.name.as_str(), b.dip.addr.0), b.id)).collect(),
            probes: probes.iter().map(|p| ((p.name.as_str(), p.network_interface.as_str(), p.dip.0), p)).collect(),
            traffic: sums(reports, |s| &s.backends),
        }
    }
}

fn services(intent: &Intent, goal: &MuxGoal, reports: &[Reported], probes: &[ProbeStatus]) -> Vec<Value> {
    let site = Site::new(intent, goal, reports, probes);
    let by_service: BTreeMap<ServiceId, Sum> = sums(reports, |s| &s.services);
    let limited = limited(reports);
    goal.services
        .iter()
        .map(|service| {
            let pool = site.pools.get(&service.pool).copied();
            let backends = backends(&site, service, pool);
            let sum = by_service.get(&service.id).copied().unwrap_or_default();
            let healthy = backends.iter().filter(|b| b.get("healthy") != Some(&json!(false))).count();
            json!({
                "name": service.name,
                "vip": service.vip,
                "protocol": service.protocol.to_string(),
                "port": service.port,
                "pool": pool.map(|p| &p.name),
                "tableVersion": pool.map(|p| p.version),
                "limited": limited.get(&service.vip),
                "settling": pool.is_some_and(|p| !p.previous.is_empty()),
                "packets": sum.packets,
                "bytes": sum.bytes,
                "packetsPerSecond": sum.packet_rate,
                "bitsPerSecond": sum.byte_rate * 8.0,
                "healthy": healthy,
                "total": backends.len(),
                "backends": backends,
            })
        })
        .collect()
}

/// What the limits of virtual IPs have done, on all muxes; of those that have done anything.
fn limited(reports: &[Reported]) -> BTreeMap<IpAddr, Value> {
    let mut sums: BTreeMap<IpAddr, LimitCounts> = BTreeMap::new();
    for report in reports {
        let NodeReport::Mux(status) = &*report.now else { continue };
        for limited in &status.limited {
            let sum = sums.entry(limited.vip).or_default();
            *sum = *sum + limited.counts;
        }
    }
    let shown = |n: LimitCounts| {
        json!({
            "packetsDropped": n.packets_dropped,
            "flowsDropped": n.flows_dropped,
            "flowsStateless": n.flows_stateless,
        })
    };
    sums.into_iter().map(|(vip, counts)| (vip, shown(counts))).collect()
}

/// All members that are on a host, also those that are out of the table.
fn backends(site: &Site<'_>, service: &Service, pool: Option<&Pool>) -> Vec<Value> {
    let Some(said) = site.said.get(&(service.vip, service.protocol, service.port)) else {
        return Vec::new();
    };
    let probe_name = said.probe.as_ref().map(|p| p.path.name());
    let slots = pool.map(slots).unwrap_or_default();
    site.members
        .of(&said.pool, service.vip.is_ipv4())
        .iter()
        .map(|(interface, c, host)| {
            let name = interface.path.id();
            let id = site.backends.get(&(name, c.address)).copied();
            let sum = id.and_then(|id| site.traffic.get(&id)).copied().unwrap_or_default();
            let result = probe_name.and_then(|probe| site.probes.get(&(probe, name, c.address)));
            json!({
                "networkInterface": name,
                "address": c.address,
                "host": host,
                "healthy": result.map(|r| r.healthy),
                "draining": interface.drain_until.is_some(),
                "detail": match (result, probe_name) {
                    (Some(r), _) => r.detail.clone(),
                    (None, Some(_)) => "not probed yet".to_owned(),
                    (None, None) => "no probe".to_owned(),
                },
                "slots": id.and_then(|id| slots.get(&id)).copied().unwrap_or_default(),
                "packets": sum.packets,
                "bytes": sum.bytes,
                "packetsPerSecond": sum.packet_rate,
                "bitsPerSecond": sum.byte_rate * 8.0,
            })
        })
        .collect()
}

/// How many slots each backend has.
fn slots(pool: &Pool) -> HashMap<BackendId, usize> {
    pool.table.shares().into_iter().collect()
}

fn tunnels(intent: &Intent, reports: &[Reported]) -> Vec<Value> {
    intent
        .connections
        .iter()
        .map(|c| {
            let report = reports.iter().find(|r| r.role == NodeRole::Gateway && r.name == c.gateway.id());
            let find = |report: &NodeReport| match report {
                NodeReport::Gateway(GatewayStatus { tunnels, .. }) => tunnels.iter().find(|t| t.id == c.id).cloned(),
                _ => None,
            };
            let now = report.and_then(|r| find(&r.now));
            let before = report.and_then(|r| r.before.as_ref()).and_then(|(s, b)| Some((*s, find(b)?)));
            let bits = |now: u64, before: Option<(f64, u64)>| rate(now, before) * 8.0;
            let mut out = json!({
                "name": c.path.name(),
                "gateway": c.gateway.id(),
                "network": c.network.id(),
                "prefixes": c.prefixes,
                "state": match now.as_ref().map(|t| t.state) {
                    Some(TunnelState::Connected) => "connected",
                    Some(TunnelState::Connecting) => "connecting",
                    Some(TunnelState::Failed) => "failed",
                    None => "unknown",
                },
            });
            if let (Some(map), Some(t)) = (out.as_object_mut(), now) {
                let received = bits(t.received_bytes, before.as_ref().map(|(s, b)| (*s, b.received_bytes)));
                let transmitted = bits(t.transmitted_bytes, before.as_ref().map(|(s, b)| (*s, b.transmitted_bytes)));
                let more = json!({
                    "endpoint": t.endpoint,
                    "handshakeAgeSeconds": t.handshake_age_seconds,
                    "receivedBytes": t.received_bytes,
                    "transmittedBytes": t.transmitted_bytes,
                    "receivedBitsPerSecond": received,
                    "transmittedBitsPerSecond": transmitted,
                });
                map.extend(more.as_object().cloned().unwrap_or_default());
            }
            out
        })
        .collect()
}

fn networks(intent: &Intent) -> Vec<Value> {
    let interfaces =
        |path: &penstock_admin_types::ResourcePath| intent.interfaces.values().filter(|i| i.network == *path).count();
    intent
        .networks
        .values()
        .map(|n| json!({"name": n.path.id(), "vni": n.vni.get(), "prefixes": n.prefixes, "interfaces": interfaces(&n.path)}))
        .collect()
}
