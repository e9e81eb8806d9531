//! What every role exports under the same names, `penstock_<role>_...`.

use crate::table::{Metric, Row};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use penstock_model::{DropReason, LedgerReport, Revision};
use std::collections::BTreeSet;

/// The metrics of all roles, without their prefix: name, labels, meaning.
const COMMON: &[Row] = &[
    (RECEIVED, "", "Packets taken in"),
    (RECEIVED_BYTES, "", "Bytes of the packets taken in"),
    (TRANSMITTED, "", "Packets sent on by a port"),
    (TRANSMITTED_BYTES, "", "Bytes of the packets sent on, encapsulation included"),
    (TUNNELLED, "", "Packets handed to a tunnel for encryption"),
    (PASSED, "", "Packets left to the kernel"),
    (CONSUMED, "", "Packets that ended here because they were for this node"),
    (DROPPED, "reason", "Packets dropped, by reason"),
    (RESOLVED, "", "Packets that the slow path decided"),
    (FLOWS, "", "Entries in the flow tables"),
    (GOAL_REVISION, "", "Revision of the goal that is forwarded by"),
    (GOALS_REFUSED, "", "Goals that were refused"),
    (INTERFACE_RECEIVED, "interface", "Frames read from an interface"),
    (INTERFACE_TRANSMITTED, "interface", "Frames written to an interface"),
    (INTERFACE_MISSED, "interface", "Frames lost before they could be read"),
    (INTERFACE_FAILED, "interface", "Frames that an interface did not take"),
    (INTERFACE_MODE, "interface, mode", "1: how the packets of an interface are read and written"),
];

const RECEIVED: &str = "received_packets_total";
const RECEIVED_BYTES: &str = "received_bytes_total";
const TRANSMITTED: &str = "transmitted_packets_total";
const TRANSMITTED_BYTES: &str = "transmitted_bytes_total";
const TUNNELLED: &str = "tunnelled_packets_total";
const PASSED: &str = "passed_packets_total";
const CONSUMED: &str = "consumed_packets_total";
const DROPPED: &str = "dropped_packets_total";
const RESOLVED: &str = "resolved_packets_total";
const FLOWS: &str = "flows";
const GOAL_REVISION: &str = "goal_revision";
const GOALS_REFUSED: &str = "goals_refused_total";
const INTERFACE_RECEIVED: &str = "interface_received_packets_total";
const INTERFACE_TRANSMITTED: &str = "interface_transmitted_packets_total";
const INTERFACE_MISSED: &str = "interface_missed_packets_total";
const INTERFACE_MODE: &str = "interface_mode";
const INTERFACE_FAILED: &str = "interface_transmit_failed_packets_total";

/// What every node knows of itself at one moment, counted since its start.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    pub ledger: &'a LedgerReport,
    /// Entries in the flow tables.
    pub flows: u64,
    /// Packets that the slow path decided.
    pub resolved: u64,
    /// Of the goal that is forwarded by.
    pub revision: Revision,
    pub interfaces: &'a [InterfaceFacts<'a>],
}

/// Frames of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceFacts<'a> {
    pub name: &'a str,
    /// `af_xdp copy`; nothing while it is not open.
    pub mode: Option<&'a str>,
    pub received: u64,
    pub transmitted: u64,
    /// Lost before they could be read.
    pub missed: u64,
    /// Not taken by the interface.
    pub transmit_failed: u64,
}

/// The metrics of a role: those that all have, and its own.
#[derive(Debug, Clone, Copy)]
pub struct RoleMetrics {
    role: &'static str,
    own: &'static [Row],
}

impl RoleMetrics {
    /// `own`: full name, labels, meaning of what only this role exports.
    #[must_use]
    pub const fn new(role: &'static str, own: &'static [Row]) -> Self {
        Self { role, own }
    }

    /// Every metric of the role.
    #[must_use]
    pub fn table(&self) -> Vec<Metric> {
        let metric = |name, (_, labels, meaning): &Row| Metric { name, labels, meaning };
        let common = COMMON.iter().map(|row| metric(self.name(row.0), row));
        common.chain(self.own.iter().map(|row| metric(row.0.to_owned(), row))).collect()
    }

    /// The rows about this role that `docs/metrics.md` lacks, and those that it should not have.
    #[must_use]
    pub fn differences_to_document(&self, document: &str) -> Vec<String> {
        let rows: BTreeSet<String> = self.table().iter().map(Metric::row).collect();
        let prefix = format!("| `{}", self.name(""));
        let written: BTreeSet<String> =
            document.lines().filter(|l| l.starts_with(&prefix)).map(str::to_owned).collect();
        let missing = rows.difference(&written).map(|r| format!("missing: {r}"));
        missing.chain(written.difference(&rows).map(|r| format!("wrong: {r}"))).collect()
    }

    /// Registers the descriptions. Once, at start.
    pub fn describe(&self) {
        for metric in self.table() {
            if metric.name.ends_with("_total") {
                describe_counter!(metric.name, metric.meaning);
            } else {
                describe_gauge!(metric.name, metric.meaning);
            }
        }
        // Counted by events alone: there from the start, so that the first one is seen as an increase.
        counter!(self.name(GOALS_REFUSED)).absolute(0);
    }

