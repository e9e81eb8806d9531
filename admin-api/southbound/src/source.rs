use crate::message::{NodeGoal, NodeReport, NodeRole};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The right of a controller to give goals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// Of one store, and of what it was moved to.
    pub site: String,
    /// Grows from leader to leader of a site: a node that has heard of a later one does not follow an earlier one.
    pub term: u64,
}

/// The controller's side of the southbound link: where goals come from and reports go. Called on the link's tasks,
/// so nothing here may block.
pub trait GoalSource: Debug + Send + Sync {
    /// The goals of `node` in `role`, from now on. `None` inside: none has been compiled yet; the node keeps what it has.
    /// `None` outside: no such node is configured; it stays connected and is looked for again several times a second.
    fn subscribe(&self, role: NodeRole, node: &str) -> Option<watch::Receiver<Option<Arc<NodeGoal>>>>;

    /// What a node said of itself. Its role is [`NodeReport::role`], already checked against the node's certificate.
    fn report(&self, node: &str, report: NodeReport);

    /// A node has come (`true`) or gone. With several roles in one node: called for each. `true` is said again after each
    /// successful [`GoalSource::subscribe`], since a node may connect before it is configured.
    fn connected(&self, role: NodeRole, node: &str, connected: bool);

    /// Whether this controller leads. `None` inside: another does, or will; nodes are sent to look for it.
    fn lead(&self) -> watch::Receiver<Option<Lead>>;
}

/// How often an unknown node is looked for again: within this time of being configured it gets its goal.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Waits until the node is configured. It stays connected meanwhile, so that it is served at once when it is.
pub(crate) async fn subscribed(
    hub: &dyn GoalSource,
    role: NodeRole,
    node: &str,
) -> watch::Receiver<Option<Arc<NodeGoal>>> {
    let mut told = false;
    loop {
        if let Some(goals) = hub.subscribe(role, node) {
            return goals;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%role, node, "southbound: no such node is configured; it waits: create its resource to give it work");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
