//! Whether the gateways would take their goals: asked of the gateway's own code before a change is made. What it refuses, it refuses as a
//! whole, so that one connection would hold up all tenants of a gateway.
use crate::compile::gateway::GatewayGoals;
use crate::draft::pointer_of;
use crate::secrets::{Sealer, SecretError};
use crate::state::State;
use penstock_admin_types::intent::{Connection, Misplaced, Node};
use penstock_admin_types::{Problem, ResourcePath, Said};
use penstock_gateway_proto::{GatewayGoal, GoalError, Policy};
use penstock_model::{PortId, Underlay};
use penstock_policy::NextHop;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Refusals by one gateway that are told at once.
const MOST: usize = 100;

/// What the gateways would refuse after a change and would not before. A store that holds such a thing already can be mended.
pub(crate) fn refused(before: &State, after: &State, sealer: &Sealer) -> Result<Vec<Misplaced>, SecretError> {
    let mut out = Vec::new();
    for Touched { gateway, own, goal, old } in touched(before, after, sealer)? {
        let now = of_gateway(before, after, gateway, own, goal);
        let known = match old.filter(|_| !now.is_empty()) {
            Some((old, goal)) => of_gateway(before, before, old, old.address.unwrap_or(own), goal),
            None => Vec::new(),
        };
        out.extend(
            now.into_iter().filter(|m| {
                !known.iter().any(|k| (&k.document, &k.problem.pointer) == (&m.document, &m.problem.pointer))
            }),
        );
    }
    Ok(out)
}

/// A gateway whose goal is another after the change, and what it was.
struct Touched<'a> {
    gateway: &'a Node,
    own: IpAddr,
    goal: GatewayGoal,
    old: Option<(&'a Node, GatewayGoal)>,
}

/// To build the policies of all gateways for each change, of whatever, would cost every tenant what the largest gateway holds.
fn touched<'a>(before: &'a State, after: &'a State, sealer: &Sealer) -> Result<Vec<Touched<'a>>, SecretError> {
    let used: BTreeSet<&ResourcePath> = after.intent.connections.iter().map(|c| &c.gateway).collect();
    if used.is_empty() {
        return Ok(Vec::new());
    }
    let (was, is) = (GatewayGoals::new(&before.intent, sealer), GatewayGoals::new(&after.intent, sealer));
    let mut out = Vec::new();
    for gateway in after.intent.gateways.values().filter(|g| used.contains(&g.path)) {
        let Some(own) = gateway.address else { continue };
        let old = before.intent.gateways.get(&gateway.path);
        let old = old.map(|g| Ok((g, was.of(g)?))).transpose()?;
        let goal = is.of(gateway)?;
        if old.as_ref().is_none_or(|(g, old)| g.address != gateway.address || *old != goal) {
            out.push(Touched { gateway, own, goal, old });
        }
    }
    Ok(out)
}

fn of_gateway(before: &State, state: &State, gateway: &Node, own: IpAddr, mut goal: GatewayGoal) -> Vec<Misplaced> {
    let build = |goal: &GatewayGoal| Policy::build(goal, Underlay(own), PortId(0), |_| None, None);
    if build(&goal).is_ok() {
        return Vec::new();
    }
    // What was there comes first: of two that contradict each other the new one is wrong.
    let known: BTreeMap<&str, &Connection> = before.intent.connections.iter().map(|c| (c.path.name(), c)).collect();
    let was = |c: &&Connection| known.get(c.path.name()) == Some(c);
    let old: BTreeSet<&str> = state.intent.connections.iter().filter(was).map(|c| c.path.name()).collect();
    goal.tunnels.sort_by_key(|t| !old.contains(t.name.as_str()));
    let mut out = Vec::new();
    while let Err(error) = build(&goal) {
        out.push(misplaced(state, gateway, &goal, &error));
        if out.len() >= MOST {
            break;
        }
        if let Some((i, _)) = item(&error.field, "routers").filter(|(i, _)| *i < goal.routers.len()) {
            goal.routers.remove(i);
            continue;
        }
        // The next refusal is found without the connection that had this one.
        let Some((i, _)) = item(&error.field, "tunnels").filter(|(i, _)| *i < goal.tunnels.len()) else { break };
        let tunnel = goal.tunnels.remove(i);
        for router in &mut goal.routers {
            router.goal.peers.retain(|p| router.sites.get(&p.name) != Some(&tunnel.id));
        }
        for network in &mut goal.networks {
            network.routes.retain(|r| r.next_hop != NextHop::Tunnel(tunnel.id));
        }
    }
    out
}

