//! Tables out of JSON: what stands in which column is data.
use crate::output::{Output, Style, si, table};
use penstock_admin_types::value;
use serde_json::Value;
use std::collections::BTreeMap;

/// One column: its heading and how an item fills it.
pub(crate) struct Column {
    /// Begins with `>` if set right.
    pub(crate) heading: &'static str,
    pub(crate) cell: fn(&Value, &Output) -> String,
}

/// A heading and a table; empty if there is nothing to show.
pub(crate) fn section(title: &str, columns: &[Column], items: &[Value], output: &Output) -> String {
    if items.is_empty() {
        return String::new();
    }
    let headings: Vec<&str> = columns.iter().map(|c| c.heading).collect();
    let rows = items.iter().map(|item| columns.iter().map(|c| (c.cell)(item, output)).collect());
    format!("{}\n{}\n", output.paint(Style::Bold, title), table(output, &headings, rows))
}

/// A member as text; `-` where it is absent.
pub(crate) fn text(item: &Value, member: &str) -> String {
    match item.get(member) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().filter_map(value::text).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

/// A resource's name without its collections: `loadBalancers/web/loadBalancingRules/http/v4` is `web/http/v4`.
pub(crate) fn name(item: &Value, member: &str) -> String {
    let text = text(item, member);
    let collection = |i: &usize| *i == 0 || *i == 2;
    let parts: Vec<&str> = text.split('/').enumerate().filter(|(i, _)| !collection(i)).map(|(_, part)| part).collect();
    if parts.is_empty() { text } else { parts.join("/") }
}

/// `af_xdp copy (eth0)`, `af_packet (eth0, blue-1)`: what is the same for several ports, once.
pub(crate) fn ports(item: &Value, member: &str) -> String {
    let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
    for line in value::list(item, member).iter().filter_map(value::text) {
        let (port, kind) = line.split_once(": ").unwrap_or(("", &line));
        match kinds.iter_mut().find(|(k, _)| k == kind) {
            Some((_, ports)) => ports.push(port.to_owned()),
            None => kinds.push((kind.to_owned(), vec![port.to_owned()])),
        }
    }
    let shown: Vec<String> = kinds.iter().map(|(kind, ports)| format!("{kind} ({})", ports.join(", "))).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join("; ") }
}

/// A goal's revision: the upper half counts starts of the controller, the lower changes.
pub(crate) fn revision(item: &Value, member: &str) -> String {
    let number = item.get(member).and_then(Value::as_u64);
    number.map_or_else(|| "-".to_owned(), |n| format!("{}.{}", n >> 32, n & 0xffff_ffff))
}

/// A count or a rate, short.
pub(crate) fn short(item: &Value, member: &str) -> String {
    item.get(member).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), si)
}

/// What happened to dropped packets, summed over reasons.
pub(crate) fn dropped(item: &Value) -> String {
    let reasons = item.get("dropped").and_then(Value::as_object);
    reasons.map_or_else(|| "-".to_owned(), |r| si(r.values().filter_map(Value::as_f64).fold(0.0, |sum, n| sum + n)))
}

pub(crate) fn yes_no(item: &Value, member: &str, output: &Output) -> String {
    match item.get(member).and_then(Value::as_bool) {
        Some(true) => output.paint(Style::Good, "yes"),
        Some(false) => output.paint(Style::Bad, "no"),
        None => "-".to_owned(),
    }
}

/// `203.0.113.10:80/tcp`, `[2001:db8::1]:53/udp`.
pub(crate) fn frontend(item: &Value) -> String {
    let (vip, port, protocol) = (text(item, "vip"), text(item, "port"), text(item, "protocol").to_lowercase());
    let vip = if vip.contains(':') { format!("[{vip}]") } else { vip };
    format!("{vip}:{port}/{protocol}")
}

