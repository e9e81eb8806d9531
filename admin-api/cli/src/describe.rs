//! One resource for people.
use crate::arguments::One;
use crate::error::CliError;
use crate::output::{Output, Style};
use crate::resources::one_path;
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::Value;
use std::fmt::Write;

/// Changes of the history that are looked through.
const RECENT: u64 = 200;
/// Of them, those that are shown.
const SHOWN: usize = 5;

pub(crate) async fn run(client: &Client, one: &One, output: &Output) -> Result<(), CliError> {
    let path = one_path(one)?;
    let resource = client.get(&path).await?;
    if output.is_json() {
        return output.value(&resource);
    }
    let history = client.own("history", &[("$top", RECENT.to_string())]).await?;
    let mut text = render(&resource, output);
    text.push_str(&changes(value::reference(&resource).unwrap_or_default(), &history, output));
    output.text(&text)
}

fn render(resource: &Value, output: &Output) -> String {
    let mut text = output.paint(Style::Bold, value::reference(resource).unwrap_or_default());
    text.push('\n');
    let properties = value::properties(resource);
    if let Some(state) = value::get(properties, "configurationState") {
        let status = value::get_text(state, "status").unwrap_or_default();
        let style = if status == "Success" { Style::Good } else { Style::Bad };
        let _ = writeln!(text, "state: {}", output.paint(style, &status));
        for detail in value::list(state, "detailedInfo") {
            let part = |name| value::get_text(detail, name).unwrap_or_default();
            if !part("message").is_empty() {
                let _ = writeln!(text, "  {}: {}", part("code"), part("message"));
            }
        }
    }
    tree(properties, 0, &mut text);
    text
}

/// Members that say something, indented. Identities, states and references are short.
fn tree(node: &Value, depth: usize, text: &mut String) {
    let Some(map) = node.as_object() else { return };
    let pad = "  ".repeat(depth);
    for (name, v) in map {
        if matches!(name.as_str(), "provisioningState" | "configurationState" | "etag" | "instanceId") {
            continue;
        }
        match v {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) if items.iter().all(|i| short(i).is_some()) => {
                let words: Vec<String> = items.iter().filter_map(short).collect();
                let _ = writeln!(text, "{pad}{name}: {}", words.join(", "));
            }
            Value::Array(items) => {
                let _ = writeln!(text, "{pad}{name}:");
                for item in items {
                    let id = value::get_text(item, "resourceId").unwrap_or_else(|| "-".to_owned());
                    let _ = writeln!(text, "{pad}  {id}");
                    tree(item.get("properties").unwrap_or(item), depth + 2, text);
                }
            }
            v => match short(v) {
                Some(word) => drop(writeln!(text, "{pad}{name}: {word}")),
                None => {
                    let _ = writeln!(text, "{pad}{name}:");
                    tree(v, depth + 1, text);
                }
            },
        }
    }
}

/// What fits in a line: a scalar, or the path that a reference leads to.
fn short(v: &Value) -> Option<String> {
    match v {
        Value::Object(map) if map.len() == 1 => value::reference(v).map(str::to_owned),
        Value::Object(_) | Value::Array(_) => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

fn changes(name: &str, history: &Value, output: &Output) -> String {
    let document = name.split('/').take(3).collect::<Vec<_>>().join("/");
    let touches = |c: &&Value| {
        value::list(c, "resources").iter().any(|r| value::get_text(r, "resourceRef").as_deref() == Some(&*document))
    };
    let mut text = String::new();
    for change in value::list(history, "value").iter().filter(touches).take(SHOWN) {
        if text.is_empty() {
            let _ = writeln!(text, "{}", output.paint(Style::Dim, "last changes"));
        }
        let part = |name| value::get_text(change, name).unwrap_or_default();
        let line = format!("  {} {} by {} {}", part("revision"), part("time"), part("author"), part("comment"));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_is_shown_with_its_state_parts_and_references() {
        let resource = json!({"resourceRef": "/loadBalancers/web", "properties": {
            "provisioningState": "Succeeded",
            "configurationState": {"status": "Warning", "detailedInfo": [{"code": "X", "message": "why"}]},
            "probes": [{"resourceId": "p", "properties": {"port": 80}}],
            "subnet": {"resourceRef": "/logicalNetworks/a/subnets/b"}, "dnsServers": ["10.0.0.1"], "none": []}});
        assert_eq!(
            render(&resource, &Output::plain()),
            "/loadBalancers/web\nstate: Warning\n  X: why\ndnsServers: 10.0.0.1\nprobes:\n  p\n    port: 80\nsubnet: /logicalNetworks/a/subnets/b\n"
        );
    }

    #[test]
    fn only_its_own_changes_are_shown() {
        let change =
            |n: u64, path: &str| json!({"revision": n, "author": "alice", "resources": [{"resourceRef": path}]});
        let history = json!({"value": [change(3, "/servers/a"), change(2, "/loadBalancers/web"), change(1, "/loadBalancers/webs")]});
        let text = changes("/loadBalancers/web/probes/p", &history, &Output::plain());
        assert_eq!(text, "last changes\n  2  by alice\n");
    }
}
