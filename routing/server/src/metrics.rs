//! What a router exports for Prometheus. Label `peer` is the peer's name.
use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};
use penstock_routing_proto::{BfdState, CollectorStatus, RouterStatus, SessionState};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Name, labels and meaning of each metric.
pub const ROWS: &[(&str, &str, &str)] = &[
    (UP, "peer", "1 while the BGP session with the peer is established"),
    (ESTABLISHED, "peer", "How often the BGP session with the peer was established"),
    (MESSAGES, "peer, direction", "BGP messages exchanged with the peer; direction is received or sent"),
    (PREFIXES, "peer, direction", "Routes exchanged with the peer; direction is received or advertised"),
    (MALFORMED, "peer", "UPDATE messages whose routes counted as withdrawn because an attribute was malformed"),
    (BFD_UP, "peer", "1 while BFD sees the peer"),
    (BFD_DOWNS, "peer", "How often BFD has lost the peer"),
    (COLLECTOR_UP, "collector", "Connections to the BMP collector"),
    (COLLECTOR_MESSAGES, "collector", "BMP messages sent to the collector"),
    (COLLECTOR_CUT_OFF, "collector", "How often the BMP collector took too little and was cut off"),
    (ANNOUNCED, "", "The node's own prefixes that at least one peer is told of"),
];

const UP: &str = "penstock_bgp_peer_up";
const ESTABLISHED: &str = "penstock_bgp_sessions_established_total";
const MESSAGES: &str = "penstock_bgp_messages_total";
const PREFIXES: &str = "penstock_bgp_prefixes";
const MALFORMED: &str = "penstock_bgp_malformed_updates_total";
const BFD_UP: &str = "penstock_bfd_peer_up";
const BFD_DOWNS: &str = "penstock_bfd_downs_total";
const ANNOUNCED: &str = "penstock_bgp_announced_prefixes";

const COLLECTOR_UP: &str = "penstock_bmp_connections";
const COLLECTOR_MESSAGES: &str = "penstock_bmp_messages_total";
const COLLECTOR_CUT_OFF: &str = "penstock_bmp_cut_off_total";

pub(crate) fn describe() {
    for (name, _, meaning) in ROWS {
        if name.ends_with("_total") {
            describe_counter!(*name, *meaning);
        } else {
            describe_gauge!(*name, *meaning);
        }
    }
}

/// Knows what was exported, which no registry forgets.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Of each peer that ever was: counts, which begin anew with a peer that comes back or is configured anew.
    peers: BTreeMap<String, Counts>,
    /// Messages and cut-offs of each collector, and whether it is connected. Routers of one process share collectors.
    collectors: BTreeMap<SocketAddr, ([u64; 2], bool)>,
}

/// In the order of [`counters`].
type Counts = [u64; 5];

fn counters(peer: &str) -> [Counter; 5] {
    let peer = || peer.to_owned();
    [
        counter!(ESTABLISHED, "peer" => peer()),
        counter!(MESSAGES, "peer" => peer(), "direction" => "received"),
        counter!(MESSAGES, "peer" => peer(), "direction" => "sent"),
        counter!(MALFORMED, "peer" => peer()),
        counter!(BFD_DOWNS, "peer" => peer()),
    ]
}

impl Recorder {
    /// `is_nodes`: the router is the node's own, of which there is one.
    pub(crate) fn record(&mut self, status: &RouterStatus, is_nodes: bool) {
        if is_nodes {
            gauge!(ANNOUNCED).set(status.announced as f64);
        }
        for peer in &status.peers {
            let downs = peer.bfd.as_ref().map_or(0, |b| b.downs);
            let now = [peer.established, peer.messages_received, peer.messages_sent, peer.malformed, downs];
            let before = self.peers.entry(peer.name.clone()).or_default();
            for ((counter, now), before) in counters(&peer.name).iter().zip(now).zip(before.iter()) {
                counter.increment(now.checked_sub(*before).unwrap_or(now));
            }
            *before = now;
            let bfd = peer.bfd.as_ref().map(|b| b.state);
            gauges(&peer.name, peer.state, bfd, peer.received, peer.advertised);
        }
        self.record_collectors(&status.collectors);
        for name in self.peers.keys().filter(|n| status.peers.iter().all(|p| p.name != **n)) {
            gauges(name, SessionState::Idle, None, 0, 0);
        }
    }

    /// Those that are gone are not connected.
    fn record_collectors(&mut self, collectors: &[CollectorStatus]) {
        for collector in collectors {
            let name = || collector.address.to_string();
            let (before, was_connected) = self.collectors.entry(collector.address).or_default();
            let now = [collector.messages, collector.cut_off];
            let counters = [COLLECTOR_MESSAGES, COLLECTOR_CUT_OFF].map(|c| counter!(c, "collector" => name()));
            for ((counter, now), before) in counters.iter().zip(now).zip(before.iter()) {
                counter.increment(now.saturating_sub(*before));
            }
            *before = now;
            connected(collector.address, was_connected, collector.connected);
        }
        for (address, (_, was_connected)) in &mut self.collectors {
            if collectors.iter().all(|c| c.address != *address) {
                connected(*address, was_connected, false);
            }
        }
    }
}

