use crate::message::Role;
use crate::node::publish;
use crate::source::{GoalSource, subscribed};
use std::sync::Arc;
use tokio::sync::watch;

/// The link when controller and node are one process: the same messages without a network, certificate or goal on disk (the
/// controller's store is beside it). Runs until shutdown.
pub async fn run<R: Role>(
    hub: Arc<dyn GoalSource>,
    node: &str,
    goal: watch::Sender<Option<Arc<R::Goal>>>,
    status: watch::Receiver<R::Status>,
    mut shutdown: watch::Receiver<bool>,
) {
    tracing::info!(role = %R::ROLE, node, "follows the controller in this process");
    tokio::select! {
        () = take_goals::<R>(&*hub, node, &goal) => {}
        () = send_reports::<R>(&*hub, node, status) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    hub.connected(R::ROLE, node, false);
}

async fn take_goals<R: Role>(hub: &dyn GoalSource, node: &str, goal: &watch::Sender<Option<Arc<R::Goal>>>) {
    loop {
        let mut goals = subscribed(hub, R::ROLE, node).await;
        hub.connected(R::ROLE, node, true);
        loop {
            let message = goals.borrow_and_update().clone();
            if let Some(new) = message.and_then(|m| R::goal(m.as_ref().clone())) {
                publish::<R>(goal, new);
            }
            if goals.changed().await.is_err() {
                break;
            }
        }
    }
}

async fn send_reports<R: Role>(hub: &dyn GoalSource, node: &str, mut status: watch::Receiver<R::Status>) {
    loop {
        let report = R::report(status.borrow_and_update().clone());
        hub.report(node, report);
        if status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
