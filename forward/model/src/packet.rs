use crate::{DropReason, PortId, TunnelId};

/// Packets in one batch, at most.
pub const BATCH: usize = 64;

/// Bytes that drivers keep free before each frame, so that an encapsulation is prepended without a copy.
/// Ethernet + IPv6 + UDP + Geneve with options (14 + 40 + 8 + 8 + 32) fits, rounded to a cache line.
pub const HEADROOM: usize = 128;

/// Segmentation that the sender left to somebody else (virtio-net header, VIRTIO 1.2 section 5.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    #[default]
    None,
    Tcp4,
    Tcp6,
    Udp,
}

/// What the sender of a frame left undone, as its driver told us. All zero: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum at `checksum_start + checksum_offset` holds only the pseudo-header sum and must be completed
    /// over the bytes from `checksum_start` to the end.
    pub partial_checksum: bool,
    /// The driver has verified the checksum: it need not be checked again.
    pub checksum_valid: bool,
    /// Bytes from the start of the frame.
    pub checksum_start: u16,
    pub checksum_offset: u16,
    pub gso: Gso,
    /// Payload bytes of each segment when `gso` is not `None`.
    pub gso_size: u16,
    /// Bytes of headers before the payload when `gso` is not `None`, a hint.
    pub header_len: u16,
}

/// What was decided for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Not decided yet. A driver treats it as a drop without a reason; the engine never leaves it.
    #[default]
    Pending,
    /// Send by this port.
    Transmit(PortId),
    /// Encrypt by this tunnel and send.
    Tunnel(TunnelId),
    /// Give it to the kernel's own stack.
    Pass,
    /// It was for this node and is dealt with.
    Consumed,
    Drop(DropReason),
}

/// One frame in its buffer, with free room before and behind it.
///
/// The buffer belongs to a driver and goes back to it when the handler of the batch returns.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    len: usize,
    /// The port that it came in by. The tenant follows from this and from nothing in the packet's content.
    pub port: PortId,
    pub offload: Offload,
    pub verdict: Verdict,
}

impl<'a> Packet<'a> {
    /// A frame at `start..start + len` of `buffer`; `None` if that is not inside it.
    #[must_use]
    #[inline]
    pub fn new(buffer: &'a mut [u8], start: usize, len: usize, port: PortId) -> Option<Self> {
        if start.checked_add(len)? > buffer.len() {
            return None;
        }
        Some(Self { buffer, start, len, port, offload: Offload::default(), verdict: Verdict::Pending })
    }

    #[must_use]
    #[inline]
    pub fn frame(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    /// The first byte of the buffer behind the frame's start: where it lies in memory, at the price of one check.
    #[must_use]
    #[inline]
    pub fn first(&self) -> Option<&u8> {
        self.buffer.get(self.start)
    }

    /// The first `N` bytes of the frame, if it has as many.
    #[must_use]
    #[inline(always)]
    pub fn head<const N: usize>(&self) -> Option<&[u8; N]> {
        if self.len < N {
            return None;
        }
        self.buffer.get(self.start..)?.first_chunk()
    }

    #[inline]
    pub fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the frame begins in its buffer.
    #[must_use]
    #[inline]
    pub fn start(&self) -> usize {
        self.start
    }

    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.start - self.len
    }

    /// Takes `n` bytes off the front. False, and nothing is changed, if the frame is shorter.
    #[must_use]
    #[inline]
    pub fn pop_front(&mut self, n: usize) -> bool {
        if n > self.len {
            return false;
        }
        self.start += n;
        self.len -= n;
        true
    }

    /// Makes the frame `n` bytes longer at the front and returns the whole frame; the new bytes hold what the
    /// headroom held. `None`, and nothing is changed, if the headroom is shorter.
    #[must_use]
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        self.len += n;
        Some(&mut self.buffer[self.start..self.start + self.len])
    }

    /// Sets the length of the frame, within the buffer. False, and nothing is changed, if it does not fit.
    #[must_use]
    #[inline]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.start.checked_add(len).is_none_or(|end| end > self.buffer.len()) {
            return false;
        }
        self.len = len;
        true
    }

    /// Replaces the frame by `bytes`, keeping its start. False, and nothing is changed, if it does not fit.
    #[must_use]
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        if !self.set_len(bytes.len()) {
            return false;
        }
        self.frame_mut().copy_from_slice(bytes);
        self.offload = Offload::default();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushing_uses_the_headroom_and_no_more() {
        let mut buffer = [0u8; 64];
        buffer[16..20].copy_from_slice(&[1, 2, 3, 4]);
        let mut p = Packet::new(&mut buffer, 16, 4, PortId(0)).unwrap();
        assert_eq!(p.frame(), [1, 2, 3, 4]);
        assert_eq!(p.push_front(16).map(|f| f.len()), Some(20));
        assert!(p.push_front(1).is_none());
        assert!(p.pop_front(18));
        assert_eq!(p.frame(), [3, 4]);
        assert!(!p.pop_front(3));
        assert_eq!(p.len(), 2);
    }

    #[test]
    fn a_frame_outside_its_buffer_is_refused() {
        let mut buffer = [0u8; 8];
        assert!(Packet::new(&mut buffer, 4, 5, PortId(0)).is_none());
        assert!(Packet::new(&mut buffer, usize::MAX, 2, PortId(0)).is_none());
    }

    #[test]
    fn a_length_beyond_the_buffer_is_refused() {
        let mut buffer = [0u8; 8];
        let mut p = Packet::new(&mut buffer, 2, 2, PortId(0)).unwrap();
        assert!(!p.set_len(7));
        assert!(p.set_len(6));
        assert!(!p.replace(&[0; 7]));
    }
}
