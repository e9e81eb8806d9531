use crate::error::CliError;
use crate::output::Output;
use crate::sections::{lists, render_list};
use penstock_admin_client::Client;
use serde_json::Value;
use std::fmt::Write;

pub(crate) async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let status = client.status().await?;
    if output.is_json() { output.value(&status) } else { output.text(&render(&status, output)) }
}

/// Single values first, one a line; then a table for each list.
fn render(status: &Value, output: &Output) -> String {
    let mut text = String::new();
    for (name, v) in status.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array() && !v.is_object()) {
        let shown = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let _ = writeln!(text, "{name}: {shown}");
    }
    for (name, items) in lists(status) {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{gap}{}", render_list(name, items, output));
    }
    text
}
