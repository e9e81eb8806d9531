//! `POST /penstock/v1/trace`: what each node would do with a packet, hop by hop, from the nodes' own decision code.
//!
//! Question: `source`, `destination`, `protocol` (`tcp`, `udp`, `icmp`), `sourcePort`, `destinationPort`, `established` (not the first
//! packet of its flow); and where it starts: `networkInterface` (a container), `networkConnection` (out of a tunnel), else
//! at a mux as if from outside. Answer: `hops: [{node, role, steps: [{layer, text}], ending}]`, `delivered`, `verdict`.
use crate::hub::GoalHub;
use crate::refusal::Refusal;
use crate::state::State;
use crate::trace_nodes::{UNDERLAY_PORT, gateway, host, interface_of, mux};
use penstock_admin_types::Intent;
use penstock_admin_types::intent::{Interface, Node};
use penstock_engine::{Ending, Explanation};
use penstock_model::{Mac, Protocol, TunnelId};
use penstock_slb_host::ROUTER_MAC;
use penstock_southbound::{NodeGoal, NodeRole};
use penstock_wire::build::FrameBuilder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// More than any way through the fabric has: a way that goes on is a loop.
const MAX_HOPS: usize = 8;
/// Of the range that clients choose from (RFC 6335 section 6), where the question names none.
const SOURCE_PORT: u16 = 49_152;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Question {
    source: IpAddr,
    destination: IpAddr,
    #[serde(default = "tcp")]
    protocol: String,
    #[serde(default)]
    source_port: Option<u16>,
    #[serde(default)]
    destination_port: Option<u16>,
    #[serde(default)]
    established: bool,
    #[serde(default)]
    network_interface: Option<String>,
    #[serde(default)]
    network_connection: Option<String>,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// The node that has the packet now, and how it came in.
struct At<'a> {
    role: NodeRole,
    node: &'a Node,
    interface: Option<String>,
    tunnel: Option<TunnelId>,
}

/// Where a packet is after a node.
enum Next<'a> {
    Node(At<'a>),
    End { delivered: bool, verdict: String },
}

pub(crate) fn trace(state: &State, hub: &GoalHub, question: &Question) -> Result<Value, Refusal> {
    let intent = &state.intent;
    let (mut at, mut frame) = start(intent, question)?;
    let mut hops = Vec::new();
    for _ in 0..MAX_HOPS {
        let goal = hub.goal(at.role, &at.node.name);
        let explanation = match explain(&at, goal.as_deref(), &frame) {
            Ok(explanation) => explanation,
            Err(reason) => return Ok(answer(hops, false, &format!("{} {}: {reason}", at.role, at.node.name))),
        };
        hops.push(json!({
            "node": at.node.name,
            "role": at.role.name(),
            "steps": explanation.steps,
            "ending": ending(&explanation.ending),
        }));
        match next(intent, &at, goal.as_deref(), &explanation) {
            Next::End { delivered, verdict } => return Ok(answer(hops, delivered, &verdict)),
            Next::Node(node) => at = node,
        }
        frame = explanation.frame;
    }
    Ok(answer(hops, false, "the packet goes in a circle"))
}

fn answer(hops: Vec<Value>, delivered: bool, verdict: &str) -> Value {
    json!({"hops": hops, "delivered": delivered, "verdict": verdict})
}

fn bad(message: String) -> Refusal {
    Refusal::BadRequest { code: "InvalidParameterValue", message }
}

fn start<'a>(intent: &'a Intent, q: &Question) -> Result<(At<'a>, Vec<u8>), Refusal> {
    if q.source.is_ipv4() != q.destination.is_ipv4() {
        return Err(bad(format!("{} and {} are of two families", q.source, q.destination)));
    }
    if let Some(name) = &q.network_interface {
        let interface = intent.interfaces.values().find(|i| i.path.id() == name);
        let interface = interface.ok_or_else(|| bad(format!("networkInterface '{name}' does not exist")))?;
        let server = interface.server.as_ref().and_then(|s| intent.servers.get(s));
        let node = server.ok_or_else(|| bad(format!("networkInterface '{name}' is on no server")))?;
        let frame = frame(q, interface.mac, overlay_mac(intent, interface, q.destination))?;
        return Ok((At { role: NodeRole::Host, node, interface: Some(name.clone()), tunnel: None }, frame));
    }
    if let Some(name) = &q.network_connection {
        let connection =
            intent.connections.iter().find(|c| c.path.id() == name || c.path.name() == name.trim_start_matches('/'));
        let c =
            connection.ok_or_else(|| bad(format!("networkConnection '{name}' does not exist or has no function")))?;
        let node = intent.gateways.get(&c.gateway).ok_or_else(|| bad(format!("'{}' does not exist", c.gateway)))?;
        let frame = frame(q, Mac::ZERO, Mac::ZERO)?;
        return Ok((At { role: NodeRole::Gateway, node, interface: None, tunnel: Some(c.id) }, frame));
    }
    let node = intent.muxes.values().find(|m| m.address.is_some());
    let node = node.ok_or_else(|| {
        bad("there is no mux with an underlay address: say networkInterface or networkConnection".to_owned())
    })?;
    let frame = frame(q, Mac([0x02, 0, 0, 0, 0, 0x02]), Mac([0x02, 0, 0, 0, 0, 0x01]))?;
    Ok((At { role: NodeRole::Mux, node, interface: None, tunnel: None }, frame))
}

