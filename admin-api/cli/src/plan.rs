//! What would be different, for people: the answer to a dry run, and a change of the history.
use crate::error::CliError;
use crate::output::{Output, Style};
use penstock_admin_client::Manner;
use penstock_admin_types::value;
use serde_json::Value;
use std::fmt::Write;

pub(crate) fn render(plan: &Value, output: &Output) -> String {
    let changes = value::list(plan, "changes");
    if changes.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let mut text = differences(changes, output);
    if let Some(impact) = plan.get("impact") {
        text.push_str(&consequences(impact, output));
    }
    text
}

/// `+` created, `-` deleted, `~` modified, each with its members.
pub(crate) fn differences(changes: &[Value], output: &Output) -> String {
    let mut text = String::new();
    for change in changes {
        let word = value::get_text(change, "change").unwrap_or_default();
        let (sign, style) = match word.as_str() {
            "created" => ("+", Style::Good),
            "deleted" => ("-", Style::Bad),
            _ => ("~", Style::Bold),
        };
        let name = value::get_text(change, "resourceRef").unwrap_or_default();
        let _ = writeln!(text, "{}", output.paint(style, &format!("{sign} {name}")));
        for field in value::list(change, "fields") {
            let path = value::get_text(field, "path").unwrap_or_default();
            let path = path.trim_start_matches("/properties").trim_start_matches('/');
            for (sign, member, style) in [("-", "was", Style::Bad), ("+", "is", Style::Good)] {
                if let Some(v) = field.get(member) {
                    let _ = writeln!(text, "    {}", output.paint(style, &format!("{sign} {path}: {v}")));
                }
            }
        }
    }
    text
}

/// How each list of the impact is called, and which of its members tell the items apart.
const CONSEQUENCES: &[(&str, &str, &[&str])] = &[
    ("virtualAddressesWithdrawn", "virtual addresses withdrawn", &[]),
    ("virtualAddressesAnnounced", "virtual addresses announced", &[]),
    ("servicesRemoved", "services removed", &["vip", "protocol", "port", "packetsPerSecond"]),
    ("servicesChanged", "services whose connections may move", &["vip", "protocol", "port", "packetsPerSecond"]),
    ("servicesAdded", "services added", &["vip", "protocol", "port"]),
    ("backendsRemoved", "backends removed", &["member", "pool"]),
    ("backendsAdded", "backends added", &["member", "pool"]),
    ("interfacesMoved", "interfaces moved", &["networkInterface", "from", "to"]),
    ("sessionsInterrupted", "sessions interrupted", &["networkConnection", "gateway"]),
];

fn consequences(impact: &Value, output: &Output) -> String {
    let mut text = String::new();
    for (list, title, members) in CONSEQUENCES {
        let items = value::list(impact, list);
        if items.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}", output.paint(Style::Bold, &format!("{title}: {}", items.len())));
        for item in items {
            let words: Vec<String> = members.iter().filter_map(|m| Some(format!("{m} {}", item.get(*m)?))).collect();
            let line = if members.is_empty() { item.to_string() } else { words.join(", ") };
            let _ = writeln!(text, "    {}", line.replace('"', ""));
        }
    }
    text
}

/// After a change that waits: what to do.
pub(crate) fn remind(manner: &Manner, output: &Output) -> Result<(), CliError> {
    match manner.confirm_within.filter(|_| !manner.what_if) {
        Some(seconds) => output.text(&format!("it is undone in {seconds} seconds unless: penstock confirm")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_shows_members_and_consequences() {
        let plan = json!({
            "changes": [{"resourceRef": "/loadBalancers/web/probes/p", "change": "modified",
                "fields": [{"path": "/properties/port", "was": 80, "is": 81}]}],
            "impact": {"virtualAddressesWithdrawn": ["203.0.113.10"], "backendsAdded": []}});
        assert_eq!(
            render(&plan, &Output::plain()),
            "~ /loadBalancers/web/probes/p\n    - port: 80\n    + port: 81\nvirtual addresses withdrawn: 1\n    203.0.113.10\n"
        );
        assert_eq!(render(&json!({"changes": []}), &Output::plain()), "nothing would change\n");
    }
}
