use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM, Packet, PortId};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Buffers, as many as a driver's ring holds, of the size that drivers use.
const BUFFERS: usize = 2048;
const BUFFER: usize = 2048;

/// Packet buffers that are written anew before each round.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: Vec<u8>,
    lengths: Vec<usize>,
    port: PortId,
}

impl Pool {
    pub(crate) const PACKETS: usize = BUFFERS;

    pub(crate) fn new(port: PortId) -> Self {
        Self { memory: vec![0; BUFFERS * BUFFER], lengths: vec![0; BUFFERS], port }
    }

    /// Writes a frame into each buffer; `write` returns its length.
    pub(crate) fn fill(&mut self, mut write: impl FnMut(&mut [u8]) -> usize) {
        for (buffer, length) in self.memory.chunks_exact_mut(BUFFER).zip(&mut self.lengths) {
            *length = write(&mut buffer[HEADROOM..]);
        }
    }

    /// Hands all frames to `process` in batches and says how long that took.
    pub(crate) fn run(&mut self, mut process: impl FnMut(&mut [Packet<'_>])) -> Duration {
        let start = processor_time();
        for (buffers, lengths) in self.memory.chunks_mut(BUFFER * BATCH).zip(self.lengths.chunks(BATCH)) {
            let mut batch: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
            for (buffer, length) in buffers.chunks_exact_mut(BUFFER).zip(lengths) {
                if let Some(packet) = Packet::new(buffer, HEADROOM, *length, self.port) {
                    batch.push(packet);
                }
            }
            process(&mut batch);
        }
        processor_time() - start
    }
}

/// Time that this thread had a processor: others that run on the machine do not count, but for what they do to its caches.
pub(crate) fn processor_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}
