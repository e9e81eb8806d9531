//! Who changed what; and back again.
use crate::error::CliError;
use crate::output::{Output, table};
use crate::plan;
use penstock_admin_client::{Client, Manner};
use penstock_admin_types::value;
use serde_json::Value;

pub(crate) async fn show(client: &Client, revision: Option<u64>, limit: u64, output: &Output) -> Result<(), CliError> {
    if let Some(revision) = revision {
        let change = client.own(&format!("history/{revision}"), &[]).await?;
        if output.is_json() {
            return output.value(&change);
        }
        let head = line(&change).join("  ");
        return output.text(&format!("{head}\n{}", plan::differences(value::list(&change, "changes"), output)));
    }
    let page = client.own("history", &[("$top", limit.to_string())]).await?;
    if output.is_json() {
        return output.value(&page);
    }
    let rows = value::list(&page, "value").iter().map(line);
    output.text(&table(output, &[">REVISION", "TIME", "BY", "WHAT", "COMMENT"], rows))
}

fn line(change: &Value) -> Vec<String> {
    let text = |name| value::get_text(change, name).unwrap_or_default();
    let resources = value::list(change, "resources");
    let first = resources.first().map(|r| {
        let text = |name| value::get_text(r, name).unwrap_or_default();
        format!("{} {}", text("change"), text("resourceRef"))
    });
    let what = match (first, resources.len()) {
        (None, _) => "nothing".to_owned(),
        (Some(first), 1) => first,
        (Some(first), n) => format!("{first} and {} more", n - 1),
    };
    vec![text("revision"), text("time"), text("author"), what, text("comment")]
}

pub(crate) async fn roll_back(
    client: &Client,
    revision: u64,
    manner: &Manner,
    output: &Output,
) -> Result<(), CliError> {
    let answer = client.roll_back(revision, manner).await?;
    if output.is_json() {
        return output.value(&answer);
    }
    output.text(&plan::render(&answer, output))?;
    plan::remind(manner, output)
}

pub(crate) async fn confirm(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.confirm().await?;
    if output.is_json() {
        return output.value(&answer);
    }
    let revision = value::get_text(&answer, "revision").unwrap_or_default();
    output.text(&format!("revision {revision} stays"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_of_many_resources_is_one_line() {
        let one = json!({"resourceRef": "/servers/a", "change": "created"});
        let change =
            json!({"revision": 7, "time": "t", "author": "alice", "comment": null, "resources": [one, one, one]});
        assert_eq!(line(&change), ["7", "t", "alice", "created /servers/a and 2 more", ""]);
    }
}
