//! Flows that the kernel replays: the agent's half attaches the programs and counts, the worker's half installs and forgets.

use crate::config::{HostConfig, UNDERLAY};
use crate::worker::Report;
use penstock_bpf::{BpfError, FlowMap, HostPoint, HostReplay, Obstacle};
use penstock_engine::Port;
use penstock_maps::{FLOW_IDLE_SECONDS, ReplayFlowKey};
use penstock_model::{DropReason, Nanos, PortId};
use penstock_slb_host::{HostResolver, Notice, flow_of};
use std::time::Duration;

/// How long after all have been looked at it begins anew. Flows are touched at least as often as their shortest idle time needs.
const PAUSE: Duration = Duration::from_secs(2);
/// Flows that were installed lately, by their keys' sums: 64 KiB.
const LATELY: usize = 4096;
/// How soon a flow may be installed again.
const AGAIN: Duration = Duration::from_secs(1);

/// How fast the flows of a map are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    /// How often some of them are.
    every: Duration,
    /// Steps at once, for a worker that has slept.
    most: usize,
}

impl Pace {
    /// How long a look at all of them takes at most: less than half of the time for which the kernel remembers one.
    const WHOLE: Duration = Duration::from_secs(8);
    /// Of small maps.
    const SLOWEST: Duration = Duration::from_millis(20);
    /// A worker that sleeps comes round ten times a second; eight seconds have as many rounds.
    const ROUNDS: usize = 80;

    fn of(capacity: usize) -> Self {
        let steps = capacity.div_ceil(FlowMap::STEP).max(1);
        let every = Self::WHOLE / u32::try_from(steps).unwrap_or(u32::MAX);
        Self { every: every.min(Self::SLOWEST), most: steps.div_ceil(Self::ROUNDS).max(64) }
    }
}

/// The agent's half: which interfaces have a program, and what they have counted.
#[derive(Debug)]
pub(crate) struct KernelReplay {
    kernel: Result<HostReplay, Obstacle>,
}

impl KernelReplay {
    /// Loads the programs, or says why not.
    pub(crate) fn start(config: &HostConfig) -> Self {
        if !config.kernel_replay {
            return Self { kernel: Err(Obstacle::wanted("it is switched off (kernel_replay)")) };
        }
        let flows = u32::try_from(config.flow_capacity).unwrap_or(u32::MAX);
        let ports = u32::try_from(config.ports.len() + 1).unwrap_or(u32::MAX);
        let kernel = HostReplay::load(config.underlay_address, flows, ports).map_err(Obstacle::from);
        if let Err(reason) = &kernel {
            tracing::warn!(%reason, "the kernel does not forward by itself: packets go by AF_PACKET");
        }
        Self { kernel }
    }

    /// The worker's half.
    pub(crate) fn flows(&self, ports: usize, capacity: usize) -> Result<Option<FlowReplay>, BpfError> {
        self.kernel.as_ref().ok().map(|kernel| Ok(FlowReplay::new(kernel.flows()?, ports, capacity))).transpose()
    }

    /// Whether a program is on the interface now: its socket is to take marked frames alone.
    pub(crate) fn attach(&mut self, id: PortId, interface: &str, ifindex: u32) -> bool {
        let Ok(kernel) = &mut self.kernel else { return false };
        let point = if id == UNDERLAY { HostPoint::Underlay } else { HostPoint::Container };
        if !kernel.is_attached(ifindex)
            && let Err(reason) = kernel.attach(ifindex, point)
        {
            tracing::warn!(interface, %reason, "the kernel does not forward what comes by it: packets go by AF_PACKET");
            return false;
        }
        tracing::info!(interface, "the kernel forwards packets of established flows");
        true
    }

    pub(crate) fn detach(&mut self, ifindex: u32) {
        if let Ok(kernel) = &mut self.kernel {
            kernel.detach(ifindex);
        }
    }

    /// A policy is in force: what was decided by others is not replayed any more.
    pub(crate) fn publish(&self, generation: u32) {
        if let Ok(kernel) = &self.kernel
            && let Err(error) = kernel.set_generation(generation)
        {
            tracing::error!(%error, "the kernel replays flows of the policy before");
        }
    }

    /// Adds what was replayed to what the worker has counted. `index` tells the device of a port.
    pub(crate) fn add_to(&self, report: &mut Report, index: impl Fn(PortId) -> Option<u32>) {
        let kernel = match &self.kernel {
            Ok(kernel) => kernel,
            Err(reason) => {
                report.obstacle = Some(reason.clone());
                return;
            }
        };
        let tallies = kernel.tallies().unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel's counters cannot be read");
            Vec::new()
        });
        report.ports.resize_with(report.ports.len().max(tallies.len()), Default::default);
        for ((id, port), tally) in (0..).map(PortId).zip(&mut report.ports).zip(tallies) {
            port.replays = index(id).is_some_and(|i| kernel.is_attached(i));
            port.replayed = tally.received;
            port.io.received += tally.received;
            port.io.received_bytes += tally.received_bytes;
            port.io.transmitted += tally.sent;
            port.io.transmitted_bytes += tally.sent_bytes;
            let ledger = &mut report.ledger;
            ledger.received += tally.received;
            ledger.received_bytes += tally.received_bytes;
            ledger.transmitted += tally.sent;
            ledger.transmitted_bytes += tally.sent_bytes;
            ledger.dropped[DropReason::AclDenied as usize] += tally.denied;
            ledger.dropped[DropReason::TransmitFailed as usize] += tally.failed;
        }
    }
}

