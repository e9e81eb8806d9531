//! What the host agent says of itself: status for the controller, metrics for Prometheus.
//!
//! | metric | labels | is |
//! | --- | --- | --- |
//! | `penstock_host_received_packets_total`, `_bytes_total` | | frames taken from all ports |
//! | `penstock_host_transmitted_packets_total`, `_bytes_total` | | frames decided to be sent |
//! | `penstock_host_passed_packets_total` | | frames left to the kernel |
//! | `penstock_host_consumed_packets_total` | | frames that ended here because they were for this node |
//! | `penstock_host_dropped_packets_total` | `reason` | frames dropped |
//! | `penstock_host_unsent_packets_total` | | frames that no port took |
//! | `penstock_host_decisions_total` | | flows that took the slow path |
//! | `penstock_host_flows` | | flows in the table, both directions counted |
//! | `penstock_host_goal_revision` | | revision of the applied goal state |
//! | `penstock_host_goal_refused_total` | | goal states that could not be done |
//! | `penstock_host_port_up` | `network_interface` | 1 while the device is attached |
//! | `penstock_host_port_packets_total`, `_bytes_total` | `network_interface`, `direction` | frames of a container (`from`, `to`); a frame of many segments counts once |
//! | `penstock_host_port_missed_total` | `network_interface` | frames that the kernel lost before they were read |
//! | `penstock_host_port_transmit_failed_total` | `network_interface` | frames that the interface refused |
//! | `penstock_host_probe_healthy` | `probe`, `network_interface` | 1 while the probe's backend is healthy |
//! | `penstock_host_probe_changes_total` | `probe`, `network_interface` | how often that has changed |

use crate::config::{HostConfig, UNDERLAY};
use crate::worker::{PortReport, Report};
use metrics::{counter, gauge};
use penstock_model::{DropReason, LedgerReport, PortId, Revision};
use penstock_slb_host::{HostStatus, PortStatus, ProbeStatus};

pub(crate) fn status(config: &HostConfig, applied: Revision, report: &Report, probes: &[ProbeStatus]) -> HostStatus {
    HostStatus {
        applied,
        packet_io: modes(config, report),
        ledger: LedgerReport::from(&report.ledger),
        flows: report.flows as u64,
        ports: config.port_ids().map(|(id, port)| port_status(id, port, report)).collect(),
        probes: probes.to_vec(),
    }
}

fn port_status(id: PortId, port: &crate::config::PortConfig, report: &Report) -> PortStatus {
    let r = of(report, id);
    PortStatus {
        network_interface: port.network_interface.clone(),
        device: r.mode.map(|_| port.device.clone()),
        from_container_packets: r.io.received,
        from_container_bytes: r.io.received_bytes,
        to_container_packets: r.io.transmitted,
        to_container_bytes: r.io.transmitted_bytes,
    }
}

fn modes(config: &HostConfig, report: &Report) -> Vec<String> {
    let underlay = (UNDERLAY, &config.underlay_interface);
    let devices = config.port_ids().map(|(id, p)| (id, &p.device));
    let mode = |(id, device): (PortId, &String)| Some(format!("{device}: {}", of(report, id).mode?));
    std::iter::once(underlay).chain(devices).filter_map(mode).collect()
}

fn of(report: &Report, id: PortId) -> PortReport {
    report.ports.get(usize::from(id.0)).cloned().unwrap_or_default()
}

pub(crate) fn goal_refused() {
    counter!("penstock_host_goal_refused_total").increment(1);
}

pub(crate) fn export(config: &HostConfig, applied: Revision, report: &Report, probes: &[ProbeStatus]) {
    let ledger = &report.ledger;
    counter!("penstock_host_received_packets_total").absolute(ledger.received);
    counter!("penstock_host_received_bytes_total").absolute(ledger.received_bytes);
    counter!("penstock_host_transmitted_packets_total").absolute(ledger.transmitted);
    counter!("penstock_host_transmitted_bytes_total").absolute(ledger.transmitted_bytes);
    counter!("penstock_host_passed_packets_total").absolute(ledger.passed);
    counter!("penstock_host_consumed_packets_total").absolute(ledger.consumed);
    for reason in DropReason::ALL {
        counter!("penstock_host_dropped_packets_total", "reason" => reason.name()).absolute(ledger.dropped_for(*reason));
    }
    counter!("penstock_host_unsent_packets_total").absolute(report.unsent);
    counter!("penstock_host_decisions_total").absolute(report.resolved);
    gauge!("penstock_host_flows").set(report.flows as f64);
    gauge!("penstock_host_goal_revision").set(applied.0 as f64);
    for (id, port) in config.port_ids() {
        export_port(&port.network_interface, &of(report, id));
    }
    for probe in probes {
        let labels = [("probe", probe.name.clone()), ("network_interface", probe.network_interface.clone())];
        gauge!("penstock_host_probe_healthy", &labels).set(f64::from(u8::from(probe.healthy)));
        counter!("penstock_host_probe_changes_total", &labels).absolute(probe.changes);
    }
}

fn export_port(name: &str, port: &PortReport) {
    let label = [("network_interface", name.to_owned())];
    gauge!("penstock_host_port_up", &label).set(f64::from(u8::from(port.mode.is_some())));
    counter!("penstock_host_port_missed_total", &label).absolute(port.io.missed);
    counter!("penstock_host_port_transmit_failed_total", &label).absolute(port.io.transmit_failed);
    let directions =
        [("from", port.io.received, port.io.received_bytes), ("to", port.io.transmitted, port.io.transmitted_bytes)];
    for (direction, packets, bytes) in directions {
        let labels = [("network_interface", name.to_owned()), ("direction", direction.to_owned())];
        counter!("penstock_host_port_packets_total", &labels).absolute(packets);
        counter!("penstock_host_port_bytes_total", &labels).absolute(bytes);
    }
}
