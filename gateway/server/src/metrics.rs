//! What a gateway exports for Prometheus.
use crate::stats::Snapshot;
use ::metrics::{counter, describe_counter, describe_gauge, gauge};
use penstock_gateway_proto::{Policy, TunnelState};
use penstock_model::{DropReason, Revision};

/// Every metric of a gateway: name, labels, meaning. Labels: `reason` is a `DropReason` name; `tunnel` the path of the network
/// connection.
pub const TABLE: &[(&str, &str, &str)] = &[
    (RECEIVED, "", "Packets that the worker took in; one from a tunnel counts encrypted and decrypted"),
    (RECEIVED_BYTES, "", "Bytes of these packets"),
    (TRANSMITTED, "", "Packets sent into overlays"),
    (TUNNELLED, "", "Packets sent into tunnels"),
    (PASSED, "", "Packets left to the kernel"),
    (CONSUMED, "", "Tunnel datagrams taken in"),
    (DROPPED, "reason", "Packets dropped, by reason"),
    (RESOLVED, "", "Packets that the slow path decided"),
    (FLOWS, "", "Entries in the flow table"),
    (TUNNEL_RECEIVED_PACKETS, "tunnel", "Packets forwarded from a tunnel"),
    (TUNNEL_RECEIVED_BYTES, "tunnel", "Bytes decrypted from a tunnel"),
    (TUNNEL_TRANSMITTED_PACKETS, "tunnel", "Packets decided for a tunnel"),
    (TUNNEL_TRANSMITTED_BYTES, "tunnel", "Bytes encrypted into a tunnel"),
    (TUNNEL_UP, "tunnel", "1 while a tunnel has a session"),
    (TUNNEL_HANDSHAKE_AGE, "tunnel", "Seconds since a tunnel's last handshake"),
    (GOAL_REVISION, "", "Revision of the goal that is forwarded by"),
    (GOALS_REFUSED, "", "Goals that were refused"),
    (INTERFACE_RECEIVED, "", "Frames read from the underlay"),
    (INTERFACE_TRANSMITTED, "", "Frames written to the underlay"),
    (INTERFACE_MISSED, "", "Frames lost before they could be read"),
    (INTERFACE_FAILED, "", "Frames that the underlay interface did not take"),
];

const RECEIVED: &str = "penstock_gateway_packets_total";
const RECEIVED_BYTES: &str = "penstock_gateway_bytes_total";
const TRANSMITTED: &str = "penstock_gateway_forwarded_packets_total";
const TUNNELLED: &str = "penstock_gateway_tunnelled_packets_total";
const PASSED: &str = "penstock_gateway_passed_packets_total";
const CONSUMED: &str = "penstock_gateway_consumed_packets_total";
const DROPPED: &str = "penstock_gateway_dropped_packets_total";
const RESOLVED: &str = "penstock_gateway_resolved_packets_total";
const FLOWS: &str = "penstock_gateway_flows";
const TUNNEL_RECEIVED_PACKETS: &str = "penstock_gateway_tunnel_received_packets_total";
const TUNNEL_RECEIVED_BYTES: &str = "penstock_gateway_tunnel_received_bytes_total";
const TUNNEL_TRANSMITTED_PACKETS: &str = "penstock_gateway_tunnel_transmitted_packets_total";
const TUNNEL_TRANSMITTED_BYTES: &str = "penstock_gateway_tunnel_transmitted_bytes_total";
const TUNNEL_UP: &str = "penstock_gateway_tunnel_up";
const TUNNEL_HANDSHAKE_AGE: &str = "penstock_gateway_tunnel_handshake_age_seconds";
const GOAL_REVISION: &str = "penstock_gateway_goal_revision";
const GOALS_REFUSED: &str = "penstock_gateway_goals_refused_total";
const INTERFACE_RECEIVED: &str = "penstock_gateway_interface_received_packets_total";
const INTERFACE_TRANSMITTED: &str = "penstock_gateway_interface_transmitted_packets_total";
const INTERFACE_MISSED: &str = "penstock_gateway_interface_missed_packets_total";
const INTERFACE_FAILED: &str = "penstock_gateway_interface_transmit_failed_packets_total";

/// Registers the descriptions. Once, at start.
pub(crate) fn describe() {
    for (name, _, meaning) in TABLE {
        if name.ends_with("_total") {
            describe_counter!(*name, *meaning);
        } else {
            describe_gauge!(*name, *meaning);
        }
    }
}

pub(crate) fn count_refused_goal() {
    counter!(GOALS_REFUSED).increment(1);
}

pub(crate) fn record(snapshot: &Snapshot, applied: Revision) {
    let ledger = &snapshot.ledger;
    counter!(RECEIVED).absolute(ledger.received);
    counter!(RECEIVED_BYTES).absolute(ledger.received_bytes);
    counter!(TRANSMITTED).absolute(ledger.transmitted);
    counter!(TUNNELLED).absolute(ledger.tunnelled);
    counter!(PASSED).absolute(ledger.passed);
    counter!(CONSUMED).absolute(ledger.consumed);
    for reason in DropReason::ALL.iter().filter(|r| ledger.dropped_for(**r) > 0) {
        counter!(DROPPED, "reason" => reason.name()).absolute(ledger.dropped_for(*reason));
    }
    counter!(RESOLVED).absolute(snapshot.resolved);
    gauge!(FLOWS).set(snapshot.flows as f64);
    gauge!(GOAL_REVISION).set(applied.0 as f64);
    counter!(INTERFACE_RECEIVED).absolute(snapshot.io.received);
    counter!(INTERFACE_TRANSMITTED).absolute(snapshot.io.transmitted);
    counter!(INTERFACE_MISSED).absolute(snapshot.io.missed);
    counter!(INTERFACE_FAILED).absolute(snapshot.io.transmit_failed);
    record_tunnels(snapshot);
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