/// Where a container sends: to its neighbour in the subnet, else to the gateway.
fn overlay_mac(intent: &Intent, from: &Interface, destination: IpAddr) -> Mac {
    let near = from.ip_configurations.iter().any(|c| c.subnet.contains(destination));
    let neighbour = intent
        .interfaces
        .values()
        .find(|i| near && i.network == from.network && i.ip_configurations.iter().any(|c| c.address == destination));
    neighbour.map_or(ROUTER_MAC, |i| i.mac)
}

fn frame(q: &Question, src: Mac, dst: Mac) -> Result<Vec<u8>, Refusal> {
    let protocol = match q.protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "icmp" if q.source.is_ipv4() => Protocol::ICMP,
        "icmp" | "icmpv6" => Protocol::ICMPV6,
        other => return Err(bad(format!("protocol '{other}' is not tcp, udp or icmp"))),
    };
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let from = SocketAddr::new(q.source, q.source_port.filter(|p| *p != 0).unwrap_or(SOURCE_PORT));
    let to = SocketAddr::new(q.destination, q.destination_port.unwrap_or(0));
    let flags = if q.established { ACK } else { SYN };
    Ok(FrameBuilder::between(from, to, protocol).eth(src, dst).flags(flags).build())
}

fn explain(at: &At<'_>, goal: Option<&NodeGoal>, frame: &[u8]) -> Result<Explanation, String> {
    let own = at.node.address.ok_or("it has no underlay address")?;
    match goal {
        Some(NodeGoal::Mux(goal)) => mux(goal, own, frame),
        Some(NodeGoal::Host(goal)) => host(goal, own, frame, at.interface.as_deref()),
        Some(NodeGoal::Gateway(goal)) => gateway(goal, own, frame, at.tunnel),
        None => Err("no goal has been compiled for it yet".to_owned()),
    }
}

fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Transmit(port) if *port == UNDERLAY_PORT => "transmit on the underlay".to_owned(),
        Ending::Transmit(_) => "transmit to the container".to_owned(),
        Ending::Tunnel(id) => format!("put into tunnel {id}"),
        Ending::Pass => "pass to the node's own kernel".to_owned(),
        Ending::Consumed => "answered by the node itself".to_owned(),
        Ending::Drop(reason) => format!("drop: {reason}"),
    }
}

fn next<'a>(intent: &'a Intent, at: &At<'a>, goal: Option<&NodeGoal>, e: &Explanation) -> Next<'a> {
    let end = |delivered, verdict: String| Next::End { delivered, verdict };
    let name = &at.node.name;
    match &e.ending {
        Ending::Drop(reason) => end(false, format!("dropped by {} {name}: {reason}", at.role)),
        Ending::Pass => end(false, format!("{} {name} leaves it to its own kernel: it is not Penstock's", at.role)),
        Ending::Consumed => end(true, format!("answered by {} {name}", at.role)),
        Ending::Tunnel(id) => {
            let connection = intent.connections.iter().find(|c| c.id == *id && c.gateway == at.node.path);
            let tunnel = connection.map_or_else(|| id.to_string(), |c| c.path.name().to_owned());
            end(true, format!("delivered into the tunnel {tunnel}"))
        }
        Ending::Transmit(port) if *port != UNDERLAY_PORT => {
            let interface = match goal {
                Some(NodeGoal::Host(goal)) => interface_of(goal, *port),
                _ => None,
            };
            end(
                true,
                format!("delivered to the container behind {}", interface.unwrap_or_else(|| format!("port {port}"))),
            )
        }
        Ending::Transmit(_) => on_underlay(intent, &e.frame),
    }
}

/// Who gets a frame that left by the underlay.
fn on_underlay<'a>(intent: &'a Intent, frame: &[u8]) -> Next<'a> {
    let end = |delivered, verdict: String| Next::End { delivered, verdict };
    let Ok(headers) = penstock_wire::parse(frame) else {
        return end(false, "what left is not an IP packet".to_owned());
    };
    let destination = headers.dst.to_ip();
    let is_overlay = [penstock_wire::VXLAN_PORT, penstock_wire::geneve::GENEVE_PORT].contains(&headers.dst_port);
    if headers.protocol != Protocol::UDP || !is_overlay {
        return end(true, format!("leaves for {destination} by the underlay, not encapsulated"));
    }
    let has = |n: &&Node| n.address == Some(destination);
    let server = intent.servers.values().find(has).map(|n| (NodeRole::Host, n));
    match server.or_else(|| intent.gateways.values().find(has).map(|n| (NodeRole::Gateway, n))) {
        Some((role, node)) => Next::Node(At { role, node, interface: None, tunnel: None }),
        None => end(false, format!("encapsulated to {destination}, which is no host and no gateway")),
    }
}
