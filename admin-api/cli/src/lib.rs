//! What does the operator type, and what does the operator see?
//!
//! The commands of `penstock` but `run`: [`Command`] is parsed by clap, [`main`] carries it out and gives the exit code. It knows
//! how to ask ([`penstock_admin_client`]) and how to show; every decision is the controller's.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by validation (nothing was changed).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apply;
mod arguments;
mod columns;
mod context;
mod doctor;
mod error;
mod output;
mod pki;
mod resources;
mod status;
mod top;
mod trace;

pub use arguments::{AFTER_HELP, Command, Global};

use error::CliError;
use output::Output;
use std::process::ExitCode;

/// Carries out a command. `whole` is the command line that the binary understands, for completions.
#[must_use]
pub fn main(global: Global, command: Command, whole: clap::Command) -> ExitCode {
    let output = Output::new(global.json);
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
        Command::Completions { shell } => {
            let mut whole = whole;
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut whole, "penstock", &mut script);
            output.text(&String::from_utf8_lossy(&script))?;
        }
        Command::Pki { command } => pki::run(command, output)?,
        Command::Doctor => return doctor::run(output),
        Command::Get(get) => remote(global, async |client| resources::get(client, &get, output).await)?,
        Command::Delete(delete) => remote(global, async |client| resources::delete(client, &delete, output).await)?,
        Command::Apply { files } => remote(global, async |client| apply::run(client, &files, output).await)?,
        Command::Status => remote(global, async |client| status::run(client, output).await)?,
        Command::Trace(question) => remote(global, async |client| trace::run(client, &question, output).await)?,
        Command::Top(top) => remote(global, async |client| top::run(client, &top, output).await)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// With a connection to the controller that the options, the environment or the context file name.
fn remote(
    global: &Global,
    work: impl AsyncFnOnce(&penstock_admin_client::Client) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let client = penstock_admin_client::Client::new(&context::settings(global)?)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io("runtime"))?;
    runtime.block_on(work(&client))
}
