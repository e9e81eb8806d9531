use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::memory::deliver;
use arrayvec::ArrayVec;
use penstock_model::{BATCH, Offload, Packet, PortId, Verdict};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// What happens to received frames, in thousandths of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    pub loss: u16,
    pub duplication: u16,
    /// Held back, so that later frames overtake them.
    pub reordering: u16,
    /// For how many polls at most a frame is held back; at least one.
    pub hold: u8,
}

/// What was done to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
}

/// A small generator of pseudo-random numbers (splitmix64): the same seed gives the same faults.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn thousandth(&mut self, n: u16) -> bool {
        self.next() % 1000 < u64::from(n)
    }
}

#[derive(Debug)]
struct Held {
    polls_left: u8,
    frame: (Vec<u8>, Offload),
}

/// A port whose received frames suffer seeded loss, duplication, delay and reordering. For tests: it allocates.
///
/// Frames that were held back come with a later `poll`, also when the port below is silent; [`PacketIo::fd`] does not
/// tell of them.
#[derive(Debug)]
pub struct Faulty<P> {
    below: P,
    faults: Faults,
    dice: Dice,
    held: VecDeque<Held>,
    counts: FaultCounts,
}

impl<P: PacketIo> Faulty<P> {
    pub fn new(below: P, faults: Faults, seed: u64) -> Self {
        Self { below, faults, dice: Dice(seed), held: VecDeque::new(), counts: FaultCounts::default() }
    }

    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    pub fn below(&self) -> &P {
        &self.below
    }

    /// Delivers the frames whose time has come.
    fn release(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> usize {
        for held in &mut self.held {
            held.polls_left = held.polls_left.saturating_sub(1);
        }
        let mut due = ArrayVec::<_, BATCH>::new();
        while !due.is_full() {
            let Some(i) = self.held.iter().position(|h| h.polls_left == 0) else { break };
            due.extend(self.held.remove(i).map(|h| h.frame));
        }
        let below = &mut self.below;
        deliver(below.id(), &due, handler, |frame, offload| {
            // The port below counts what it cannot take.
            let _ = below.send(frame, offload);
        });
        due.len()
    }
}

/// Decides for each frame; what goes on is moved to the front, the rest is marked as dealt with. Returns how many go on.
fn afflict(
    packets: &mut [Packet<'_>],
    faults: Faults,
    dice: &mut Dice,
    held: &mut VecDeque<Held>,
    counts: &mut FaultCounts,
) -> usize {
    let mut going_on = 0;
    for i in 0..packets.len() {
        let Some(packet) = packets.get_mut(i) else { break };
        let mut hold = |packet: &Packet<'_>, dice: &mut Dice| {
            let polls_left = 1 + (dice.next() % u64::from(faults.hold.max(1))) as u8;
            held.push_back(Held { polls_left, frame: (packet.frame().to_vec(), packet.offload) });
        };
        let (lose, double, delay) =
            (dice.thousandth(faults.loss), dice.thousandth(faults.duplication), dice.thousandth(faults.reordering));
        if lose {
            counts.lost += 1;
            packet.verdict = Verdict::Consumed;
            continue;
        }
        if double {
            counts.duplicated += 1;
            hold(packet, dice);
        }
        if delay {
            counts.reordered += 1;
            hold(packet, dice);
            packet.verdict = Verdict::Consumed;
            continue;
        }
        packets.swap(going_on, i);
        going_on += 1;
    }
    going_on
}

impl<P: PacketIo> PacketIo for Faulty<P> {
    fn id(&self) -> PortId {
        self.below.id()
    }

    fn capabilities(&self) -> &Capabilities {
        self.below.capabilities()
    }

    /// As below; held frames come in a call of `handler` of their own.
    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let released = self.release(handler);
        let Self { below, faults, dice, held, counts } = self;
        let mut arrived = 0;
        below.poll(&mut |packets| {
            arrived = afflict(packets, *faults, dice, held, counts);
            if let Some(rest) = packets.get_mut(..arrived).filter(|r| !r.is_empty()) {
                handler(rest);
            }
        })?;
        Ok(released + arrived)
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        self.below.send(frame, offload)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }

    fn fd(&self) -> RawFd {
        self.below.fd()
    }

    fn stats(&self) -> IoStats {
        self.below.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    fn run(faults: Faults, seed: u64) -> (Vec<u32>, FaultCounts) {
        let (mut a, b) = Memory::pair(PortId(1), PortId(2), 1000).unwrap();
        let mut faulty = Faulty::new(b, faults, seed);
        let mut seen = Vec::new();
        for round in 0..120u32 {
            if round < 100 {
                for i in 0..10 {
                    a.send(&(round * 10 + i).to_be_bytes(), Offload::default()).unwrap();
                }
            }
            faulty
                .poll(&mut |batch| {
                    seen.extend(batch.iter().map(|p| u32::from_be_bytes(p.frame().try_into().unwrap())));
                })
                .unwrap();
        }
        (seen, faulty.counts())
    }

    #[test]
    fn without_faults_everything_arrives_in_order() {
        let (seen, counts) = run(Faults::default(), 1);
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert_eq!(counts, FaultCounts::default());
    }

    #[test]
    fn faults_are_counted_and_frames_are_conserved() {
        let (seen, counts) = run(Faults { loss: 100, duplication: 50, reordering: 200, hold: 4 }, 42);
        assert_eq!(seen.len() as u64, 1000 - counts.lost + counts.duplicated);
        assert!((60..140).contains(&counts.lost), "{counts:?}");
        assert!((20..80).contains(&counts.duplicated), "{counts:?}");
        assert!((120..240).contains(&counts.reordered), "{counts:?}");
        assert!(!seen.is_sorted());
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults { loss: 50, duplication: 50, reordering: 50, hold: 3 };
        assert_eq!(run(faults, 7), run(faults, 7));
        assert_ne!(run(faults, 7).0, run(faults, 8).0);
    }
}
