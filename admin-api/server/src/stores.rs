//! Opens the store that the configuration names, and says which site is in it.
use crate::config::{ControllerConfig, EtcdTable};
use crate::resources::{SERIAL, mint, number};
use crate::run::Error;
use crate::secrets::{Sealer, SecretError};
use penstock_admin_store::{
    Compare, EtcdConfig, EtcdStore, EtcdTls, Limits, Operation, SqliteStore, Store, StoreError, Txn,
};
use penstock_clock::MonotonicClock;
use penstock_model::Nanos;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// By it nodes tell leaders of one site, whose terms they compare, from those of another.
const SITE: &str = "/penstock/site";
/// A text that every controller must be able to open.
const SEALED: &str = "/penstock/sealed";
const TEXT: &str = "penstock";
/// After a cluster that cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) fn database(state_dir: &Path) -> PathBuf {
    state_dir.join("store.db")
}

pub(crate) async fn embedded(state_dir: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(&database(state_dir), Box::new(|| MonotonicClock::now().since(Nanos(0)))).await
}

pub(crate) async fn cluster(table: &EtcdTable) -> Result<EtcdStore, Error> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| Error::EtcdFile { path: path.clone(), error });
    let tls = match (&table.ca, &table.cert, &table.key) {
        (Some(ca), Some(cert), Some(key)) => Some(EtcdTls { ca: read(ca)?, cert: read(cert)?, key: read(key)? }),
        (None, None, None) => None,
        _ => return Err(Error::EtcdTls),
    };
    let limits = Limits { operations: table.max_operations, bytes: table.max_request_bytes };
    let (endpoints, prefix, quota) = (table.endpoints.clone(), table.prefix.clone(), table.quota_bytes);
    let config = EtcdConfig { endpoints, prefix, tls, limits, quota };
    Ok(EtcdStore::open(config).await?)
}

pub(crate) async fn open(config: &ControllerConfig) -> Result<Arc<dyn Store>, Error> {
    match &config.etcd {
        None => Ok(Arc::new(embedded(&config.state_dir).await?)),
        Some(table) => {
            let store = Arc::new(cluster(table).await?);
            // A controller that starts before its cluster waits for it.
            while let Err(error @ StoreError::Unavailable(_)) = store.get(SITE, None).await {
                tracing::warn!(%error, "the store cannot be asked yet");
                tokio::time::sleep(RETRY).await;
            }
            Ok(store)
        }
    }
}

/// Moves a site from the controller's own store to the one that several share, with its history and the numbers of its changes. No
/// controller may run meanwhile. The old file is renamed, so that none starts from it by mistake. Returns how many keys were moved.
///
/// # Errors
/// There is no store of its own, the other one holds a site already, or either fails: then the old one stands.
pub async fn migrate(config: &ControllerConfig) -> Result<usize, Error> {
    let table = config.etcd.as_ref().ok_or(Error::NoEtcd)?;
    let file = database(&config.state_dir);
    let failed = |error| Error::StateDir { path: file.clone(), error };
    std::fs::metadata(&file).map_err(failed)?;
    let (from, to) = (embedded(&config.state_dir).await?, cluster(table).await?);
    let number = from.get(SERIAL, None).await?.as_ref().map_or(Ok(0), number)?;
    let moved = penstock_admin_store::migrate(&from, &to, Operation::put(SERIAL, number.to_string())).await?;
    drop(from);
    std::fs::rename(&file, file.with_extension("db.migrated")).map_err(failed)?;
    Ok(moved)
}

/// Copies the controller's own store as it is at one moment, also while it runs. Blocks the thread.
///
/// The site's name stays behind: who starts from the copy makes a new one, and has fewer terms behind it than the nodes have seen. Under
/// the old name they would take it for a former leader and not follow it.
///
/// # Errors
/// There is no store of its own, or `to` is there already.
pub fn backup(config: &ControllerConfig, to: &Path) -> Result<(), Error> {
    if config.etcd.is_some() {
        return Err(Error::EtcdBackup);
    }
    Ok(SqliteStore::backup(&database(&config.state_dir), to, &[SITE])?)
}

/// The site's name, made once; and that this controller can open its secrets.
pub(crate) async fn site(store: &dyn Store, sealer: &Sealer) -> Result<String, Error> {
    let sealed = sealer.seal(TEXT)?.to_string();
    for (key, value) in [(SITE, mint()), (SEALED, sealed)] {
        let compares = vec![Compare::Version { key: key.to_owned(), is: 0 }];
        store.txn(Txn { compares, then: vec![Operation::put(key, value)], otherwise: Vec::new() }).await?;
    }
    let text = |key: &'static str| async move {
        let entry = store.get(key, None).await?.ok_or_else(|| StoreError::Damaged(format!("{key} is gone")))?;
        String::from_utf8(entry.value).map_err(|e| StoreError::Damaged(format!("{key}: {e}")))
    };
    let kept: Value = serde_json::from_str(&text(SEALED).await?).unwrap_or_default();
    match sealer.open_value(&kept) {
        Ok(opened) if *opened == TEXT => Ok(text(SITE).await?),
        _ => Err(Error::Secret(SecretError::OtherKey)),
    }
}
