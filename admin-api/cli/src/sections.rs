//! The controller's status as tables: each list of objects in it is one, its members are the columns.
//! So a member that a newer controller adds is shown by an older command.
use crate::output::{Output, Style, si, table};
use serde_json::{Map, Value};

/// Members that count up, since the node started.
pub(crate) fn is_counter(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("packets") || name.ends_with("bytes")
}

/// The lists of a status, with their names.
pub(crate) fn lists(status: &Value) -> impl Iterator<Item = (&String, &Vec<Value>)> {
    let lists = status.as_object().into_iter().flatten().filter_map(|(name, v)| Some((name, v.as_array()?)));
    lists.filter(|(_, items)| items.iter().any(Value::is_object))
}

/// One table with its heading.
pub(crate) fn render_list(name: &str, items: &[Value], output: &Output) -> String {
    let columns = columns(items);
    let headings: Vec<String> = columns.iter().map(|c| heading(c, items)).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let rows = items.iter().map(|item| columns.iter().map(|c| cell(c, item.get(c), output)).collect());
    format!("{}\n{}", output.paint(Style::Bold, &title(name)), table(output, &headings, rows))
}

/// Every member that some item has and that fits into a cell, in the order of first sight.
fn columns(items: &[Value]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for (name, v) in items.iter().filter_map(Value::as_object).flatten() {
        if is_cell(v) && !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    // What a row is comes first, then what it counts.
    columns.sort_by_key(|c| (!matches!(c.as_str(), "name" | "node" | "resourceRef"), is_number(c, items)));
    columns
}

fn is_cell(v: &Value) -> bool {
    match v {
        Value::Object(_) => false,
        Value::Array(items) => items.iter().all(|i| !i.is_object() && !i.is_array()),
        _ => true,
    }
}

fn is_number(column: &str, items: &[Value]) -> bool {
    items.iter().filter_map(|i| i.get(column)).any(Value::is_number)
}

fn heading(column: &str, items: &[Value]) -> String {
    let mut words = title(column).to_uppercase();
    if is_number(column, items) {
        words.insert(0, '>');
    }
    words
}

/// `appliedRevision` -> `applied revision`.
fn title(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() && !out.ends_with(char::is_uppercase) {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn cell(column: &str, v: Option<&Value>, output: &Output) -> String {
    match v {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Bool(true)) => output.paint(Style::Good, "yes"),
        Some(Value::Bool(false)) => output.paint(Style::Bad, "no"),
        Some(Value::Array(items)) => items.iter().map(|i| cell(column, Some(i), output)).collect::<Vec<_>>().join(", "),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(n)) if is_counter(column) || is_rate(column) => si(n.as_f64().unwrap_or(0.0)),
        Some(other) => other.to_string(),
    }
}

fn is_rate(column: &str) -> bool {
    column.ends_with("/s")
}

/// `name` of a counter as a rate: `bytes` -> `bit/s`, `receivedBytes` -> `received bit/s`.
fn rate_name(counter: &str) -> (String, f64) {
    let lower = title(counter);
    match lower.strip_suffix("bytes") {
        Some(what) => (format!("{what}bit/s"), 8.0),
        None => (format!("{lower}/s"), 1.0),
    }
}

/// The items of `now` with a rate beside each counter, by what they were `seconds` before. Busiest first.
pub(crate) fn with_rates(before: &[Value], now: &[Value], seconds: f64) -> Vec<Value> {
    let mut rated: Vec<(f64, Value)> = now
        .iter()
        .filter_map(Value::as_object)
        .map(|item| {
            let earlier = before.iter().filter_map(Value::as_object).find(|b| same(b, item));
            let mut out = item.clone();
            let mut busy = 0.0;
            for (name, v) in item.iter().filter(|(name, v)| is_counter(name) && v.is_number()) {
                let (count, was) = (number(Some(v)), number(earlier.and_then(|e| e.get(name)).or(Some(v))));
                let (rate_name, factor) = rate_name(name);
                // A node that has restarted counts from zero again.
                let rate = (if count >= was { count - was } else { count }) * factor / seconds.max(0.001);
                busy += rate;
                out.insert(rate_name, Value::from(rate.round()));
            }
            (busy, Value::Object(out))
        })
        .collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0));
    rated.into_iter().map(|(_, item)| item).collect()
}

fn number(v: Option<&Value>) -> f64 {
    v.and_then(Value::as_f64).unwrap_or(0.0)
}

/// Two looks at the same thing: equal in all that names it.
fn same(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    const NAMES: &[&str] = &["name", "node", "role", "resourceRef", "id", "vip", "protocol", "port", "pool"];
    NAMES.iter().all(|n| a.get(*n) == b.get(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_of_objects_is_a_table_with_names_first_and_numbers_right() {
        let items = [
            json!({"connected": true, "packets": 12_345, "name": "mux1", "ledger": {"received": 1}}),
            json!({"connected": false, "name": "gateway", "packetIo": ["af_xdp copy"]}),
        ];
        let text = render_list("muxNodes", &items, &Output::plain());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "mux nodes");
        assert!(lines[1].starts_with("NAME"), "{text}");
        assert!(lines[2].starts_with("mux1") && lines[2].contains("yes") && lines[2].ends_with("12.3 k"), "{text}");
        assert!(lines[3].contains("no") && lines[3].contains("af_xdp copy"), "{text}");
        assert!(!text.contains("LEDGER"));
    }

    #[test]
    fn rates_are_differences_over_time_and_the_busiest_is_first() {
        let before = [json!({"name": "a", "packets": 100, "bytes": 1000}), json!({"name": "b", "packets": 50})];
        let now = [json!({"name": "a", "packets": 110, "bytes": 2000}), json!({"name": "b", "packets": 9_050})];
        let rated = with_rates(&before, &now, 2.0);
        assert_eq!(rated[0]["packets/s"], 4500.0);
        assert_eq!((&rated[1]["packets/s"], &rated[1]["bit/s"]), (&json!(5.0), &json!(4000.0)));
    }

    #[test]
    fn a_new_row_has_no_rate_yet_and_a_restarted_counter_no_negative_one() {
        let now = [json!({"name": "a", "packets": 10}), json!({"name": "new", "packets": 10})];
        let rated = with_rates(&[json!({"name": "a", "packets": 1000})], &now, 1.0);
        assert_eq!((&rated[0]["name"], &rated[0]["packets/s"]), (&json!("a"), &json!(10.0)));
        assert_eq!(rated[1]["packets/s"], 0.0);
    }
}