    pub fn count_refused_goal(&self) {
        counter!(self.name(GOALS_REFUSED)).increment(1);
    }

    /// Sets the metrics that all roles have.
    pub fn record(&self, facts: &NodeFacts<'_>) {
        self.record_ledger(facts.ledger);
        counter!(self.name(RESOLVED)).absolute(facts.resolved);
        gauge!(self.name(FLOWS)).set(facts.flows as f64);
        gauge!(self.name(GOAL_REVISION)).set(facts.revision.0 as f64);
        for interface in facts.interfaces {
            self.record_interface(interface);
        }
    }

    fn record_ledger(&self, ledger: &LedgerReport) {
        counter!(self.name(RECEIVED)).absolute(ledger.received);
        counter!(self.name(RECEIVED_BYTES)).absolute(ledger.received_bytes);
        counter!(self.name(TRANSMITTED)).absolute(ledger.transmitted);
        counter!(self.name(TRANSMITTED_BYTES)).absolute(ledger.transmitted_bytes);
        counter!(self.name(TUNNELLED)).absolute(ledger.tunnelled);
        counter!(self.name(PASSED)).absolute(ledger.passed);
        counter!(self.name(CONSUMED)).absolute(ledger.consumed);
        for reason in DropReason::ALL.iter().map(|r| r.name()) {
            let dropped = ledger.dropped.get(reason).copied().unwrap_or(0);
            counter!(self.name(DROPPED), "reason" => reason).absolute(dropped);
        }
    }

    fn record_interface(&self, interface: &InterfaceFacts<'_>) {
        let counts = [
            (INTERFACE_RECEIVED, interface.received),
            (INTERFACE_TRANSMITTED, interface.transmitted),
            (INTERFACE_MISSED, interface.missed),
            (INTERFACE_FAILED, interface.transmit_failed),
        ];
        for (name, count) in counts {
            counter!(self.name(name), "interface" => interface.name.to_owned()).absolute(count);
        }
        if let Some(mode) = interface.mode {
            let labels = [("interface", interface.name.to_owned()), ("mode", mode.to_owned())];
            gauge!(self.name(INTERFACE_MODE), &labels).set(1.0);
        }
    }

    fn name(&self, rest: &str) -> String {
        format!("penstock_{}_{rest}", self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendered;

    const ROLE: RoleMetrics = RoleMetrics::new("test", &[("penstock_test_heat", "room", "Degrees of a room")]);

    fn record(own: bool) -> String {
        let ledger = LedgerReport {
            received: 7,
            consumed: 4,
            dropped: [(DropReason::AclDenied.name().to_owned(), 3)].into(),
            ..LedgerReport::default()
        };
        let interfaces =
            [InterfaceFacts { name: "eth0", mode: Some("af_xdp copy"), missed: 2, ..InterfaceFacts::default() }];
        rendered(|| {
            ROLE.describe();
            ROLE.count_refused_goal();
            ROLE.record(&NodeFacts {
                ledger: &ledger,
                flows: 5,
                resolved: 6,
                revision: Revision(9),
                interfaces: &interfaces,
            });
            if own {
                gauge!("penstock_test_heat", "room" => "a").set(20.5);
            }
        })
    }

    #[test]
    fn what_a_node_knows_is_exported_under_its_role() {
        let page = record(true);
        for line in [
            "penstock_test_received_packets_total 7",
            "penstock_test_consumed_packets_total 4",
            "penstock_test_dropped_packets_total{reason=\"acl_denied\"} 3",
            "penstock_test_dropped_packets_total{reason=\"no_route\"} 0",
            "penstock_test_resolved_packets_total 6",
            "penstock_test_flows 5",
            "penstock_test_goal_revision 9",
            "penstock_test_goals_refused_total 1",
            "penstock_test_interface_missed_packets_total{interface=\"eth0\"} 2",
            "penstock_test_interface_mode{interface=\"eth0\",mode=\"af_xdp copy\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "no line {line} in {page}");
        }
    }

    #[test]
    fn the_table_says_neither_more_nor_less_than_the_page() {
        assert_eq!(crate::differences(&ROLE.table(), &record(true)), Vec::<String>::new());
        assert_eq!(crate::differences(&ROLE.table(), &record(false)), ["penstock_test_heat{room} is not exported"]);
        let role = RoleMetrics::new("test", &[]);
        assert_eq!(crate::differences(&role.table(), &record(true)), ["penstock_test_heat{room} is not in the table"]);
    }

    #[test]
    fn a_row_that_is_missing_or_wrong_in_the_document_is_named() {
        let mut rows: Vec<String> = ROLE.table().iter().map(Metric::row).collect();
        assert!(ROLE.differences_to_document(&rows.join("\n")).is_empty());
        assert_eq!(rows.pop().unwrap(), "| `penstock_test_heat` | `room` | Degrees of a room |");
        rows.push("| `penstock_test_cold` |  | Snow |".to_owned());
        assert_eq!(
            ROLE.differences_to_document(&rows.join("\n")),
            [
                "missing: | `penstock_test_heat` | `room` | Degrees of a room |",
                "wrong: | `penstock_test_cold` |  | Snow |"
            ]
        );
    }
}
