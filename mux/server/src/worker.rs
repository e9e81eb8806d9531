use crate::segments::Segments;
use crate::stats::{self, Shared};
use penstock_clock::MonotonicClock;
use penstock_engine::{Port, Resolver};
use penstock_model::{Nanos, Packet, Verdict};
use penstock_mux_proto::MuxResolver;
use penstock_packet_io::{PacketIo, Poller};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a worker copies its counts for others to read.
const PUBLISH: Duration = Duration::from_millis(100);

/// How often a share of the flow table is looked through for what has expired. Each time costs what deciding some fifty
/// packets does, and memory that the cache would rather keep for them; a table for a million flows is through in eight seconds.
const MAINTAIN: Duration = Duration::from_millis(1);

/// One thread's share of the data plane: queue n of each interface, one engine. Runs to completion: what comes in is decided
/// and sent before anything else is taken.
pub(crate) struct Worker {
    pub(crate) engine: Port<MuxResolver>,
    /// By port id, which is the interface's place in the configuration.
    pub(crate) ports: Vec<Box<dyn PacketIo>>,
    pub(crate) poller: Poller,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) segments: Segments,
}

impl Worker {
    /// Until `stop`.
    ///
    /// # Errors
    /// An interface is gone or the kernel refuses to go on.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let (mut published, mut maintained) = (Nanos(0), Nanos(0));
        while !self.stop.load(Ordering::Relaxed) {
            let now = MonotonicClock::now();
            let received = self.round(now)?;
            if now.since(maintained) >= MAINTAIN {
                self.engine.maintain(now);
                maintained = now;
            }
            if now.since(published) >= PUBLISH {
                self.engine.resolver_mut().tell_limits();
                stats::publish(&self.shared, &self.engine, &self.ports);
                published = now;
            }
            self.poller.round(received, now)?;
        }
        self.engine.resolver_mut().tell_limits();
        stats::publish(&self.shared, &self.engine, &self.ports);
        Ok(())
    }

    fn round(&mut self, now: Nanos) -> io::Result<usize> {
        // Counters for the newest policy exist before a packet is decided by it.
        self.engine.resolver_mut().refresh(now);
        self.engine.ensure_counters(self.engine.resolver().policy().backend_counters());
        let mut received = 0;
        for index in 0..self.ports.len() {
            received += self.poll(index, now)?;
        }
        for port in &mut self.ports {
            port.flush()?;
        }
        Ok(received)
    }

    fn poll(&mut self, index: usize, now: Nanos) -> io::Result<usize> {
        let (before, rest) = self.ports.split_at_mut(index);
        let Some((port, after)) = rest.split_first_mut() else { return Ok(0) };
        let (engine, segments, own) = (&mut self.engine, &mut self.segments, port.id());
        let received = port.poll(&mut |batch| {
            segments.process(engine, batch, now);
            for packet in batch.iter() {
                match packet.verdict {
                    Verdict::Transmit(out) if out != own => hand_over(before, after, packet),
                    _ => {}
                }
            }
        })?;
        segments.drain(|out, frame| match self.ports.iter_mut().find(|p| p.id() == out) {
            // What a port does not take is in its own count of failures.
            Some(port) => drop(port.send(frame, penstock_model::Offload::default())),
            None => tracing::trace!(?out, "a segment for no port"),
        });
        Ok(received)
    }
}

/// Copies a frame to the port that it leaves by: another interface of the same worker.
fn hand_over(before: &mut [Box<dyn PacketIo>], after: &mut [Box<dyn PacketIo>], packet: &Packet<'_>) {
    let Verdict::Transmit(out) = packet.verdict else { return };
    match before.iter_mut().chain(after).find(|p| p.id() == out) {
        Some(port) => drop(port.send(packet.frame(), packet.offload)),
        None => tracing::trace!(?out, "a frame for no port"),
    }
}
