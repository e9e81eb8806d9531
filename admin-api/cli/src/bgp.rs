use crate::arguments::Bgp;
use crate::columns::{Column, section, short, text};
use crate::error::CliError;
use crate::output::{Output, Style};
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What nodes say of their BGP neighbours and routes.
pub(crate) async fn run(client: &Client, command: &Bgp, output: &Output) -> Result<(), CliError> {
    let status = client.status().await?;
    let routers = value::list(&status, "routers");
    if output.is_json() && !matches!(command, Bgp::Explain { .. }) {
        return output.value(&routers);
    }
    match command {
        Bgp::Summary => output.text(&summary(routers, output)),
        Bgp::Neighbors => output.text(&neighbors(routers, output)),
        Bgp::Rib => output.text(&rib(routers, output)),
        // Asks no controller: see `dump`.
        Bgp::Dump { .. } => Ok(()),
        Bgp::Explain { prefix } => {
            let found = routes(routers).into_iter().chain(withheld(routers));
            let found: Vec<Value> = found.filter(|r| concerns(r, prefix)).collect();
            if output.is_json() { output.value(&found) } else { output.text(&explanation(prefix, &found)) }
        }
    }
}

/// What a router of this machine gives to whoever may open its socket.
pub(crate) fn dump(socket: &Path, file: &Path, output: &Output) -> Result<(), CliError> {
    let mut table = UnixStream::connect(socket).map_err(CliError::io(socket.display()))?;
    let mut to = File::create(file).map_err(CliError::io(file.display()))?;
    let bytes = std::io::copy(&mut table, &mut to).map_err(CliError::io(socket.display()))?;
    to.sync_all().map_err(CliError::io(file.display()))?;
    output.text(&format!("{bytes} bytes in {}\n", file.display()))
}

/// What nodes say of BFD.
pub(crate) async fn bfd(client: &Client, output: &Output) -> Result<(), CliError> {
    let status = client.status().await?;
    let sessions: Vec<Value> = peers(value::list(&status, "routers")).into_iter().filter_map(|p| session(&p)).collect();
    if output.is_json() {
        return output.value(&sessions);
    }
    output.text(&or_nothing(section("BFD", BFD, &sessions, output), "no node watches a neighbour by BFD\n"))
}

const ROUTERS: &[Column] = &[
    Column { heading: "NODE", cell: |r, _| text(r, "node") },
    Column { heading: "ROUTER", cell: |r, _| text(r, "router") },
    Column { heading: ">AS", cell: |r, _| text(r, "localASN") },
    Column { heading: "ID", cell: |r, _| text(r, "id") },
    Column { heading: ">ANNOUNCED", cell: |r, _| text(r, "announced") },
    Column { heading: ">PREFIXES", cell: |r, _| text(r, "prefixes") },
    Column { heading: ">PATHS", cell: |r, _| text(r, "paths") },
];

const PEERS: &[Column] = &[
    Column { heading: "NODE", cell: |p, _| text(p, "node") },
    Column { heading: "NEIGHBOR", cell: |p, _| text(p, "address") },
    Column { heading: ">AS", cell: |p, _| text(p, "remoteASN") },
    Column { heading: "STATE", cell: state },
    Column { heading: ">UP", cell: up },
    Column { heading: ">RECEIVED", cell: |p, _| text(p, "received") },
    Column { heading: ">ADVERTISED", cell: |p, _| text(p, "advertised") },
    Column {
        heading: "BFD",
        cell: |p, o| p.get("bfd").filter(|b| b.is_object()).map_or_else(|| "-".to_owned(), |b| state(b, o)),
    },
    Column { heading: "LAST ERROR", cell: |p, _| text(p, "lastError") },
];

const ROUTES: &[Column] = &[
    Column { heading: "NODE", cell: |r, _| text(r, "node") },
    Column { heading: "ROUTER", cell: |r, _| text(r, "router") },
    Column { heading: "PREFIX", cell: |r, _| text(r, "prefix") },
    Column { heading: "FROM", cell: |r, _| best(r).map_or_else(|| "-".to_owned(), from) },
    Column { heading: "AS PATH", cell: |r, _| best(r).map(|p| text(p, "asPath")).unwrap_or_default() },
    Column { heading: "ADVERTISED TO", cell: |r, _| text(r, "advertisedTo") },
];

