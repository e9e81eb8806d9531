//! The tables of metrics, and whether they are true.

use metrics_exporter_prometheus::PrometheusBuilder;
use std::collections::BTreeSet;

/// Name, labels (separated by `, `), meaning.
pub type Row = (&'static str, &'static str, &'static str);

/// A metric as documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub name: String,
    /// Separated by `, `.
    pub labels: &'static str,
    pub meaning: &'static str,
}

impl Metric {
    /// The row of `docs/metrics.md`.
    #[must_use]
    pub fn row(&self) -> String {
        let labels: Vec<String> = labels(self.labels).into_iter().map(|l| format!("`{l}`")).collect();
        format!("| `{}` | {} | {} |", self.name, labels.join(", "), self.meaning)
    }

    fn shape(&self) -> String {
        shape(&self.name, labels(self.labels))
    }
}

/// The page that Prometheus is served after `record` ran, from a registry of its own.
#[must_use]
pub fn rendered(record: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, record);
    recorder.handle().render()
}

/// What a page exports that its table does not name, and what the table names that the page does not export.
#[must_use]
pub fn differences(table: &[Metric], page: &str) -> Vec<String> {
    let documented: BTreeSet<String> = table.iter().map(Metric::shape).collect();
    let exported: BTreeSet<String> = page.lines().filter_map(shape_of_sample).collect();
    let missing = documented.difference(&exported).map(|m| format!("{m} is not exported"));
    let unknown = exported.difference(&documented).map(|m| format!("{m} is not in the table"));
    missing.chain(unknown).collect()
}

fn labels(list: &str) -> BTreeSet<&str> {
    list.split(", ").filter(|l| !l.is_empty()).collect()
}

fn shape(name: &str, labels: BTreeSet<&str>) -> String {
    let labels: Vec<&str> = labels.into_iter().collect();
    format!("{name}{{{}}}", labels.join(", "))
}

/// `name{a="1",b="2"} 3` has the shape `name{a, b}`; comments have none.
fn shape_of_sample(line: &str) -> Option<String> {
    if line.starts_with('#') || line.is_empty() {
        return None;
    }
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let inside = rest.strip_prefix('{').and_then(|r| r.rsplit_once('}')).map_or("", |(inside, _)| inside);
    // Every second piece between quotation marks is a value; label values of Penstock hold none.
    let keys = inside.split('"').step_by(2).map(|k| k.trim_matches([',', '='])).filter(|k| !k.is_empty());
    Some(shape(name, keys.collect()))
}
