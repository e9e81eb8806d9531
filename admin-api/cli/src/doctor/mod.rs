//! Does this machine offer what a node needs? Every finding that is not good has its remedy.
mod kernel;
mod links;
mod packets;
mod trust;

use crate::arguments::Global;
use crate::error::CliError;
use crate::output::{Output, Style, table};
use serde::Serialize;
use std::process::ExitCode;

/// One thing that a node needs, whether it is there, and what to do if not.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    what: String,
    good: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn new(what: impl Into<String>, good: bool, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), good, found: found.into(), fix: (!good).then(|| fix.into()) }
    }
}

/// Everything that is looked at, without changing anything.
pub(crate) fn findings(global: &Global) -> Vec<Finding> {
    let mut all = kernel::findings();
    all.extend(links::findings());
    all.extend(packets::findings());
    all.extend(trust::findings(global));
    all
}

/// Code 1 if something is missing.
pub(crate) fn run(global: &Global, output: &Output) -> Result<ExitCode, CliError> {
    let findings = findings(global);
    let good = findings.iter().all(|f| f.good);
    if output.is_json() {
        output.value(&findings)?;
    } else {
        output.text(&render(&findings, output))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(findings: &[Finding], output: &Output) -> String {
    let rows = findings.iter().map(|f| {
        let mark = if f.good { output.paint(Style::Good, "ok") } else { output.paint(Style::Bad, "MISSING") };
        let advice = f.fix.as_ref().map_or_else(String::new, |fix| format!("-> {fix}"));
        vec![f.what.clone(), mark, f.found.clone(), advice]
    });
    table(output, &["CHECK", "", "FOUND", ""], rows)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a program prints; nothing where it is not installed.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let out = std::process::Command::new(program).args(arguments).env("LC_ALL", "C").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
