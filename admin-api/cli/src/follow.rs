//! Waiting for a state, and watching changes.
use crate::arguments::{Goal, Wait, Watch};
use crate::error::CliError;
use crate::output::Output;
use crate::resources::{one_path, path_of, summary};
use penstock_admin_client::{Client, ClientError, Event};
use penstock_admin_types::value;
use serde_json::{Value, json};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(500);
/// Before a stream that broke is resumed.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn wait(client: &Client, wait: &Wait, output: &Output) -> Result<(), CliError> {
    let path = one_path(&wait.one)?;
    let looks = wait.timeout.saturating_mul(2).saturating_add(1);
    let mut last = String::new();
    for look in 0..looks {
        if look > 0 {
            tokio::time::sleep(LOOK).await;
        }
        let found = match client.get(&path).await {
            Ok(resource) => Some(resource),
            Err(ClientError::Refused(refusal)) if refusal.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let reached = match (wait.goal, &found) {
            (Goal::Deleted, found) => found.is_none(),
            (Goal::Exists, found) => found.is_some(),
            (Goal::Success, Some(resource)) => {
                let (status, reason) = state(resource);
                last = format!(": {status} {reason}").trim_end().to_owned();
                status == "Success"
            }
            (Goal::Success, None) => {
                ": it does not exist".clone_into(&mut last);
                false
            }
        };
        if reached {
            return match found {
                Some(resource) if output.is_json() => output.value(&resource),
                _ => output.text(&format!("{path} is {}", word(wait.goal))),
            };
        }
    }
    Err(CliError::NotInTime { what: path, goal: word(wait.goal), seconds: wait.timeout, last })
}

const fn word(goal: Goal) -> &'static str {
    match goal {
        Goal::Success => "successful",
        Goal::Exists => "there",
        Goal::Deleted => "deleted",
    }
}

/// `configurationState`, or for what has none `provisioningState`.
fn state(resource: &Value) -> (String, String) {
    let properties = value::properties(resource);
    let Some(state) = value::get(properties, "configurationState") else {
        let done = value::get_text(properties, "provisioningState").is_some_and(|s| s == "Succeeded");
        return (if done { "Success" } else { "InProgress" }.to_owned(), String::new());
    };
    let reason = value::list(state, "detailedInfo").first().and_then(|d| value::get_text(d, "message"));
    (value::get_text(state, "status").unwrap_or_default(), reason.unwrap_or_default())
}

/// Until it is interrupted, over restarts of the controller.
pub(crate) async fn watch(client: &Client, watch: &Watch, output: &Output) -> Result<(), CliError> {
    let path = path_of(&watch.one)?;
    let mut since = watch.since;
    loop {
        let mut events = match client.watch(&path, since).await {
            Ok(events) => events,
            // The first time it is an error; later the controller may be starting.
            Err(ClientError::Transport { .. }) if since.is_some() && watch.since != since => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        while let Ok(Some(event)) = events.next().await {
            since = event.revision.or(since);
            show(&event, output)?;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn show(event: &Event, output: &Output) -> Result<(), CliError> {
    let revision = event.revision.map_or_else(String::new, |r| r.to_string());
    if output.is_json() {
        let line = json!({"event": event.name, "revision": event.revision, "object": event.data});
        return output.text(&line.to_string());
    }
    let name = value::reference(&event.data).unwrap_or_default();
    let what = summary(value::properties(&event.data));
    output.text(format!("{revision:>8}  {:<12}  {name}  {what}", event.name).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_resource_is_what_became_of_it() {
        let failed = json!({"properties": {"provisioningState": "Succeeded", "configurationState": {
            "status": "Failure", "detailedInfo": [{"message": "The mux is not connected."}]}}});
        assert_eq!(state(&failed), ("Failure".to_owned(), "The mux is not connected.".to_owned()));
        assert_eq!(state(&json!({"properties": {"provisioningState": "Succeeded"}})).0, "Success");
        assert_eq!(state(&json!({"properties": {"provisioningState": "Updating"}})).0, "InProgress");
    }
}
