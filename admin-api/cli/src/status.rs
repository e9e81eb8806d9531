use crate::columns::{
    Column, backends, dropped, frontend, healthy, name, ports, revision, section, short, text, yes_no,
};
use crate::error::CliError;
use crate::output::{Output, Style};
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::Value;

pub(crate) async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let status = client.status().await?;
    if output.is_json() { output.value(&status) } else { output.text(&render(&status, output)) }
}

const NODES: &[Column] = &[
    Column { heading: "NAME", cell: |n, _| text(n, "name") },
    Column { heading: "ROLE", cell: |n, _| text(n, "role") },
    Column { heading: "ADDRESS", cell: |n, _| text(n, "address") },
    Column { heading: "UP", cell: |n, o| yes_no(n, "connected", o) },
    Column { heading: "IN SYNC", cell: in_sync },
    Column { heading: ">FLOWS", cell: |n, _| short(n, "flows") },
    Column { heading: ">RECEIVED", cell: |n, _| short(n, "received") },
    Column { heading: ">DROPPED", cell: |n, _| dropped(n) },
    Column { heading: "PACKET I/O", cell: |n, _| ports(n, "packetIo") },
];

const SERVICES: &[Column] = &[
    Column { heading: "VIP", cell: |s, _| frontend(s) },
    Column { heading: "HEALTHY", cell: healthy },
    Column { heading: ">TABLE", cell: |s, _| text(s, "tableVersion") },
    Column { heading: "RULE", cell: |s, _| name(s, "name") },
];

const BACKENDS: &[Column] = &[
    Column { heading: "BACKEND", cell: |b, _| text(b, "networkInterface") },
    Column { heading: "ADDRESS", cell: |b, _| text(b, "address") },
    Column { heading: "HOST", cell: |b, _| text(b, "host") },
    Column { heading: "HEALTHY", cell: |b, o| yes_no(b, "healthy", o) },
    Column { heading: ">SLOTS", cell: |b, _| text(b, "slots") },
    Column { heading: "PROBE", cell: |b, _| text(b, "detail") },
    Column { heading: "POOL", cell: |b, _| name(b, "pool") },
];

const DRAINS: &[Column] = &[
    Column { heading: "DRAINED", cell: |d, _| name(d, "resource") },
    Column { heading: "STATE", cell: |d, _| text(d, "state") },
    Column { heading: ">DONE", cell: |d, _| of(text(d, "percent"), "%") },
    Column { heading: ">LEFT", cell: |d, _| of(short(d, "left"), &text(d, "unit")) },
    Column { heading: ">SECONDS", cell: |d, _| text(d, "secondsToDeadline") },
];

/// A number with its unit, if it is known.
fn of(number: String, unit: &str) -> String {
    if number == "-" { number } else { format!("{number} {unit}") }
}

const TUNNELS: &[Column] = &[
    Column { heading: "CONNECTION", cell: |t, _| name(t, "name") },
    Column { heading: "NETWORK", cell: |t, _| text(t, "network") },
    Column { heading: "STATE", cell: state },
    Column { heading: "ENDPOINT", cell: |t, _| text(t, "endpoint") },
    Column { heading: "HANDSHAKE", cell: handshake },
    Column { heading: "SITE", cell: |t, _| text(t, "prefixes") },
];

const NETWORKS: &[Column] = &[
    Column { heading: "NETWORK", cell: |n, _| text(n, "name") },
    Column { heading: ">VNI", cell: |n, _| text(n, "vni") },
    Column { heading: "PREFIXES", cell: |n, _| text(n, "prefixes") },
    Column { heading: ">INTERFACES", cell: |n, _| text(n, "interfaces") },
];

