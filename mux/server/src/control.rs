use crate::error::Error;
use crate::stats::{Counted, ReplayState};
use arc_swap::ArcSwap;
use penstock_model::{PortId, Underlay};
use penstock_mux_proto::{GoalError, MuxGoal, NextHopInfo, Policy};
use penstock_netlink::{UnderlayView, Watcher};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What is to be told of a policy in the kernel, after the workers forward by it.
pub(crate) trait Steer {
    /// # Errors
    /// It was not taken.
    fn publish(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error>;

    /// Looks whether the interfaces can still do what they could, and now more. To be called now and then.
    ///
    /// # Errors
    /// As for `publish`.
    fn maintain(&mut self, policy: &Policy, view: &UnderlayView) -> Result<(), Error>;

    /// What the kernel forwards by itself, by port; nothing if there is no such thing.
    fn replays(&mut self) -> Vec<(ReplayState, Counted)>;

    /// The kernel forwards nothing from now on; otherwise it goes on when the process ends.
    fn detach(&mut self);
}

/// Seconds without flow entries before slots that changed hands are forgotten. Workers tell their counts ten times a second, and
/// have taken a policy before the next packet.
const QUIET: u32 = 5;

/// Joins goal and underlay into the policy that workers read.
pub(crate) struct Control {
    published: Arc<ArcSwap<Policy>>,
    own: Underlay<IpAddr>,
    /// Port by interface index.
    ports: HashMap<u32, PortId>,
    steer: Box<dyn Steer + Send>,
    /// Policies that a worker may still read: the last to let go frees the memory, and that is not to be a worker.
    retired: Vec<Arc<Policy>>,
    /// For how many calls of `maintain` in a row no worker has had a flow entry, under the slot tables in force.
    quiet: u32,
    pub(crate) goal_error: Option<String>,
}

impl Control {
    pub(crate) fn new(
        published: Arc<ArcSwap<Policy>>,
        own: IpAddr,
        ports: HashMap<u32, PortId>,
        steer: Box<dyn Steer + Send>,
    ) -> Self {
        Self { published, own: Underlay(own), ports, steer, retired: Vec::new(), quiet: 0, goal_error: None }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.published.load_full()
    }

    /// Puts a goal in force, or refuses it and keeps the one before; which of them it was.
    ///
    /// # Errors
    /// The steering program is gone. A goal that is refused is no error here: see `goal_error`.
    pub(crate) fn handle_goal(&mut self, goal: &MuxGoal, watcher: &Watcher) -> Result<bool, Error> {
        let view = watcher.view();
        match self.build(goal, &view) {
            Ok(policy) => {
                self.goal_error = None;
                let policy = Arc::new(policy);
                tracing::info!(
                    revision = goal.revision.0,
                    services = goal.services.len(),
                    pools = goal.pools.len(),
                    backends = goal.backends.len(),
                    unresolved = policy.unresolved(),
                    "mux goal applied"
                );
                self.quiet = 0;
                self.publish(policy, &view, watcher)?;
                Ok(true)
            }
            Err(error) => {
                tracing::error!(revision = goal.revision.0, %error, "mux goal refused; the last one stays in force");
                crate::metrics::METRICS.count_refused_goal();
                self.goal_error = Some(error.to_string());
                Ok(false)
            }
        }
    }

    /// Looks the next hops up again. Most of what happens to an underlay changes none of a mux's: then nothing is made anew.
    ///
    /// # Errors
    /// The steering program is gone.
    pub(crate) fn handle_view(&mut self, view: &UnderlayView, watcher: &Watcher) -> Result<(), Error> {
        let present = self.policy();
        let next_hop = |host| next_hop(&self.ports, view, host);
        if present.has_next_hops(next_hop) {
            solicit(&present, watcher);
            return self.steer.maintain(&present, view);
        }
        let policy = present.with_next_hops(next_hop);
        tracing::debug!(unresolved = policy.unresolved(), "underlay changed");
        self.publish(Arc::new(policy), view, watcher)
    }

