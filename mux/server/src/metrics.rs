//! What a mux exports for Prometheus.

use crate::stats::{Counted, Named, ReplayState, Totals};
use metrics::{counter, gauge};
use penstock_model::{BackendId, LedgerReport, ServiceId};
use penstock_mux_proto::Policy;
use penstock_telemetry::{InterfaceFacts, NodeFacts, RoleMetrics, Row};
use std::collections::BTreeMap;

/// Every metric of a mux. Labels: `service` is the path of the load balancing rule and its frontend; `pool` that of the pool;
/// `backend` the resource id of the network interface.
pub const METRICS: RoleMetrics = RoleMetrics::new("mux", OWN);

const OWN: &[Row] = &[
    (SERVICE_PACKETS, "service", "Packets that a rule was offered"),
    (SERVICE_BYTES, "service", "Bytes that a rule was offered"),
    (BACKEND_PACKETS, "backend", "Packets sent to a backend"),
    (BACKEND_BYTES, "backend", "Bytes sent to a backend, encapsulation not included"),
    (TABLE_VERSION, "pool", "Version of the slot table of a pool"),
    (UNRESOLVED, "", "Encapsulations whose underlay next hop is not known"),
    (KERNEL_REPLAY, "interface", "1 if the kernel forwards packets of settled flows by itself"),
    (CHANCES_MISSING, "", "Lists of owners that found no place: packets that may be theirs go to the first alone"),
    (
        FRAGMENTS,
        "outcome",
        "Pieces of packets: `first` noted, `later` that found it, `orphan` that did not and went by addresses or was dropped",
    ),
    (
        LIMITED,
        "vip, outcome",
        "What the limit of a virtual IP did: `packet_dropped`, too many packets; `flow_dropped`, too many new flows; `flow_stateless`, a \
         packet of a new flow that was forwarded and left no state",
    ),
    (REPLAYED, "interface", "Packets that the kernel handed to the driver by itself"),
    (ABORTED, "interface", "Packets that the kernel began to forward and lost; also dropped as `transmit_failed`"),
];

const SERVICE_PACKETS: &str = "penstock_mux_service_packets_total";
const SERVICE_BYTES: &str = "penstock_mux_service_bytes_total";
const BACKEND_PACKETS: &str = "penstock_mux_backend_packets_total";
const BACKEND_BYTES: &str = "penstock_mux_backend_bytes_total";
const TABLE_VERSION: &str = "penstock_mux_table_version";
const UNRESOLVED: &str = "penstock_mux_unresolved_next_hops";
const KERNEL_REPLAY: &str = "penstock_mux_kernel_replay";
const CHANCES_MISSING: &str = "penstock_mux_second_chances_missing";
const FRAGMENTS: &str = "penstock_mux_fragments_total";
const LIMITED: &str = "penstock_mux_vip_limited_packets_total";
const ABORTED: &str = "penstock_mux_replay_aborted_packets_total";
const REPLAYED: &str = "penstock_mux_replayed_packets_total";

/// Sets all metrics from the sums.
pub(crate) fn record(
    policy: &Policy,
    totals: &Totals,
    (interfaces, modes): (&[String], &[String]),
    services: &[Named<ServiceId>],
    backends: &[Named<BackendId>],
) {
    let interfaces: Vec<InterfaceFacts<'_>> = interfaces
        .iter()
        .zip(modes)
        .zip(&totals.io)
        .map(|((name, mode), io)| InterfaceFacts {
            name,
            mode: Some(mode),
            received: io.received,
            transmitted: io.transmitted,
            missed: io.missed,
            transmit_failed: io.transmit_failed,
        })
        .collect();
    METRICS.record(&NodeFacts {
        ledger: &LedgerReport::from(&totals.ledger),
        flows: totals.flows,
        resolved: totals.resolved,
        revision: policy.revision(),
        interfaces: &interfaces,
    });
    for s in services {
        counter!(SERVICE_PACKETS, "service" => s.name.clone()).absolute(s.traffic.packets);
        counter!(SERVICE_BYTES, "service" => s.name.clone()).absolute(s.traffic.bytes);
    }
    for (name, (packets, bytes)) in by_name(backends) {
        counter!(BACKEND_PACKETS, "backend" => name.to_owned()).absolute(packets);
        counter!(BACKEND_BYTES, "backend" => name.to_owned()).absolute(bytes);
    }
    for (name, version) in policy.pools() {
        gauge!(TABLE_VERSION, "pool" => name.to_owned()).set(version as f64);
    }
    for (vip, n) in policy.limit_counts() {
        let outcomes = [
            ("packet_dropped", n.packets_dropped),
            ("flow_dropped", n.flows_dropped),
            ("flow_stateless", n.flows_stateless),
        ];
        for (outcome, packets) in outcomes {
            counter!(LIMITED, "vip" => vip.to_string(), "outcome" => outcome).absolute(packets);
        }
    }
    gauge!(UNRESOLVED).set(policy.unresolved() as f64);
    gauge!(CHANCES_MISSING).set(policy.chances_missing() as f64);
    for (outcome, n) in totals.fragments.outcomes() {
        counter!(FRAGMENTS, "outcome" => outcome).absolute(n);
    }
}

