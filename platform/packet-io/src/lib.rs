//! How do frames get in and out? One trait, several doors: AF_XDP, AF_PACKET with virtio-net header, TUN, pcap, memory.
//!
//! [`PacketIo::poll`] hands a batch of frames, in their buffers and with headroom, to a handler that decides a verdict for
//! each; then sends what is to leave by this port and takes all buffers back. Frames that leave by another port are copied
//! there by [`PacketIo::send`].
mod io;

pub use io::{Capabilities, IoStats, PacketIo, SendError};
