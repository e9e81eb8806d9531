//! What the host agent tells the controller of itself.

use crate::config::{HostConfig, UNDERLAY};
use crate::worker::{PortReport, Report};
use penstock_bpf::Obstacle;
use penstock_model::{Fallback, LedgerReport, PortId, Revision};
use penstock_slb_host::{HostStatus, PortStatus, ProbeStatus};

pub(crate) fn status(config: &HostConfig, applied: Revision, report: &Report, probes: &[ProbeStatus]) -> HostStatus {
    HostStatus {
        applied,
        packet_io: modes(config, report),
        fallbacks: fallbacks(config, report),
        ledger: LedgerReport::from(&report.ledger),
        flows: report.flows as u64,
        ports: config.port_ids().map(|(id, port)| port_status(id, port, report)).collect(),
        probes: probes.to_vec(),
        snat: report.snat.clone(),
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
        flows: r.flows,
    }
}

fn modes(config: &HostConfig, report: &Report) -> Vec<String> {
    let underlay = (UNDERLAY, &config.underlay_interface);
    let devices = config.port_ids().map(|(id, p)| (id, &p.device));
    let mode = |(id, device): (PortId, &String)| {
        let port = of(report, id);
        let replay = match (port.replays, &report.obstacle) {
            (true, _) => ", kernel replay".to_owned(),
            (false, Some(Obstacle { reason, .. })) => format!(", no kernel replay: {reason}"),
            (false, None) => ", no kernel replay: the interface refused it".to_owned(),
        };
        Some(format!("{device}: {}{replay}", port.mode?))
    };
    std::iter::once(underlay).chain(devices).filter_map(mode).collect()
}

/// What goes by AF_PACKET alone, and not because it was chosen.
fn fallbacks(config: &HostConfig, report: &Report) -> Vec<Fallback> {
    let (reason, fix) = match &report.obstacle {
        None => ("the interface refused it", "use Linux 6.6 or later"),
        Some(Obstacle { reason, fix: Some(fix) }) => (reason.as_str(), fix.as_str()),
        Some(Obstacle { fix: None, .. }) => return Vec::new(),
    };
    let underlay = (UNDERLAY, &config.underlay_interface);
    let all = std::iter::once(underlay).chain(config.port_ids().map(|(id, p)| (id, &p.device)));
    let slow = all.filter(|(id, _)| of(report, *id).mode.is_some() && !of(report, *id).replays);
    let fallback = |(_, device): (PortId, &String)| Fallback {
        interface: device.clone(),
        without: "kernel replay".to_owned(),
        reason: reason.to_owned(),
        fix: fix.to_owned(),
    };
    slow.map(fallback).collect()
}

pub(crate) fn of(report: &Report, id: PortId) -> PortReport {
    report.ports.get(usize::from(id.0)).cloned().unwrap_or_default()
}
