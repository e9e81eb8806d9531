use crate::announcer::Announcer;
use crate::config::MuxConfig;
use crate::control::Control;
use crate::error::Error;
use crate::stats::{self, Holders, Totals};
use crate::threads::Threads;
use crate::{metrics, ports};
use arc_swap::ArcSwap;
use penstock_model::PortId;
use penstock_mux_proto::{MuxGoal, MuxStatus, Policy};
use penstock_netlink::{Link, UnderlayView, Watcher, next_view};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often status and metrics are renewed.
const REPORT: Duration = Duration::from_secs(1);
/// What VXLAN adds inside the underlay MTU: outer IP, UDP, VXLAN and the inner Ethernet header.
const VXLAN_V4: u32 = 50;
const VXLAN_V6: u32 = 70;
const CLIENT_MTU: u32 = 1500;

/// Runs a mux until `shutdown` is true.
///
/// Forwards by the newest goal that is valid; without one it owns no packet. Publishes a [`MuxStatus`] about once a second
/// and at each change of the goal.
///
/// # Errors
/// An interface cannot be opened, the underlay cannot be watched, or a worker ended.
pub async fn run(
    config: MuxConfig,
    mut goal: watch::Receiver<Option<Arc<MuxGoal>>>,
    status: watch::Sender<MuxStatus>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    metrics::METRICS.describe();
    let watcher = Watcher::start().await?;
    let mut views = watcher.subscribe();
    let links = links(&config, &views.borrow_and_update())?;
    let opened = ports::open(&config, &links)?;
    tracing::info!(ports = ?opened.modes, workers = opened.workers.len(), "mux interfaces open");

    let published = Arc::new(ArcSwap::from_pointee(Policy::empty()));
    let by_index: HashMap<u32, PortId> = links.iter().map(|l| l.index).zip((0..).map(PortId)).collect();
    let mut control = Control::new(Arc::clone(&published), config.underlay_address, by_index, opened.steer);
    let mut threads = Threads::start(opened.workers, opened.foreign, &config, &published)?;
    let mut announcer = Announcer::start(&config);
    let mut report = Report { status, modes: opened.modes, interfaces: config.interfaces, holders: Holders::default() };

    let mut tick = tokio::time::interval(REPORT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    goal.mark_changed();
    let mut goals_end = false;
    loop {
        tokio::select! {
            changed = goal.changed(), if !goals_end => {
                goals_end = changed.is_err();
                let newest = goal.borrow_and_update().clone();
                if let Some(newest) = newest {
                    if control.handle_goal(&newest, &watcher)? {
                        announcer.handle_goal(&newest);
                        announcer.handle_policy(&control.policy());
                    }
                    report.publish(&control, &threads, &announcer);
                }
            }
            view = next_view(&mut views) => {
                let view = view?;
                still_there(&links, &view)?;
                control.handle_view(&view, &watcher)?;
                announcer.handle_policy(&control.policy());
            }
            _ = tick.tick() => {
                control.maintain(Totals::of(threads.shared()).flows, &watcher)?;
                report.publish(&control, &threads, &announcer);
            }
            error = threads.ended() => return Err(error),
            error = announcer.ended() => return Err(error),
            () = stopped(&mut shutdown) => break,
        }
    }
    tracing::info!("mux stops");
    report.publish(&control, &threads, &announcer);
    // Workers forward until no router sends anything any more.
    announcer.leave().await;
    Ok(())
}

/// The configured interfaces, as the kernel knows them.
fn links(config: &MuxConfig, view: &UnderlayView) -> Result<Vec<Link>, Error> {
    let needed = CLIENT_MTU + if config.underlay_address.is_ipv4() { VXLAN_V4 } else { VXLAN_V6 };
    let mut links = Vec::new();
    for name in &config.interfaces {
        let link = view.link(name).ok_or_else(|| Error::NoInterface(name.clone()))?;
        if !link.up {
            tracing::warn!(interface = %name, "the interface is down");
        }
        if link.mtu < needed {
            tracing::warn!(interface = %name, mtu = link.mtu, needed, "full packets of clients do not fit the underlay with their encapsulation: raise the MTU");
        }
        links.push(link.clone());
    }
    Ok(links)
}

/// A socket outlives its interface in silence: one of the same name is another, and needs a fresh start.
fn still_there(links: &[Link], view: &UnderlayView) -> Result<(), Error> {
    let gone = |l: &&Link| !view.links().any(|now| now.index == l.index);
    match links.iter().find(gone) {
        Some(link) => Err(Error::InterfaceGone(link.name.clone())),
        None => Ok(()),
    }
}

/// Ready when `shutdown` is true, or when nobody can say so any more.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    drop(shutdown.wait_for(|stop| *stop).await.map(|_| ()));
}

struct Report {
    status: watch::Sender<MuxStatus>,
    modes: Vec<String>,
    interfaces: Vec<String>,
    holders: Holders,
}

impl Report {
    fn publish(&mut self, control: &Control, threads: &Threads, announcer: &Announcer) {
        let policy = control.policy();
        let mut totals = Totals::of(threads.shared());
        let replays = control.replays();
        let mut modes = self.modes.clone();
        for (port, (state, counted)) in replays.iter().enumerate() {
            totals.add_replayed(port, counted);
            if let Some(mode) = modes.get_mut(port) {
                mode.push_str(&state.to_string());
            }
        }
        let services = self.holders.services(&policy, &totals);
        let backends = self.holders.backends(&policy, &totals);
        metrics::record(&policy, &totals, &self.interfaces, &services, &backends);
        metrics::record_replays(&self.interfaces, &replays);
        let goal_error = control.goal_error.clone();
        let status = stats::status(&policy, &totals, modes, &services, &backends, goal_error);
        self.status.send_replace(MuxStatus { router: announcer.status().map(Box::new), ..status });
    }
}
