use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::pcap::{Direction, PcapWriter};
use penstock_model::{Offload, Packet, PortId, Verdict};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::time::Duration;

/// A port that writes all that passes into a pcapng capture. A frame whose checksum or segmentation was left to others
/// stands there as it is. When the capture cannot be written any more, traffic goes on and [`Tap::lost`] counts.
pub struct Tap<P, W> {
    below: P,
    capture: PcapWriter<W>,
    clock: Box<dyn FnMut() -> Duration + Send>,
    lost: u64,
}

impl<P: fmt::Debug, W> fmt::Debug for Tap<P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("below", &self.below).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl<P: PacketIo, W: Write + Send> Tap<P, W> {
    /// `clock` tells the time since 1970.
    ///
    /// # Errors
    /// The capture cannot be written.
    pub fn new(below: P, capture: W, clock: impl FnMut() -> Duration + Send + 'static) -> io::Result<Self> {
        Ok(Self { below, capture: PcapWriter::new(capture)?, clock: Box::new(clock), lost: 0 })
    }

    /// Frames that are not in the capture.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub fn below(&self) -> &P {
        &self.below
    }
}

impl<P: PacketIo, W: Write + Send> PacketIo for Tap<P, W> {
    fn id(&self) -> PortId {
        self.below.id()
    }

    fn capabilities(&self) -> &Capabilities {
        self.below.capabilities()
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let Self { below, capture, clock, lost } = self;
        let own = Verdict::Transmit(below.id());
        below.poll(&mut |packets| {
            let now = clock();
            let mut write = |direction, frame: &[u8]| *lost += u64::from(capture.write(now, direction, frame).is_err());
            packets.iter().for_each(|p| write(Direction::In, p.frame()));
            handler(packets);
            packets.iter().filter(|p| p.verdict == own).for_each(|p| write(Direction::Out, p.frame()));
        })
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        self.below.send(frame, offload)?;
        let now = (self.clock)();
        self.lost += u64::from(self.capture.write(now, Direction::Out, frame).is_err());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()?;
        if self.capture.flush().is_err() {
            self.lost += 1;
        }
        Ok(())
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
    use crate::{Memory, PcapFile, PcapReader};
    use penstock_model::Gso;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut reader = PcapReader::new(bytes).unwrap();
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    fn capture() -> Vec<u8> {
        let (mut a, b) = Memory::pair(PortId(1), PortId(2), 100).unwrap();
        let out = Shared::default();
        let mut tap = Tap::new(b, out.clone(), || Duration::new(1_700_000_000, 5)).unwrap();
        a.send(&[1; 61], Offload::default()).unwrap();
        a.send(&[2; 62], Offload::default()).unwrap();
        tap.poll(&mut |packets| packets[1].verdict = Verdict::Transmit(PortId(2))).unwrap();
        tap.send(&[3; 1400], Offload::default()).unwrap();
        let bytes = out.0.lock().unwrap().clone();
        assert_eq!(tap.lost(), 0);
        bytes
    }

    #[test]
    fn a_capture_holds_what_came_in_and_what_went_out() {
        assert_eq!(frames(&capture()), [vec![1; 61], vec![2; 62], vec![2; 62], vec![3; 1400]]);
    }

    #[test]
    fn tcpdump_reads_the_capture_with_its_times() {
        let path = std::env::temp_dir().join(format!("pst-capture-{}.pcapng", std::process::id()));
        std::fs::write(&path, capture()).unwrap();
        let output = std::process::Command::new("tcpdump").args(["-tt", "-r"]).arg(&path).output();
        std::fs::remove_file(&path).unwrap();
        let Ok(output) = output else {
            eprintln!("skipped: tcpdump is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.lines().filter(|l| l.starts_with("1700000000.000000")).count(), 4, "{text}");
    }

    #[test]
    fn a_capture_is_replayed_and_answers_are_recorded() {
        let out = Shared::default();
        let mut port = PcapFile::new(PortId(5), std::io::Cursor::new(capture()), out.clone()).unwrap();
        let mut lengths = Vec::new();
        let n = port.poll(&mut |packets| {
            for packet in packets {
                lengths.push(packet.len());
                packet.verdict = Verdict::Transmit(PortId(5));
            }
        });
        assert_eq!((n.unwrap(), lengths), (4, vec![61, 62, 62, 1400]));
        assert!(port.ended());
        assert_eq!(port.poll(&mut |_| panic!("at the end")).unwrap(), 0);
        let gso = Offload { gso: Gso::Tcp4, ..Offload::default() };
        assert_eq!(port.send(&[0; 60], gso), Err(SendError::Offload));
        assert_eq!(frames(&out.0.lock().unwrap()).len(), 4);
    }

    #[test]
    fn a_classic_capture_is_read_in_both_byte_orders() {
        for big in [false, true] {
            let w = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
            let mut bytes: Vec<u8> = [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, 1].into_iter().flat_map(w).collect();
            bytes.extend([9, 9, 3, 3].into_iter().flat_map(w));
            bytes.extend([7, 7, 7]);
            assert_eq!(frames(&bytes), [vec![7; 3]]);
        }
    }

    #[test]
    fn no_cut_or_flipped_capture_panics() {
        let good = capture();
        let read = |bytes: &[u8]| {
            let Ok(mut reader) = PcapReader::new(bytes) else { return };
            for _ in 0..100 {
                if !matches!(reader.next_frame(), Ok(Some(_))) {
                    return;
                }
            }
        };
        for i in 0..good.len() {
            read(&good[..i]);
            let mut bad = good.clone();
            bad[i] ^= 0xff;
            read(&bad);
        }
        assert!(PcapReader::new(&[0u8; 64][..]).is_err());
    }
}
