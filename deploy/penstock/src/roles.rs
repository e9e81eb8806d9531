use crate::config::Config;
use penstock_southbound::{Credentials, Gateway, Host, Link, Mux, Role};
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

/// Runs all roles of the configuration until a signal, or until one of them fails.
pub(crate) async fn run(config: Config, credentials: Credentials) -> Result<(), RunError> {
    let (stop, stopping) = watch::channel(false);
    let mut parts = Parts::new();
    let ended = match start(config, &credentials, &mut parts, &stopping) {
        Ok(()) => first_end(&mut parts).await,
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
    if let Some(table) = config.controller_config() {
        let running = penstock_admin_server::run(table, stopping.clone());
        parts.spawn(async move { ("controller", running.await.map_err(Into::into)) });
    }
    let Some(address) = config.controller_address() else { return Ok(()) };
    let link = Link::new(address, credentials, config.node.state_dir)
        .map_err(|error| RunError::Part { part: LINK, error: error.into() })?;
    let mut nodes = Nodes { parts, link: Arc::new(link), stopping };
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

/// What the parts of this process's nodes have in common.
struct Nodes<'a> {
    parts: &'a mut Parts,
    link: Arc<Link>,
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
        let (link, stop) = (self.link.clone(), self.stopping.clone());
        self.parts.spawn(async move { (LINK, link.run::<R>(goal, statuses, stop).await.map_err(Into::into)) });
    }
}

/// Waits for a signal, which is a good end, or for a part to end, which is not.
async fn first_end(parts: &mut Parts) -> Result<(), RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        Some(ended) = parts.join_next() => return Err(match ended {
            Ok((part, Ok(()))) => RunError::Ended { part },
            Ok((part, Err(error))) => RunError::Part { part, error },
            Err(error) => RunError::Crashed(error),
        }),
    }
    Ok(())
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