const BFD: &[Column] = &[
    Column { heading: "NODE", cell: |b, _| text(b, "node") },
    Column { heading: "NEIGHBOR", cell: |b, _| text(b, "address") },
    Column { heading: "STATE", cell: state },
    Column { heading: ">DETECTION MS", cell: |b, _| text(b, "detectionMilliseconds") },
    Column { heading: ">RECEIVED", cell: |b, _| short(b, "received") },
    Column { heading: ">SENT", cell: |b, _| short(b, "sent") },
    Column { heading: ">DOWNS", cell: |b, _| text(b, "downs") },
    Column { heading: "LAST DOWN", cell: |b, _| text(b, "diagnostic") },
];

fn summary(routers: &[Value], output: &Output) -> String {
    let mut page = section("BGP", ROUTERS, routers, output);
    page.push_str(&section("neighbors", PEERS, &peers(routers), output));
    for (router, error) in routers.iter().filter_map(|r| Some((r, value::get_text(r, "error")?))) {
        page.push_str(&output.paint(Style::Bad, &format!("{}: {error}\n", text(router, "node"))));
    }
    for route in withheld(routers) {
        let (node, prefix, reason) = (text(&route, "node"), text(&route, "prefix"), text(&route, "reason"));
        page.push_str(&format!("{node} does not announce {prefix}: {reason}\n"));
    }
    or_nothing(page, NOBODY)
}

const NOBODY: &str = "no node has BGP neighbors: give a mux a routerConfiguration, or a virtual gateway a bgpRouter\n";

fn neighbors(routers: &[Value], output: &Output) -> String {
    let mut page = String::new();
    for peer in peers(routers) {
        let title = format!("{} - {} (AS {})", text(&peer, "node"), text(&peer, "name"), text(&peer, "remoteASN"));
        page.push_str(&format!("{}\n", output.paint(Style::Bold, &title)));
        for (label, member) in [
            ("state", "state"),
            ("seconds up", "upSeconds"),
            ("times established", "established"),
            ("identifier", "id"),
            ("hold seconds", "holdSeconds"),
            ("routes received", "received"),
            ("routes advertised", "advertised"),
            ("messages received", "messagesReceived"),
            ("messages sent", "messagesSent"),
            ("malformed updates", "malformed"),
            ("last error", "lastError"),
        ] {
            page.push_str(&format!("  {label:<18} {}\n", text(&peer, member)));
        }
        if let Some(bfd) = session(&peer) {
            page.push_str(&format!("  {:<18} {}\n", "BFD", text(&bfd, "state")));
        }
        page.push('\n');
    }
    or_nothing(page, NOBODY)
}

fn rib(routers: &[Value], output: &Output) -> String {
    let mut page = section("routes", ROUTES, &routes(routers), output);
    for router in routers {
        let shown = value::list(router, "routes").len() as u64;
        let all = router.get("prefixes").and_then(Value::as_u64).unwrap_or(0);
        if all > shown {
            page.push_str(&format!("{} shows {shown} of {all} prefixes\n", text(router, "node")));
        }
    }
    or_nothing(page, "no node has a route\n")
}

fn explanation(prefix: &str, found: &[Value]) -> String {
    if found.is_empty() {
        return format!("no node has or withholds a route to {prefix}, or it is not among those that are shown\n");
    }
    let mut page = String::new();
    for route in found {
        let (node, prefix) = (place(route), text(route, "prefix"));
        if let Some(reason) = value::get_text(route, "reason") {
            page.push_str(&format!("{node}: {prefix} is not announced: {reason}\n"));
            continue;
        }
        page.push_str(&format!("{node}: {prefix}\n"));
        for path in value::list(route, "paths") {
            let verdict = match value::get_text(path, "whyNot") {
                Some(why) => format!("not used: {why}"),
                None => "best".to_owned(),
            };
            page.push_str(&format!("  from {}, next hop {}: {verdict}\n", from(path), text(path, "nextHop")));
        }
        for peer in value::list(route, "advertisedTo").iter().filter_map(value::text) {
            page.push_str(&format!("  advertised to {peer}\n"));
        }
        for not in value::list(route, "notAdvertised") {
            page.push_str(&format!("  not advertised to {}: {}\n", text(not, "peer"), text(not, "reason")));
        }
    }
    page
}

/// The items of a list of each router, with the names of node and router.
fn each(routers: &[Value], list: &str) -> Vec<Value> {
    let named = |router: &Value, item: &Value| {
        let mut item = item.clone();
        if let Some(map) = item.as_object_mut() {
            map.insert("node".to_owned(), json!(text(router, "node")));
            map.insert("router".to_owned(), router.get("router").cloned().unwrap_or_default());
        }
        item
    };
    routers.iter().flat_map(|r| value::list(r, list).iter().map(move |item| named(r, item))).collect()
}

