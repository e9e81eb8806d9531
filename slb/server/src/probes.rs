//! Health probes: one thread for all containers of the host.

use crate::probe_stack::{Attempt, Seen, Stack};
use crate::worker::Command;
use penstock_clock::MonotonicClock;
use penstock_model::{Mac, Nanos, PortId};
use penstock_packet_io::Waker;
use penstock_slb_host::{Dampening, HostGoal, Outcome, Policy, Probe, ProbeKind, ProbeMachine, ProbeStatus};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use tokio::sync::watch;

/// Inputs that wait for the thread.
pub(crate) const QUEUE: usize = 1024;
/// As many as the packet worker lets in of one container at a time, so that all of them together fit.
pub(crate) const QUEUE_PER_PORT: usize = 64;
/// Longest wait without an input.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
const NO_DEVICE: &str = "the container's device is not there";

pub(crate) enum Input {
    /// From a container to the source of probes.
    Frame(PortId, Vec<u8>),
    /// Ports whose device is there.
    Attached(Vec<PortId>),
    /// The probes to run.
    Targets(Vec<Target>),
    Stop,
}

/// A probe with the port that it goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) probe: Probe,
    pub(crate) port: Option<(PortId, Mac)>,
}

/// The probes of a goal state that a policy has accepted.
pub(crate) fn targets(goal: &HostGoal, policy: &Policy) -> Vec<Target> {
    let port = |name: &str| policy.port_of(name).and_then(|id| Some((id, policy.mac_of(id)?)));
    goal.probes.iter().map(|p| Target { probe: p.clone(), port: port(&p.network_interface) }).collect()
}

type Key = (String, String, IpAddr);

struct Running {
    target: Target,
    machine: ProbeMachine,
    attempt: Option<Attempt>,
    detail: String,
}

pub(crate) struct Prober {
    seed: u64,
    stacks: BTreeMap<PortId, Stack>,
    attached: Vec<PortId>,
    running: BTreeMap<Key, Running>,
    commands: Sender<Command>,
    waker: Waker,
    statuses: watch::Sender<Vec<ProbeStatus>>,
}

impl Prober {
    pub(crate) fn new(
        seed: u64,
        commands: Sender<Command>,
        waker: Waker,
        statuses: watch::Sender<Vec<ProbeStatus>>,
    ) -> Self {
        Self {
            seed,
            stacks: BTreeMap::new(),
            attached: Vec::new(),
            running: BTreeMap::new(),
            commands,
            waker,
            statuses,
        }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let wait = self.poll_timeout().since(MonotonicClock::now()).min(LONGEST_WAIT);
            let mut input = match inputs.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = MonotonicClock::now();
            while let Some(next) = input {
                if !self.handle_input(next, now) {
                    return;
                }
                input = inputs.try_recv().ok();
            }
            self.handle_timeout(now);
        }
    }

    fn handle_input(&mut self, input: Input, now: Nanos) -> bool {
        match input {
            Input::Frame(port, frame) => {
                if let Some(stack) = self.stacks.get_mut(&port) {
                    stack.handle_frame(&frame);
                }
            }
            Input::Attached(ports) => {
                self.attached = ports;
                self.settle(now);
                self.report();
            }
            Input::Targets(targets) => self.set_targets(targets, now),
            Input::Stop => return false,
        }
        true
    }

    /// Probes that are as they were go on; their health is not forgotten.
    fn set_targets(&mut self, targets: Vec<Target>, now: Nanos) {
        let mut before = std::mem::take(&mut self.running);
        for (i, target) in (0u64..).zip(targets) {
            let p = &target.probe;
            let key = (p.name.clone(), p.network_interface.clone(), p.dip.0);
            let running = match before.remove(&key) {
                Some(same) if same.target == target => same,
                other => {
                    self.forget(other);
                    // Spread over a tenth of a second, so that a host full of containers does not probe in one burst.
                    let first = now.plus(Duration::from_millis(i % 100));
                    Running {
                        machine: ProbeMachine::new(interval(p), dampening(p), first),
                        attempt: None,
                        detail: "not probed yet".to_owned(),
                        target,
                    }
                }
            };
            self.running.insert(key, running);
        }
        for gone in before.into_values() {
            self.forget(Some(gone));
        }
        self.settle(now);
        self.report();
    }

    fn forget(&mut self, running: Option<Running>) {
        let Some(Running { attempt: Some(attempt), target: Target { port: Some((port, _)), .. }, .. }) = running else {
            return;
        };
        if let Some(stack) = self.stacks.get_mut(&port) {
            stack.close(&attempt);
        }
    }

    /// A stack for each port that is there and probed. What was open on one that has gone has failed.
    fn settle(&mut self, now: Nanos) {
        let ports = self.running.values().filter_map(|r| r.target.port);
        let wanted: BTreeMap<PortId, Mac> = ports.filter(|(port, _)| self.attached.contains(port)).collect();
        self.stacks.retain(|port, stack| wanted.get(port) == Some(&stack.mac()));
        for running in self.running.values_mut() {
            let has_stack = running.target.port.is_some_and(|(port, _)| self.stacks.contains_key(&port));
            if !has_stack && running.attempt.take().is_some() {
                end(&mut running.machine, &mut running.detail, (false, NO_DEVICE.to_owned()), now);
            }
        }
        for (port, mac) in wanted {
            let seed = self.seed.wrapping_add(u64::from(port.0));
            self.stacks.entry(port).or_insert_with(|| Stack::new(mac, seed, now));
        }
    }

    fn handle_timeout(&mut self, now: Nanos) {
        for stack in self.stacks.values_mut() {
            stack.handle_timeout(now);
        }
        let mut changed = false;
        for running in self.running.values_mut() {
            let stack = running.target.port.and_then(|(port, _)| self.stacks.get_mut(&port));
            changed |= step(running, stack, now);
        }
        self.transmit(now);
        if changed {
            self.report();
        }
    }

    fn transmit(&mut self, now: Nanos) {
        let mut sent = false;
        for (port, stack) in &mut self.stacks {
            stack.handle_timeout(now);
            while let Some(frame) = stack.poll_frame() {
                sent |= self.commands.send(Command::Send(*port, frame)).is_ok();
            }
        }
        if sent {
            self.waker.wake();
        }
    }

    fn poll_timeout(&mut self) -> Nanos {
        let now = MonotonicClock::now();
        let probes = self.running.values().map(|r| r.machine.poll_timeout()).min();
        let stacks = self.stacks.values_mut().filter_map(|s| s.poll_timeout(now)).min();
        probes.into_iter().chain(stacks).min().unwrap_or(Nanos(u64::MAX))
    }

    fn report(&self) {
        let status = |r: &Running| {
            Some(ProbeStatus {
                name: r.target.probe.name.clone(),
                network_interface: r.target.probe.network_interface.clone(),
                dip: r.target.probe.dip,
                healthy: r.machine.verdict()?,
                detail: r.detail.clone(),
                changes: r.machine.changes(),
            })
        };
        // What has no verdict yet is not reported: the controller keeps what it knew.
        self.statuses.send_replace(self.running.values().filter_map(status).collect());
    }
}

