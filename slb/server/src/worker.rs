//! The packet loop: one thread that owns its ports, its flows and its counters.
//!
//! The route of a packet: `Worker::round` → `PacketIo::poll` → `switch` → `Port::process`
//! (`Port::process_super` for a frame of many segments) → `hand_out`.

use crate::replay::FlowReplay;
use penstock_clock::MonotonicClock;
use penstock_engine::{FragmentCounts, Port};
use penstock_model::{Gso, HEADROOM, Ledger, Nanos, Offload, Packet, PortId, Verdict};
use penstock_packet_io::{IoStats, PacketIo, Poller, SendError, Waker};
use penstock_slb_host::{HostResolver, SnatUse, flow_group};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often statistics are published.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often commands are looked for while there is traffic; a sleeping worker is woken for them.
const COMMANDS_EVERY: Duration = Duration::from_millis(1);
/// Buckets of the flow table for which an idle round sweeps one share more: at one round a second, all within 100 seconds.
const IDLE_SWEEP: usize = 6400;
/// Room for one segment: a jumbo frame of the largest MTU that interfaces take, with its headroom.
const SEGMENT_ROOM: usize = HEADROOM + 65_536;

/// What the rest of the host agent tells a worker.
pub(crate) enum Command {
    /// A port and the index of its device.
    Attach(Box<dyn PacketIo>, u32),
    Detach(PortId),
    /// A probe's frame for the container of a port.
    Send(PortId, Vec<u8>),
    Stop,
}

/// What a worker tells the rest.
pub(crate) enum Event {
    /// A port failed and was given up, which was attached to the device of this index.
    Lost { port: PortId, index: u32, why: String },
    /// A packet found no next hop to this address.
    Unresolved(IpAddr),
}

/// What a worker has done so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) ledger: Ledger,
    pub(crate) flows: usize,
    pub(crate) resolved: u64,
    /// Frames that no port took although they were decided to be sent.
    pub(crate) unsent: u64,
    /// Packets that got their second chance at another container.
    pub(crate) passed_on: u64,
    pub(crate) fragments: FragmentCounts,
    pub(crate) snat: Vec<SnatUse>,
    /// Flows that the kernel replays, and how many it had no room for.
    pub(crate) kernel_flows: (usize, u64),
    /// Why the kernel replays nothing.
    pub(crate) obstacle: Option<penstock_bpf::Obstacle>,
    /// By [`PortId`]: whether it is attached, its mode, and its counts also from earlier attachments.
    pub(crate) ports: Vec<PortReport>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PortReport {
    pub(crate) mode: Option<&'static str>,
    pub(crate) io: IoStats,
    /// The kernel replays flows that come by it.
    pub(crate) replays: bool,
    /// Of the frames received, those that the kernel replayed.
    pub(crate) replayed: u64,
    /// Established, each direction counted.
    pub(crate) flows: u64,
}

/// The channels of a worker.
pub(crate) struct Wiring {
    pub(crate) commands: Receiver<Command>,
    pub(crate) events: tokio::sync::mpsc::Sender<Event>,
    pub(crate) probe_frames: SyncSender<crate::probes::Input>,
    pub(crate) report: Arc<Mutex<Report>>,
}

pub(crate) struct Worker {
    engine: Port<HostResolver>,
    /// By [`PortId`].
    ports: Vec<Option<Box<dyn PacketIo>>>,
    /// The index of the device that each was attached to last.
    indices: Vec<u32>,
    /// Counts of ports that were detached.
    past: Vec<IoStats>,
    poller: Poller,
    wiring: Wiring,
    segment: Vec<u8>,
    replay: Option<FlowReplay>,
    unsent: u64,
    published: Nanos,
    commanded: Nanos,
    /// That of the policy that was followed when commands were obeyed last.
    generation: u32,
}

impl Worker {
    pub(crate) fn new(
        engine: Port<HostResolver>,
        slots: usize,
        poller: Poller,
        wiring: Wiring,
        replay: Option<FlowReplay>,
    ) -> Self {
        Self {
            engine,
            ports: (0..slots).map(|_| None).collect(),
            indices: vec![0; slots],
            past: vec![IoStats::default(); slots],
            poller,
            wiring,
            segment: vec![0; SEGMENT_ROOM],
            replay,
            unsent: 0,
            published: Nanos(0),
            commanded: Nanos(0),
            generation: 0,
        }
    }

