use crate::config::MuxConfig;
use crate::error::Error;
use penstock_mux_proto::{Idle, MuxGoal, Policy};
use penstock_routing_proto::{Prefix, RouterGoal, RouterStatus, Withheld};
use penstock_routing_server::{Inputs, ServerConfig, run};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BGP_PORT: u16 = 179;
/// Routes and withheld addresses that a status shows, at most: it is sent about once a second.
const SHOWN: usize = 100;
const DRAINED: &str = "the mux is drained";
const FAREWELL: &str = "penstock mux stops";

/// Announces virtual IPs to routers: those that work, and only once the data plane forwards them.
pub(crate) struct Announcer {
    goal: watch::Sender<Arc<RouterGoal>>,
    own: watch::Sender<Arc<BTreeSet<Prefix>>>,
    status: watch::Receiver<RouterStatus>,
    stop: watch::Sender<bool>,
    router: JoinHandle<io::Result<()>>,
    withheld: Vec<Withheld>,
    wanted: bool,
    draining: bool,
}

impl Announcer {
    pub(crate) fn start(config: &MuxConfig) -> Self {
        let (goal, goals) = watch::channel(Arc::new(RouterGoal::default()));
        let (own, owns) = watch::channel(Arc::new(BTreeSet::new()));
        let (sender, status) = watch::channel(RouterStatus::default());
        let (stop, stopping) = watch::channel(false);
        let listen = config.bgp.listen.clone();
        let server = ServerConfig {
            id: identifier(config.underlay_address),
            listen: listen.unwrap_or_else(|| vec![SocketAddr::new(config.underlay_address, BGP_PORT)]),
            drain: Duration::from_secs_f32(config.bgp.drain_seconds),
            farewell: FAREWELL.to_owned(),
            shown_routes: SHOWN,
            collectors: config.bgp.collectors.clone(),
            dump_socket: config.bgp.dump_socket.clone(),
            description: format!("Penstock mux {}", config.underlay_address),
        };
        let router = tokio::spawn(run(server, Inputs { goal: goals, own: owns }, sender, stopping));
        Self { goal, own, status, stop, router, withheld: Vec::new(), wanted: false, draining: false }
    }

    /// Peers of a goal that is in force.
    pub(crate) fn handle_goal(&mut self, goal: &MuxGoal) {
        self.wanted = goal.router.is_some();
        self.draining = goal.draining;
        let new = goal.router.clone().unwrap_or_default();
        self.goal.send_if_modified(|current| {
            let changed = **current != new;
            if changed {
                *current = Arc::new(new);
            }
            changed
        });
    }

    /// To be called after the workers and the steering program have the policy: a packet that an announcement brings here is
    /// forwarded by it.
    pub(crate) fn handle_policy(&mut self, policy: &Policy) {
        let mut own = BTreeSet::new();
        self.withheld.clear();
        for (vip, idle) in policy.idle() {
            let why = if self.draining { Some(DRAINED) } else { idle.map(Idle::sentence) };
            match why {
                None => drop(own.insert(Prefix::host(vip))),
                Some(why) if self.withheld.len() < SHOWN => {
                    self.withheld.push(Withheld { prefix: Prefix::host(vip), reason: why.to_owned() });
                }
                Some(_) => {}
            }
        }
        self.own.send_if_modified(|current| {
            let changed = **current != own;
            if changed {
                *current = Arc::new(own);
            }
            changed
        });
    }

    /// `None` without routers.
    pub(crate) fn status(&self) -> Option<RouterStatus> {
        self.wanted.then(|| RouterStatus { withheld: self.withheld.clone(), ..self.status.borrow().clone() })
    }

    /// Waits until the router ends, which it does not unless told.
    pub(crate) async fn ended(&mut self) -> Error {
        match (&mut self.router).await {
            Ok(Ok(())) => Error::Router("it was stopped".to_owned()),
            Ok(Err(error)) => Error::Router(error.to_string()),
            Err(error) => Error::Router(error.to_string()),
        }
    }

    /// Routers prefer others, then routes are withdrawn, then sessions end; the data plane goes on until then.
    pub(crate) async fn leave(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.router).await {
            tracing::error!(%error, "the router crashed while it stopped");
        }
    }
}

/// Without a data plane behind it, it must not take the time to leave.
impl Drop for Announcer {
    fn drop(&mut self) {
        self.router.abort();
    }
}

/// Any number that is the node's own does: the last four bytes of an IPv6 address, too.
fn identifier(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(a) => a,
        IpAddr::V6(a) => Ipv4Addr::from((u128::from(a) as u32).max(1)),
    }
}
