//! Holds the parts of a host agent together: goal states and the kernel's tables in, policies and ports out.

use crate::config::{HostConfig, UNDERLAY};
use crate::error::Error;
use crate::fib::Fib;
use crate::probes::{self, Input, Prober};
use crate::replay::KernelReplay;
use crate::worker::{Command, Event, Report, Wiring, Worker};
use crate::{device, metrics, report};
use arc_swap::ArcSwap;
use penstock_engine::Port;
use penstock_flow::FlowHasher;
use penstock_maps::MARK;
use penstock_model::PortId;
use penstock_netlink::{Link, UnderlayView, Watcher, next_view};
use penstock_packet_io::{AfPacket, AfPacketOptions, FrameKind, IdlePolicy, Poller, SilentUdpListener, Waker};
use penstock_policy::{AclJournal, AclNote};
use penstock_slb_host::{HostGoal, HostResolver, HostStatus, Policy, ProbeStatus, Surroundings};
use penstock_wire::VXLAN_PORT;
use penstock_wire::geneve::GENEVE_PORT;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const EVENTS: usize = 256;
/// How often status and metrics are told without an occasion.
const TICK: Duration = Duration::from_secs(1);

pub(crate) struct Agent {
    config: HostConfig,
    local_ports: Vec<(PortId, String)>,
    watcher: Watcher,
    goal: Option<Arc<HostGoal>>,
    policies: Arc<ArcSwap<Policy>>,
    view: Arc<UnderlayView>,
    /// Counts views, so that flows are resolved again when the way out has changed.
    generation: u64,
    /// The index of the device that a port is attached to.
    attached: BTreeMap<PortId, u32>,
    /// Devices that were refused, so that each refusal is logged once.
    refused: BTreeMap<PortId, String>,
    commands: Sender<Command>,
    waker: Waker,
    probes: SyncSender<Input>,
    report: Arc<Mutex<Report>>,
    replay: KernelReplay,
    journal: AclJournal,
    notes: Receiver<AclNote>,
    threads: Vec<JoinHandle<Result<(), String>>>,
    _silent: [SilentUdpListener; 2],
}

/// What the agent listens to.
pub(crate) struct Ears {
    events: mpsc::Receiver<Event>,
    statuses: watch::Receiver<Vec<ProbeStatus>>,
}

impl Agent {
    /// Opens the underlay and starts the threads, in the namespace of the calling thread.
    pub(crate) fn start(config: HostConfig, watcher: Watcher) -> Result<(Self, Ears), Error> {
        let view = watcher.view();
        let underlay = view
            .link(&config.underlay_interface)
            .ok_or_else(|| Error::NoUnderlay(config.underlay_interface.clone()))?;
        let fib = Arc::new(Fib { view: view.clone(), ifindex: underlay.index });
        let silent = |port| SilentUdpListener::bind(SocketAddr::new(config.underlay_address, port));
        let silent = [
            silent(VXLAN_PORT)
                .map_err(Error::io("take UDP port 4789 of the underlay address (another VXLAN device may have it)"))?,
            silent(GENEVE_PORT)
                .map_err(Error::io("take UDP port 6081 of the underlay address (a Geneve device may have it)"))?,
        ];
        let (journal, notes) = AclJournal::new();
        let nothing = Policy::empty(config.underlay_address, UNDERLAY, fib).with_journal(journal.clone());
        let policies = Arc::new(ArcSwap::from_pointee(nothing));
        let secret = secret().map_err(Error::io("read /dev/urandom"))?;
        let (commands, command_queue) = channel();
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (probes, probe_queue) = sync_channel(probes::QUEUE.max(config.ports.len() * probes::QUEUE_PER_PORT));
        let (status_sender, statuses) = watch::channel(Vec::new());
        let report = Arc::new(Mutex::new(Report::default()));
        let wiring = Wiring {
            commands: command_queue,
            events: event_sender,
            probe_frames: probes.clone(),
            report: report.clone(),
        };
        let replay = KernelReplay::start(&config);
        let worker = worker(&config, policies.clone(), FlowHasher::new(secret), wiring, &replay)?;
        let waker = worker.waker();
        let seed = u64::from_le_bytes([
            secret[0], secret[3], secret[5], secret[7], secret[8], secret[11], secret[13], secret[15],
        ]);
        let prober = Prober::new(seed, commands.clone(), waker.clone(), status_sender);
        let threads = vec![
            spawn("pst-host", move || worker.run().map_err(|e| e.to_string()))?,
            spawn("pst-probes", move || {
                prober.run(&probe_queue);
                Ok(())
            })?,
        ];
        let local_ports = config.port_ids().map(|(id, p)| (id, p.network_interface.clone())).collect();
        let mut agent = Self {
            config,
            local_ports,
            watcher,
            goal: None,
            policies,
            view,
            generation: 0,
            attached: BTreeMap::new(),
            refused: BTreeMap::new(),
            commands,
            waker,
            probes,
            report,
            replay,
            journal,
            notes,
            threads,
            _silent: silent,
        };
        agent.check_start()?;
        agent.settle_devices();
        Ok((agent, Ears { events, statuses }))
    }

