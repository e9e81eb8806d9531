//! One resource in the operator's editor.
use crate::arguments::One;
use crate::error::CliError;
use crate::files::documents;
use crate::output::{Output, to_yaml};
use crate::resources::one_path;
use penstock_admin_client::{Client, Manner};
use penstock_admin_types::{Kind, ResourcePath, Rule};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) async fn run(client: &Client, one: &One, manner: &Manner, output: &Output) -> Result<(), CliError> {
    let path = one_path(one)?;
    let resource = client.get(&path).await?;
    let before = editable(&path, &resource);
    let file = std::env::temp_dir().join(format!("penstock-edit-{}.yaml", std::process::id()));
    let name = file.display().to_string();
    std::fs::write(&file, to_yaml(&name, &before)?).map_err(CliError::io(&name))?;
    editor(&file)?;
    let text = std::fs::read_to_string(&file).map_err(CliError::io(&name))?;
    let after = documents(&name, &text)?.into_iter().next().unwrap_or_default();
    if after == before {
        drop(std::fs::remove_file(&file));
        return output.text("nothing was changed");
    }
    let body = match after {
        Value::Object(mut map) => {
            map.insert("resourceRef".to_owned(), json!(format!("/{path}")));
            Value::Object(map)
        }
        other => other,
    };
    let answer = if manner == &Manner::default() {
        // Refused if somebody else has changed it since it was read.
        client.put(&path, &body, resource.get("etag").and_then(Value::as_str)).await
    } else {
        client.batch(&[body], manner).await
    };
    match answer {
        Ok(answer) if output.is_json() => {
            drop(std::fs::remove_file(&file));
            output.value(&answer)
        }
        Ok(_) => {
            drop(std::fs::remove_file(&file));
            output.text(&format!("{path} changed"))?;
            crate::plan::remind(manner, output)
        }
        Err(error) => {
            eprintln!("penstock: what you wrote is kept in {name}");
            Err(error.into())
        }
    }
}

fn editor(file: &PathBuf) -> Result<(), CliError> {
    let named = |name| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program).args(words).arg(file).status().map_err(CliError::io(program))?;
    if status.success() { Ok(()) } else { Err(CliError::Editor(editor)) }
}

/// Without what the controller owns.
fn editable(path: &str, resource: &Value) -> Value {
    let mut out = resource.clone();
    if let Ok(path) = ResourcePath::parse(path) {
        strip(path.kind(), &mut out);
    }
    out
}

fn strip(kind: &'static Kind, node: &mut Value) {
    let Some(map) = node.as_object_mut() else { return };
    map.retain(|name, _| !matches!(name.as_str(), "etag" | "instanceId" | "resourceRef"));
    let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let owned = |name: &str| {
        matches!(name, "provisioningState" | "configurationState")
            || kind.properties.iter().any(|p| p.rule == Rule::ReadOnly && p.name == name)
    };
    properties.retain(|name, _| !owned(name));
    for child in kind.children {
        let items = properties.get_mut(child.collection).and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(|item| strip(child, item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_operator_says_is_edited() {
        let resource = json!({"resourceRef": "/loadBalancers/web", "resourceId": "web", "etag": "x", "instanceId": "y",
            "properties": {"provisioningState": "Succeeded", "probes": [
                {"resourceId": "p", "etag": "z", "properties": {"port": 80, "loadBalancingRules": []}}]}});
        assert_eq!(
            editable("loadBalancers/web", &resource),
            json!({"resourceId": "web", "properties": {"probes": [{"resourceId": "p", "properties": {"port": 80}}]}})
        );
    }
}
