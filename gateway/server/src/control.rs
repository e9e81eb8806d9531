//! Goal and underlay become policy and tunnels, in one publication each.
use crate::error::Error;
use crate::metrics;
use crate::ports::{Claim, UNDERLAY};
use crate::wireguard::HopOf;
use arc_swap::ArcSwap;
use penstock_gateway_proto::{GatewayGoal, Learned, Policy, Tunnel, TunnelKind, UnderlayHop};
use penstock_model::{Revision, Underlay};
use penstock_netlink::{UnderlayView, Watcher};
use penstock_policy::{AclJournal, AclNote};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What the worker's tunnels are to be, and how the underlay looks to them.
pub(crate) struct TunnelPlan {
    pub(crate) goal: Arc<GatewayGoal>,
    pub(crate) view: Arc<UnderlayView>,
}

impl TunnelPlan {
    pub(crate) fn tunnels(&self) -> &[Tunnel] {
        &self.goal.tunnels
    }

    pub(crate) fn hops(&self) -> HopOf {
        let view = Arc::clone(&self.view);
        Arc::new(move |addr| hop(&view, addr))
    }
}

/// The publishing side. A goal that is refused changes nothing.
pub(crate) struct Control {
    own: IpAddr,
    goal: Arc<GatewayGoal>,
    learned: Learned,
    view: Arc<UnderlayView>,
    claim: Claim,
    pub(crate) policy: Arc<ArcSwap<Policy>>,
    pub(crate) plan: Arc<ArcSwap<TunnelPlan>>,
    pub(crate) goal_error: Option<String>,
    journal: AclJournal,
    notes: Receiver<AclNote>,
}

impl Control {
    pub(crate) fn new(own: IpAddr, view: Arc<UnderlayView>, claim: Claim) -> Self {
        let goal = Arc::new(GatewayGoal::default());
        let plan = TunnelPlan { goal: Arc::clone(&goal), view: Arc::clone(&view) };
        let (journal, notes) = AclJournal::new();
        Self {
            own,
            goal,
            learned: Learned::new(),
            view,
            claim,
            policy: Arc::new(ArcSwap::from_pointee(Policy::default().with_journal(journal.clone()))),
            plan: Arc::new(ArcSwap::from_pointee(plan)),
            goal_error: None,
            journal,
            notes,
        }
    }

    /// The goal in force.
    pub(crate) fn goal(&self) -> &GatewayGoal {
        &self.goal
    }

    /// Writes to the log what rules have decided that are logged: as much as a journal holds, so many times a second as this is
    /// called.
    pub(crate) fn write_notes(&self) {
        self.notes.try_iter().for_each(|note| tracing::info!(target: "penstock::acl", "{note}"));
    }

    /// What could not be noted.
    pub(crate) fn notes_lost(&self) -> u64 {
        self.journal.lost()
    }

    pub(crate) fn applied(&self) -> Revision {
        self.policy.load().revision()
    }

    /// # Errors
    /// The kernel refuses the steering of the goal's ports.
    pub(crate) fn handle_goal(&mut self, goal: &Arc<GatewayGoal>, watcher: &Watcher) -> Result<(), Error> {
        match self.build(goal) {
            Ok(policy) => {
                self.goal = Arc::clone(goal);
                self.goal_error = None;
                self.publish(policy, watcher)
            }
            Err(error) => {
                tracing::error!(revision = goal.revision.0, %error, "the goal is refused; the one before stays in force");
                metrics::METRICS.count_refused_goal();
                self.goal_error = Some(error.to_string());
                Ok(())
            }
        }
    }

    /// # Errors
    /// As for [`Control::handle_goal`].
    pub(crate) fn handle_view(&mut self, view: Arc<UnderlayView>, watcher: &Watcher) -> Result<(), Error> {
        self.view = view;
        match self.build(&Arc::clone(&self.goal)) {
            Ok(policy) => self.publish(policy, watcher),
            Err(error) => {
                tracing::error!(%error, "the goal in force cannot be compiled for the changed underlay");
                Ok(())
            }
        }
    }

    /// Routes that sites have told, in place of those before.
    ///
    /// # Errors
    /// As for [`Control::handle_goal`].
    pub(crate) fn handle_learned(&mut self, learned: Learned, watcher: &Watcher) -> Result<(), Error> {
        if self.learned == learned {
            return Ok(());
        }
        self.learned = learned;
        match self.build(&Arc::clone(&self.goal)) {
            Ok(policy) => self.publish(policy, watcher),
            Err(error) => {
                tracing::error!(%error, "the goal in force cannot be compiled with what sites have told");
                Ok(())
            }
        }
    }

    fn build(&self, goal: &GatewayGoal) -> Result<Policy, penstock_gateway_proto::GoalError> {
        let previous = self.policy.load();
        let build = |goal: &GatewayGoal| {
            Policy::build(goal, Underlay(self.own), UNDERLAY, |addr| hop(&self.view, addr), Some(&previous))
        };
        // What a site tells must not hold up what operators say.
        build(&goal.with_learned(&self.learned)).or_else(|error| {
            let policy = build(goal)?;
            tracing::error!(%error, "what sites have told cannot be compiled: none of it is in force");
            Ok(policy)
        })
    }

    fn publish(&mut self, policy: Policy, watcher: &Watcher) -> Result<(), Error> {
        self.claim.set(self.own, policy.listen_ports(), policy.takes_gre())?;
        policy.destinations().into_iter().for_each(|addr| watcher.solicit(addr));
        for tunnel in &self.goal.tunnels {
            if let TunnelKind::WireGuard { endpoint: Some(endpoint), .. } = &tunnel.kind {
                watcher.solicit(endpoint.ip());
            }
        }
        self.policy.store(Arc::new(policy));
        let plan = TunnelPlan { goal: Arc::clone(&self.goal), view: Arc::clone(&self.view) };
        self.plan.store(Arc::new(plan));
        Ok(())
    }
}

fn hop(view: &UnderlayView, addr: IpAddr) -> Option<UnderlayHop> {
    let hop = view.next_hop(addr)?;
    Some(UnderlayHop { eth_src: hop.eth_src, eth_dst: hop.eth_dst })
}
