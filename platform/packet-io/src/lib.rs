//! How do frames get in and out? One trait, several doors: AF_XDP, AF_PACKET with virtio-net header, TUN, pcap, memory.
//!
//! [`PacketIo::poll`] hands a batch of frames, in their buffers and with headroom, to a handler that decides a verdict for
//! each; then sends what is to leave by this port and takes all buffers back. Frames that leave by another port are copied
//! there by [`PacketIo::send`].
//!
//! It knows no header beyond what a socket filter needs, no tenant and no policy.
//!
//! | door | for | offloads |
//! | --- | --- | --- |
//! | [`AfXdp`] | what the steering program hands over, many small packets | none: frames are complete |
//! | [`AfPacket`] | container ports and bulk TCP | partial checksums and GSO frames pass as they are |
//!
//! A worker owns its ports and a [`Poller`], which decides between spinning and sleeping. [`Interface`] reads and sets what
//! Penstock must change on interfaces that it owns.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod af_packet;
mod af_xdp;
mod filter;
mod idle;
mod interface;
mod io;
mod msg_batch;
pub mod netns;
mod ring;
mod silent_udp;
mod sys;
mod umem;
mod vnet_hdr;

pub use af_packet::{AfPacket, AfPacketError, AfPacketOptions};
pub use af_xdp::{AfXdp, AfXdpError, AfXdpOptions};
pub use filter::FrameKind;
pub use idle::{IdlePolicy, Poller, Waker};
pub use interface::{Interface, OffloadError, OffloadSetting, interface_index};
pub use io::{Capabilities, IoStats, PacketIo, SendError};
pub use silent_udp::SilentUdpListener;
