use penstock_engine::{Port, Resolver};
use penstock_model::{Gso, HEADROOM, Nanos, Packet, PortId, Verdict};
use penstock_wire::gso;

/// Longest segment with its encapsulation: a jumbo frame. Longer ones are dropped by name (`NoBuffer`).
const SEGMENT: usize = 10 * 1024;

/// Cuts frames that their sender left for an interface to cut (AF_PACKET hands them over whole): the encapsulation needs each
/// segment with headers of its own.
///
/// Memory: one segment, and what the frames of one batch come to, kept for the next.
#[derive(Debug)]
pub(crate) struct Segments {
    scratch: Box<[u8]>,
    frames: Vec<u8>,
    waiting: Vec<(PortId, usize)>,
}

impl Segments {
    pub(crate) fn new() -> Self {
        Self { scratch: vec![0; SEGMENT].into_boxed_slice(), frames: Vec::new(), waiting: Vec::new() }
    }

    /// Has the engine decide the batch. Segments that are to leave wait for [`Segments::drain`].
    pub(crate) fn process<R: Resolver>(&mut self, engine: &mut Port<R>, batch: &mut [Packet<'_>], now: Nanos) {
        if batch.iter().all(|p| p.offload.gso == Gso::None) {
            engine.process(batch, now);
            return;
        }
        for packet in batch {
            if packet.offload.gso == Gso::None {
                engine.process(std::slice::from_mut(packet), now);
            } else {
                self.cut(engine, packet, now);
            }
        }
    }

    /// A frame that cannot be cut goes to the engine whole, which drops it by name.
    fn cut<R: Resolver>(&mut self, engine: &mut Port<R>, packet: &mut Packet<'_>, now: Nanos) {
        let (frames, waiting) = (&mut self.frames, &mut self.waiting);
        let port = packet.port;
        let each = |buffer: &mut [u8], len: usize| {
            let Some(mut segment) = Packet::new(buffer, HEADROOM, len, port) else { return };
            engine.process(std::slice::from_mut(&mut segment), now);
            if let Verdict::Transmit(out) = segment.verdict {
                frames.extend_from_slice(segment.frame());
                waiting.push((out, segment.len()));
            }
        };
        let size = usize::from(packet.offload.gso_size);
        let cut = penstock_wire::parse(packet.frame())
            .and_then(|headers| gso::segment(packet.frame(), &headers, size, &mut self.scratch, HEADROOM, each));
        match cut {
            Ok(_) => packet.verdict = Verdict::Consumed,
            Err(_) => engine.process(std::slice::from_mut(packet), now),
        }
    }

    /// Gives away what waits, in order.
    pub(crate) fn drain(&mut self, mut send: impl FnMut(PortId, &[u8])) {
        let mut at = 0;
        for (out, len) in self.waiting.drain(..) {
            if let Some(frame) = self.frames.get(at..at + len) {
                send(out, frame);
            }
            at += len;
        }
        self.frames.clear();
    }
}
