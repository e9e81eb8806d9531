use crate::dump;
use crate::view::UnderlayView;
use futures::StreamExt;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Changes that come within this time are read together.
const SETTLE: Duration = Duration::from_millis(5);
/// How often unresolved neighbours are asked for again, and everything is read again in case a notification was lost.
const REFRESH: Duration = Duration::from_secs(5);
/// How often wanted neighbours that are still unresolved are asked for again.
const RETRY: Duration = Duration::from_millis(250);
/// Destinations that may wait to be solicited; more are dropped and asked for again by the caller's next publication.
const QUEUE: usize = 4096;
/// Gateways of the main table that are kept resolved without being asked for: packets to any client go through them.
const GATEWAYS: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Open(#[from] std::io::Error),
    #[error("the kernel refused a netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    #[error("the kernel's tables are no longer followed")]
    Ended,
}

/// The next state of the underlay.
///
/// # Errors
/// Nobody follows the kernel's tables any more: to go on would be to send to next hops that may be gone.
pub async fn next_view(views: &mut watch::Receiver<Arc<UnderlayView>>) -> Result<Arc<UnderlayView>, Error> {
    views.changed().await.map_err(|_| Error::Ended)?;
    Ok(views.borrow_and_update().clone())
}

/// Follows the kernel's tables of the namespace of the thread that starts it. Stops when it is dropped.
///
/// Gateways of the main table are always kept resolved; other destinations once they were solicited.
#[derive(Debug)]
pub struct Watcher {
    views: watch::Receiver<Arc<UnderlayView>>,
    wanted: mpsc::Sender<IpAddr>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    /// Reads the tables once and begins to follow them.
    ///
    /// # Errors
    /// Netlink is not available.
    pub async fn start() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let first = dump::read(&handle).await?;
        let (sender, views) = watch::channel(Arc::new(first));
        let (wanted, requests) = mpsc::channel(QUEUE);
        let follower = Follower { handle, sender, wanted: BTreeSet::new() };
        let task = tokio::spawn(follower.run(messages.map(drop).boxed(), requests));
        Ok(Self { views, wanted, task })
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<UnderlayView>> {
        self.views.clone()
    }

    #[must_use]
    pub fn view(&self) -> Arc<UnderlayView> {
        self.views.borrow().clone()
    }

    /// Asks the kernel to resolve the neighbour towards `dst` and to keep it resolved. Cheap to repeat.
    pub fn solicit(&self, dst: IpAddr) {
        if self.wanted.try_send(dst).is_err() {
            tracing::debug!(
                "too many destinations wait for their neighbours; one is left out until the next publication"
            );
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    handle: Handle,
    sender: watch::Sender<Arc<UnderlayView>>,
    wanted: BTreeSet<IpAddr>,
}

impl Follower {
    async fn run(mut self, mut changes: futures::stream::BoxStream<'static, ()>, mut requests: mpsc::Receiver<IpAddr>) {
        let mut refresh = tokio::time::interval(REFRESH);
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => {
                    if change.is_none() {
                        tracing::error!("the netlink connection has ended: underlay changes are no longer seen");
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                    while let Some(Some(())) = futures::FutureExt::now_or_never(changes.next()) {}
                    self.read().await;
                }
                request = requests.recv() => {
                    let Some(dst) = request else { return };
                    if self.wanted.insert(dst) {
                        self.resolve(dst).await;
                    }
                }
                _ = retry.tick() => self.resolve_missing().await,
                _ = refresh.tick() => self.read().await,
            }
        }
    }

    async fn read(&mut self) {
        match dump::read(&self.handle).await {
            Ok(view) => {
                self.sender.send_if_modified(|current| {
                    let changed = **current != view;
                    if changed {
                        *current = Arc::new(view);
                    }
                    changed
                });
            }
            Err(error) => tracing::warn!(%error, "cannot read the underlay tables; the last view stays"),
        }
    }

    async fn resolve_missing(&mut self) {
        let view = self.sender.borrow().clone();
        let gateways = view.gateways(GATEWAYS);
        let missing: Vec<IpAddr> =
            self.wanted.union(&gateways).copied().filter(|d| view.next_hop(*d).is_none()).collect();
        for dst in missing {
            self.resolve(dst).await;
        }
    }

    /// Makes the neighbour a managed one: the kernel resolves it and keeps it fresh (`NTF_EXT_MANAGED`, Linux 5.16);
    /// an older kernel resolves it once (`NTF_USE`). Either would make the operator's permanent entry one that is resolved.
    async fn resolve(&self, dst: IpAddr) {
        let view = self.sender.borrow().clone();
        let Some((ifindex, neighbour)) = view.neighbour_for(dst) else { return };
        if view.is_fixed(ifindex, neighbour) {
            return;
        }
        let request =
            || self.handle.neighbours().add(ifindex, neighbour).state(NeighbourState::None).flags(NeighbourFlags::Use);
        let mut managed = request();
        managed.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        if managed.replace().execute().await.is_ok() {
            return;
        }
        if let Err(error) = request().replace().execute().await {
            tracing::debug!(%error, ifindex, "cannot ask for a neighbour");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_watcher_is_an_error() {
        let (sender, mut views) = watch::channel(Arc::new(UnderlayView::default()));
        sender.send_replace(Arc::new(UnderlayView::default()));
        assert!(next_view(&mut views).await.is_ok());
        drop(sender);
        assert!(matches!(next_view(&mut views).await, Err(Error::Ended)));
    }
}
