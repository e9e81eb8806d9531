use penstock_model::{Offload, Packet, PortId};
use std::io;
use std::os::fd::RawFd;

/// What a port can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// `af_xdp zero-copy`, `af_xdp copy`, `af_packet`, `tun`, `memory`, `pcap`.
    pub mode: &'static str,
    /// Longest frame that can be sent without segmentation, Ethernet header included.
    pub max_frame: usize,
    /// Frames with [`Offload::gso`] may be sent: the kernel segments them.
    pub gso: bool,
    /// Frames with [`Offload::partial_checksum`] may be sent: the kernel completes them.
    pub partial_checksum: bool,
}

/// Counters of one port since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoStats {
    pub received: u64,
    pub received_bytes: u64,
    pub transmitted: u64,
    pub transmitted_bytes: u64,
    /// Lost by the kernel before they could be read.
    pub missed: u64,
    /// Not sent: no buffer or refused by the interface.
    pub transmit_failed: u64,
}

impl IoStats {
    /// Adds the counts of another port.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.transmitted += other.transmitted;
        self.transmitted_bytes += other.transmitted_bytes;
        self.missed += other.missed;
        self.transmit_failed += other.transmit_failed;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("no transmit buffer is free")]
    NoBuffer,
    #[error("the frame is longer than the port can send")]
    TooLarge,
    #[error("the port cannot segment or complete the checksum of this frame")]
    Offload,
    #[error("the interface refused the frame")]
    Refused,
}

/// A port that frames come in and go out by. Never blocks.
///
/// Order of calls: `poll` (its handler may `send` on *other* ports), then `flush` once per round; when every port was idle,
/// wait for `fd` to become readable.
pub trait PacketIo: Send {
    fn id(&self) -> PortId;

    fn capabilities(&self) -> &Capabilities;

    /// Receives at most [`penstock_model::BATCH`] frames and calls `handler` once with them if there are any. Afterwards
    /// sends those with the verdict `Transmit(self.id())` and takes all buffers back. Returns how many were received.
    ///
    /// # Errors
    /// The interface is gone or the kernel refuses to go on.
    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize>;

    /// Copies a frame into a transmit buffer. It leaves at the latest with `flush`.
    ///
    /// # Errors
    /// Why it was not taken.
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError>;

    /// Pushes out what `send` and `poll` queued.
    ///
    /// # Errors
    /// The interface is gone.
    fn flush(&mut self) -> io::Result<()>;

    /// Becomes readable when there are frames to `poll`.
    fn fd(&self) -> RawFd;

    fn stats(&self) -> IoStats;
}