    pub(crate) fn waker(&self) -> Waker {
        self.poller.waker()
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// It cannot wait for frames any more.
    pub(crate) fn run(mut self) -> std::io::Result<()> {
        let mut slept = true;
        loop {
            let now = MonotonicClock::now();
            let generation = self.engine.resolver().policy().generation();
            if slept || generation != self.generation || now.since(self.commanded) >= COMMANDS_EVERY {
                (self.commanded, self.generation) = (now, generation);
                if !self.obey() {
                    return Ok(());
                }
                if let Some(replay) = &mut self.replay {
                    replay.follow(generation);
                }
            }
            let received = self.round(now);
            self.tell();
            self.sweep(received == 0, now);
            if let Some(replay) = &mut self.replay {
                replay.sweep(&mut self.engine, now);
            }
            if now.since(self.published) >= PUBLISH {
                self.publish(now);
            }
            slept = self.poller.round(received, now)?;
        }
    }

    /// Frees flows that have expired. A worker that has nothing else to do takes a larger share at a time, as it comes round
    /// seldom: a sweep has to be done within 18 of the shortest idle time (see `FlowTable`).
    fn sweep(&mut self, is_idle: bool, now: Nanos) {
        let shares = if is_idle { 1 + self.engine.flow_table().buckets() / IDLE_SWEEP } else { 1 };
        for _ in 0..shares {
            self.engine.maintain(now);
        }
    }

    /// Takes what each port has received through the engine. Returns how many frames there were.
    fn round(&mut self, now: Nanos) -> usize {
        let mut received = 0;
        for i in 0..self.ports.len() {
            // Taken out while it polls, so that its frames can be sent by the others.
            let Some(mut port) = self.ports.get_mut(i).and_then(Option::take) else { continue };
            let polled = port.poll(&mut |batch| self.switch(batch, now)).and_then(|n| port.flush().map(|()| n));
            match polled {
                Ok(n) => {
                    received += n;
                    if let Some(slot) = self.ports.get_mut(i) {
                        *slot = Some(port);
                    }
                }
                Err(error) => self.give_up(port, &error),
            }
        }
        self.flush();
        received
    }

    /// Decides a batch and hands it out, in order. Frames of many segments go one by one: what is encapsulated loses the help
    /// of devices and is cut by the engine, everything else stays whole.
    fn switch(&mut self, batch: &mut [Packet<'_>], now: Nanos) {
        let Self { engine, ports, unsent, segment, replay, .. } = self;
        let mut rest = batch;
        while !rest.is_empty() {
            let plain = rest.iter().position(|p| p.offload.gso != Gso::None).unwrap_or(rest.len());
            let (run, tail) = rest.split_at_mut(plain);
            engine.process(run, now);
            take_notices(replay, engine, now);
            for packet in run {
                hand_out(ports, unsent, packet);
            }
            let Some((packet, after)) = tail.split_first_mut() else { return };
            engine.process_super(packet, segment, now, &mut |p| hand_out(ports, unsent, p));
            take_notices(replay, engine, now);
            hand_out(ports, unsent, packet);
            rest = after;
        }
    }

    fn flush(&mut self) {
        for i in 0..self.ports.len() {
            let Some(slot) = self.ports.get_mut(i) else { continue };
            let Some(Err(error)) = slot.as_mut().map(|port| port.flush()) else { continue };
            if let Some(port) = slot.take() {
                self.give_up(port, &error);
            }
        }
    }

    fn obey(&mut self) -> bool {
        loop {
            match self.wiring.commands.try_recv() {
                Ok(Command::Attach(port, index)) => self.attach(port, index),
                Ok(Command::Detach(id)) => self.detach(id),
                Ok(Command::Send(out, frame)) => {
                    self.engine.resolver_mut().expect_answer(out, &frame);
                    send(&mut self.ports, &mut self.unsent, out, &frame, Offload::default());
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    return true;
                }
            }
        }
    }

    fn attach(&mut self, port: Box<dyn PacketIo>, index: u32) {
        let id = port.id();
        self.detach(id);
        self.tell_index(id, Some(index));
        if let Some(place) = self.indices.get_mut(usize::from(id.0)) {
            *place = index;
        }
        if let Some(slot) = self.ports.get_mut(usize::from(id.0)) {
            *slot = Some(port);
        }
        self.watch();
    }

    fn detach(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(usize::from(id.0)).and_then(Option::take) {
            self.retire(&*port);
            self.watch();
        }
        self.tell_index(id, None);
    }

    fn tell_index(&mut self, id: PortId, index: Option<u32>) {
        if let Some(replay) = &mut self.replay {
            replay.set_port(id, index);
        }
    }

    fn give_up(&mut self, port: Box<dyn PacketIo>, error: &std::io::Error) {
        self.retire(&*port);
        let index = self.indices.get(usize::from(port.id().0)).copied().unwrap_or_default();
        let lost = Event::Lost { port: port.id(), index, why: error.to_string() };
        drop(port);
        self.watch();
        // Ports are few and fail seldom; if the queue is full, the host agent is stopping.
        let _ = self.wiring.events.try_send(lost);
    }

    fn retire(&mut self, port: &dyn PacketIo) {
        if let Some(past) = self.past.get_mut(usize::from(port.id().0)) {
            past.add(&port.stats());
        }
    }

    fn watch(&mut self) {
        let fds: Vec<_> = self.ports.iter().flatten().map(|p| p.fd()).collect();
        self.poller.set_fds(&fds);
    }

    /// Passes on what the resolver has kept for others.
    fn tell(&mut self) {
        let resolver = self.engine.resolver_mut();
        while let Some((port, frame)) = resolver.poll_probe_frame() {
            // A full queue is a lost packet to TCP.
            let _ = self.wiring.probe_frames.try_send(crate::probes::Input::Frame(port, frame));
        }
        while let Some(addr) = resolver.poll_unresolved() {
            let _ = self.wiring.events.try_send(Event::Unresolved(addr));
        }
    }

    fn publish(&mut self, now: Nanos) {
        self.published = now;
        let flows = self.engine.flow_table();
        let ports = self.ports.iter().zip(&self.past).zip(0u16..).map(|((port, past), id)| {
            let mut io = *past;
            if let Some(port) = port {
                io.add(&port.stats());
            }
            let flows = flow_group(PortId(id)).map_or(0, |group| flows.established_of(group).into());
            PortReport { mode: port.as_ref().map(|p| p.capabilities().mode), io, flows, ..PortReport::default() }
        });
        let report = Report {
            ledger: self.engine.ledger().clone(),
            flows: self.engine.flows(),
            resolved: self.engine.resolved(),
            unsent: self.unsent,
            passed_on: self.engine.resolver().passed_on(),
            fragments: self.engine.resolver().fragments(),
            snat: self.engine.resolver().snat().collect(),
            kernel_flows: self.replay.as_ref().map(FlowReplay::counts).unwrap_or_default(),
            obstacle: None,
            ports: ports.collect(),
        };
        *self.wiring.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// Before the frames go on, so that what answers them is dealt with as they are.
fn take_notices(replay: &mut Option<FlowReplay>, engine: &mut Port<HostResolver>, now: Nanos) {
    if let Some(replay) = replay {
        replay.take_notices(engine.resolver_mut(), now);
    }
}

/// Copies a frame to the port that it leaves by. What leaves by the port that it came by is its driver's.
fn hand_out(ports: &mut [Option<Box<dyn PacketIo>>], unsent: &mut u64, packet: &mut Packet<'_>) {
    let Verdict::Transmit(out) = packet.verdict else { return };
    if out != packet.port {
        send(ports, unsent, out, packet.frame(), packet.offload);
    }
}

fn send(ports: &mut [Option<Box<dyn PacketIo>>], unsent: &mut u64, out: PortId, frame: &[u8], offload: Offload) {
    let Some(Some(port)) = ports.get_mut(usize::from(out.0)) else {
        *unsent += 1;
        return;
    };
    let mut sent = port.send(frame, offload);
    if sent == Err(SendError::NoBuffer) {
        sent = port.flush().map_err(|_| SendError::Refused).and_then(|()| port.send(frame, offload));
    }
    *unsent += u64::from(sent.is_err());
}
