//! Takes a backend or a mux out of service without breaking what it has.
use crate::arguments::Drain;
use crate::error::CliError;
use crate::output::Output;
use crate::plan;
use crate::resources::one_path;
use penstock_admin_client::Client;
use penstock_admin_types::{ResourcePath, bare, value};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(client: &Client, drain: &Drain, output: &Output) -> Result<(), CliError> {
    let path = one_path(&drain.one)?;
    let resource = client.get(&path).await?;
    let body = changed(&path, &resource, drain);
    let etag = resource.get("etag").and_then(Value::as_str);
    let manner = drain.changing.manner();
    let answer = client.put(&path, &body, etag, &manner).await?;
    if output.is_json() && (!drain.wait || manner.what_if) {
        return output.value(&answer);
    }
    // Nothing has begun that could be waited for.
    if manner.what_if {
        return output.text(&plan::render(&answer, output));
    }
    if drain.cancel {
        output.text(&format!("{path} is not drained any more"))?;
        return plan::remind(&manner, output);
    }
    if !drain.wait {
        output.text(&format!("{path} drains; penstock status says how far it is"))?;
        return plan::remind(&manner, output);
    }
    plan::remind(&manner, output)?;
    follow(client, &path, output).await
}

/// The resource as it is to be.
fn changed(path: &str, resource: &Value, drain: &Drain) -> Value {
    let mut body = resource.clone();
    if let Ok(path) = ResourcePath::parse(path) {
        bare(path.kind(), &mut body);
    }
    let until = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(drain.minutes * 60));
    let until = until.replace_nanosecond(0).unwrap_or(until);
    let until = until.format(&Rfc3339).unwrap_or_default();
    if let Some(properties) = body.get_mut("properties").and_then(Value::as_object_mut) {
        properties.remove("draining");
        if !drain.cancel {
            properties.insert("draining".to_owned(), json!({"deadline": until}));
        }
    }
    body
}

async fn follow(client: &Client, path: &str, output: &Output) -> Result<(), CliError> {
    let mut said = String::new();
    loop {
        let status = client.status().await?;
        let is_this = |d: &&Value| value::get_text(d, "resource").is_some_and(|r| format!("/{r}").ends_with(path));
        let Some(drain) = value::list(&status, "drains").iter().find(is_this) else {
            return output.text(&format!("{path} is not drained any more"));
        };
        let line = sentence(path, drain);
        if line != said {
            output.text(&line)?;
            said = line;
        }
        if has_ended(drain) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A controller that has just begun to lead may not know yet: that is no end.
fn has_ended(drain: &Value) -> bool {
    value::get_text(drain, "state").is_some_and(|s| s != "draining" && s != "unknown")
}

fn sentence(path: &str, drain: &Value) -> String {
    let number = |name| drain.get(name).and_then(Value::as_f64);
    let state = value::get_text(drain, "state").unwrap_or_default();
    match (number("percent"), number("left")) {
        (Some(percent), Some(left)) => {
            let unit = value::get_text(drain, "unit").unwrap_or_default();
            format!("{path}: {state}, {percent} % done, {left} {unit} left")
        }
        _ => format!("{path}: {state}, its node has not told yet what is left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_waited_for_and_said() {
        let drain = |state: &str, percent: Value, left: Value| json!({"state": state, "percent": percent, "left": left, "unit": "flows"});
        let unknown = drain("unknown", Value::Null, Value::Null);
        assert!(!has_ended(&unknown) && !has_ended(&drain("draining", json!(20), json!(8))));
        assert!(
            has_ended(&drain("done", json!(100), json!(0))) && has_ended(&drain("overdue", Value::Null, Value::Null))
        );
        assert_eq!(sentence("/x", &unknown), "/x: unknown, its node has not told yet what is left");
        assert_eq!(
            sentence("/x", &drain("draining", json!(20.0), json!(8.0))),
            "/x: draining, 20 % done, 8 flows left"
        );
    }
}