fn render(status: &Value, output: &Output) -> String {
    let nodes = value::list(status, "nodes");
    if nodes.is_empty() {
        return "the controller is up; no node is declared yet: penstock apply -f FILE\n".to_owned();
    }
    let mut page = section("nodes", NODES, nodes, output);
    for (node, error) in nodes.iter().filter_map(|n| Some((n, value::get_text(n, "goalError")?))) {
        let line = format!("{} does not apply its goal: {error}\n\n", text(node, "name"));
        page.push_str(&output.paint(Style::Bad, &line));
    }
    for detail in nodes.iter().filter_map(|n| value::get_text(n, "detail")) {
        page.push_str(&output.paint(Style::Bad, &format!("{detail}\n\n")));
    }
    let services = value::list(status, "services");
    page.push_str(&section("virtual IPs", SERVICES, services, output));
    let backends = backends(status, &["pool", "networkInterface", "address"]);
    page.push_str(&section("backends", BACKENDS, &backends, output));
    page.push_str(&section("drains", DRAINS, value::list(status, "drains"), output));
    page.push_str(&section("tunnels", TUNNELS, value::list(status, "tunnels"), output));
    page.push_str(&section("networks", NETWORKS, value::list(status, "networks"), output));
    page.truncate(page.trim_end().len());
    page
}

fn in_sync(node: &Value, output: &Output) -> String {
    let (goal, applied) = (revision(node, "goalRevision"), revision(node, "appliedRevision"));
    match node.get("inSync").and_then(Value::as_bool) {
        Some(true) => format!("{} {applied}", output.paint(Style::Good, "yes")),
        _ if applied == goal => format!("{} {applied}", output.paint(Style::Bad, "no")),
        _ => format!("{} {applied} of {goal}", output.paint(Style::Bad, "no")),
    }
}

fn state(tunnel: &Value, output: &Output) -> String {
    let state = text(tunnel, "state");
    let style = if state == "connected" { Style::Good } else { Style::Bad };
    output.paint(style, &state)
}

fn handshake(tunnel: &Value, _: &Output) -> String {
    let age = tunnel.get("handshakeAgeSeconds").and_then(Value::as_u64);
    age.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s ago"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_nodes_services_with_their_backends_and_tunnels() {
        let status = json!({
            "nodes": [
                {"name": "mux1", "role": "mux", "address": "10.1.1.2", "connected": true, "inSync": true,
                 "goalRevision": 7, "appliedRevision": 7, "packetIo": ["eth0: af_xdp copy"], "flows": 12,
                 "received": 1000, "dropped": {"no_vip": 3}, "goalError": null},
                {"name": "host1", "role": "host", "address": "10.1.11.2", "connected": false, "inSync": false, "goalRevision": 7,
                 "detail": "host1 is not connected since 12 s"}],
            "services": [{"vip": "203.0.113.10", "port": 80, "protocol": "tcp", "name": "loadBalancers/web/loadBalancingRules/http",
                "pool": "loadBalancers/lb/backendAddressPools/web", "healthy": 1, "total": 2, "tableVersion": 3, "backends": [
                    {"networkInterface": "blue-1", "address": "10.0.0.11", "host": "10.1.11.2", "healthy": true, "slots": 64, "detail": "200 OK"},
                    {"networkInterface": "blue-2", "address": "10.0.0.12", "host": "10.1.12.2", "healthy": false, "slots": 0, "detail": "connection refused"}]}],
            "tunnels": [{"name": "VirtualGateways/g/networkConnections/site", "state": "connecting"}],
            "networks": [],
        });
        let page = render(&status, &Output::plain());
        let line =
            |start: &str| page.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}:\n{page}"));
        assert_eq!(
            line("mux1").split_whitespace().collect::<Vec<_>>()[..8],
            ["mux1", "mux", "10.1.1.2", "yes", "yes", "0.7", "12", "1.00"]
        );
        assert!(line("host1").contains("no - of 0.7"));
        assert!(page.lines().any(|l| l == "host1 is not connected since 12 s"), "{page}");
        assert!(line("203.0.113.10:80/tcp").contains("1/2"));
        assert!(line("blue-2").ends_with("connection refused  lb/web"));
        assert!(line("blue-1").contains("host1"), "hosts by name: {page}");
        assert!(line("g/site").contains("never"));
        assert!(!page.contains("NETWORKS") && page.lines().all(|l| l == l.trim_end()));
    }

    #[test]
    fn without_nodes_it_says_what_to_do() {
        assert!(render(&json!({"nodes": []}), &Output::plain()).contains("penstock apply"));
    }
}
