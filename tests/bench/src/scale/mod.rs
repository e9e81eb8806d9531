//! A large site: 10,000 virtual IPs with 10 ports each, for 100 tenants with 1,000 rules each, over 100,000 containers; and a tenth of it,
//! to be compared with. Every virtual IP has a pool of its own of 10 containers.
//!
//! Timed, one after the other on one core, as the controller and a mux do it: the plan, what the planner keeps, the goal, the mux's
//! policy; for the whole site when nothing was there before, and for one backend that fails. Not timed: the API, the store's disk, the link between
//! controller and mux. `change` is the sum for one backend.
mod site;

use crate::report::{Report, Row};
use penstock_clock::MonotonicClock;
use penstock_model::{Mac, PortId, Underlay};
use penstock_mux_proto::{MuxGoal, NextHopInfo, Policy};
use penstock_slb_proto::{Health, LbIntent, Planner};
use site::{goal, intent, probe_of, replace_containers};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// Changes of one backend, of which the median and the worst are told.
const CHANGES: usize = 11;

pub(crate) fn run(report: &mut Report) {
    for vips in [1000, 10_000] {
        if report.wants(&format!("scale/{vips}/")) {
            let mut site = Site::new(vips, report);
            site.changes();
            site.replacement();
        }
    }
    report.note("scale: virtual IPs after the name's slash; 10 rules and 10 containers each; one core; `change` is one backend that fails or returns, from plan to policy.");
}

struct Site<'a> {
    vips: u32,
    intent: LbIntent,
    planner: Planner,
    policy: Policy,
    report: &'a mut Report,
}

/// Milliseconds since `start`.
fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn build(goal: &MuxGoal) -> Policy {
    let hop = NextHopInfo { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]), out: PortId(0) };
    Policy::build(goal, |_| Some(hop), Underlay(OWN)).expect("a valid goal")
}

impl<'a> Site<'a> {
    fn new(vips: u32, report: &'a mut Report) -> Self {
        let mut site =
            Self { vips, intent: intent(vips), planner: Planner::default(), policy: Policy::empty(), report };
        let before = resident_mib();
        let start = Instant::now();
        let plan = site.planner.plan(&site.intent, &Health::default(), MonotonicClock::now()).expect("a valid intent");
        site.add("plan", ms(start), Some(resident_mib() - before));
        let start = Instant::now();
        let kept = serde_json::to_vec(&site.planner).expect("plain data");
        site.add("keep", ms(start), Some(kept.len() as f64 / MIB));
        drop(kept);
        let start = Instant::now();
        let goal = goal(&plan);
        site.add("goal", ms(start), None);
        let start = Instant::now();
        let text = serde_json::to_vec(&goal).expect("plain data");
        site.add("goal-message", ms(start), Some(text.len() as f64 / MIB));
        drop(text);
        let before = resident_mib();
        let start = Instant::now();
        site.policy = build(&goal);
        site.add("policy", ms(start), Some(resident_mib() - before));
        site
    }

    /// One backend fails, returns, and so on, each time another one.
    fn changes(&mut self) {
        let mut costs: [Vec<f64>; 5] = Default::default();
        for n in 0..CHANGES {
            let health: Health = [(probe_of((n / 2) as u32 * 37), n % 2 == 1)].into_iter().collect();
            let start = Instant::now();
            let mut planner = self.planner.clone();
            let plan = planner.plan(&self.intent, &health, MonotonicClock::now()).expect("a valid intent");
            self.planner = planner;
            let planned = ms(start);
            let kept = serde_json::to_vec(&self.planner).expect("plain data");
            let kept_after = ms(start);
            drop(kept);
            let start = Instant::now();
            let goal = goal(&plan);
            let made = ms(start);
            self.policy = build(&goal).succeed(&self.policy);
            let live = ms(start);
            let parts = [planned, kept_after - planned, made, live - made, kept_after + live];
            costs.iter_mut().zip(parts).for_each(|(list, cost)| list.push(cost));
        }
        for (name, mut list) in
            ["change/plan", "change/keep", "change/goal", "change/policy", "change"].iter().zip(costs)
        {
            list.sort_by(f64::total_cmp);
            let name = format!("scale/{}/{name}", self.vips);
            let range = list.first().copied().zip(list.last().copied());
            self.report.add(Row { name, ms: list.get(CHANGES / 2).copied(), range, ..Row::default() });
        }
    }

    /// All containers are replaced by others at once.
    fn replacement(&mut self) {
        replace_containers(&mut self.intent);
        let start = Instant::now();
        self.planner.plan(&self.intent, &Health::default(), MonotonicClock::now()).expect("a valid intent");
        self.add("replacement/plan", ms(start), None);
    }

    fn add(&mut self, name: &str, ms: f64, mib: Option<f64>) {
        let name = format!("scale/{}/{name}", self.vips);
        self.report.add(Row { name, ms: Some(ms), mib, ..Row::default() });
    }
}

const MIB: f64 = (1 << 20) as f64;

/// Memory of this process that is in use.
fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as f64 / MIB
}
