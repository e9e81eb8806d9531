//! What a gateway exports for Prometheus.
use crate::stats::Snapshot;
use ::metrics::{counter, gauge};
use penstock_gateway_proto::{Policy, TunnelState};
use penstock_model::{LedgerReport, Revision};
use penstock_telemetry::{InterfaceFacts, NodeFacts, RoleMetrics, Row};

/// Every metric of a gateway. Label `tunnel`: the path of the network connection. A packet from a tunnel is received, and
/// decided, twice: encrypted it is consumed, decrypted it is sent on.
pub const METRICS: RoleMetrics = RoleMetrics::new("gateway", OWN);

const OWN: &[Row] = &[
    (TUNNEL_RECEIVED_PACKETS, "tunnel", "Packets forwarded from a tunnel"),
    (TUNNEL_RECEIVED_BYTES, "tunnel", "Bytes of IP packets from a tunnel"),
    (TUNNEL_TRANSMITTED_PACKETS, "tunnel", "Packets decided for a tunnel"),
    (TUNNEL_TRANSMITTED_BYTES, "tunnel", "Bytes of IP packets into a tunnel"),
    (TUNNEL_CAPPED, "tunnel, direction", "Packets dropped because a tunnel was faster than its cap"),
    (
        ACL_DECISIONS,
        "network, list, rule",
        "First packets of flows, and denied ones, that a rule decided; of 10,000 rules at most",
    ),
    (ACL_NOTES_LOST, "", "Decisions of logged rules that came faster than the log takes them"),
    (NAT_MAPPINGS, "", "Addresses and ports that pools have given to sites and tenants"),
    (TUNNEL_UP, "tunnel", "1 while a tunnel has a session, or by GRE a way to its peer"),
    (TUNNEL_HANDSHAKE_AGE, "tunnel", "Seconds since a tunnel's last handshake; absent before the first"),
];

const TUNNEL_RECEIVED_PACKETS: &str = "penstock_gateway_tunnel_received_packets_total";
const TUNNEL_RECEIVED_BYTES: &str = "penstock_gateway_tunnel_received_bytes_total";
const TUNNEL_TRANSMITTED_PACKETS: &str = "penstock_gateway_tunnel_transmitted_packets_total";
const TUNNEL_TRANSMITTED_BYTES: &str = "penstock_gateway_tunnel_transmitted_bytes_total";
const TUNNEL_CAPPED: &str = "penstock_gateway_tunnel_capped_packets_total";
const ACL_DECISIONS: &str = "penstock_gateway_acl_decisions_total";
const ACL_NOTES_LOST: &str = "penstock_gateway_acl_notes_lost_total";
const NAT_MAPPINGS: &str = "penstock_gateway_nat_mappings";
const TUNNEL_UP: &str = "penstock_gateway_tunnel_up";
const TUNNEL_HANDSHAKE_AGE: &str = "penstock_gateway_tunnel_handshake_age_seconds";

/// Sets all metrics.
pub(crate) fn record(snapshot: &Snapshot, (interface, mode): (&str, &str), applied: Revision) {
    let io = &snapshot.io;
    let underlay = InterfaceFacts {
        name: interface,
        mode: Some(mode),
        received: io.received,
        transmitted: io.transmitted,
        missed: io.missed,
        transmit_failed: io.transmit_failed,
    };
    METRICS.record(&NodeFacts {
        ledger: &LedgerReport::from(&snapshot.ledger),
        flows: snapshot.flows,
        resolved: snapshot.resolved,
        revision: applied,
        interfaces: &[underlay],
    });
    gauge!(NAT_MAPPINGS).set(snapshot.mappings as f64);
    record_tunnels(snapshot);
    record_caps(snapshot);
}

/// Rules that are exported.
const RULES: usize = 10_000;

/// `decisions`: network, list, rule, and how often it decided.
pub(crate) fn record_rules<'a>(decisions: impl Iterator<Item = (&'a str, &'a str, &'a str, u64)>, lost: u64) {
    for (network, list, rule, count) in decisions.take(RULES) {
        let labels = [("network", network.to_owned()), ("list", list.to_owned()), ("rule", rule.to_owned())];
        counter!(ACL_DECISIONS, &labels).absolute(count);
    }
    counter!(ACL_NOTES_LOST).absolute(lost);
}

