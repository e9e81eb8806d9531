//! Which way packets go: what stands on this machine's interfaces, and what the nodes that a controller knows have told it.
use super::{Finding, links, read};
use penstock_bpf::{Occupant, occupants};
use serde_json::Value;

/// One program an interface: whose is it?
pub(super) fn findings() -> Vec<Finding> {
    let programs = |name: &str| {
        let index = read(&format!("/sys/class/net/{name}/ifindex")).parse().ok()?;
        occupants(index).ok()
    };
    links::names().iter().filter_map(|name| Some(interface(name, &programs(name)?))).collect()
}

fn interface(name: &str, programs: &[Occupant]) -> Finding {
    let what = format!("{name} XDP");
    match programs.iter().find(|p| !p.is_penstocks()) {
        Some(foreign) => {
            let obstacle = foreign.obstacle(name);
            Finding::new(what, false, obstacle.reason, obstacle.fix.unwrap_or_default())
        }
        None => {
            let all: Vec<String> =
                programs.iter().map(|p| format!("{} ({})", p.name.as_deref().unwrap_or("program"), p.mode)).collect();
            let found = if all.is_empty() { "no program".to_owned() } else { all.join(", ") };
            Finding::new(what, true, found, "")
        }
    }
}

/// The interfaces of all nodes, from the controller's status.
pub(super) fn of_nodes(status: &Value) -> Vec<Finding> {
    list(status, "nodes").iter().flat_map(of_node).collect()
}

fn of_node(node: &Value) -> Vec<Finding> {
    let who = format!("{} {}", text(node, "role"), text(node, "name"));
    let fallbacks = list(node, "fallbacks");
    let mut all = Vec::new();
    for way in list(node, "packetIo").iter().filter_map(Value::as_str) {
        let (interface, mode) = way.split_once(": ").unwrap_or((way, ""));
        let mine: Vec<&Value> = fallbacks.iter().filter(|f| text(f, "interface") == interface).collect();
        let mut found = mode.split(", no ").next().unwrap_or(mode).to_owned();
        for f in &mine {
            found.push_str(&format!(", without {}: {}", text(f, "without"), text(f, "reason")));
        }
        if mine.is_empty() {
            found = mode.to_owned();
        }
        let fixes: Vec<String> = mine.iter().map(|f| text(f, "fix").to_owned()).collect();
        all.push(Finding::new(format!("{who} {interface}"), mine.is_empty(), found, fixes.join("; ")));
    }
    all
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_bpf::XdpMode;
    use serde_json::json;

    #[test]
    fn a_program_of_somebody_else_is_a_finding_and_penstocks_is_none() {
        let program = |name: &str| Occupant { id: 7, name: Some(name.to_owned()), mode: XdpMode::Native };
        let own = interface("eth0", &[program("penstock_mux")]);
        assert_eq!((own.good, own.found.as_str()), (true, "penstock_mux (native)"));
        assert!(interface("eth0", &[]).good);
        let foreign = interface("eth0", &[program("xdp_dispatcher")]);
        assert!(
            !foreign.good && foreign.found.contains("\"xdp_dispatcher\" of libxdp") && foreign.found.contains("id 7")
        );
        assert!(foreign.fix.is_some_and(|fix| fix.contains("xdp-loader unload eth0")));
    }

    #[test]
    fn each_interface_of_a_node_is_told_with_its_way_and_why_it_is_not_the_best() {
        let status = json!({ "nodes": [
            { "name": "m-1", "role": "mux",
              "packetIo": ["eth0: af_xdp copy native, kernel replay", "eth1: af_xdp copy native, no kernel replay: deaf peer"],
              "fallbacks": [{ "interface": "eth1", "without": "kernel replay", "reason": "deaf peer", "fix": "GRO on" }] },
            { "name": "g-1", "role": "gateway" },
        ]});
        let told: Vec<_> = of_nodes(&status).into_iter().map(|f| (f.what, f.good, f.found, f.fix)).collect();
        let row = |what: &str, good, found: &str, fix: Option<&str>| {
            (what.to_owned(), good, found.to_owned(), fix.map(str::to_owned))
        };
        assert_eq!(
            told,
            [
                row("mux m-1 eth0", true, "af_xdp copy native, kernel replay", None),
                row("mux m-1 eth1", false, "af_xdp copy native, without kernel replay: deaf peer", Some("GRO on")),
            ]
        );
    }

    #[test]
    fn what_was_switched_off_is_told_and_is_no_fault() {
        let way = "eth0: af_xdp copy native, no kernel replay: it is switched off (kernel_replay)";
        let told = of_node(&json!({ "name": "m", "role": "mux", "packetIo": [way], "fallbacks": [] }));
        assert_eq!(told.len(), 1);
        assert!(told[0].good && told[0].found.ends_with("switched off (kernel_replay)"));
    }
}
