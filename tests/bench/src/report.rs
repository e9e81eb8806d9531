use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One measurement. What does not apply is null.
#[derive(Debug, Clone, Serialize, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) flows: Option<u64>,
    pub(crate) packet_bytes: Option<u64>,
    pub(crate) ns_per_packet: Option<f64>,
    pub(crate) pps: Option<f64>,
    pub(crate) bytes_per_flow: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gbits: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<f64>,
    /// Memory, or the size of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mib: Option<f64>,
    /// Processors that generator, device under test and sink share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cores: Option<u64>,
    /// Least and most of the windows whose median `ns_per_packet`, `gbits` or `ms` is.
    #[serde(skip)]
    pub(crate) range: Option<(f64, f64)>,
}

/// Two measurements held against each other. No verdict when the reference did not stand still.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    #[serde(flatten)]
    pub(crate) row: Row,
    pub(crate) ratio: f64,
    pub(crate) aim: f64,
    pub(crate) verdict: Option<&'static str>,
    /// Most less least of the reference, in parts of its median.
    pub(crate) reference_moved: f64,
}

/// Where rows go: a line each at once as JSON, or a table at the end.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    filter: Option<String>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(json: bool, filter: Option<String>) -> Self {
        Self { json, filter, rows: Vec::new(), notes: Vec::new() }
    }

    /// Whether a row of this name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter.as_deref().is_none_or(|f| name.contains(f))
    }

    pub(crate) fn add(&mut self, row: Row) {
        if self.json {
            println!("{}", serde_json::to_string(&row).expect("a row is plain data"));
        } else {
            eprintln!("{}: {}", row.name, text(row.ns_per_packet.or(row.pps).or(row.gbits).or(row.ms), 1));
        }
        self.rows.push(row);
    }

    pub(crate) fn compare(&mut self, comparison: Comparison) {
        if self.json {
            println!("{}", serde_json::to_string(&comparison).expect("a comparison is plain data"));
            return;
        }
        let Comparison { row, ratio, aim, verdict, reference_moved } = comparison;
        let flows = row.flows.map_or_else(String::new, |n| format!(" at {n} flows"));
        self.note(format!(
            "{}{flows}: {ratio:.3} (aim {aim}): {} (the reference moved by {:.1} %)",
            row.name,
            verdict.unwrap_or("no verdict"),
            reference_moved * 100.0
        ));
    }

    /// Something to be read with the numbers.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn finish(self) {
        if self.json {
            return;
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "name",
            "cores",
            "flows",
            "packet bytes",
            "ns/packet",
            "least to most",
            "Mpps",
            "bytes/flow",
            "Gbit/s",
            "ms",
            "MiB",
        ]);
        for row in &self.rows {
            table.add_row([
                row.name.clone(),
                row.cores.map_or_else(String::new, |n| n.to_string()),
                row.flows.map_or_else(String::new, |n| n.to_string()),
                row.packet_bytes.map_or_else(String::new, |n| n.to_string()),
                text(row.ns_per_packet, 1),
                row.range.map_or_else(String::new, |(least, most)| format!("{least:.1} to {most:.1}")),
                text(row.pps.map(|pps| pps / 1e6), 2),
                text(row.bytes_per_flow, 1),
                text(row.gbits, 2),
                text(row.ms, 1),
                text(row.mib, 1),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        for note in &self.notes {
            println!("{note}");
        }
    }
}

fn text(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |v| format!("{v:.digits$}"))
}
