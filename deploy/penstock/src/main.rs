//! The binary: wires roles, and nothing else. `penstock run` is a node or controller; every other command is the operator's.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod config;
mod privileges;
mod roles;

use clap::{CommandFactory, Parser, Subcommand};
use config::Config;
use penstock_southbound::Credentials;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Multi-tenant edge gateway and layer-4 load balancer.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = penstock_admin_cli::AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    global: penstock_admin_cli::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the roles that a configuration file names: controller, mux, host, gateway
    Run {
        /// TOML, see deploy/penstock/examples
        #[arg(long, short, value_name = "FILE", default_value = "/etc/penstock/penstock.toml")]
        config: PathBuf,
        /// Check the file and what it names, then stop
        #[arg(long)]
        check: bool,
    },
    /// The controller's store: back it up, or move it to etcd
    Store {
        /// TOML with a [controller]
        #[arg(long, short, value_name = "FILE", default_value = "/etc/penstock/penstock.toml")]
        config: PathBuf,
        #[command(subcommand)]
        command: StoreCommand,
    },
    #[command(flatten)]
    Operator(penstock_admin_cli::Command),
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copy the embedded store as it is at one moment, also while the controller runs
    Backup {
        /// A file that is not there yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Move a stopped controller's store, with history and revisions, to the cluster in [controller.etcd]
    Migrate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Operator(command) => penstock_admin_cli::main(arguments.global, command, Arguments::command()),
        Command::Run { config, check } => told(run(&config, check)),
        Command::Store { config, command } => told(store(&config, &command)),
    }
}

fn told(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("penstock: {error}");
        ExitCode::FAILURE
    })
}

fn store(path: &Path, command: &StoreCommand) -> Result<ExitCode, Failure> {
    let (config, _) = Config::load(path)?;
    let controller = config.controller_config().ok_or("there is no [controller] in the file")?;
    match command {
        StoreCommand::Backup { to } => penstock_admin_server::backup(&controller, to)?,
        StoreCommand::Migrate => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let moved = runtime.block_on(penstock_admin_server::migrate(&controller))?;
            println!(
                "{moved} keys moved; {} is kept as store.db.migrated",
                controller.state_dir.join("store.db").display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Errors before there is a log are returned, later ones are logged.
fn run(path: &Path, check: bool) -> Result<ExitCode, Failure> {
    let (config, credentials) = Config::load(path)?;
    let (name, roles) = (credentials.identity().name.clone(), config.role_names());
    if check {
        println!("{}: good; {name} has the roles {roles}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    penstock_telemetry::init_logging(config.telemetry.log_format, &config.telemetry.log)?;
    tracing::info!(name, roles, version = env!("CARGO_PKG_VERSION"), "penstock starts");
    match serve(config, credentials) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "penstock ends");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn serve(config: Config, credentials: Credentials) -> Result<(), Failure> {
    let metrics = penstock_telemetry::Metrics::install()?;
    // Before the first thread is started, so that it holds for all.
    privileges::limit_to(privileges::needed(!config.node_roles().is_empty()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if let Some(listen) = config.telemetry.listen {
            let (address, _) = metrics.serve(listen).await?;
            tracing::info!(%address, "metrics are served at /metrics");
        }
        roles::run(config, credentials).await.map_err(Failure::from)
    });
    // Blocking calls that hang must not keep a process that is told to stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
