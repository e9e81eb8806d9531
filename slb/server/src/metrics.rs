//! What a host exports for Prometheus.

use crate::config::{HostConfig, PortConfig, UNDERLAY};
use crate::report::of;
use crate::worker::{PortReport, Report};
use ::metrics::{counter, gauge};
use penstock_model::{LedgerReport, PortId, Revision};
use penstock_slb_host::{ProbeStatus, SnatUse};
use penstock_telemetry::{InterfaceFacts, NodeFacts, RoleMetrics, Row};

/// Every metric of a host. Labels: `network_interface` is the resource id; `interface` its device; `probe` the path of the
/// probe; `address` the container's, of which a network interface may have one of each family.
pub const METRICS: RoleMetrics = RoleMetrics::new("host", OWN);

const OWN: &[Row] = &[
    (UNSENT, "", "Frames that were to be sent and that no port took"),
    (PASSED_ON, "", "Packets of flows that were not known here, passed to the container that the mux named next"),
    (
        FRAGMENTS,
        "outcome",
        "Pieces of packets: `first` noted, `later` that found it, `orphan` that did not and went by addresses or was dropped",
    ),
    (KERNEL_REPLAY, "interface", "1 if the kernel forwards packets of established flows that come by it by itself"),
    (REPLAYED, "interface", "Frames that it has forwarded or denied so; they are in all other counts too"),
    (KERNEL_FLOWS, "", "Flows that the kernel forwards by itself, each direction for itself"),
    (KERNEL_REFUSED, "", "Flows that it had no room for"),
    (PORT_UP, "network_interface, interface", "1 while the device of a container is attached"),
    (
        PORT_PACKETS,
        "network_interface, direction",
        "Frames from and to a container; a frame of many segments counts once",
    ),
    (PORT_BYTES, "network_interface, direction", "Bytes of these frames"),
    (SNAT_PORTS, "network_interface, address", "Ports of virtual IPs that are leased to a container's address"),
    (
        SNAT_CLAIMS,
        "network_interface, address, outcome",
        "Outbound flows that asked for a port: `all`, of these `strained` after several that were taken, `exhausted` without one",
    ),
    (
        ACL_DECISIONS,
        "network, list, rule",
        "First packets of flows, and denied ones, that a rule decided; of 10,000 rules at most",
    ),
    (ACL_NOTES_LOST, "", "Decisions of logged rules that came faster than the log takes them"),
    (PROBE_HEALTHY, "probe, network_interface, address", "1 while the probe's backend is healthy"),
    (PROBE_CHANGES, "probe, network_interface, address", "How often that has changed"),
];

const UNSENT: &str = "penstock_host_unsent_packets_total";
const PASSED_ON: &str = "penstock_host_passed_on_packets_total";
const FRAGMENTS: &str = "penstock_host_fragments_total";
const KERNEL_REPLAY: &str = "penstock_host_kernel_replay";
const REPLAYED: &str = "penstock_host_replayed_packets_total";
const KERNEL_FLOWS: &str = "penstock_host_kernel_flows";
const KERNEL_REFUSED: &str = "penstock_host_kernel_flows_refused_total";
const PORT_UP: &str = "penstock_host_port_up";
const PORT_PACKETS: &str = "penstock_host_port_packets_total";
const PORT_BYTES: &str = "penstock_host_port_bytes_total";
const SNAT_PORTS: &str = "penstock_host_snat_ports";
const SNAT_CLAIMS: &str = "penstock_host_snat_claims_total";
const ACL_DECISIONS: &str = "penstock_host_acl_decisions_total";
const ACL_NOTES_LOST: &str = "penstock_host_acl_notes_lost_total";
const PROBE_HEALTHY: &str = "penstock_host_probe_healthy";
const PROBE_CHANGES: &str = "penstock_host_probe_changes_total";

