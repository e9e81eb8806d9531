//! What helps to find a fault, in one file. The controller returns no secrets; what else looks like one is left out here.
use crate::arguments::Global;
use crate::error::CliError;
use crate::output::Output;
use crate::{context, doctor};
use penstock_admin_client::{Client, ClientError};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Files of this machine that say how it forwards.
const MACHINE: &[&str] = &[
    "/etc/os-release",
    "/proc/sys/kernel/osrelease",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/net/softnet_stat",
    "/proc/loadavg",
];

pub(crate) fn run(global: &Global, file: &Path, output: &Output) -> Result<(), CliError> {
    let mut bundle = Map::new();
    bundle.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    bundle.insert("doctor".to_owned(), serde_json::to_value(doctor::findings(global)).unwrap_or_default());
    let machine: Map<String, Value> = MACHINE
        .iter()
        .filter_map(|path| Some(((*path).to_owned(), json!(std::fs::read_to_string(path).ok()?))))
        .collect();
    bundle.insert("machine".to_owned(), Value::Object(machine));
    bundle.insert("controller".to_owned(), controller(global)?);
    let mut bundle = Value::Object(bundle);
    redact(&mut bundle);
    let name = file.display().to_string();
    let text = serde_json::to_string_pretty(&bundle).map_err(|error| CliError::Json { what: name.clone(), error })?;
    std::fs::write(file, text).map_err(CliError::io(&name))?;
    if output.is_json() { output.value(&json!({ "file": name })) } else { output.text(&format!("written to {name}")) }
}

/// A controller that is not there is a finding, too.
fn controller(global: &Global) -> Result<Value, CliError> {
    let settings = match context::settings(global) {
        Ok(settings) => settings,
        Err(error) => return Ok(json!({ "error": error.to_string() })),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io("runtime"))?;
    let said = |answer: Result<Value, ClientError>| answer.unwrap_or_else(|e| json!({ "error": e.to_string() }));
    Ok(match Client::new(&settings) {
        Err(error) => json!({ "error": error.to_string() }),
        Ok(client) => runtime.block_on(async {
            json!({
                "server": client.server(),
                "status": said(client.status().await),
                "resources": said(client.own("export", &[]).await),
                "history": said(client.own("history", &[("$top", "200".to_owned())]).await),
            })
        }),
    })
}

/// Names under which secrets stand, whoever wrote them.
const SECRET: &[&str] = &["secret", "password", "privatekey", "presharedkey", "token", "passphrase"];

fn redact(v: &mut Value) {
    match v {
        Value::Object(map) => {
            for (name, v) in map {
                let name = name.to_ascii_lowercase();
                if v.is_string() && SECRET.iter().any(|s| name.contains(s)) {
                    *v = json!("(left out)");
                } else {
                    redact(v);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) if text.contains("PRIVATE KEY-----") => *v = json!("(left out)"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_left_out() {
        let mut v = json!({"a": [{"sharedSecret": "x", "apiToken": "y", "name": "z"}],
            "key": "-----BEGIN PRIVATE KEY-----\nMIIE"});
        redact(&mut v);
        assert_eq!(
            v,
            json!({"a": [{"sharedSecret": "(left out)", "apiToken": "(left out)", "name": "z"}], "key": "(left out)"})
        );
    }
}
