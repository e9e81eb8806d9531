use crate::announcer::Announcer;
use crate::config::MuxConfig;
use crate::control::Control;
use crate::error::Error;
use crate::stats::{self, Holders, Totals};
use crate::threads::Threads;
use crate::{metrics, ports};
use arc_swap::ArcSwap;
use penstock_model::{Fallback, PortId};
use penstock_mux_proto::{MuxGoal, MuxStatus, Policy};
use penstock_netlink::{Link, UnderlayView, Watcher, next_view};
use penstock_wire::VXLAN_HEADER_LEN;
use penstock_wire::geneve::MAX_GENEVE_LEN;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often status and metrics are renewed.
const REPORT: Duration = Duration::from_secs(1);
const CLIENT_MTU: u32 = 1500;

/// Runs a mux until `shutdown` is true.
///
/// Forwards by the newest goal that is valid; without one it owns no packet. Publishes a [`MuxStatus`] about once a second
/// and at each change of the goal.
///
/// # Errors
/// An interface cannot be opened, the underlay cannot be watched, or a worker ended. The kernel's program stays then, as it does
/// when the future is dropped or the process dies, and forwards for [`LEASE`](crate::config::LEASE) at most.
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
    let mut report = Report {
        status,
        modes: opened.modes,
        fallbacks: opened.fallbacks,
        interfaces: config.interfaces,
        holders: Holders::default(),
    };

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
                    report.publish(&mut control, &threads, &announcer);
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
                report.publish(&mut control, &threads, &announcer);
            }
            error = threads.ended() => return Err(error),
            error = announcer.ended() => return Err(error),
            () = stopped(&mut shutdown) => break,
        }
    }
    tracing::info!("mux stops");
    report.publish(&mut control, &threads, &announcer);
    // Workers forward until no router sends anything any more.
    announcer.leave().await;
    control.detach();
    Ok(())
}

/// The configured interfaces, as the kernel knows them.
fn links(config: &MuxConfig, view: &UnderlayView) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    for name in &config.interfaces {
        let link = view.link(name).ok_or_else(|| Error::NoInterface(name.clone()))?;
        if !link.up {
            tracing::warn!(interface = %name, "the interface is down");
        }
        if let Some((needed, lost)) = too_small_for(link.mtu, config.underlay_address.is_ipv4()) {
            tracing::warn!(interface = %name, mtu = link.mtu, needed, "{lost} do not fit the underlay: raise the MTU");
        }
        links.push(link.clone());
    }
    Ok(links)
}

/// The MTU that an underlay needs for all that a mux sends of clients' full packets, and what is lost for want of it.
fn too_small_for(mtu: u32, is_ipv4: bool) -> Option<(u32, &'static str)> {
    let ip = if is_ipv4 { 20 } else { 40 };
    // With the UDP header and the inner Ethernet header.
    let with = |tunnel: usize| CLIENT_MTU + ip + 8 + tunnel as u32 + 14;
    let (plain, longest) = (with(VXLAN_HEADER_LEN), with(MAX_GENEVE_LEN));
    if mtu < plain {
        Some((longest, "full packets of clients with their encapsulation"))
    } else if mtu < longest {
        let lost = "full packets of clients that name three next owners of IPv6, as while slots change hands,";
        Some((longest, lost))
    } else {
        None
    }
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
    fallbacks: Vec<Fallback>,
    interfaces: Vec<String>,
    holders: Holders,
}

impl Report {
    fn publish(&mut self, control: &mut Control, threads: &Threads, announcer: &Announcer) {
        let policy = control.policy();
        let mut totals = Totals::of(threads.shared());
        let replays = control.replays();
        let of = |(name, mode): (&String, &String)| format!("{name}: {mode}");
        let mut modes: Vec<String> = self.interfaces.iter().zip(&self.modes).map(of).collect();
        let mut fallbacks = self.fallbacks.clone();
        for (port, (state, counted)) in replays.iter().enumerate() {
            totals.add_replayed(port, counted);
            if let Some(mode) = modes.get_mut(port) {
                mode.push_str(&state.to_string());
            }
            if let (Some(name), Some(obstacle)) = (self.interfaces.get(port), &state.obstacle) {
                fallbacks.extend(stats::fallback(name, "kernel replay", obstacle));
            }
        }
        let services = self.holders.services(&policy, &totals);
        let backends = self.holders.backends(&policy, &totals);
        metrics::record(&policy, &totals, (&self.interfaces, &self.modes), &services, &backends);
        metrics::record_replays(&self.interfaces, &replays);
        let goal_error = control.goal_error.clone();
        let status = stats::status(&policy, &totals, modes, &services, &backends, goal_error);
        let router = announcer.status().map(Box::new);
        self.status.send_replace(MuxStatus { router, fallbacks, ..status });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_engine::EncapTemplate;
    use penstock_model::{Addr16, Mac, Underlay, Vni};
    use penstock_wire::geneve::NextOwners;

    #[test]
    fn an_underlay_is_large_enough_for_the_longest_encapsulation_and_what_it_lacks_is_told() {
        for (own, plain, longest) in [("192.0.2.1", 1550, 1602), ("2001:db8::1", 1570, 1622)] {
            let own: std::net::IpAddr = own.parse().unwrap();
            let vxlan = EncapTemplate::vxlan(Underlay(own), Underlay(own), Vni::MAX, Mac::ZERO, Mac::ZERO, PortId(0));
            let next = NextOwners::new([Addr16([0x20; 16]); 3]);
            // Of the template the outer Ethernet header does not count, of the frame inside its own does.
            let sent = |template: &EncapTemplate| CLIENT_MTU + template.bytes().len() as u32;
            let vxlan = vxlan.unwrap();
            assert_eq!((sent(&vxlan), sent(&vxlan.naming(&next))), (plain, longest));
            let told = |mtu| too_small_for(mtu, own.is_ipv4());
            assert!(told(plain - 1).is_some_and(|(needed, lost)| needed == longest && lost.ends_with("encapsulation")));
            assert!(told(plain).is_some_and(|(needed, lost)| needed == longest && lost.contains("three next owners")));
            assert!(told(longest - 1).is_some());
            assert_eq!(told(longest), None);
        }
    }
}