/// Sets what the kernel does by itself, for each interface in the order of the configuration.
pub(crate) fn record_replays(interfaces: &[String], replays: &[(ReplayState, Counted)]) {
    let none = (ReplayState::default(), Counted::default());
    for (i, name) in interfaces.iter().enumerate() {
        let (state, counted) = replays.get(i).unwrap_or(&none);
        gauge!(KERNEL_REPLAY, "interface" => name.clone()).set(if state.is_active { 1.0 } else { 0.0 });
        counter!(REPLAYED, "interface" => name.clone()).absolute(counted.packets());
        counter!(ABORTED, "interface" => name.clone()).absolute(counted.aborted);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::policy;
    use penstock_engine::Counter;
    use penstock_mux_proto::Traffic;
    use penstock_packet_io::IoStats;
    use penstock_telemetry::{differences, rendered};

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

    fn page() -> String {
        let traffic = |packets| (packets, packets * 100);
        let (packets, bytes) = traffic(5);
        let services = [Named { name: "http".to_owned(), traffic: Traffic { id: ServiceId(1), packets, bytes } }];
        let backends = [Named { name: "web-1".to_owned(), traffic: Traffic { id: BackendId(1), packets, bytes } }];
        let mut totals = Totals::of(std::iter::empty());
        totals.io.push(IoStats::default());
        rendered(|| {
            METRICS.describe();
            record(
                &policy(),
                &totals,
                (&["eth0".to_owned()], &["af_xdp copy native".to_owned()]),
                &services,
                &backends,
            );
            let services = vec![Counter { packets: 4, bytes: 400 }];
            let counted = Counted { services, aborted: 1, ..Counted::default() };
            let active = ReplayState { is_active: true, obstacle: None };
            record_replays(&["eth0".to_owned()], &[(active, counted)]);
        })
    }

    #[test]
    fn a_mux_exports_what_its_table_says_and_no_more() {
        let page = page();
        assert_eq!(differences(&METRICS.table(), &page), Vec::<String>::new());
        for line in [
            "penstock_mux_table_version{pool=\"loadBalancers/web/backendAddressPools/p\"} 3",
            "penstock_mux_goal_revision 4",
            "penstock_mux_service_bytes_total{service=\"http\"} 500",
            "penstock_mux_unresolved_next_hops 1",
            "penstock_mux_interface_mode{interface=\"eth0\",mode=\"af_xdp copy native\"} 1",
            "penstock_mux_vip_limited_packets_total{vip=\"203.0.113.10\",outcome=\"flow_stateless\"} 0",
            "penstock_mux_kernel_replay{interface=\"eth0\"} 1",
            "penstock_mux_second_chances_missing 0",
            "penstock_mux_replayed_packets_total{interface=\"eth0\"} 4",
            "penstock_mux_replay_aborted_packets_total{interface=\"eth0\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "no line {line} in {page}");
        }
    }

    #[test]
    fn the_document_says_what_the_table_of_a_mux_says() {
        let document = include_str!("../../../docs/metrics.md");
        assert_eq!(METRICS.differences_to_document(document), Vec::<String>::new());
    }
}
