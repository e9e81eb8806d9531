use crate::audit::{Audit, AuditError};
use crate::compile::{Compiler, HoldOff, KeepError};
use crate::config::{ControllerConfig, EtcdTable};
use crate::http::{Api, router};
use crate::hub::GoalHub;
use crate::lead::{LEADER, Leading, Place};
use crate::resources::{OpenError, Resources};
use crate::secrets::{Sealer, SecretError};
use crate::serve::serve;
use crate::stores;
use penstock_admin_store::{Election, Store, StoreError};
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use penstock_southbound::{CredentialError, CredentialFiles, Credentials, ServerError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("state_dir {}: {error}", path.display())]
    StateDir { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("controller.etcd: {}: {error}", path.display())]
    EtcdFile { path: PathBuf, error: std::io::Error },
    #[error("there is no [controller.etcd]: it says where to move the store to")]
    NoEtcd,
    #[error("the store is an etcd cluster: `etcdctl snapshot save FILE` backs it up")]
    EtcdBackup,
    #[error("controller.etcd: ca, cert and key: all of them, or none")]
    EtcdTls,
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
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Southbound(#[from] ServerError),
    #[error("{0} ended, which it never should: please report this with the log")]
    Ended(String),
}

impl From<OpenError> for Error {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Store(e) => Self::Store(e),
            OpenError::State(e) => Self::State(e),
        }
    }
}

fn election(store: Arc<dyn Store>, table: &EtcdTable) -> Election {
    Election {
        store,
        key: LEADER.to_owned(),
        value: Place::of(table).written().into_bytes(),
        ttl: Duration::from_secs(table.leader_ttl.max(1).into()),
        clock: || MonotonicClock::now().since(Nanos(0)),
    }
}

/// For telling the store that this controller leads no more.
const RESIGN: Duration = Duration::from_secs(2);

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })
}

/// Where callers come with tokens, if they may.
async fn by_token(
    config: &ControllerConfig,
    credentials: &Credentials,
) -> Result<Option<(TcpListener, TlsAcceptor)>, Error> {
    let Some(address) = config.token_listen else { return Ok(None) };
    Ok(Some((bind(address).await?, TlsAcceptor::from(Arc::new(credentials.open_server_config(ALPN)?)))))
}

/// Waits until another may lead, but not for long.
async fn resigned(led: JoinHandle<()>) {
    let abort = led.abort_handle();
    if tokio::time::timeout(RESIGN, led).await.is_err() {
        abort.abort();
    }
}

/// What works beside the servers as long as the controller runs. A task that ends gives its name.
fn background(resources: Arc<Resources>, compiler: Option<Compiler>) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    let undoing = resources.clone();
    tasks.spawn(async move {
        undoing.undo_unconfirmed().await;
        "the undoing of unconfirmed changes"
    });
    tasks.spawn(async move {
        resources.follow().await;
        "the watch on the store"
    });
    if let Some(compiler) = compiler {
        tasks.spawn(async move {
            compiler.run().await;
            "the compiler"
        });
    }
    tasks
}

/// Runs the controller until `shutdown` is true.
///
/// # Errors
/// It cannot start: a file is missing or damaged, an address is taken. Or a part of it crashed.
pub async fn run(config: ControllerConfig, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
    run_with_hub(config, Arc::default(), shutdown).await
}

/// The same with a hub that nodes in the same process are joined to ([`penstock_southbound::local`]); others connect as ever.
///
/// # Errors
/// As [`run`].
pub async fn run_with_hub(
    config: ControllerConfig,
    hub: Arc<GoalHub>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let dir = config.state_dir.clone();
    let state_dir = |error| Error::StateDir { path: dir.clone(), error };
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir).await.map_err(state_dir)?;
    let files = CredentialFiles { ca: config.ca.clone(), cert: config.cert.clone(), key: config.key.clone() };
    let credentials = files.load()?;
    let sealer = Sealer::open(&config.state_dir.join("secrets.key"))?;
    let mut stop = shutdown.clone();
    let store = tokio::select! {
        store = stores::open(&config) => store?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let site = stores::site(&*store, &sealer).await?;
    let resources = Arc::new(Resources::open(store.clone(), sealer).await?);
    let hold_off = HoldOff {
        hosts: Duration::from_secs(config.host_hold_off.into()),
        gateways: Duration::from_secs(config.gateway_hold_off.into()),
    };
    let (all, nodes) = (resources.clone(), hub.clone());
    let vip_limit = config.vip_limit;
    let leading = Leading { store: store.clone(), resources: all, hub: nodes, hold_off, vip_limit, site };
    let election = config.etcd.as_ref().map(|table| election(store, table));
    let compiler = match &election {
        None => Some(leading.alone().await?),
        Some(_) => None,
    };

    let (listener, tls) = (bind(config.listen).await?, TlsAcceptor::from(Arc::new(credentials.server_config(ALPN)?)));
    let by_token = by_token(&config, &credentials).await?;
    let audit = Audit::open(&config.state_dir.join("audit.log"))?;
    tracing::info!(listen = %config.listen, southbound = %config.southbound_listen, "controller started");

    let leader = election.clone();
    let api = Api::new(resources.clone(), hub.clone(), leader, audit, config.requests_per_second, shutdown.clone());
    let mut tasks = background(resources, compiler);
    let stopping = shutdown.clone();
    let led = tokio::spawn(async move {
        if let Some(election) = election {
            leading.in_turn(election, stopping).await;
        }
    });
    let router = router(api);
    let north = async {
        serve(listener, tls, router.clone(), shutdown.clone()).await;
        Ok(())
    };
    let tokens = async {
        if let Some((listener, tls)) = by_token {
            serve(listener, tls, router.clone(), shutdown.clone()).await;
        }
        Ok(())
    };
    let south = async {
        penstock_southbound::serve(config.southbound_listen, &credentials, hub, shutdown.clone())
            .await
            .map_err(Error::from)
    };
    let ended = tokio::select! {
        // The first that fails ends both: an address that is taken is an error at the start.
        served = async { tokio::try_join!(south, north, tokens) } => served.map(|_| ()),
        // Without them changes are taken and never done: better to end and be started again.
        Some(ended) = tasks.join_next() => Err(Error::Ended(ended.map_or_else(|e| e.to_string(), str::to_owned))),
    };
    resigned(led).await;
    // The store's thread ends with its last handle.
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.shutdown()).await;
    ended
}
