//! One BGP speaker for each router of a tenant, in tasks of their own.
use super::link::{Links, Outward};
use super::transport::{Sites, TunnelTcp};
use crate::config::BgpConfig;
use penstock_gateway_proto::{GatewayGoal, Learned, TenantRouter, TenantRouterStatus};
use penstock_routing_proto::{Prefix, RouterGoal, RouterStatus};
use penstock_routing_server::{Inputs, Outputs, ServerConfig, run_over};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Routes that a router's status shows, at most: it is sent about once a second.
const SHOWN: usize = 100;
/// Bytes of attributes that a site's route may have: some 200 ASes and communities.
const ATTRIBUTE_BYTES: u32 = 1024;
const FAREWELL: &str = "penstock gateway stops";
/// For the last words to go out, when the gateway stops.
const LEAVE: Duration = Duration::from_secs(3);

pub(crate) struct Routers {
    links: Arc<Links>,
    outward: Outward,
    id: Ipv4Addr,
    own: IpAddr,
    config: BgpConfig,
    running: BTreeMap<String, Running>,
    learned: watch::Sender<Learned>,
}

struct Running {
    goal: watch::Sender<Arc<RouterGoal>>,
    own: watch::Sender<Arc<BTreeSet<Prefix>>>,
    sites: watch::Sender<Arc<Sites>>,
    status: watch::Receiver<RouterStatus>,
    stop: watch::Sender<bool>,
    task: JoinHandle<io::Result<()>>,
}

impl Routers {
    /// `own`: the gateway's underlay address, whose last four bytes name routers that are given no identifier.
    pub(crate) fn new(links: Arc<Links>, outward: Outward, own: IpAddr, config: BgpConfig) -> Self {
        let id = match own {
            IpAddr::V4(own) => own,
            IpAddr::V6(own) => Ipv4Addr::from((u128::from(own) as u32).max(1)),
        };
        let (learned, _) = watch::channel(Learned::new());
        Self { links, outward, id, own, config, running: BTreeMap::new(), learned }
    }

    /// What all of them have learned.
    pub(crate) fn learned(&self) -> watch::Receiver<Learned> {
        self.learned.subscribe()
    }

    /// Makes the routers those of a goal that is in force.
    pub(crate) fn apply(&mut self, goal: &GatewayGoal) {
        let wanted: BTreeMap<&str, &TenantRouter> = goal.routers.iter().map(|r| (r.name.as_str(), r)).collect();
        let gone: Vec<String> = self.running.keys().filter(|n| !wanted.contains_key(n.as_str())).cloned().collect();
        for name in gone {
            if let Some(running) = self.running.remove(&name) {
                // It says goodbye by itself.
                running.stop.send_replace(true);
            }
            self.learned.send_modify(|learned| drop(learned.remove(&name)));
        }
        for router in &goal.routers {
            match self.running.get(&router.name) {
                Some(running) => running.change(router),
                None => drop(self.running.insert(router.name.clone(), self.start(router))),
            }
        }
    }

    fn start(&self, router: &TenantRouter) -> Running {
        let (goal, goals) = watch::channel(Arc::new(bounded(&router.goal)));
        let (own, owns) = watch::channel(Arc::new(router.own.clone()));
        let (sites, of_peers) = watch::channel(Arc::new(router.sites.clone()));
        let (sender, status) = watch::channel(RouterStatus::default());
        let (stop, stopping) = watch::channel(false);
        let config = ServerConfig {
            id: self.id,
            listen: Vec::new(),
            drain: Duration::ZERO,
            farewell: FAREWELL.to_owned(),
            shown_routes: SHOWN,
            collectors: self.config.collectors.clone(),
            dump_socket: self.config.dump_directory.as_ref().map(|d| d.join(socket_name(&router.name))),
            description: format!("Penstock gateway {}, router {}", self.own, router.name),
        };
        let tcp = TunnelTcp::new(Arc::clone(&self.links), self.outward.clone(), of_peers);
        let (learned, name) = (self.learned.clone(), router.name.clone());
        let is_stopping = stopping.clone();
        let chosen = move |routes| {
            // Once it is told to stop, nothing is its own to say: told before what it has said is forgotten, under one lock.
            learned.send_modify(|learned| {
                if !*is_stopping.borrow() {
                    learned.insert(name.clone(), routes);
                }
            });
        };
        let outputs = Outputs { status: sender, chosen: Some(Box::new(chosen)) };
        let task = tokio::spawn(run_over(tcp, config, Inputs { goal: goals, own: owns }, outputs, stopping));
        Running { goal, own, sites, status, stop, task }
    }

    pub(crate) fn statuses(&self) -> Vec<TenantRouterStatus> {
        let of = |(name, running): (&String, &Running)| TenantRouterStatus {
            name: name.clone(),
            status: running.status.borrow().clone(),
        };
        self.running.iter().map(of).collect()
    }

    /// Ends all sessions with words; the data plane goes on until then.
    pub(crate) async fn leave(&mut self) {
        let running = std::mem::take(&mut self.running);
        for router in running.values() {
            router.stop.send_replace(true);
        }
        let all = async {
            for (name, running) in running {
                if let Err(error) = running.task.await {
                    tracing::error!(router = name, %error, "the router crashed while it stopped");
                }
            }
        };
        if tokio::time::timeout(LEAVE, all).await.is_err() {
            tracing::warn!("sites were not told in time that the gateway stops");
        }
    }
}

impl Running {
    /// The tunnels first: they are read when the goal is.
    fn change(&self, router: &TenantRouter) {
        let moved = self.sites.send_if_modified(|sites| replace(sites, &router.sites));
        self.own.send_if_modified(|own| replace(own, &router.own));
        self.goal.send_if_modified(|goal| replace(goal, &bounded(&router.goal)) | moved);
    }
}

/// Names of resources have no slash, and the router's has one.
fn socket_name(router: &str) -> String {
    format!("{}.sock", router.replace('/', "."))
}

/// The goal with the bounds that a gateway sets to what a site may fill.
fn bounded(goal: &RouterGoal) -> RouterGoal {
    let mut goal = goal.clone();
    for peer in &mut goal.peers {
        peer.max_attribute_bytes.get_or_insert(ATTRIBUTE_BYTES);
    }
    goal
}

fn replace<T: PartialEq + Clone>(place: &mut Arc<T>, new: &T) -> bool {
    let changed = **place != *new;
    if changed {
        *place = Arc::new(new.clone());
    }
    changed
}
