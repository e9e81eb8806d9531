//! What a router exports for Prometheus. Label `peer` is the peer's name.
use metrics::{counter, describe_counter, describe_gauge, gauge};
use penstock_routing_proto::{BfdState, RouterStatus, SessionState};

/// Name, labels and meaning of each metric.
pub const ROWS: &[(&str, &str, &str)] = &[
    (UP, "peer", "1 while the BGP session with the peer is established"),
    (ESTABLISHED, "peer", "How often the BGP session with the peer was established"),
    (MESSAGES, "peer, direction", "BGP messages exchanged with the peer; direction is received or sent"),
    (PREFIXES, "peer, direction", "Routes exchanged with the peer; direction is received or advertised"),
    (MALFORMED, "peer", "UPDATE messages whose routes counted as withdrawn because an attribute was malformed"),
    (BFD_UP, "peer", "1 while BFD sees the peer"),
    (BFD_DOWNS, "peer", "How often BFD has lost the peer"),
    (ANNOUNCED, "", "Own prefixes that at least one peer is told of"),
];

const UP: &str = "penstock_bgp_peer_up";
const ESTABLISHED: &str = "penstock_bgp_sessions_established_total";
const MESSAGES: &str = "penstock_bgp_messages_total";
const PREFIXES: &str = "penstock_bgp_prefixes";
const MALFORMED: &str = "penstock_bgp_malformed_updates_total";
const BFD_UP: &str = "penstock_bfd_peer_up";
const BFD_DOWNS: &str = "penstock_bfd_downs_total";
const ANNOUNCED: &str = "penstock_bgp_announced_prefixes";

pub(crate) fn describe() {
    for (name, _, meaning) in ROWS {
        if name.ends_with("_total") {
            describe_counter!(*name, *meaning);
        } else {
            describe_gauge!(*name, *meaning);
        }
    }
}

pub(crate) fn record(status: &RouterStatus) {
    let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
    gauge!(ANNOUNCED).set(status.announced as f64);
    for p in &status.peers {
        let peer = || p.name.clone();
        gauge!(UP, "peer" => peer()).set(flag(p.state == SessionState::Established));
        counter!(ESTABLISHED, "peer" => peer()).absolute(p.established);
        counter!(MESSAGES, "peer" => peer(), "direction" => "received").absolute(p.messages_received);
        counter!(MESSAGES, "peer" => peer(), "direction" => "sent").absolute(p.messages_sent);
        gauge!(PREFIXES, "peer" => peer(), "direction" => "received").set(p.received as f64);
        gauge!(PREFIXES, "peer" => peer(), "direction" => "advertised").set(p.advertised as f64);
        counter!(MALFORMED, "peer" => peer()).absolute(p.malformed);
        if let Some(bfd) = &p.bfd {
            gauge!(BFD_UP, "peer" => peer()).set(flag(bfd.state == BfdState::Up));
            counter!(BFD_DOWNS, "peer" => peer()).absolute(bfd.downs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_routing_proto::{BfdStatus, PeerStatus};
    use penstock_telemetry::{Metric, differences, rendered};

    fn table() -> Vec<Metric> {
        ROWS.iter().map(|(name, labels, meaning)| Metric { name: (*name).to_owned(), labels, meaning }).collect()
    }

    #[test]
    fn the_table_names_what_is_exported() {
        let bfd =
            BfdStatus { state: BfdState::Up, detection_ms: 300, received: 1, sent: 1, downs: 0, diagnostic: None };
        let peer = PeerStatus {
            name: "tor".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            remote_as: 65001,
            state: SessionState::Established,
            up_seconds: Some(1),
            id: None,
            hold_seconds: None,
            received: 1,
            advertised: 2,
            established: 1,
            messages_received: 1,
            messages_sent: 1,
            malformed: 0,
            last_error: None,
            bfd: Some(bfd),
        };
        let status = RouterStatus { peers: vec![peer], ..RouterStatus::default() };
        let page = rendered(|| record(&status));
        assert_eq!(differences(&table(), &page), Vec::<String>::new());
        assert!(page.contains("penstock_bgp_peer_up{peer=\"tor\"} 1"), "{page}");
    }

    #[test]
    fn the_document_names_all_of_them() {
        let document = include_str!("../../../docs/metrics.md");
        let missing: Vec<String> =
            table().iter().map(Metric::row).filter(|row| !document.lines().any(|l| l == row)).collect();
        assert!(missing.is_empty(), "docs/metrics.md lacks\n{}", missing.join("\n"));
    }
}
