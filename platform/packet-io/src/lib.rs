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
//! | [`Tun`] | the kernel's own stack as a neighbour | as AF_PACKET |
//! | [`Memory`] | tests, simulation | as they are |
//! | [`PcapFile`] | frames from a capture | none |
//!
//! [`Faulty`] and [`Tap`] wrap any of them: seeded faults, and a pcapng capture of what passes.
//!
//! A worker owns its ports and a [`Poller`], which decides between spinning and sleeping. [`Interface`] reads and sets what
//! Penstock must change on interfaces that it owns. [`set_tcp_md5_key`] and [`set_least_ttl`] are for sockets towards routers.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod af_packet;
mod af_xdp;
mod affinity;
mod event;
mod faulty;
mod filter;
mod idle;
mod interface;
mod io;
mod memory;
mod msg_batch;
pub mod netns;
mod pcap;
mod peer_socket;
mod ring;
mod silent;
mod sys;
mod tap;
mod tun;
mod umem;
mod vnet_hdr;

pub use af_packet::{AfPacket, AfPacketError, AfPacketOptions};
pub use af_xdp::{AfXdp, AfXdpError, AfXdpOptions};
pub use affinity::{cpu_of_this_thread, pin_this_thread};
pub use faulty::{FaultCounts, Faults, Faulty};
pub use filter::FrameKind;
pub use idle::{IdlePolicy, Poller, Waker};
pub use interface::{Interface, OffloadError, OffloadSetting, interface_index};
pub use io::{Capabilities, IoStats, PacketIo, SendError};
pub use memory::Memory;
pub use pcap::{Direction, PcapError, PcapFile, PcapReader, PcapWriter};
pub use peer_socket::{set_least_ttl, set_tcp_md5_key};
pub use silent::{SilentProtocolListener, SilentUdpListener};
pub use tap::Tap;
pub use tun::{Layer, Tun, TunError};