    /// What is wrong with the devices that are there is an error at the start; later it is a refusal of one port.
    fn check_start(&mut self) -> Result<(), Error> {
        for (_, port) in self.config.port_ids() {
            if let Some(link) = self.view.link(&port.device) {
                device::check_mtu(&self.config, &self.view, link).map_err(Error::Config)?;
            }
        }
        let link = self.view.link(&self.config.underlay_interface).cloned();
        match link {
            Some(link) => self.attach(UNDERLAY, &link).map_err(Error::PacketIo),
            None => Err(Error::NoUnderlay(self.config.underlay_interface.clone())),
        }
    }

    pub(crate) async fn run(
        &mut self,
        mut ears: Ears,
        mut goal: watch::Receiver<Option<Arc<HostGoal>>>,
        status: &watch::Sender<HostStatus>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let mut views = self.watcher.subscribe();
        let mut tick = tokio::time::interval(TICK);
        goal.mark_changed();
        let mut has_goals = true;
        loop {
            tokio::select! {
                changed = goal.changed(), if has_goals => {
                    // Without a controller the host goes on with what it knows.
                    has_goals = changed.is_ok();
                    let newest = goal.borrow_and_update().clone();
                    if let Some(newest) = newest {
                        self.handle_goal(newest);
                        self.tell(&ears, status);
                    }
                }
                view = next_view(&mut views) => self.handle_view(view?),
                Some(event) = ears.events.recv() => self.handle_event(event),
                Ok(()) = ears.statuses.changed() => {
                    ears.statuses.mark_unchanged();
                    self.tell(&ears, status);
                }
                _ = tick.tick() => {
                    self.check_threads()?;
                    self.settle_devices();
                    self.tell(&ears, status);
                    self.export(&ears);
                }
                stopped = shutdown.changed() => {
                    if stopped.is_err() || *shutdown.borrow_and_update() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn handle_goal(&mut self, goal: Arc<HostGoal>) {
        match self.build(&goal) {
            Ok(policy) => {
                tracing::info!(revision = goal.revision.0, networks = goal.networks.len(), "goal state applied");
                self.publish(policy);
                self.send_probes(Input::Targets(probes::targets(&goal, &self.policies.load())));
                self.goal = Some(goal);
            }
            Err(error) => {
                metrics::METRICS.count_refused_goal();
                tracing::error!(revision = goal.revision.0, %error, "goal state refused; the one before it stays");
            }
        }
    }

    fn handle_view(&mut self, view: Arc<UnderlayView>) {
        self.view = view;
        self.generation += 1;
        self.settle_devices();
        if let Some(goal) = self.goal.clone() {
            match self.build(&goal) {
                Ok(policy) => self.publish(policy),
                Err(error) => tracing::error!(%error, "goal state does not fit the underlay any more"),
            }
        }
    }

    fn build(&self, goal: &HostGoal) -> Result<Policy, penstock_slb_host::GoalError> {
        let ifindex = self.view.link(&self.config.underlay_interface).map_or(0, |l| l.index);
        let here = Surroundings {
            local_ports: &self.local_ports,
            own: self.config.underlay_address,
            underlay_port: UNDERLAY,
            fib: Arc::new(Fib { view: self.view.clone(), ifindex }),
            fib_generation: self.generation,
        };
        Policy::build(goal, &here, &self.policies.load())
    }

    fn publish(&self, policy: Policy) {
        for destination in policy.destinations() {
            self.watcher.solicit(destination);
        }
        let generation = policy.generation();
        self.policies.store(Arc::new(policy));
        self.replay.publish(generation);
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Unresolved(addr) => self.watcher.solicit(addr),
            Event::Lost { port, index, why } => {
                let device = self.device_of(port);
                tracing::warn!(port = port.0, device, why, "port lost; it is taken again when it is back");
                // Its successor may be there already.
                if self.attached.get(&port) == Some(&index) {
                    self.replay.detach(index);
                    self.attached.remove(&port);
                    self.tell_attached();
                }
            }
        }
    }

    fn device_of(&self, id: PortId) -> &str {
        let of_container = || self.config.port_ids().find(|(i, _)| *i == id).map_or("", |(_, p)| p.device.as_str());
        if id == UNDERLAY { &self.config.underlay_interface } else { of_container() }
    }

    /// Attaches what has appeared and detaches what has gone.
    fn settle_devices(&mut self) {
        let ids: Vec<PortId> = std::iter::once(UNDERLAY).chain(self.config.port_ids().map(|(id, _)| id)).collect();
        let mut changed = false;
        for id in ids {
            let link = self.view.link(self.device_of(id)).cloned();
            let held = self.attached.get(&id).copied();
            if held == link.as_ref().map(|l| l.index) {
                continue;
            }
            if let Some(index) = held {
                tracing::info!(device = self.device_of(id), "device has gone");
                self.replay.detach(index);
                self.attached.remove(&id);
                self.command(Command::Detach(id));
                changed = true;
            }
            if let Some(link) = link {
                changed |= self.try_attach(id, &link);
            }
        }
        if changed {
            self.tell_attached();
        }
    }

    fn try_attach(&mut self, id: PortId, link: &Link) -> bool {
        let refusal = match id == UNDERLAY {
            true => None,
            false => device::check_mtu(&self.config, &self.view, link).err(),
        };
        let result = match refusal {
            Some(why) => Err(why),
            None => self.attach(id, link).map_err(|e| e.to_string()),
        };
        match result {
            Ok(()) => {
                self.refused.remove(&id);
                true
            }
            Err(why) => {
                if self.refused.insert(id, why.clone()).as_ref() != Some(&why) {
                    tracing::error!(device = link.name, why, "device refused");
                }
                false
            }
        }
    }

    fn attach(&mut self, id: PortId, link: &Link) -> Result<(), penstock_packet_io::AfPacketError> {
        if id != UNDERLAY {
            device::prepare(&link.name).map_err(|source| penstock_packet_io::AfPacketError {
                interface: link.name.clone(),
                step: "silence the kernel and set it up",
                source,
            })?;
        }
        let filter = match self.replay.attach(id, &link.name, link.index) {
            true => Some(vec![FrameKind::Mark(MARK)]),
            false if id == UNDERLAY => Some([VXLAN_PORT, GENEVE_PORT].map(FrameKind::UdpDestination).to_vec()),
            false => None,
        };
        let port = AfPacket::open(&link.name, id, &AfPacketOptions { filter, ..AfPacketOptions::default() })
            .inspect_err(|_| self.replay.detach(link.index))?;
        self.attached.insert(id, link.index);
        self.command(Command::Attach(Box::new(port), link.index));
        Ok(())
    }

    fn tell_attached(&self) {
        self.send_probes(Input::Attached(self.attached.keys().copied().filter(|id| *id != UNDERLAY).collect()));
    }

    fn send_probes(&self, input: Input) {
        // Only packets may be lost; the thread takes its inputs at once, so this does not wait long.
        if self.probes.send(input).is_err() {
            tracing::error!("the probes have stopped");
        }
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("the packet worker has stopped");
        }
        self.waker.wake();
    }

    fn check_threads(&mut self) -> Result<(), Error> {
        match self.threads.iter().position(JoinHandle::is_finished) {
            Some(i) => match self.threads.remove(i).join() {
                Ok(Ok(())) => Err(Error::Worker("it ended".to_owned())),
                Ok(Err(why)) => Err(Error::Worker(why)),
                Err(_) => Err(Error::Worker("it panicked".to_owned())),
            },
            None => Ok(()),
        }
    }

    fn snapshot(&self) -> Report {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.replay.add_to(&mut report, |id| self.attached.get(&id).copied());
        report
    }

    fn tell(&self, ears: &Ears, status: &watch::Sender<HostStatus>) {
        let applied = self.policies.load().revision();
        status.send_replace(report::status(&self.config, applied, &self.snapshot(), &ears.statuses.borrow()));
    }

    fn export(&self, ears: &Ears) {
        let applied = self.policies.load().revision();
        metrics::record(&self.config, applied, &self.snapshot(), &ears.statuses.borrow());
        metrics::record_rules(self.policies.load().acl_decisions(), self.journal.lost());
        self.notes.try_iter().for_each(|note| tracing::info!(target: "penstock::acl", "{note}"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.command(Command::Stop);
        self.send_probes(Input::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn worker(
    config: &HostConfig,
    policies: Arc<ArcSwap<Policy>>,
    hasher: FlowHasher,
    wiring: Wiring,
    replay: &KernelReplay,
) -> Result<Worker, Error> {
    let flows = penstock_slb_host::flow_table(config.flow_capacity, config.ports.len());
    let replay = replay.flows(config.ports.len() + 1, config.flow_capacity)?;
    let resolver = HostResolver::new(policies, hasher);
    let resolver = if replay.is_some() { resolver.with_notices() } else { resolver };
    let engine = Port::new(resolver, flows);
    let poller = Poller::new(&[], IdlePolicy::default()).map_err(Error::io("make an eventfd"))?;
    Ok(Worker::new(engine, config.ports.len() + 1, poller, wiring, replay))
}

fn spawn(
    name: &str,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<Result<(), String>>, Error> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::io("start a thread"))
}

/// The secret of the flow hash, drawn once a start.
fn secret() -> std::io::Result<[u8; 16]> {
    let mut secret = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut secret)?;
    Ok(secret)
}