    /// Frees the policies that no worker reads any more, and looks after what the kernel does. To be called once a second;
    /// `flows` are those in all workers' tables.
    ///
    /// # Errors
    /// The steering program is gone.
    pub(crate) fn maintain(&mut self, flows: u64, watcher: &Watcher) -> Result<(), Error> {
        self.retired.retain(|policy| Arc::strong_count(policy) > 1);
        let view = &watcher.view();
        self.quiet = if flows == 0 { self.quiet.saturating_add(1) } else { 0 };
        if self.quiet >= QUIET
            && let Some(policy) = self.policy().without_settled_moves()
        {
            tracing::info!("slots that changed hands have no flows left: they are as all others again");
            self.quiet = 0;
            return self.publish(Arc::new(policy), view, watcher);
        }
        self.steer.maintain(&self.published.load(), view)
    }

    /// What the kernel forwards by itself, by port.
    pub(crate) fn replays(&mut self) -> Vec<(ReplayState, Counted)> {
        self.steer.replays()
    }

    /// Nothing is forwarded from now on, also not while no process is there.
    pub(crate) fn detach(&mut self) {
        self.steer.detach();
    }

    fn build(&self, goal: &MuxGoal, view: &UnderlayView) -> Result<Policy, GoalError> {
        let policy = Policy::build(goal, |host| next_hop(&self.ports, view, host), self.own)?;
        Ok(policy.succeed(&self.published.load()))
    }

    /// Workers first, then the kernel's program: what is steered here is known here.
    fn publish(&mut self, policy: Arc<Policy>, view: &UnderlayView, watcher: &Watcher) -> Result<(), Error> {
        solicit(&policy, watcher);
        self.retired.push(self.published.swap(Arc::clone(&policy)));
        self.steer.publish(&policy, view)
    }
}

fn solicit(policy: &Policy, watcher: &Watcher) {
    for host in policy.hosts() {
        watcher.solicit(host.0);
    }
}

/// `None` until the neighbour is resolved, or if the way leads over an interface that is not the mux's.
fn next_hop(ports: &HashMap<u32, PortId>, view: &UnderlayView, host: Underlay<IpAddr>) -> Option<NextHopInfo> {
    let hop = view.next_hop(host.0)?;
    let out = *ports.get(&hop.ifindex)?;
    Some(NextHopInfo { eth_src: hop.eth_src, eth_dst: hop.eth_dst, out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::goal;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Calls {
        published: AtomicUsize,
        maintained: AtomicUsize,
    }

    struct Counting(Arc<Calls>);

    impl Steer for Counting {
        fn publish(&mut self, _policy: &Policy, _view: &UnderlayView) -> Result<(), Error> {
            self.0.published.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn maintain(&mut self, _policy: &Policy, _view: &UnderlayView) -> Result<(), Error> {
            self.0.maintained.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn replays(&mut self) -> Vec<(ReplayState, Counted)> {
            Vec::new()
        }

        fn detach(&mut self) {}
    }

    #[tokio::test]
    async fn an_underlay_that_says_nothing_new_of_the_next_hops_is_not_published() {
        let watcher = Watcher::start().await.unwrap();
        let calls = Arc::new(Calls::default());
        let published = Arc::new(ArcSwap::from_pointee(Policy::empty()));
        let steer = Box::new(Counting(Arc::clone(&calls)));
        let own = "192.0.2.1".parse().unwrap();
        let mut control = Control::new(published, own, HashMap::new(), steer);
        assert!(control.handle_goal(&goal(), &watcher).unwrap());
        let before = control.policy();
        control.handle_view(&UnderlayView::default(), &watcher).unwrap();
        assert!(Arc::ptr_eq(&before, &control.policy()));
        let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        // What the interfaces can do may have changed all the same.
        assert_eq!((count(&calls.published), count(&calls.maintained)), (1, 1));
    }
}
