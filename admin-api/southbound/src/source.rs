use crate::message::{NodeGoal, NodeReport, NodeRole};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::watch;

/// The controller's side of the southbound link: where goals come from and reports go. Called on the link's tasks,
/// so nothing here may block.
pub trait GoalSource: Debug + Send + Sync {
    /// The goals of `node` in `role`, from now on. `None` inside: none has been compiled yet; the node keeps what it has.
    /// `None` outside: no such node is configured; it is refused and tries again later.
    fn subscribe(&self, role: NodeRole, node: &str) -> Option<watch::Receiver<Option<Arc<NodeGoal>>>>;

    /// What a node said of itself. Its role is [`NodeReport::role`], already checked against the node's certificate.
    fn report(&self, node: &str, report: NodeReport);

    /// A node has come (`true`) or gone. With several roles in one node: called for each.
    fn connected(&self, role: NodeRole, node: &str, connected: bool);
}
