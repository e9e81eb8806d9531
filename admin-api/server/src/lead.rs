//! Which of several controllers compiles and gives goals: one at a time, by election in the store.
//!
//! All of them answer and take changes, which the store puts in order; the leader alone plans, and what it writes holds only as long
//! as it leads (`Kept`). A controller with a store of its own always leads.
use crate::compile::{Compiler, HoldOff, KeepError};
use crate::config::{EtcdTable, VipLimitTable};
use crate::hub::GoalHub;
use crate::resources::Resources;
use crate::run::Error;
use penstock_admin_store::{Election, Leadership, Store};
use penstock_southbound::Lead;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The key that the leader holds.
pub(crate) const LEADER: &str = "/penstock/leader";
/// After a leader could not begin: another may.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a controller is asked: what others read of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// With a certificate.
    pub url: String,
    /// With a token.
    pub tokens: Option<String>,
}

impl Place {
    pub(crate) fn of(table: &EtcdTable) -> Self {
        let bare = |url: &str| url.trim().trim_end_matches('/').to_owned();
        Self { url: bare(&table.advertise), tokens: table.advertise_tokens.as_deref().map(bare) }
    }

    /// URLs have no spaces.
    pub(crate) fn written(&self) -> String {
        match &self.tokens {
            Some(tokens) => format!("{} {tokens}", self.url),
            None => self.url.clone(),
        }
    }

    pub(crate) fn read(text: &str) -> Self {
        match text.split_once(' ') {
            Some((url, tokens)) => Self { url: url.to_owned(), tokens: Some(tokens.to_owned()) },
            None => Self { url: text.to_owned(), tokens: None },
        }
    }
}

pub(crate) struct Leading {
    pub store: Arc<dyn Store>,
    pub resources: Arc<Resources>,
    pub hub: Arc<GoalHub>,
    pub hold_off: HoldOff,
    pub vip_limit: VipLimitTable,
    pub site: String,
}

impl Leading {
    /// With nobody else: an error at the start is one of the controller.
    pub(crate) async fn alone(&self) -> Result<Compiler, Error> {
        Ok(self.begin(None).await?)
    }

    /// Whenever it is elected, until `shutdown`; then another may lead at once.
    pub(crate) async fn in_turn(&self, election: Election, mut shutdown: watch::Receiver<bool>) {
        loop {
            let leadership = tokio::select! {
                won = election.win() => Arc::new(won),
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            metrics::gauge!("penstock_controller_leads").set(1.0);
            let stops = tokio::select! {
                () = leadership.hold() => false,
                () = self.work(&leadership) => false,
                _ = shutdown.wait_for(|stop| *stop) => true,
            };
            self.resources.lead(false);
            self.hub.step_down();
            metrics::gauge!("penstock_controller_leads").set(0.0);
            leadership.resign().await;
            if stops {
                return;
            }
            tracing::warn!(term = leadership.term(), "this controller leads no more");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn work(&self, leadership: &Arc<Leadership>) {
        let started = async {
            // What others have changed until now, which the watch may still be bringing.
            self.resources.catch_up().await?;
            self.begin(Some(leadership.clone())).await
        };
        match started.await {
            Ok(compiler) => compiler.run().await,
            Err(error) => tracing::error!(%error, "this controller was elected and cannot lead"),
        }
    }

    async fn begin(&self, leadership: Option<Arc<Leadership>>) -> Result<Compiler, KeepError> {
        let (store, resources, hub) = (self.store.clone(), self.resources.clone(), self.hub.clone());
        let compiler = Compiler::open(store, resources, hub, self.hold_off, self.vip_limit, leadership).await?;
        let term = compiler.term();
        self.hub.begin_to_lead(Lead { site: self.site.clone(), term });
        self.resources.lead(true);
        tracing::info!(term, "this controller leads");
        Ok(compiler)
    }
}