fn peers(routers: &[Value]) -> Vec<Value> {
    each(routers, "peers")
}

fn routes(routers: &[Value]) -> Vec<Value> {
    each(routers, "routes")
}

fn withheld(routers: &[Value]) -> Vec<Value> {
    each(routers, "withheld")
}

/// The node, and whose router there.
fn place(item: &Value) -> String {
    match value::get_text(item, "router") {
        Some(router) => format!("{} {router}", text(item, "node")),
        None => text(item, "node"),
    }
}

/// Whether a route's prefix is the one that was asked for; an address stands for itself alone.
fn concerns(route: &Value, asked: &str) -> bool {
    let prefix = text(route, "prefix");
    prefix == asked || (!asked.contains('/') && [32, 128].iter().any(|n| prefix == format!("{asked}/{n}")))
}

fn session(peer: &Value) -> Option<Value> {
    let mut bfd = peer.get("bfd").filter(|b| b.is_object())?.clone();
    if let Some(map) = bfd.as_object_mut() {
        for member in ["node", "address"] {
            map.insert(member.to_owned(), json!(text(peer, member)));
        }
    }
    Some(bfd)
}

fn best(route: &Value) -> Option<&Value> {
    value::list(route, "paths").iter().find(|p| p.get("best") == Some(&json!(true)))
}

fn from(path: &Value) -> String {
    value::get_text(path, "peer").unwrap_or_else(|| "itself".to_owned())
}

fn state(item: &Value, output: &Output) -> String {
    let state = text(item, "state");
    let style = if matches!(state.as_str(), "established" | "up") { Style::Good } else { Style::Bad };
    output.paint(style, &state)
}

fn up(peer: &Value, _: &Output) -> String {
    match peer.get("upSeconds").and_then(Value::as_u64) {
        Some(s) if s >= 3600 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        Some(s) => format!("{}m{:02}s", s / 60, s % 60),
        None => "-".to_owned(),
    }
}

fn or_nothing(mut page: String, nothing: &str) -> String {
    page.truncate(page.trim_end().len());
    if page.is_empty() {
        page.push_str(nothing.trim_end());
    }
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers() -> Vec<Value> {
        vec![json!({
            "node": "mux1", "localASN": 64512, "id": "10.1.1.2", "announced": 1, "prefixes": 1, "paths": 1,
            "peers": [{"name": "tor 10.1.1.1", "address": "10.1.1.1", "remoteASN": 65001, "state": "established", "upSeconds": 3725,
                "received": 0, "advertised": 1, "established": 1, "bfd": {"state": "up", "detectionMilliseconds": 300, "downs": 0}}],
            "routes": [{"prefix": "203.0.113.10/32", "advertisedTo": ["tor 10.1.1.1"],
                "notAdvertised": [{"peer": "tor6", "reason": "there is no next hop of the prefix's family"}],
                "paths": [{"peer": null, "best": true, "nextHop": "0.0.0.0", "asPath": ""}]}],
            "withheld": [{"prefix": "203.0.113.20/32", "reason": "no backend is healthy"}],
        })]
    }

    #[test]
    fn a_summary_shows_neighbors_and_what_is_withheld() {
        let page = summary(&routers(), &Output::plain());
        for part in ["mux1", "10.1.1.1", "established", "1h02m", "203.0.113.20/32: no backend is healthy"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(summary(&[], &Output::plain()).contains("routerConfiguration"));
    }

    #[test]
    fn an_explanation_finds_an_address_and_says_who_is_told_and_who_not() {
        let all: Vec<Value> = routes(&routers()).into_iter().chain(withheld(&routers())).collect();
        let explain = |asked: &str| {
            let found: Vec<Value> = all.iter().filter(|r| concerns(r, asked)).cloned().collect();
            explanation(asked, &found)
        };
        let page = explain("203.0.113.10");
        assert!(
            page.starts_with("mux1: 203.0.113.10/32\n")
                && page.contains("advertised to tor 10.1.1.1")
                && page.contains("not advertised to tor6: there is no"),
            "{page}"
        );
        assert!(explain("203.0.113.20/32").contains("is not announced: no backend is healthy"));
        assert!(explain("203.0.113.30").contains("no node has"));
    }
}