/// The worker's half: installs flows that have settled, and tells the engine of those that the kernel replays.
#[derive(Debug)]
pub(crate) struct FlowReplay {
    map: FlowMap,
    /// The index of each port's device.
    indices: Vec<Option<u32>>,
    lately: Box<[(u64, Nanos)]>,
    /// That of the policy whose flows may be installed.
    generation: u32,
    pace: Pace,
    next: Nanos,
    /// When the looks at all flows before this one and this one began.
    began: [Nanos; 2],
    /// In the map, when all were looked at last.
    flows: usize,
    counted: usize,
    /// Flows that there was no room for.
    refused: u64,
    has_failed: bool,
}

impl FlowReplay {
    fn new(map: FlowMap, ports: usize, capacity: usize) -> Self {
        Self {
            map,
            indices: vec![None; ports],
            lately: vec![(0, Nanos(0)); LATELY].into(),
            generation: 0,
            pace: Pace::of(capacity),
            next: Nanos(0),
            began: [Nanos(0); 2],
            flows: 0,
            counted: 0,
            refused: 0,
            has_failed: false,
        }
    }

    pub(crate) fn set_port(&mut self, id: PortId, index: Option<u32>) {
        let Some(place) = self.indices.get_mut(usize::from(id.0)) else { return };
        let before = std::mem::replace(place, index);
        if before.is_some() && before != index {
            self.look_at_once();
        }
    }

    /// What flows leave by has changed: all are looked at from the beginning, without pauses between the steps.
    fn look_at_once(&mut self) {
        self.map.restart();
        (self.counted, self.next) = (0, Nanos(0));
    }

    /// Every port is as the policy of this generation found it: its flows may be installed.
    pub(crate) fn follow(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// Flows in the map, and how many there was no room for.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.flows, self.refused)
    }

    /// Does what the resolver has found out in a batch.
    pub(crate) fn take_notices(&mut self, resolver: &mut HostResolver, now: Nanos) {
        let generation = resolver.policy().generation();
        while let Some(notice) = resolver.poll_notice() {
            let index = |id: PortId| self.indices.get(usize::from(id.0)).copied().flatten();
            match notice {
                Notice::Settled(_) if generation != self.generation => {}
                Notice::Settled(replayed) => {
                    let Some((key, flow)) = replayed.entry(generation, index) else { continue };
                    if !self.is_new(&key, generation, now) {
                        continue;
                    }
                    match self.map.install(&key, &flow) {
                        Ok(installed) => self.refused += u64::from(!installed),
                        Err(error) => self.fail(&error),
                    }
                }
                Notice::Unsettled(place) => {
                    if let Some(key) = place.key(index) {
                        self.map.remove(&key);
                        self.forget(&key);
                    }
                }
            }
        }
    }

    /// Looks at a share of the flows: notes in the engine which of them have had packets, and takes out what nobody replays.
    pub(crate) fn sweep(&mut self, engine: &mut Port<HostResolver>, now: Nanos) {
        const IDLE: Duration = Duration::from_secs(FLOW_IDLE_SECONDS as u64);
        let generation = engine.resolver().policy().generation();
        for _ in 0..self.pace.most {
            if now < self.next {
                return;
            }
            let (indices, counted, since) = (&self.indices, &mut self.counted, now.since(self.began[0]));
            let step = self.map.step(|flow, key, age| {
                let out = indices.get(usize::from(flow.to)).copied().flatten();
                let goes_on = flow.generation == generation && (flow.out == 0 || out == Some(flow.out)) && age < IDLE;
                // For what was before the last look it has been touched.
                let stays = goes_on && (age > since || engine.touch(&flow_of(key, flow), now));
                *counted += usize::from(stays);
                stays
            });
            self.next = self.next.plus(self.pace.every);
            match step {
                Ok(false) => {}
                Ok(true) => {
                    (self.flows, self.counted) = (self.counted, 0);
                    self.next = now.plus(PAUSE);
                    self.began = [self.began[1], self.next];
                }
                Err(error) => {
                    self.fail(&error);
                    self.next = now.plus(PAUSE);
                }
            }
        }
    }

    /// Says once that the kernel does not do as it should.
    fn fail(&mut self, error: &BpfError) {
        if !self.has_failed {
            tracing::warn!(%error, "the kernel does not take flows: their packets go by AF_PACKET");
            self.has_failed = true;
        }
    }

    /// Whether the flow was not installed lately. Packets that the kernel leaves to user space are no reason to do it again.
    fn is_new(&mut self, key: &ReplayFlowKey, generation: u32, now: Nanos) -> bool {
        let sum = sum_of(key) ^ u64::from(generation);
        let Some(place) = self.lately.get_mut(sum_of(key) as usize % LATELY) else { return true };
        if place.0 == sum && now.since(place.1) < AGAIN {
            return false;
        }
        *place = (sum, now);
        true
    }

    fn forget(&mut self, key: &ReplayFlowKey) {
        if let Some(place) = self.lately.get_mut(sum_of(key) as usize % LATELY) {
            *place = (0, Nanos(0));
        }
    }
}

/// Tells flows apart. Who finds two alike keeps one of them from the kernel for a second.
fn sum_of(key: &ReplayFlowKey) -> u64 {
    let ports = u64::from(u32::from_ne_bytes(key.ports));
    [key.src[0], key.src[1], key.dst[0], key.dst[1], ports, u64::from(key.place), u64::from(key.protocol)]
        .iter()
        .fold(0, |sum: u64, word| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .rotate_left(20)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
