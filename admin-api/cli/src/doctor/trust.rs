//! Certificates, the time of day that they are judged by, and the way to the controller.
use super::{Finding, ask, packets};
use crate::arguments::Global;
use crate::context;
use penstock_southbound::certificate_end;
use std::path::Path;
use std::time::{Duration, SystemTime};

const MONTH: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn findings(global: &Global) -> Vec<Finding> {
    let mut all: Vec<Finding> = clock().into_iter().collect();
    // Without a connection there is nothing to say of it: doctor runs on nodes, too.
    if let Ok(settings) = context::settings(global) {
        let files = &settings.credentials;
        all.push(certificate("authority", &files.ca));
        all.push(certificate("certificate", &files.cert));
        all.extend(controller(settings));
    }
    all
}

fn certificate(what: &str, path: &Path) -> Finding {
    let fix = "issue a new one: penstock pki issue";
    match certificate_end(path) {
        Err(error) => Finding::new(what, false, error.to_string(), fix),
        Ok(end) => {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            let found = match left.as_secs() / 86_400 {
                0 if left.is_zero() => "it has ended".to_owned(),
                days => format!("good for {days} days"),
            };
            Finding::new(what, left > MONTH, found, fix)
        }
    }
}

/// Whether something keeps the clock; nothing is said where no such program is asked.
fn clock() -> Option<Finding> {
    let synchronized = match ask("chronyc", &["-c", "tracking"]) {
        Some(line) => line.split(',').nth(1).is_some_and(|reference| !reference.trim().is_empty()),
        None => ask("timedatectl", &["show", "-p", "NTPSynchronized", "--value"])? == "yes",
    };
    let found = if synchronized { "synchronized" } else { "not synchronized" };
    Some(Finding::new(
        "clock",
        synchronized,
        found,
        "install and start chrony: certificates and history go by the clock",
    ))
}

/// The controller, and the nodes that it tells of.
fn controller(settings: penstock_admin_client::Settings) -> Vec<Finding> {
    let server = settings.server.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = penstock_admin_client::Client::new(&settings).and_then(|client| match runtime {
        Ok(runtime) => runtime.block_on(client.status()),
        Err(e) => Err(penstock_admin_client::ClientError::Transport { server: server.clone(), reason: e.to_string() }),
    });
    match answer {
        Ok(status) => {
            let mut all = vec![Finding::new("controller", true, format!("{server} answers"), "")];
            all.extend(packets::of_nodes(&status));
            all
        }
        Err(error) => {
            let error = crate::error::CliError::from(error);
            let fix = error.advice().unwrap_or("check --server and the network between");
            vec![Finding::new("controller", false, error.to_string(), fix)]
        }
    }
}
