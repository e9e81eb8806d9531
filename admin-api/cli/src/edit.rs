//! One resource in the operator's editor.
use crate::arguments::One;
use crate::error::CliError;
use crate::files::documents;
use crate::output::{Output, to_yaml};
use crate::resources::one_path;
use penstock_admin_client::{Client, Manner};
use penstock_admin_types::{ResourcePath, bare};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Names of files that may be taken already.
const TRIES: u32 = 1000;

pub(crate) async fn run(client: &Client, one: &One, manner: &Manner, output: &Output) -> Result<(), CliError> {
    let path = one_path(one)?;
    let resource = client.get(&path).await?;
    let before = editable(&path, &resource);
    let (file, mut open) = new_file().map_err(CliError::io("a temporary file"))?;
    let name = file.display().to_string();
    open.write_all(to_yaml(&name, &before)?.as_bytes()).map_err(CliError::io(&name))?;
    drop(open);
    editor(&file)?;
    let text = std::fs::read_to_string(&file).map_err(CliError::io(&name))?;
    let after = documents(&name, &text)?.into_iter().next().unwrap_or_default();
    if after == before {
        drop(std::fs::remove_file(&file));
        return output.text("nothing was changed");
    }
    // Refused if somebody else has changed it since it was read.
    match client.put(&path, &after, resource.get("etag").and_then(Value::as_str), manner).await {
        Ok(answer) if output.is_json() => {
            drop(std::fs::remove_file(&file));
            output.value(&answer)
        }
        Ok(plan) if manner.what_if => {
            drop(std::fs::remove_file(&file));
            output.text(crate::plan::render(&plan, output).trim_end())
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

/// For its owner alone, and of a name that was nobody's before: the folder is everybody's.
fn new_file() -> std::io::Result<(PathBuf, File)> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    for n in 0.. {
        let file = std::env::temp_dir().join(format!("penstock-edit-{}-{n}.yaml", std::process::id()));
        match options.open(&file) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && n < TRIES => {}
            opened => return Ok((file, opened?)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
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
        bare(path.kind(), &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_edited_is_in_a_new_file_that_others_cannot_read() {
        let (path, _) = new_file().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let victim = path.with_extension("victim");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let (other, _) = new_file().unwrap();
        assert!(other != path && !victim.exists(), "a link that somebody put there is not followed");
        for file in [&path, &other] {
            std::fs::remove_file(file).unwrap();
        }
    }

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
