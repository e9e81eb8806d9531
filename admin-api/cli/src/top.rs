use crate::arguments::Top;
use crate::columns::{Column, backends, busiest_first, dropped, frontend, healthy, name, section, short, text, yes_no};
use crate::error::CliError;
use crate::output::Output;
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Looks again and again. Rates are the controller's, from the nodes' reports.
pub(crate) async fn run(client: &Client, top: &Top, output: &Output) -> Result<(), CliError> {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(top.interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        show(&traffic(&client.status().await?), top, output)?;
        if top.once {
            return Ok(());
        }
    }
}

/// What of a status counts traffic, busiest first.
fn traffic(status: &Value) -> Map<String, Value> {
    // A backend of several rules has one count.
    let backends = backends(status, &["networkInterface", "address"]);
    let mut services = value::list(status, "services").to_vec();
    for service in services.iter_mut().filter_map(Value::as_object_mut) {
        service.remove("backends");
    }
    let lists = [
        ("services", services),
        ("backends", backends),
        ("tunnels", value::list(status, "tunnels").to_vec()),
        ("nodes", value::list(status, "nodes").to_vec()),
    ];
    let busy = &["bitsPerSecond", "receivedBitsPerSecond", "transmittedBitsPerSecond"];
    let sorted = lists.map(|(name, mut items)| {
        busiest_first(&mut items, busy);
        (name.to_owned(), Value::Array(items))
    });
    sorted.into_iter().collect()
}

const PACKET_RATE: Column = Column { heading: ">PACKET/S", cell: |i, _| short(i, "packetsPerSecond") };
const BIT_RATE: Column = Column { heading: ">BIT/S", cell: |i, _| short(i, "bitsPerSecond") };
const PACKETS: Column = Column { heading: ">PACKETS", cell: |i, _| short(i, "packets") };
const BYTES: Column = Column { heading: ">BYTES", cell: |i, _| short(i, "bytes") };

const SERVICES: &[Column] = &[
    Column { heading: "VIP", cell: |s, _| frontend(s) },
    PACKET_RATE,
    BIT_RATE,
    PACKETS,
    BYTES,
    Column { heading: "HEALTHY", cell: healthy },
    Column { heading: "RULE", cell: |s, _| name(s, "name") },
];

const BACKENDS: &[Column] = &[
    Column { heading: "BACKEND", cell: |b, _| text(b, "networkInterface") },
    PACKET_RATE,
    BIT_RATE,
    PACKETS,
    BYTES,
    Column { heading: "ADDRESS", cell: |b, _| text(b, "address") },
    Column { heading: "HOST", cell: |b, _| text(b, "host") },
];

const TUNNELS: &[Column] = &[
    Column { heading: "TUNNEL", cell: |t, _| name(t, "name") },
    Column { heading: ">IN BIT/S", cell: |t, _| short(t, "receivedBitsPerSecond") },
    Column { heading: ">OUT BIT/S", cell: |t, _| short(t, "transmittedBitsPerSecond") },
    Column { heading: ">IN BYTES", cell: |t, _| short(t, "receivedBytes") },
    Column { heading: ">OUT BYTES", cell: |t, _| short(t, "transmittedBytes") },
    Column { heading: "STATE", cell: |t, _| text(t, "state") },
];

const NODES: &[Column] = &[
    Column { heading: "NODE", cell: |n, _| text(n, "name") },
    PACKET_RATE,
    BIT_RATE,
    Column { heading: ">RECEIVED", cell: |n, _| short(n, "received") },
    Column { heading: ">DROPPED", cell: |n, _| dropped(n) },
    Column { heading: ">FLOWS", cell: |n, _| short(n, "flows") },
    Column { heading: "UP", cell: |n, o| yes_no(n, "connected", o) },
];

fn show(traffic: &Map<String, Value>, top: &Top, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        // Looks that follow each other are one a line.
        return if top.once { output.value(traffic) } else { output.text(&Value::Object(traffic.clone()).to_string()) };
    }
    let list = |name: &str| traffic.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut page = String::new();
    if !top.once && Output::is_terminal() {
        // Home, and clear what was there: no flicker of an empty screen.
        page.push_str("\x1b[H\x1b[J");
    }
    page.push_str(&section("virtual IPs", SERVICES, list("services"), output));
    page.push_str(&section("backends", BACKENDS, list("backends"), output));
    page.push_str(&section("tunnels", TUNNELS, list("tunnels"), output));
    page.push_str(&section("nodes", NODES, list("nodes"), output));
    page.truncate(page.trim_end().len());
    if page.trim().is_empty() {
        page.push_str("nothing is declared yet: penstock apply -f FILE\n");
    }
    output.text(&page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_backend_of_two_rules_is_shown_once_and_the_busiest_is_first() {
        let backend = |name, bits| json!({"networkInterface": name, "address": "10.0.0.1", "bitsPerSecond": bits});
        let status = json!({"services": [
            {"vip": "203.0.113.10", "bitsPerSecond": 1.0, "backends": [backend("a", 1.0), backend("b", 5.0)]},
            {"vip": "203.0.113.20", "bitsPerSecond": 9.0, "backends": [backend("a", 1.0)]}]});
        let traffic = traffic(&status);
        assert_eq!(traffic["services"][0]["vip"], "203.0.113.20");
        let names: Vec<&Value> =
            traffic["backends"].as_array().unwrap().iter().map(|b| &b["networkInterface"]).collect();
        assert_eq!(names, ["b", "a"]);
        assert!(traffic["services"][0].get("backends").is_none());
    }
}