/// Takes one probe as far as it goes now. True if its health or what it saw has changed.
fn step(running: &mut Running, mut stack: Option<&mut Stack>, now: Nanos) -> bool {
    let Running { target, machine, attempt, detail } = running;
    let before = (machine.verdict(), detail.clone());
    if let (Some(stack), Some(open)) = (stack.as_deref_mut(), attempt.as_mut())
        && let Some(seen) = stack.judge(open, &target.probe.kind, &host_header(&target.probe))
    {
        stack.close(open);
        *attempt = None;
        end(machine, detail, seen, now);
    }
    if now >= machine.poll_timeout() {
        if let Some(late) = attempt.take() {
            *detail = format!("no answer within {} s", target.probe.interval_seconds);
            if let Some(stack) = stack.as_deref_mut() {
                stack.close(&late);
            }
        }
        machine.handle_timeout(now);
        match stack.map(|s| s.connect(target.probe.dip.0, target.probe.port)) {
            Some(Ok(open)) => *attempt = Some(open),
            Some(Err(why)) => end(machine, detail, (false, why), now),
            None => end(machine, detail, (false, NO_DEVICE.to_owned()), now),
        }
    }
    before != (machine.verdict(), detail.clone())
}

fn end(machine: &mut ProbeMachine, detail: &mut String, (success, seen): Seen, now: Nanos) {
    machine.handle_outcome(if success { Outcome::Success } else { Outcome::Failure }, now);
    *detail = match machine.waits_for(now) {
        Some(waits) => format!("{seen}; {waits}"),
        None => seen,
    };
}

fn dampening(probe: &Probe) -> Dampening {
    Dampening {
        fall: probe.count,
        rise: probe.rise.max(1),
        hold_down: Duration::from_secs(probe.hold_down_seconds.into()),
    }
}

fn interval(probe: &Probe) -> Duration {
    Duration::from_secs(probe.interval_seconds.max(1).into())
}

fn host_header(probe: &Probe) -> String {
    match (&probe.kind, probe.dip.0) {
        (ProbeKind::Tcp, _) => String::new(),
        (_, IpAddr::V4(a)) => format!("{a}:{}", probe.port),
        (_, IpAddr::V6(a)) => format!("[{a}]:{}", probe.port),
    }
}
