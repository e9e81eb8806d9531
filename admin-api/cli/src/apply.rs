//! Everything that files hold, as one change: shown, or made.
use crate::arguments::Files;
use crate::error::CliError;
use crate::files::Declaration;
use crate::output::{Output, Style};
use crate::plan;
use penstock_admin_client::{Client, ClientError, Manner};
use penstock_admin_types::{ResourcePath, value};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::ExitCode;

/// Sends everything in one atomic batch.
pub(crate) async fn run(
    client: &Client,
    files: &Files,
    prune: bool,
    manner: &Manner,
    output: &Output,
) -> Result<(), CliError> {
    let answer = send(client, files, prune, manner).await?;
    if output.is_json() {
        return output.value(&if answer.is_null() { json!({}) } else { answer });
    }
    if manner.what_if {
        return output.text(&plan::render(&answer, output));
    }
    output.text(&render(&answer, output))?;
    plan::remind(manner, output)
}

/// What apply would do. Code 8 if it would do something.
pub(crate) async fn diff(client: &Client, files: &Files, prune: bool, output: &Output) -> Result<ExitCode, CliError> {
    let manner = Manner { what_if: true, ..Manner::default() };
    let answer = send(client, files, prune, &manner).await?;
    if output.is_json() {
        output.value(&answer)?;
    } else {
        output.text(&plan::render(&answer, output))?;
    }
    Ok(if value::list(&answer, "changes").is_empty() { ExitCode::SUCCESS } else { ExitCode::from(8) })
}

async fn send(client: &Client, files: &Files, prune: bool, manner: &Manner) -> Result<Value, CliError> {
    let mut declaration = Declaration::read(&files.files)?;
    if prune {
        let surplus = surplus(client, &declaration.resources).await?;
        declaration.resources.extend(surplus);
    }
    match client.batch(&declaration.resources, manner).await {
        Err(ClientError::Refused(refusal)) => Err(CliError::Refused(Box::new(declaration.locate(*refusal)))),
        other => Ok(other?),
    }
}

/// Deletions of what is there and not in the files, of the kinds that the files hold.
async fn surplus(client: &Client, resources: &[Value]) -> Result<Vec<Value>, CliError> {
    let kept: BTreeSet<ResourcePath> = resources.iter().filter_map(path).map(|p| p.document()).collect();
    let kinds: BTreeSet<&str> = kept.iter().filter(|p| !p.kind().is_singleton()).map(|p| p.kind().collection).collect();
    let mut out = Vec::new();
    for kind in kinds {
        for item in client.list(kind).await? {
            if let Some(there) = path(&item).filter(|p| !kept.contains(p)) {
                out.push(json!({"resourceRef": there.as_str(), "method": "DELETE"}));
            }
        }
    }
    Ok(out)
}

fn path(resource: &Value) -> Option<ResourcePath> {
    let named = value::get_text(resource, "resourceRef").or_else(|| {
        Some(format!("{}/{}", value::get_text(resource, "kind")?, value::get_text(resource, "resourceId")?))
    });
    ResourcePath::parse(&named?).ok()
}

/// What became of each resource; those that were so already are only counted.
fn render(answer: &Value, output: &Output) -> String {
    let outcomes = value::list(answer, "outcomes").iter().map(|o| o.as_str().unwrap_or_default());
    let (mut text, mut unchanged) = (String::new(), 0);
    for (resource, outcome) in value::list(answer, "value").iter().zip(outcomes) {
        match outcome {
            "unchanged" | "absent" => unchanged += 1,
            outcome => {
                let name = value::reference(resource).unwrap_or("?");
                let _ = writeln!(text, "{} {name}", output.paint(Style::Good, &format!("{outcome:>9}")));
            }
        }
    }
    if unchanged > 0 {
        let _ = writeln!(text, "{unchanged:>9} were so already");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_listed_and_what_did_not_is_counted() {
        let answer = json!({"value": [{"resourceRef": "/servers/a"}, {"resourceRef": "/servers/b"}],
            "outcomes": ["created", "unchanged"]});
        assert_eq!(render(&answer, &Output::plain()), "  created /servers/a\n        1 were so already\n");
    }
}
