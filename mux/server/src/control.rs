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
    fn replays(&self) -> Vec<(ReplayState, Counted)>;
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
    /// For how many calls of `maintain` in a row no worker has had a flow entry, under the policy in force.
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

    /// Looks the next hops up again.
    ///
    /// # Errors
    /// The steering program is gone.
    pub(crate) fn handle_view(&mut self, view: &UnderlayView, watcher: &Watcher) -> Result<(), Error> {
        let policy = self.policy().with_next_hops(|host| next_hop(&self.ports, view, host));
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
            return self.publish(Arc::new(policy), view, watcher);
        }
        self.steer.maintain(&self.published.load(), view)
    }

    /// What the kernel forwards by itself, by port.
    pub(crate) fn replays(&self) -> Vec<(ReplayState, Counted)> {
        self.steer.replays()
    }

    fn build(&self, goal: &MuxGoal, view: &UnderlayView) -> Result<Policy, GoalError> {
        let policy = Policy::build(goal, |host| next_hop(&self.ports, view, host), self.own)?;
        Ok(policy.succeed(&self.published.load()))
    }

    /// Workers first, then the kernel's program: what is steered here is known here.
    fn publish(&mut self, policy: Arc<Policy>, view: &UnderlayView, watcher: &Watcher) -> Result<(), Error> {
        for host in policy.hosts() {
            watcher.solicit(host.0);
        }
        self.quiet = 0;
        self.retired.push(self.published.swap(Arc::clone(&policy)));
        self.steer.publish(&policy, view)
    }
}

/// `None` until the neighbour is resolved, or if the way leads over an interface that is not the mux's.
fn next_hop(ports: &HashMap<u32, PortId>, view: &UnderlayView, host: Underlay<IpAddr>) -> Option<NextHopInfo> {
    let hop = view.next_hop(host.0)?;
    let out = *ports.get(&hop.ifindex)?;
    Some(NextHopInfo { eth_src: hop.eth_src, eth_dst: hop.eth_dst, out })
}
