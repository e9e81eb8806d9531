//! Frames that the gateway itself makes: fixed buffers, used again every round.
use penstock_model::{BATCH, DropReason, HEADROOM, Packet, PortId};
use std::fmt;

/// Bytes of one buffer: headroom, and a frame as long as the drivers' buffers hold.
pub(crate) const SLOT: usize = 4096;
/// Datagrams that leave in one round: a batch of data, and answers and queued packets beside it. 1 MiB.
const SLOTS: usize = 4 * BATCH;
/// Room before a datagram's payload: Ethernet, IPv6, UDP.
pub(crate) const OUT_HEADROOM: usize = 64;

struct Slot {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
    port: PortId,
}

/// Buffers in the order in which they were filled.
pub(crate) struct Frames {
    slots: Vec<Slot>,
    used: usize,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({} of {})", self.used, self.slots.len())
    }
}

impl Frames {
    /// Packets that enter the engine: what a batch of datagrams decrypts to, some of which may be several (UDP_SEGMENT).
    pub(crate) fn inward() -> Self {
        Self::new(SLOTS)
    }

    /// Datagrams that leave.
    pub(crate) fn outward() -> Self {
        Self::new(SLOTS)
    }

    fn new(slots: usize) -> Self {
        let slot = || Slot { bytes: vec![0; SLOT].into_boxed_slice(), start: 0, len: 0, port: PortId(0) };
        Self { slots: std::iter::repeat_with(slot).take(slots).collect(), used: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// The next buffer, whole. It is not used up before [`Frames::commit`].
    ///
    /// # Errors
    /// `NoBuffer` when all are used.
    pub(crate) fn buffer(&mut self) -> Result<&mut [u8], DropReason> {
        self.slots.get_mut(self.used).map(|s| &mut *s.bytes).ok_or(DropReason::NoBuffer)
    }

    /// The buffer that was filled last holds a frame at `start..start + len`.
    pub(crate) fn commit(&mut self, start: usize, len: usize, port: PortId) {
        if let Some(slot) = self.slots.get_mut(self.used) {
            (slot.start, slot.len, slot.port) = (start, len, port);
            self.used += 1;
        }
    }

    /// A copy of a finished frame.
    ///
    /// # Errors
    /// `NoBuffer` when all are used, `TooLarge` if it does not fit one.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.buffer()?.get_mut(..frame.len()).ok_or(DropReason::TooLarge)?.copy_from_slice(frame);
        self.commit(0, frame.len(), PortId(0));
        Ok(())
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.slots.iter().take(self.used).filter_map(|s| s.bytes.get(s.start..s.start + s.len))
    }

    /// The frames as packets for the engine.
    pub(crate) fn packets(&mut self) -> impl Iterator<Item = Packet<'_>> {
        self.slots.iter_mut().take(self.used).filter_map(|s| Packet::new(&mut s.bytes, s.start, s.len, s.port))
    }
}

/// Writes an Ethernet header of zeros and the right type before the IP packet of `len` bytes at [`HEADROOM`]. Returns where
/// the frame begins.
pub(crate) fn put_ethernet(buffer: &mut [u8]) -> Option<usize> {
    let kind: [u8; 2] = match buffer.get(HEADROOM)? >> 4 {
        4 => [0x08, 0x00],
        6 => [0x86, 0xdd],
        _ => return None,
    };
    let header = buffer.get_mut(HEADROOM - 14..HEADROOM)?;
    header.fill(0);
    header.get_mut(12..)?.copy_from_slice(&kind);
    Some(HEADROOM - 14)
}
