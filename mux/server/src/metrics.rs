//! What a mux exports for Prometheus.

use crate::stats::{Named, Totals};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use penstock_model::{BackendId, DropReason, ServiceId};
use penstock_mux_proto::Policy;
use std::collections::BTreeMap;

/// Every metric of a mux: name, labels, meaning. Labels: `reason` is a `DropReason` name; `service` the path of the load
/// balancing rule; `backend` the resource id of the network interface; `interface` as configured.
pub const TABLE: &[(&str, &str, &str)] = &[
    (RECEIVED, "", "Packets that workers took in"),
    (RECEIVED_BYTES, "", "Bytes that workers took in"),
    (FORWARDED, "", "Packets sent on, answers to ping included"),
    (FORWARDED_BYTES, "", "Bytes of packets sent on, encapsulation included"),
    (PASSED, "", "Packets left to the kernel"),
    (DROPPED, "reason", "Packets dropped, by reason"),
    (RESOLVED, "", "Packets that the slow path decided"),
    (FLOWS, "", "Entries in the flow tables"),
    (SERVICE_PACKETS, "service", "Packets that a rule was offered"),
    (SERVICE_BYTES, "service", "Bytes that a rule was offered"),
    (TABLE_VERSION, "service", "Version of the slot table of a rule's pool"),
    (BACKEND_PACKETS, "backend", "Packets sent to a backend"),
    (BACKEND_BYTES, "backend", "Bytes sent to a backend, encapsulation not included"),
    (GOAL_REVISION, "", "Revision of the goal that is forwarded by"),
    (GOALS_REFUSED, "", "Goals that were refused"),
    (UNRESOLVED, "", "Encapsulations whose underlay next hop is not known"),
    (INTERFACE_RECEIVED, "interface", "Frames read from an interface"),
    (INTERFACE_TRANSMITTED, "interface", "Frames written to an interface"),
    (INTERFACE_MISSED, "interface", "Frames lost before they could be read"),
    (INTERFACE_FAILED, "interface", "Frames that an interface did not take"),
];

const RECEIVED: &str = "penstock_mux_packets_total";
const RECEIVED_BYTES: &str = "penstock_mux_bytes_total";
const FORWARDED: &str = "penstock_mux_forwarded_packets_total";
const FORWARDED_BYTES: &str = "penstock_mux_forwarded_bytes_total";
const PASSED: &str = "penstock_mux_passed_packets_total";
const DROPPED: &str = "penstock_mux_dropped_packets_total";
const RESOLVED: &str = "penstock_mux_resolved_packets_total";
const FLOWS: &str = "penstock_mux_flows";
const SERVICE_PACKETS: &str = "penstock_mux_service_packets_total";
const SERVICE_BYTES: &str = "penstock_mux_service_bytes_total";
const TABLE_VERSION: &str = "penstock_mux_table_version";
const BACKEND_PACKETS: &str = "penstock_mux_backend_packets_total";
const BACKEND_BYTES: &str = "penstock_mux_backend_bytes_total";
const GOAL_REVISION: &str = "penstock_mux_goal_revision";
const GOALS_REFUSED: &str = "penstock_mux_goals_refused_total";
const UNRESOLVED: &str = "penstock_mux_unresolved_next_hops";
const INTERFACE_RECEIVED: &str = "penstock_mux_interface_received_packets_total";
const INTERFACE_TRANSMITTED: &str = "penstock_mux_interface_transmitted_packets_total";
const INTERFACE_MISSED: &str = "penstock_mux_interface_missed_packets_total";
const INTERFACE_FAILED: &str = "penstock_mux_interface_transmit_failed_packets_total";

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

pub(crate) fn goal_refused() {
    counter!(GOALS_REFUSED).increment(1);
}

/// Sets all metrics from the sums.
pub(crate) fn record(
    policy: &Policy,
    totals: &Totals,
    interfaces: &[String],
    services: &[Named<ServiceId>],
    backends: &[Named<BackendId>],
) {
    let l = &totals.ledger;
    counter!(RECEIVED).absolute(l.received);
    counter!(RECEIVED_BYTES).absolute(l.received_bytes);
    counter!(FORWARDED).absolute(l.transmitted);
    counter!(FORWARDED_BYTES).absolute(l.transmitted_bytes);
    counter!(PASSED).absolute(l.passed);
    for reason in DropReason::ALL.iter().filter(|r| l.dropped_for(**r) > 0) {
        counter!(DROPPED, "reason" => reason.name()).absolute(l.dropped_for(*reason));
    }
    counter!(RESOLVED).absolute(totals.resolved);
    gauge!(FLOWS).set(totals.flows as f64);
    gauge!(GOAL_REVISION).set(policy.revision().0 as f64);
    gauge!(UNRESOLVED).set(policy.unresolved() as f64);
    record_services(policy, services);
    for (name, (packets, bytes)) in by_name(backends) {
        counter!(BACKEND_PACKETS, "backend" => name.to_owned()).absolute(packets);
        counter!(BACKEND_BYTES, "backend" => name.to_owned()).absolute(bytes);
    }
    for (name, io) in interfaces.iter().zip(&totals.io) {
        counter!(INTERFACE_RECEIVED, "interface" => name.clone()).absolute(io.received);
        counter!(INTERFACE_TRANSMITTED, "interface" => name.clone()).absolute(io.transmitted);
        counter!(INTERFACE_MISSED, "interface" => name.clone()).absolute(io.missed);
        counter!(INTERFACE_FAILED, "interface" => name.clone()).absolute(io.transmit_failed);
    }
}

/// Packets and bytes of each interface: one with an IPv4 and an IPv6 address is two backends of one name.
fn by_name(backends: &[Named<BackendId>]) -> BTreeMap<&str, (u64, u64)> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for b in backends {
        let (packets, bytes) = sums.entry(b.name.as_str()).or_default();
        *packets = packets.saturating_add(b.traffic.packets);
        *bytes = bytes.saturating_add(b.traffic.bytes);
    }
    sums
}

fn record_services(policy: &Policy, services: &[Named<ServiceId>]) {
    for s in services {
        counter!(SERVICE_PACKETS, "service" => s.name.clone()).absolute(s.traffic.packets);
        counter!(SERVICE_BYTES, "service" => s.name.clone()).absolute(s.traffic.bytes);
        let version = policy.service(s.traffic.id).and_then(|s| policy.table_version(s));
        if let Some((version, _)) = version {
            gauge!(TABLE_VERSION, "service" => s.name.clone()).set(version as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TABLE, by_name};
    use crate::stats::Named;
    use penstock_model::BackendId;
    use penstock_mux_proto::Traffic;
    use std::collections::BTreeSet;

    #[test]
    fn an_interface_with_addresses_of_both_families_has_the_sum_of_both() {
        let backend = |id, name: &str, packets| {
            let traffic = Traffic { id: BackendId(id), packets, bytes: packets * 100 };
            Named { name: name.to_owned(), traffic }
        };
        let list = [backend(1, "web", 5), backend(2, "db", 1), backend(3, "web", 7)];
        let sums = by_name(&list);
        assert_eq!(sums.into_iter().collect::<Vec<_>>(), [("db", (1, 100)), ("web", (12, 1200))]);
    }

    #[test]
    fn every_metric_has_one_name_of_this_product() {
        let names: BTreeSet<_> = TABLE.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), TABLE.len());
        assert!(names.iter().all(|n| n.starts_with("penstock_mux_")));
    }
}
