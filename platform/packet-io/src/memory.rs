use crate::event::Event;
use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM, Offload, Packet, PortId, Verdict};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest frame of a memory port: as AF_PACKET.
const MAX_FRAME: usize = 65_536 + 18;
const TAILROOM: usize = 256;

type Frame = (Vec<u8>, Offload);

/// One direction of a memory link.
#[derive(Debug)]
struct Lane {
    frames: Mutex<VecDeque<Frame>>,
    filled: Event,
    capacity: usize,
}

impl Lane {
    fn new(capacity: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { frames: Mutex::default(), filled: Event::new()?, capacity }))
    }

    fn push(&self, frame: Frame) -> Result<(), SendError> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() >= self.capacity {
            return Err(SendError::NoBuffer);
        }
        frames.push_back(frame);
        self.filled.raise();
        Ok(())
    }

    fn take(&self) -> ArrayVec<Frame, BATCH> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let n = frames.len().min(BATCH);
        let taken = frames.drain(..n).collect();
        if frames.is_empty() {
            self.filled.lower();
        }
        taken
    }
}

/// One end of a link in memory, for tests and simulation. Offloads pass as they are.
#[derive(Debug)]
pub struct Memory {
    id: PortId,
    capabilities: Capabilities,
    inbound: Arc<Lane>,
    outbound: Arc<Lane>,
    stats: IoStats,
}

impl Memory {
    /// Two ends of one link that holds at most `capacity` frames each way; more are refused.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair(a: PortId, b: PortId, capacity: usize) -> io::Result<(Self, Self)> {
        let (to_a, to_b) = (Lane::new(capacity)?, Lane::new(capacity)?);
        let end = |id, inbound: &Arc<Lane>, outbound: &Arc<Lane>| Self {
            id,
            capabilities: Capabilities { mode: "memory", max_frame: MAX_FRAME, gso: true, partial_checksum: true },
            inbound: inbound.clone(),
            outbound: outbound.clone(),
            stats: IoStats::default(),
        };
        Ok((end(a, &to_a, &to_b), end(b, &to_b, &to_a)))
    }

    fn put(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME {
            return Err(SendError::TooLarge);
        }
        match self.outbound.push((frame.to_vec(), offload)) {
            Ok(()) => {
                self.stats.transmitted += 1;
                self.stats.transmitted_bytes += frame.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.stats.transmit_failed += 1;
                Err(error)
            }
        }
    }
}

/// Hands copies of `frames` to `handler` and the answers for this port to `answer`.
pub(crate) fn deliver(
    id: PortId,
    frames: &[Frame],
    handler: &mut dyn FnMut(&mut [Packet<'_>]),
    mut answer: impl FnMut(&[u8], Offload),
) {
    let mut buffers: ArrayVec<Vec<u8>, BATCH> = frames
        .iter()
        .take(BATCH)
        .map(|(frame, _)| {
            let mut buffer = vec![0; HEADROOM];
            buffer.extend_from_slice(frame);
            buffer.resize(buffer.len() + TAILROOM, 0);
            buffer
        })
        .collect();
    let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
    for (buffer, (frame, offload)) in buffers.iter_mut().zip(frames) {
        if let Some(mut packet) = Packet::new(buffer, HEADROOM, frame.len(), id) {
            packet.offload = *offload;
            packets.push(packet);
        }
    }
    if packets.is_empty() {
        return;
    }
    handler(&mut packets);
    for packet in packets.iter().filter(|p| p.verdict == Verdict::Transmit(id)) {
        answer(packet.frame(), packet.offload);
    }
}

impl PacketIo for Memory {
    fn id(&self) -> PortId {
        self.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let frames = self.inbound.take();
        self.stats.received += frames.len() as u64;
        self.stats.received_bytes += frames.iter().map(|(f, _)| f.len() as u64).sum::<u64>();
        let id = self.id;
        // A full link counts the loss, as the other ports do.
        deliver(id, &frames, handler, |frame, offload| {
            let _ = self.put(frame, offload);
        });
        Ok(frames.len())
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        self.put(frame, offload)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> RawFd {
        self.inbound.filled.fd()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IdlePolicy, Poller};
    use penstock_model::Nanos;

    fn drain(port: &mut Memory) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        while port.poll(&mut |batch| seen.extend(batch.iter().map(|p| p.frame().to_vec()))).unwrap() > 0 {}
        seen
    }

    #[test]
    fn frames_cross_in_order_with_headroom_and_their_offload() {
        let (mut a, mut b) = Memory::pair(PortId(1), PortId(2), 1000).unwrap();
        let offload = Offload { partial_checksum: true, checksum_start: 34, checksum_offset: 6, ..Offload::default() };
        for i in 0..100u8 {
            a.send(&[i; 60], offload).unwrap();
        }
        let mut sizes = Vec::new();
        let n = b.poll(&mut |batch| {
            sizes.push(batch.len());
            for packet in batch {
                assert!(packet.start() >= HEADROOM);
                assert_eq!((packet.offload, packet.port), (offload, PortId(2)));
                packet.verdict = Verdict::Transmit(PortId(2));
            }
        });
        assert_eq!((n.unwrap(), sizes), (BATCH, vec![BATCH]));
        assert_eq!(drain(&mut b), (BATCH as u8..100).map(|i| vec![i; 60]).collect::<Vec<_>>());
        assert_eq!(drain(&mut a), (0..BATCH as u8).map(|i| vec![i; 60]).collect::<Vec<_>>(), "sent back");
    }

    #[test]
    fn a_full_link_refuses_and_counts() {
        let (mut a, _b) = Memory::pair(PortId(1), PortId(2), 2).unwrap();
        let results: Vec<_> = (0..3).map(|_| a.send(&[0; 60], Offload::default())).collect();
        assert_eq!(results, [Ok(()), Ok(()), Err(SendError::NoBuffer)]);
        assert_eq!((a.stats().transmitted, a.stats().transmit_failed), (2, 1));
    }

    #[test]
    fn a_frame_ends_the_sleep_of_the_receiver() {
        let (mut a, b) = Memory::pair(PortId(1), PortId(2), 2).unwrap();
        let long = std::time::Duration::from_secs(20);
        let policy = IdlePolicy { spin: std::time::Duration::ZERO, first_sleep: long, longest_sleep: long };
        let mut poller = Poller::new(&[b.fd()], policy).unwrap();
        a.send(&[0; 60], Offload::default()).unwrap();
        let start = std::time::Instant::now();
        assert!(poller.round(0, Nanos(1)).unwrap());
        assert!(start.elapsed() < long / 2);
    }
}