/// `2/3`, bad if none is left.
pub(crate) fn healthy(item: &Value, output: &Output) -> String {
    let count = |member| item.get(member).and_then(Value::as_u64).unwrap_or(0);
    let (healthy, total) = (count("healthy"), count("total"));
    let style = if healthy == 0 || healthy < total { Style::Bad } else { Style::Good };
    output.paint(style, &format!("{healthy}/{total}"))
}

/// The backends of all services, each once for each of the members that tell two apart; hosts by name.
pub(crate) fn backends(status: &Value, apart: &[&str]) -> Vec<Value> {
    let hosts = value::list(status, "nodes").iter().filter(|n| n.get("role").and_then(Value::as_str) == Some("host"));
    let names: BTreeMap<String, &Value> =
        hosts.filter_map(|n| Some((value::get_text(n, "address")?, n.get("name")?))).collect();
    let mut all: Vec<Value> = Vec::new();
    for service in value::list(status, "services") {
        for backend in value::list(service, "backends") {
            let mut backend = backend.clone();
            if let Some(map) = backend.as_object_mut() {
                map.insert("pool".to_owned(), service.get("pool").cloned().unwrap_or_default());
                let host = map.get("host").and_then(value::text).and_then(|address| names.get(&address));
                if let Some(host) = host {
                    map.insert("host".to_owned(), (*host).clone());
                }
            }
            let known = |b: &Value| apart.iter().all(|member| b.get(*member) == backend.get(*member));
            if !all.iter().any(known) {
                all.push(backend);
            }
        }
    }
    all
}

/// Busiest first, by the sum of these members; ties stay in their order.
pub(crate) fn busiest_first(items: &mut [Value], members: &[&str]) {
    let busy = |item: &Value| members.iter().filter_map(|m| item.get(*m)?.as_f64()).sum::<f64>();
    items.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_members_are_a_dash_and_lists_have_commas() {
        let item = json!({"a": null, "b": ["x", 1], "c": 2_000_000, "dropped": {"acl_denied": 1500, "no_vip": 1}});
        let shown = [text(&item, "a"), text(&item, "b"), short(&item, "c"), short(&item, "d"), dropped(&item)];
        assert_eq!(shown, ["-", "x, 1", "2.00 M", "-", "1.50 k"]);
        assert_eq!(dropped(&json!({"dropped": {}})), "0");
    }

    #[test]
    fn names_revisions_and_ports_are_short() {
        let item = json!({"rule": "loadBalancers/web/loadBalancingRules/http/v4", "node": "mux1", "revision": 4_294_967_298_u64,
            "io": ["eth0: af_packet", "blue-1: af_packet", "eth1: af_xdp copy"], "none": []});
        assert_eq!(name(&item, "rule"), "web/http/v4");
        assert_eq!(name(&json!({"pool": "loadBalancers/web/backendAddressPools/p/ipv6"}), "pool"), "web/p/ipv6");
        assert_eq!((name(&item, "node"), name(&item, "absent")), ("mux1".to_owned(), "-".to_owned()));
        assert_eq!((revision(&item, "revision"), revision(&item, "absent")), ("1.2".to_owned(), "-".to_owned()));
        assert_eq!(ports(&item, "io"), "af_packet (eth0, blue-1); af_xdp copy (eth1)");
        assert_eq!(ports(&item, "none"), "-");
    }

    #[test]
    fn a_frontend_of_ipv6_has_brackets() {
        let item = |vip| json!({"vip": vip, "port": 80, "protocol": "TCP"});
        assert_eq!(frontend(&item("203.0.113.10")), "203.0.113.10:80/tcp");
        assert_eq!(frontend(&item("2001:db8::1")), "[2001:db8::1]:80/tcp");
    }

    #[test]
    fn the_busiest_is_first() {
        let mut items = [json!({"n": 1, "a": 5}), json!({"n": 2, "a": 1, "b": 10}), json!({"n": 3})];
        busiest_first(&mut items, &["a", "b"]);
        assert_eq!(items.map(|i| i["n"].clone()), [json!(2), json!(1), json!(3)]);
    }
}
