use crate::bgp::{Links, Outward, Routers, outward};
use crate::config::GatewayConfig;
use crate::control::Control;
use crate::error::Error;
use crate::pace::Pace;
use crate::stats::Shared;
use crate::thread::WorkerThread;
use crate::wireguard::TunnelTable;
use crate::worker::{Path, Worker};
use crate::{metrics, ports};
use penstock_clock::MonotonicClock;
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_gateway_proto::{GatewayGoal, GatewayResolver, GatewayStatus, TunnelState, flow_table};
use penstock_model::{Fallback, Nanos, TunnelId};
use penstock_netlink::{Link, UnderlayView, Watcher, next_view};
use penstock_packet_io::{IdlePolicy, Poller};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

/// How often tunnels are looked at for a change, and how often status goes out without one.
const LOOK: Duration = Duration::from_millis(250);
const REPORT: Duration = Duration::from_secs(1);

/// Runs a gateway until `shutdown` is true.
///
/// Forwards by the newest goal that is valid; without one it forwards nothing. Publishes a [`GatewayStatus`] about once a second
/// and when a goal or a tunnel's state changes.
///
/// # Errors
/// The interface cannot be opened or was removed, the underlay cannot be watched, or the worker ended.
pub async fn run(
    config: GatewayConfig,
    mut goal: watch::Receiver<Option<Arc<GatewayGoal>>>,
    status: watch::Sender<GatewayStatus>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    metrics::METRICS.describe();
    let watcher = Watcher::start().await?;
    let mut views = watcher.subscribe();
    let view = views.borrow_and_update().clone();
    let link = view.link(&config.interface).ok_or_else(|| Error::NoInterface(config.interface.clone()))?;
    let opened = ports::open(&config, link)?;
    tracing::info!(interface = link.name, mode = opened.mode, "gateway interface open");

    let mut control = Control::new(config.underlay_address, Arc::clone(&view), opened.claim);
    let links = Arc::new(Links::default());
    let (worker, outward) = worker(&config, &control, opened.queues, &links)?;
    let mut worker = WorkerThread::start(worker)?;
    let mut routers = Routers::new(links, outward, config.underlay_address, config.bgp);
    let mut learned = routers.learned();
    let mut report = Report {
        status,
        mode: opened.mode,
        fallback: opened.fallback,
        interface: config.interface,
        sent: MonotonicClock::now(),
        states: Vec::new(),
    };

    let mut look = look();
    goal.mark_changed();
    let mut goals_end = false;
    let (mut pace, mut learned_due) = (Pace::default(), None);
    let mut peers = BTreeSet::new();
    loop {
        tokio::select! {
            changed = goal.changed(), if !goals_end => {
                goals_end = changed.is_err();
                let newest = goal.borrow_and_update().clone();
                if let Some(newest) = newest {
                    control.handle_goal(&newest, &watcher)?;
                    worker.wake();
                    routers.apply(control.goal());
                    report.send(&control, worker.shared(), &routers);
                }
            }
            Ok(()) = learned.changed(), if learned_due.is_none() => learned_due = Some(pace.due(MonotonicClock::now())),
            () = sleep_until(learned_due) => {
                learned_due = None;
                let newest = learned.borrow_and_update().clone();
                control.handle_learned(newest, &watcher)?;
                worker.wake();
            }
            newer = next_view(&mut views) => {
                let newer = newer?;
                still_there(link, &newer)?;
                control.handle_view(newer, &watcher)?;
                worker.wake();
            }
            _ = look.tick() => {
                solicit_peers(worker.shared(), &watcher, &mut peers);
                control.write_notes();
                report.send_if_due(&control, worker.shared(), &routers);
            }
            error = worker.ended() => return Err(error),
            () = stopped(&mut shutdown) => break,
        }
    }
    tracing::info!("gateway stops");
    routers.leave().await;
    report.send(&control, worker.shared(), &routers);
    Ok(())
}

fn look() -> tokio::time::Interval {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    look
}

/// A socket outlives its interface in silence: one of the same name is another, and needs a fresh start.
fn still_there(link: &Link, view: &UnderlayView) -> Result<(), Error> {
    if view.links().any(|now| now.index == link.index) {
        return Ok(());
    }
    Err(Error::InterfaceGone(link.name.clone()))
}

fn worker(
    config: &GatewayConfig,
    control: &Control,
    queues: Vec<Box<dyn penstock_packet_io::PacketIo>>,
    links: &Arc<Links>,
) -> Result<(Worker, Outward), Error> {
    let hops = control.plan.load().hops();
    let mut tunnels = TunnelTable::new(config.underlay_address, hops);
    let links = Arc::clone(links);
    tunnels.routers = Arc::new(move |packet| links.deliver(packet));
    let hasher = FlowHasher::new(secret()?);
    let resolver = GatewayResolver::new(Arc::clone(&control.policy), hasher, tunnels)
        .with_mappings(config.flow_capacity / 4, config.tenant_flows() / 4);
    let flows = flow_table(config.flow_capacity, config.tenant_flows());
    let engine = Port::new(resolver, flows);
    let fds: Vec<_> = queues.iter().map(|q| q.fd()).collect();
    let poller = Poller::new(&fds, IdlePolicy::default()).map_err(Error::Thread)?;
    let (outward, from_routers) = outward(poller.waker());
    let worker = Worker {
        path: Path::new(engine),
        queues,
        poller,
        plan: Arc::clone(&control.plan),
        current: None,
        shared: Arc::new(Shared::default()),
        from_routers,
        stop: Arc::new(AtomicBool::new(false)),
    };
    Ok((worker, outward))
}

/// The secret of this start's flow table.
fn secret() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(Error::Random)?;
    Ok(bytes)
}

/// Peers roam: the neighbour towards where they are now has to be resolved. `known` were asked for already; the watcher keeps them.
fn solicit_peers(shared: &Shared, watcher: &Watcher, known: &mut BTreeSet<IpAddr>) {
    let now: BTreeSet<IpAddr> = shared.get().tunnels.iter().filter_map(|t| t.endpoint).map(|e| e.ip()).collect();
    now.difference(known).for_each(|addr| watcher.solicit(*addr));
    *known = now;
}

/// Ready when `shutdown` is true, or when nobody can say so any more.
/// Never, if there is no time.
async fn sleep_until(at: Option<Nanos>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(MonotonicClock::now())).await,
        None => std::future::pending().await,
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await.map(|_| ()));
}

struct Report {
    status: watch::Sender<GatewayStatus>,
    mode: String,
    fallback: Option<Fallback>,
    interface: String,
    sent: Nanos,
    states: Vec<(TunnelId, TunnelState)>,
}

impl Report {
    fn send_if_due(&mut self, control: &Control, shared: &Shared, routers: &Routers) {
        if MonotonicClock::now().since(self.sent) >= REPORT || shared.get().states() != self.states {
            self.send(control, shared, routers);
        }
    }

    fn send(&mut self, control: &Control, shared: &Shared, routers: &Routers) {
        let snapshot = shared.get();
        metrics::record(&snapshot, (&self.interface, &self.mode), control.applied());
        metrics::record_rules(control.policy.load().acl_decisions(), control.notes_lost());
        self.states = snapshot.states();
        self.sent = MonotonicClock::now();
        let status = snapshot.status(control.applied(), &self.interface, &self.mode, control.goal_error.clone());
        let fallbacks = self.fallback.iter().cloned().collect();
        self.status.send_replace(GatewayStatus { routers: routers.statuses(), fallbacks, ..status });
    }
}
