//! What does the operator type, and what does the operator see?
//!
//! The commands of `penstock` but `run`: [`Command`] is parsed by clap, [`main`] carries it out and gives the exit code. It knows
//! how to ask ([`penstock_admin_client`]) and how to show; every decision is the controller's.
//!
//! Exit codes: see [`AFTER_HELP`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access;
mod apply;
mod arguments;
mod bgp;
mod bundle;
mod columns;
mod context;
mod describe;
mod doctor;
mod drain;
mod edit;
mod error;
mod explain;
mod files;
mod follow;
mod history;
mod man;
mod output;
mod pki;
mod plan;
mod resources;
mod status;
mod top;
mod trace;

pub use arguments::{AFTER_HELP, Command, Format, Global};

use error::CliError;
use output::Output;
use penstock_admin_client::Client;
use penstock_admin_types::openapi;
use std::process::ExitCode;

/// Carries out a command. `whole` is the command line that the binary understands, for completions.
#[must_use]
pub fn main(global: Global, command: Command, whole: clap::Command) -> ExitCode {
    let output = Output::new(global.output.unwrap_or(if global.json { Format::Json } else { Format::Table }));
    match dispatch(&global, command, whole, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

fn dispatch(global: &Global, command: Command, whole: clap::Command, output: &Output) -> Result<ExitCode, CliError> {
    match command {
        Command::Completion { shell } => {
            let mut whole = whole;
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut whole, "penstock", &mut script);
            output.text(&String::from_utf8_lossy(&script))?;
        }
        Command::Man { dir } => man::run(whole, dir.as_deref(), output)?,
        Command::Pki { command } => pki::run(command, output)?,
        Command::Doctor => return doctor::run(global, output),
        Command::Explain { name } => explain::run(&name, output)?,
        Command::Openapi => output.value(&openapi(env!("CARGO_PKG_VERSION")))?,
        Command::Diff { files, prune } => {
            return remote(global, async |client| apply::diff(client, &files, prune, output).await);
        }
        Command::Get(get) => remote(global, async |c| resources::get(c, &get, output).await)?,
        Command::Describe(one) => remote(global, async |c| describe::run(c, &one, output).await)?,
        Command::Delete(delete) => remote(global, async |c| resources::delete(c, &delete, output).await)?,
        Command::Apply(a) => {
            remote(global, async |c| apply::run(c, &a.files, a.prune, &a.changing.manner(), output).await)?;
        }
        Command::Edit { one, changing } => {
            remote(global, async |c| edit::run(c, &one, &changing.manner(), output).await)?;
        }
        Command::Drain(drain) => remote(global, async |c| drain::run(c, &drain, output).await)?,
        Command::Wait(wait) => remote(global, async |c| follow::wait(c, &wait, output).await)?,
        Command::Watch(watch) => remote(global, async |c| follow::watch(c, &watch, output).await)?,
        Command::History { revision, limit } => {
            remote(global, async |c| history::show(c, revision, limit, output).await)?;
        }
        Command::Rollback { revision, changing } => {
            remote(global, async |c| history::roll_back(c, revision, &changing.manner(), output).await)?;
        }
        Command::Confirm => remote(global, async |c| history::confirm(c, output).await)?,
        Command::Token { command } => remote(global, async |c| access::token(c, &command, output).await)?,
        Command::Quota { command } => remote(global, async |c| access::quota(c, &command, output).await)?,
        Command::Audit { limit } => remote(global, async |c| access::audit(c, limit, output).await)?,
        Command::Export => remote(global, async |c| output.value(&c.own("export", &[]).await?))?,
        Command::SupportBundle { file } => bundle::run(global, &file, output)?,
        Command::Status => remote(global, async |c| status::run(c, output).await)?,
        Command::Bgp { command: arguments::Bgp::Dump { socket, file } } => bgp::dump(&socket, &file, output)?,
        Command::Bgp { command } => remote(global, async |c| bgp::run(c, &command, output).await)?,
        Command::Bfd => remote(global, async |c| bgp::bfd(c, output).await)?,
        Command::Trace(question) => remote(global, async |c| trace::run(c, &question, output).await)?,
        Command::Top(top) => remote(global, async |c| top::run(c, &top, output).await)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// With a connection to the controller that the options, the environment or the context file name.
fn remote<T>(global: &Global, work: impl AsyncFnOnce(&Client) -> Result<T, CliError>) -> Result<T, CliError> {
    let client = Client::new(&context::settings(global)?)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io("runtime"))?;
    runtime.block_on(work(&client))
}