/// Sets all metrics.
pub(crate) fn record(config: &HostConfig, applied: Revision, report: &Report, probes: &[ProbeStatus]) {
    let underlay = (UNDERLAY, config.underlay_interface.as_str());
    let ports = config.port_ids().map(|(id, port)| (id, port.device.as_str()));
    let interfaces: Vec<InterfaceFacts<'_>> =
        std::iter::once(underlay).chain(ports).map(|(id, device)| interface(id, device, report)).collect();
    METRICS.record(&NodeFacts {
        ledger: &LedgerReport::from(&report.ledger),
        flows: report.flows as u64,
        resolved: report.resolved,
        revision: applied,
        interfaces: &interfaces,
    });
    counter!(UNSENT).absolute(report.unsent);
    counter!(PASSED_ON).absolute(report.passed_on);
    for (outcome, n) in report.fragments.outcomes() {
        counter!(FRAGMENTS, "outcome" => outcome).absolute(n);
    }
    let (flows, refused) = report.kernel_flows;
    gauge!(KERNEL_FLOWS).set(flows as f64);
    counter!(KERNEL_REFUSED).absolute(refused);
    let devices = config.port_ids().map(|(id, port)| (id, port.device.as_str()));
    for (id, device) in std::iter::once(underlay).chain(devices) {
        let port = of(report, id);
        let labels = [("interface", device.to_owned())];
        gauge!(KERNEL_REPLAY, &labels).set(f64::from(u8::from(port.replays)));
        counter!(REPLAYED, &labels).absolute(port.replayed);
    }
    for (id, port) in config.port_ids() {
        record_port(port, &of(report, id));
    }
    for of in &report.snat {
        record_snat(of);
    }
    for probe in probes {
        let labels = [
            ("probe", probe.name.clone()),
            ("network_interface", probe.network_interface.clone()),
            ("address", probe.dip.0.to_string()),
        ];
        gauge!(PROBE_HEALTHY, &labels).set(f64::from(u8::from(probe.healthy)));
        counter!(PROBE_CHANGES, &labels).absolute(probe.changes);
    }
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

fn record_snat(of: &SnatUse) {
    let labels = || vec![("network_interface", of.network_interface.clone()), ("address", of.dip.0.to_string())];
    gauge!(SNAT_PORTS, &labels()).set(f64::from(of.ports));
    for (outcome, count) in [("all", of.claims), ("strained", of.strained), ("exhausted", of.exhausted)] {
        let mut labels = labels();
        labels.push(("outcome", outcome.to_owned()));
        counter!(SNAT_CLAIMS, &labels).absolute(count);
    }
}

fn interface<'a>(id: PortId, name: &'a str, report: &Report) -> InterfaceFacts<'a> {
    let PortReport { io, mode, .. } = of(report, id);
    InterfaceFacts {
        name,
        mode,
        received: io.received,
        transmitted: io.transmitted,
        missed: io.missed,
        transmit_failed: io.transmit_failed,
    }
}

fn record_port(config: &PortConfig, port: &PortReport) {
    let name = || ("network_interface", config.network_interface.clone());
    let up = f64::from(u8::from(port.mode.is_some()));
    gauge!(PORT_UP, &[name(), ("interface", config.device.clone())]).set(up);
    let directions =
        [("from", port.io.received, port.io.received_bytes), ("to", port.io.transmitted, port.io.transmitted_bytes)];
    for (direction, packets, bytes) in directions {
        let labels = [name(), ("direction", direction.to_owned())];
        counter!(PORT_PACKETS, &labels).absolute(packets);
        counter!(PORT_BYTES, &labels).absolute(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::Overlay;
    use penstock_packet_io::IoStats;
    use penstock_telemetry::{differences, rendered};

    fn page() -> String {
        let config = HostConfig {
            underlay_interface: "eth0".to_owned(),
            underlay_address: "192.0.2.11".parse().unwrap(),
            ports: vec![PortConfig { network_interface: "web-1".to_owned(), device: "veth1".to_owned() }],
            flow_capacity: 16,
            kernel_replay: true,
        };
        let io = IoStats { received: 3, received_bytes: 300, missed: 1, ..IoStats::default() };
        let ports = vec![
            PortReport::default(),
            PortReport { mode: Some("af_packet"), io, replays: true, replayed: 2, flows: 0 },
        ];
        let snat = vec![SnatUse {
            network_interface: "web-1".to_owned(),
            dip: Overlay("10.0.0.11".parse().unwrap()),
            ports: 64,
            claims: 9,
            strained: 2,
            exhausted: 1,
        }];
        let report = Report { flows: 2, ports, snat, ..Report::default() };
        let probe = |address: &str, healthy| ProbeStatus {
            name: "loadBalancers/web/probes/http".to_owned(),
            network_interface: "web-1".to_owned(),
            dip: Overlay(address.parse().unwrap()),
            healthy,
            detail: "200 OK".to_owned(),
            changes: 1,
        };
        let probes = [probe("10.0.0.11", true), probe("fd00::11", false)];
        rendered(|| {
            METRICS.describe();
            record(&config, Revision(4), &report, &probes);
            record_rules([("red", "web", "ssh", 6)].into_iter(), 0);
        })
    }

    #[test]
    fn a_host_exports_what_its_table_says_and_no_more() {
        let page = page();
        assert_eq!(differences(&METRICS.table(), &page), Vec::<String>::new());
        let probe = "penstock_host_probe_healthy{probe=\"loadBalancers/web/probes/http\",network_interface=\"web-1\"";
        for line in [
            "penstock_host_goal_revision 4",
            "penstock_host_interface_missed_packets_total{interface=\"veth1\"} 1",
            "penstock_host_kernel_replay{interface=\"veth1\"} 1",
            "penstock_host_replayed_packets_total{interface=\"veth1\"} 2",
            "penstock_host_port_up{network_interface=\"web-1\",interface=\"veth1\"} 1",
            "penstock_host_port_bytes_total{network_interface=\"web-1\",direction=\"from\"} 300",
            "penstock_host_acl_decisions_total{network=\"red\",list=\"web\",rule=\"ssh\"} 6",
            &format!("{probe},address=\"10.0.0.11\"}} 1"),
            &format!("{probe},address=\"fd00::11\"}} 0"),
        ] {
            assert!(page.lines().any(|l| l == line), "no line {line} in {page}");
        }
    }

    #[test]
    fn the_document_says_what_the_table_of_a_host_says() {
        let document = include_str!("../../../docs/metrics.md");
        assert_eq!(METRICS.differences_to_document(document), Vec::<String>::new());
    }
}