/// Where in the resources something stands that a goal is refused for.
fn misplaced(state: &State, gateway: &Node, goal: &GatewayGoal, error: &GoalError) -> Misplaced {
    let named = |i: usize| ResourcePath::parse(&goal.tunnels.get(i)?.name).ok();
    let found = item(&error.field, "tunnels").and_then(|(i, field)| Some((named(i)?, field)));
    let found = found.or_else(|| of_router(goal, &error.field));
    let mut text = format!("'{}' would refuse it: {}", gateway.path, error.problem);
    let mut names = vec![gateway.path.clone()];
    if let Some((path, place)) = error.problem.find("tunnels[").and_then(|at| {
        let (i, rest) = item(error.problem.get(at..)?, "tunnels")?;
        let path = named(i)?;
        let place = format!("{}'{path}'{rest}", error.problem.get(..at)?);
        Some((path, place))
    }) {
        text = format!("'{}' would refuse it: {place}", gateway.path);
        names.push(path);
    }
    let (document, pointer) = match &found {
        Some((path, field)) => {
            let document = path.document();
            let at = state.documents.get(&document).and_then(|d| pointer_of(d, path)).unwrap_or_default();
            (document, format!("{at}{}", property(field)))
        }
        None => (gateway.path.clone(), String::new()),
    };
    if found.is_none() {
        text = format!("{text} ({})", error.field);
    }
    Misplaced { document, problem: Problem { pointer, code: "InvalidParameterValue", message: Said { text, names } } }
}

/// The router, or its peer, that a field of the goal is about.
fn of_router<'f>(goal: &GatewayGoal, field: &'f str) -> Option<(ResourcePath, &'f str)> {
    let (i, rest) = item(field, "routers")?;
    let router = goal.routers.get(i)?;
    let peer = rest.strip_prefix(".goal.").and_then(|rest| {
        let (i, rest) = item(rest, "peers")?;
        Some((router.goal.peers.get(i)?, rest))
    });
    match peer {
        Some((peer, rest)) => Some((ResourcePath::parse(&peer.name).ok()?, rest)),
        None => Some((ResourcePath::parse(&router.name).ok()?, rest)),
    }
}

/// The place in a list of the goal, and what follows: `tunnels[3].kind.listen_port`.
fn item<'f>(field: &'f str, list: &str) -> Option<(usize, &'f str)> {
    let (number, rest) = field.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, rest))
}

/// The property of a connection that a field of its tunnel comes from.
fn property(field: &str) -> &'static str {
    match field {
        ".kind.listen_port" => "/properties/wireGuardConfiguration/listenPort",
        ".kind.peer_public_key" => "/properties/wireGuardConfiguration/peerPublicKey",
        ".kind.key" => "/properties/greConfiguration/greKey",
        ".kind.peer" => "/properties/destinationIPAddress",
        ".address" => "/properties/peerIpAddress",
        ".hold_seconds" => "/properties/holdTimeInSeconds",
        ".max_prefixes" => "/properties/maximumPrefixes",
        field if field.starts_with(".prefixes") => "/properties/routes",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{Action, Change, Condition};
    use crate::resources::testing::{Place, create, manner};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn put(path: &str, properties: Value) -> Change {
        let action = Action::Put(json!({ "properties": properties }));
        Change { path: ResourcePath::parse(path).unwrap(), action, condition: Condition::None, at: String::new() }
    }

    fn site() -> Value {
        json!({"connectionType": "WireGuard", "routes": [{"destinationPrefix": "192.168.50.0/24"}],
            "wireGuardConfiguration": {"peerPublicKey": "qRCwZSKInrMAq5sepfCdaCsRJaoLe5jhtzfiw7CjbwM="}})
    }

    #[tokio::test]
    async fn a_change_that_touches_no_gateway_builds_none() {
        let place = Place::new();
        let resources = place.controller(Arc::new(place.store().await), "a").await;
        let reference = |path: &str| json!({ "resourceRef": path });
        let network = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [{"resourceId": "v4", "properties": {"addressPrefix": "10.0.0.0/24"}}]});
        let mut changes = vec![put("/gatewayPools/default", json!({"type": "All"}))];
        for n in 1..=2 {
            let pool = format!("/gatewayPools/p{n}");
            let node = json!({"underlayAddress": format!("10.1.5.{n}"), "pool": reference(&pool)});
            let tenant = json!({"GatewayPools": [reference(&pool)],
                "gatewaySubnets": [reference(&format!("/virtualNetworks/t{n}/subnets/v4"))],
                "networkConnections": [{"resourceId": "one", "properties": site()}]});
            changes.push(put(&pool, json!({"type": "All"})));
            changes.push(put(&format!("/gateways/gw{n}"), node));
            changes.push(put(&format!("/virtualNetworks/t{n}"), network.clone()));
            changes.push(put(&format!("/VirtualGateways/t{n}"), tenant));
        }
        let names = |before: &State, after: &State| -> Vec<String> {
            let found = touched(before, after, resources.sealer()).unwrap();
            found.iter().map(|t| t.gateway.name.clone()).collect()
        };
        let made = resources.apply(changes, manner(None)).await.unwrap();
        assert_eq!(names(&made.before, &made.after), ["gw1", "gw2"]);
        let elsewhere = resources.apply(create("one"), manner(None)).await.unwrap();
        assert!(names(&elsewhere.before, &elsewhere.after).is_empty());
        let mut second = site();
        second["routes"][0]["destinationPrefix"] = json!("192.168.60.0/24");
        let second = vec![put("/VirtualGateways/t2/networkConnections/two", second)];
        let second = resources.apply(second, manner(None)).await.unwrap();
        assert_eq!(names(&second.before, &second.after), ["gw2"], "the other is left alone");
    }
}
