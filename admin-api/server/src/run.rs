use crate::compile::{Compiler, KeepError};
use crate::config::ControllerConfig;
use crate::http::{Api, router};
use crate::hub::GoalHub;
use crate::resources::{OpenError, Resources};
use crate::secrets::{Sealer, SecretError};
use crate::serve::serve;
use penstock_admin_store::{SqliteStore, Store, StoreError};
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_southbound::{CredentialError, CredentialFiles, ServerError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("state_dir {}: {error}", path.display())]
    StateDir { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] crate::StateError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error(transparent)]
    Kept(#[from] KeepError),
    #[error("listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("southbound: {0}")]
    Southbound(#[from] ServerError),
}

impl From<OpenError> for Error {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Store(e) => Self::Store(e),
            OpenError::State(e) => Self::State(e),
        }
    }
}

/// Runs the controller until `shutdown` is true.
///
/// # Errors
/// It cannot start: a file is missing or damaged, an address is taken.
pub async fn run(config: ControllerConfig, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
    let dir = config.state_dir.clone();
    let state_dir = |error| Error::StateDir { path: dir.clone(), error };
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).await.map_err(state_dir)?;
    let files = CredentialFiles { ca: config.ca.clone(), cert: config.cert.clone(), key: config.key.clone() };
    let credentials = files.load()?;
    let sealer = Sealer::open(&config.state_dir.join("secrets.key"))?;
    let clock = Box::new(|| MonotonicClock::now().since(Nanos(0)));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&config.state_dir.join("store.db"), clock).await?);
    let resources = Arc::new(Resources::open(store.clone(), sealer).await?);
    let hub = Arc::new(GoalHub::default());
    let compiler = Compiler::open(store, resources.clone(), hub.clone()).await?;

    let tls = TlsAcceptor::from(Arc::new(credentials.server_config(&[b"h2", b"http/1.1"])?));
    let listen = |error| Error::Listen { address: config.listen, error };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    tracing::info!(listen = %config.listen, southbound = %config.southbound_listen, "controller started");

    let api = Api::new(resources.clone(), hub.clone());
    let follow = tokio::spawn(async move { resources.follow().await });
    let compile = tokio::spawn(compiler.run());
    let north = serve(listener, tls, router(api), shutdown.clone());
    let south = penstock_southbound::serve(config.southbound_listen, &credentials, hub, shutdown);
    let (south, ()) = tokio::join!(south, north);
    follow.abort();
    compile.abort();
    // The store's thread ends with its last handle.
    let _ = tokio::time::timeout(Duration::from_secs(1), async { drop((follow.await, compile.await)) }).await;
    Ok(south?)
}