fn record_caps(snapshot: &Snapshot) {
    for (tunnel, direction, refused) in &snapshot.capped {
        let (tunnel, direction) = (tunnel.to_string(), direction.to_string());
        counter!(TUNNEL_CAPPED, "tunnel" => tunnel, "direction" => direction).absolute(*refused);
    }
}

fn record_tunnels(snapshot: &Snapshot) {
    for tunnel in &snapshot.tunnels {
        let label = || tunnel.name.clone();
        let (from, to) = Policy::counters_of(tunnel.id);
        let packets = |i: u32| snapshot.counters.get(i as usize).map_or(0, |c| c.packets);
        counter!(TUNNEL_RECEIVED_PACKETS, "tunnel" => label()).absolute(packets(from));
        counter!(TUNNEL_TRANSMITTED_PACKETS, "tunnel" => label()).absolute(packets(to));
        counter!(TUNNEL_RECEIVED_BYTES, "tunnel" => label()).absolute(tunnel.received_bytes);
        counter!(TUNNEL_TRANSMITTED_BYTES, "tunnel" => label()).absolute(tunnel.transmitted_bytes);
        let is_up = tunnel.state == TunnelState::Connected;
        gauge!(TUNNEL_UP, "tunnel" => label()).set(f64::from(u8::from(is_up)));
        if let Some(age) = tunnel.handshake_age_seconds {
            gauge!(TUNNEL_HANDSHAKE_AGE, "tunnel" => label()).set(age as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_engine::Counter;
    use penstock_gateway_proto::{Direction, TunnelStatus};
    use penstock_model::TunnelId;
    use penstock_packet_io::IoStats;
    use penstock_telemetry::{differences, rendered};

    fn page() -> String {
        let tunnel = TunnelStatus {
            id: TunnelId(0),
            name: "branch-a".to_owned(),
            state: TunnelState::Connected,
            endpoint: None,
            handshake_age_seconds: Some(7),
            received_bytes: 100,
            transmitted_bytes: 200,
        };
        let (from, to) = Policy::counters_of(tunnel.id);
        let mut counters = vec![Counter::default(); from.max(to) as usize + 1];
        counters[from as usize].packets = 3;
        counters[to as usize].packets = 4;
        let io = IoStats { transmitted: 8, ..IoStats::default() };
        let capped = vec![("branch-a".into(), Direction::Transmitted, 5)];
        let snapshot = Snapshot { capped, counters, tunnels: vec![tunnel], io, ..Snapshot::default() };
        rendered(|| {
            METRICS.describe();
            record(&snapshot, ("eth0", "af_packet"), Revision(4));
            record_rules([("red", "web", "ssh", 6)].into_iter(), 0);
        })
    }

    #[test]
    fn a_gateway_exports_what_its_table_says_and_no_more() {
        let page = page();
        assert_eq!(differences(&METRICS.table(), &page), Vec::<String>::new());
        for line in [
            "penstock_gateway_goal_revision 4",
            "penstock_gateway_interface_transmitted_packets_total{interface=\"eth0\"} 8",
            "penstock_gateway_tunnel_received_packets_total{tunnel=\"branch-a\"} 3",
            "penstock_gateway_tunnel_transmitted_packets_total{tunnel=\"branch-a\"} 4",
            "penstock_gateway_tunnel_capped_packets_total{tunnel=\"branch-a\",direction=\"transmitted\"} 5",
            "penstock_gateway_acl_decisions_total{network=\"red\",list=\"web\",rule=\"ssh\"} 6",
            "penstock_gateway_tunnel_up{tunnel=\"branch-a\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "no line {line} in {page}");
        }
    }

    #[test]
    fn the_document_says_what_the_table_of_a_gateway_says() {
        let document = include_str!("../../../docs/metrics.md");
        assert_eq!(METRICS.differences_to_document(document), Vec::<String>::new());
    }
}
