use crate::message::NodeRole;
use crate::source::GoalSource;
use crate::transport::CloseCode;
use quinn::Connection;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which connection speaks for which node. A node that restarts is back before its old connection has timed out: the new one
/// replaces the old one, whose end is then not the node's end.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    current: Mutex<HashMap<(NodeRole, String), Connection>>,
}

/// A session's right to say that its node has gone.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) role: NodeRole,
    pub(crate) node: String,
    connection: usize,
}

impl Sessions {
    pub(crate) fn enter(&self, role: NodeRole, node: &str, connection: &Connection, hub: &dyn GoalSource) -> Ticket {
        let mut current = self.lock();
        if let Some(old) = current.insert((role, node.to_owned()), connection.clone()) {
            CloseCode::Replaced.close(&old, "the same node has connected again");
        }
        // Within the lock, so that coming and going are told in their order.
        hub.connected(role, node, true);
        Ticket { role, node: node.to_owned(), connection: connection.stable_id() }
    }

    /// Says again that the node is there: the source may have learnt of it only now.
    pub(crate) fn affirm(&self, ticket: &Ticket, hub: &dyn GoalSource) {
        let current = self.lock();
        if current.get(&(ticket.role, ticket.node.clone())).is_some_and(|c| c.stable_id() == ticket.connection) {
            hub.connected(ticket.role, &ticket.node, true);
        }
    }

    pub(crate) fn leave(&self, ticket: Ticket, hub: &dyn GoalSource) {
        let mut current = self.lock();
        let key = (ticket.role, ticket.node);
        if current.get(&key).is_some_and(|c| c.stable_id() == ticket.connection) {
            current.remove(&key);
            hub.connected(key.0, &key.1, false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NodeRole, String), Connection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
