use crate::arguments::Global;
use crate::error::CliError;
use penstock_admin_client::Settings;
use penstock_southbound::CredentialFiles;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A context file: what the options leave open.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    server: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Options and environment (clap has joined them), then the context file.
pub(crate) fn settings(global: &Global) -> Result<Settings, CliError> {
    let path = global.context.clone().unwrap_or_else(default_path);
    let context = read(&path, global.context.is_some())?;
    // Files that a context names lie beside it unless their path is absolute.
    let beside = |p: PathBuf| path.parent().map_or_else(|| p.clone(), |dir| dir.join(&p));
    let server = global.server.clone().or(context.server);
    let ca = global.ca.clone().or(context.ca.map(beside));
    let cert = global.cert.clone().or(context.cert.map(beside));
    let key = global.key.clone().or(context.key.map(beside));
    match (server, ca, cert, key) {
        (Some(server), Some(ca), Some(cert), Some(key)) => {
            Ok(Settings { server, credentials: CredentialFiles { ca, cert, key } })
        }
        (server, ca, cert, key) => {
            let given = [
                ("--server", server.is_some()),
                ("--ca", ca.is_some()),
                ("--cert", cert.is_some()),
                ("--key", key.is_some()),
            ];
            let missing: Vec<&str> = given.into_iter().filter(|(_, is)| !is).map(|(name, _)| name).collect();
            Err(CliError::NoConnection { missing: missing.join(", "), context: path })
        }
    }
}

fn default_path() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".config"));
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| "/etc".into()).join("penstock/context.toml")
}

/// A file that nobody asked for may be absent.
fn read(path: &Path, asked_for: bool) -> Result<Context, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            toml::from_str(&text).map_err(|error| CliError::Context { path: path.to_owned(), error: Box::new(error) })
        }
        Err(e) if e.kind() == ErrorKind::NotFound && !asked_for => Ok(Context::default()),
        Err(e) => Err(CliError::io(format!("context file {}", path.display()))(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context_file(name: &str, text: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pst-context-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("context.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn options_win_over_the_context_file_whose_files_lie_beside_it() {
        let path =
            context_file("win", "server = \"https://a\"\nca = \"ca.pem\"\ncert = \"/x/me.pem\"\nkey = \"me.key\"\n");
        let global = Global { server: Some("https://b".into()), context: Some(path.clone()), ..Global::default() };
        let settings = settings(&global).unwrap();
        let dir = path.parent().unwrap();
        assert_eq!(settings.server, "https://b");
        assert_eq!(settings.credentials.ca, dir.join("ca.pem"));
        assert_eq!(settings.credentials.cert, PathBuf::from("/x/me.pem"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_and_so_is_an_unknown_field() {
        let path = context_file("missing", "server = \"https://a\"\nca = \"ca.pem\"\n");
        let global = Global { context: Some(path.clone()), ..Global::default() };
        let error = settings(&global).unwrap_err();
        assert!(error.to_string().contains("give --cert, --key"), "{error}");
        std::fs::write(&path, "servr = \"https://a\"\n").unwrap();
        assert!(settings(&global).unwrap_err().to_string().contains("servr"));
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_context_file_that_was_asked_for_must_be_there() {
        let global = Global { context: Some("/nonexistent/context.toml".into()), ..Global::default() };
        assert!(matches!(settings(&global), Err(CliError::Io { .. })));
    }
}
