use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM, Packet, PortId};
use std::time::{Duration, Instant};

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
        let start = Instant::now();
        for (buffers, lengths) in self.memory.chunks_mut(BUFFER * BATCH).zip(self.lengths.chunks(BATCH)) {
            let mut batch: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
            for (buffer, length) in buffers.chunks_exact_mut(BUFFER).zip(lengths) {
                if let Some(packet) = Packet::new(buffer, HEADROOM, *length, self.port) {
                    batch.push(packet);
                }
            }
            process(&mut batch);
        }
        start.elapsed()
    }
}
