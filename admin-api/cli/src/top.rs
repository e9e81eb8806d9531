use crate::arguments::Top;
use crate::error::CliError;
use crate::output::Output;
use crate::sections::{is_counter, lists, render_list, with_rates};
use penstock_admin_client::Client;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// Looks again and again; rates are differences between two looks.
pub(crate) async fn run(client: &Client, top: &Top, output: &Output) -> Result<(), CliError> {
    let interval = Duration::from_secs_f64(top.interval);
    let (mut seen, mut at) = (client.status().await?, Instant::now());
    loop {
        tokio::time::sleep_until(at + interval).await;
        let (status, now) = (client.status().await?, Instant::now());
        show(&rated(&seen, &status, (now - at).as_secs_f64()), top, output)?;
        if top.once {
            return Ok(());
        }
        (seen, at) = (status, now);
    }
}

/// The lists that count something, with rates.
fn rated(before: &Value, now: &Value, seconds: f64) -> Map<String, Value> {
    let counts = |items: &[Value]| items.iter().filter_map(Value::as_object).flatten().any(|(name, _)| is_counter(name));
    lists(now)
        .filter(|(_, items)| counts(items))
        .map(|(name, items)| {
            let earlier = before.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            (name.clone(), Value::Array(with_rates(earlier, items, seconds)))
        })
        .collect()
}

fn show(traffic: &Map<String, Value>, top: &Top, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        // Looks that follow each other are one a line.
        return if top.once { output.value(traffic) } else { output.text(&Value::Object(traffic.clone()).to_string()) };
    }
    let mut text = String::new();
    if !top.once && Output::is_terminal() {
        text.push_str("\x1b[H\x1b[2J");
    }
    for (name, items) in traffic {
        let items = items.as_array().map_or(&[][..], Vec::as_slice);
        text.push_str(&render_list(name, items, output));
        text.push('\n');
    }
    if traffic.is_empty() {
        text.push_str("nothing counts traffic yet: no node has reported\n");
    }
    output.text(&text)
}
