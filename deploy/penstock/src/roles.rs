use crate::config::Config;
use penstock_admin_server::GoalHub;
use penstock_southbound::{Credentials, Gateway, Host, Link, Mux, Role, local};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;
type Parts = JoinSet<(&'static str, Result<(), Failure>)>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{part} failed: {error}")]
    Part { part: &'static str, error: Failure },
    #[error("{part} ended by itself, which it never should: please report this with the log")]
    Ended { part: &'static str },
    #[error("a part of the process crashed, see the log above: please report it: {0}")]
    Crashed(tokio::task::JoinError),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

const LINK: &str = "southbound link";

/// Parts that have not ended by then are cut off.
const GRACE: Duration = Duration::from_secs(10);

/// How a process ends by a signal.
enum End {
    /// Another does its work, or none: routes are withdrawn, programs leave the interfaces.
    Stop,
    /// It comes back: it ends as if it were killed, so that the kernel forwards on and no router is told that it leaves.
    Restart,
}

/// Runs all roles of the configuration until a signal, or until one of them fails.
pub(crate) async fn run(config: Config, credentials: Credentials) -> Result<(), RunError> {
    let (stop, stopping) = watch::channel(false);
    let mut parts = Parts::new();
    let ended = match start(config, &credentials, &mut parts, &stopping) {
        Ok(()) => match first_end(&mut parts).await {
            Ok(End::Restart) => return Ok(()),
            Ok(End::Stop) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    stop.send_replace(true);
    if tokio::time::timeout(GRACE, drain(&mut parts)).await.is_err() {
        tracing::warn!("parts of the process did not end within {} s and are cut off", GRACE.as_secs());
    }
    ended
}

fn start(
    config: Config,
    credentials: &Credentials,
    parts: &mut Parts,
    stopping: &watch::Receiver<bool>,
) -> Result<(), RunError> {
    // One hub: nodes beside the controller meet it there.
    let hub = Arc::new(GoalHub::default());
    if let Some(table) = config.controller_config() {
        let running = penstock_admin_server::run_with_hub(table, hub.clone(), stopping.clone());
        parts.spawn(async move { ("controller", running.await.map_err(Into::into)) });
    }
    if config.node_roles().is_empty() {
        return Ok(());
    }
    let controller = match config.controller_addresses() {
        Some(addresses) => {
            let link = Link::new(addresses, credentials, config.node.state_dir)
                .map_err(|error| RunError::Part { part: LINK, error: error.into() })?;
            Controller::Network(Arc::new(link))
        }
        None => Controller::Beside { hub, name: credentials.identity().name.clone() },
    };
    let mut nodes = Nodes { parts, controller, stopping };
    if let Some(table) = config.mux {
        nodes.start::<Mux, _, _>("mux", |goals, status, stop| penstock_mux_server::run(table, goals, status, stop));
    }
    if let Some(table) = config.host {
        nodes.start::<Host, _, _>("host", |goals, status, stop| penstock_slb_server::run(table, goals, status, stop));
    }
    if let Some(table) = config.gateway {
        nodes.start::<Gateway, _, _>("gateway", |goals, status, stop| {
            penstock_gateway_server::run(table, goals, status, stop)
        });
    }
    Ok(())
}

/// Where goals come from and reports go.
#[derive(Clone)]
enum Controller {
    Network(Arc<Link>),
    Beside { hub: Arc<GoalHub>, name: String },
}

impl Controller {
    /// Runs until shutdown.
    async fn link<R: Role>(
        self,
        goal: watch::Sender<Option<Arc<R::Goal>>>,
        status: watch::Receiver<R::Status>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        match self {
            Self::Network(link) => link.run::<R>(goal, status, stop).await.map_err(Into::into),
            Self::Beside { hub, name } => {
                local::run::<R>(hub, &name, goal, status, stop).await;
                Ok(())
            }
        }
    }
}

/// What the parts of this process's nodes have in common.
struct Nodes<'a> {
    parts: &'a mut Parts,
    controller: Controller,
    stopping: &'a watch::Receiver<bool>,
}

impl Nodes<'_> {
    /// One role: its data plane, and the link that feeds it goals and takes its status.
    fn start<R, F, E>(
        &mut self,
        part: &'static str,
        run: impl FnOnce(watch::Receiver<Option<Arc<R::Goal>>>, watch::Sender<R::Status>, watch::Receiver<bool>) -> F,
    ) where
        R: Role,
        R::Status: Default,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure>,
    {
        let (goal, goals) = watch::channel(None);
        let (status, statuses) = watch::channel(R::Status::default());
        let data_plane = run(goals, status, self.stopping.clone());
        self.parts.spawn(async move { (part, data_plane.await.map_err(Into::into)) });
        let link = self.controller.clone().link::<R>(goal, statuses, self.stopping.clone());
        self.parts.spawn(async move { (LINK, link.await) });
    }
}

/// Waits for a signal, which is a good end, or for a part to end, which is not.
async fn first_end(parts: &mut Parts) -> Result<End, RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut restart = signal(SignalKind::user_defined1()).map_err(RunError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        _ = restart.recv() => {
            tracing::info!("SIGUSR1: ending at once, to be started again");
            return Ok(End::Restart);
        }
        Some(ended) = parts.join_next() => return Err(match ended {
            Ok((part, Ok(()))) => RunError::Ended { part },
            Ok((part, Err(error))) => RunError::Part { part, error },
            Err(error) => RunError::Crashed(error),
        }),
    }
    Ok(End::Stop)
}

async fn drain(parts: &mut Parts) {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((part, Err(error))) => tracing::error!(part, %error, "failed while stopping"),
            Err(error) => tracing::error!(%error, "crashed while stopping"),
        }
    }
}