fn connected(collector: SocketAddr, before: &mut bool, now: bool) {
    let gauge = gauge!(COLLECTOR_UP, "collector" => collector.to_string());
    match (std::mem::replace(before, now), now) {
        (false, true) => gauge.increment(1.0),
        (true, false) => gauge.decrement(1.0),
        // So that it is there to be read.
        _ => gauge.increment(0.0),
    }
}

fn gauges(name: &str, state: SessionState, bfd: Option<BfdState>, received: u64, advertised: u64) {
    let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
    let peer = || name.to_owned();
    gauge!(UP, "peer" => peer()).set(flag(state == SessionState::Established));
    gauge!(PREFIXES, "peer" => peer(), "direction" => "received").set(received as f64);
    gauge!(PREFIXES, "peer" => peer(), "direction" => "advertised").set(advertised as f64);
    gauge!(BFD_UP, "peer" => peer()).set(flag(bfd == Some(BfdState::Up)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_routing_proto::{BfdStatus, PeerStatus};
    use penstock_telemetry::{Metric, differences, rendered};

    fn table() -> Vec<Metric> {
        ROWS.iter().map(|(name, labels, meaning)| Metric { name: (*name).to_owned(), labels, meaning }).collect()
    }

    fn tor(established: u64, downs: u64) -> PeerStatus {
        let bfd = BfdStatus { state: BfdState::Up, detection_ms: 300, received: 1, sent: 1, downs, diagnostic: None };
        PeerStatus {
            name: "tor".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            remote_as: 65001,
            state: SessionState::Established,
            up_seconds: Some(1),
            id: None,
            hold_seconds: None,
            received: 1,
            advertised: 2,
            established,
            messages_received: 1,
            messages_sent: 1,
            malformed: 0,
            last_error: None,
            bfd: Some(bfd),
        }
    }

    fn collector() -> CollectorStatus {
        let address = "192.0.2.9:11019".parse().unwrap();
        CollectorStatus { address, connected: true, messages: 3, cut_off: 1, last_error: None }
    }

    /// The page after statuses with these peers, one after the other.
    fn page(story: Vec<Vec<PeerStatus>>) -> String {
        let mut recorder = Recorder::default();
        rendered(|| {
            for peers in story {
                let status = RouterStatus { peers, collectors: vec![collector()], ..RouterStatus::default() };
                recorder.record(&status, true);
            }
        })
    }

    fn has(page: &str, line: &str) -> bool {
        page.lines().any(|l| l == line)
    }

    #[test]
    fn the_table_names_what_is_exported() {
        let page = page(vec![vec![tor(1, 0)]]);
        assert_eq!(differences(&table(), &page), Vec::<String>::new());
        assert!(has(&page, "penstock_bgp_peer_up{peer=\"tor\"} 1"), "{page}");
        assert!(has(&page, "penstock_bfd_peer_up{peer=\"tor\"} 1"), "{page}");
        assert!(has(&page, "penstock_bmp_messages_total{collector=\"192.0.2.9:11019\"} 3"), "{page}");
    }

    #[test]
    fn a_peer_that_is_removed_is_not_up_any_more() {
        let page = page(vec![vec![tor(1, 0)], vec![]]);
        for line in ["bgp_peer_up{peer=\"tor\"} 0", "bfd_peer_up{peer=\"tor\"} 0"] {
            assert!(has(&page, &format!("penstock_{line}")), "{line}: {page}");
        }
        assert!(has(&page, "penstock_bgp_prefixes{peer=\"tor\",direction=\"advertised\"} 0"), "{page}");
        assert!(has(&page, "penstock_bgp_sessions_established_total{peer=\"tor\"} 1"), "{page}");
    }

    #[test]
    fn counters_go_on_when_a_peer_is_configured_anew() {
        let page = page(vec![vec![tor(7, 3)], vec![tor(9, 3)], vec![], vec![tor(1, 0)], vec![tor(2, 1)]]);
        assert!(has(&page, "penstock_bgp_sessions_established_total{peer=\"tor\"} 11"), "{page}");
        assert!(has(&page, "penstock_bfd_downs_total{peer=\"tor\"} 4"), "{page}");
    }

    #[test]
    fn the_document_names_all_of_them() {
        let document = include_str!("../../../docs/metrics.md");
        let missing: Vec<String> =
            table().iter().map(Metric::row).filter(|row| !document.lines().any(|l| l == row)).collect();
        assert!(missing.is_empty(), "docs/metrics.md lacks\n{}", missing.join("\n"));
    }
}
