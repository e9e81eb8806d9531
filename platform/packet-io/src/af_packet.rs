use crate::filter::{FrameKind, accept_any};
use crate::interface::Interface;
use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::msg_batch::{ReceiveBatch, Sent, send_batch};
use crate::sys::{self, PacketMreq, TpacketStats};
use crate::vnet_hdr::{from_offload, to_offload};
use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM, Offload, Packet, PortId, Verdict};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const PACKET_MR_PROMISC: u16 = 1;

/// Longest frame that is received or sent: a GSO frame of 64 KiB of IP with its Ethernet and VLAN headers.
pub(crate) const MAX_FRAME: usize = 65_536 + 18;
/// Copied frames that wait for `flush`.
const ARENA: usize = 1 << 20;
/// Kernel buffers of the socket, for bursts of 64 KiB frames. Taken from kernel memory only as frames wait.
const SOCKET_BUFFER: i32 = 16 << 20;

#[derive(Debug, Clone, Default)]
pub struct AfPacketOptions {
    /// Receive only these kinds; everything when `None`.
    pub filter: Option<Vec<FrameKind>>,
    /// Receive frames for any Ethernet address. The interface leaves the mode when the port is dropped.
    pub promiscuous: bool,
    /// Skip the queueing discipline when sending. The kernel then *drops* frames that it would have to segment because
    /// the device cannot, so it suits only ports on which no GSO frame is sent; [`Capabilities::gso`] becomes false.
    pub qdisc_bypass: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("AF_PACKET on {interface}: cannot {step}: {source}")]
pub struct AfPacketError {
    pub interface: String,
    pub step: &'static str,
    pub source: io::Error,
}

/// An interface over AF_PACKET with a virtio-net header before each frame, so that partial checksums and GSO frames go
/// in and out as they are.
///
/// The kernel's own stack sees the received frames too: close its ears with a filter of its own where that matters.
/// Takes about 5 MiB: 64 receive buffers of 64 KiB and a transmit arena of 1 MiB.
#[derive(Debug)]
pub struct AfPacket {
    id: PortId,
    capabilities: Capabilities,
    interface: Interface,
    receive: ReceiveBatch,
    arena: Vec<u8>,
    /// Frames in the arena: start, length, what is left to do.
    queued: ArrayVec<(usize, usize, Offload), BATCH>,
    stats: IoStats,
    /// The kernel's drop counter restarts with each reading.
    missed: Cell<u64>,
    socket: OwnedFd,
}

impl AfPacket {
    /// Opens the interface in the namespace of the calling thread.
    ///
    /// # Errors
    /// Which step the kernel refused.
    pub fn open(interface: &str, id: PortId, options: &AfPacketOptions) -> Result<Self, AfPacketError> {
        let at = |step| move |source| AfPacketError { interface: interface.to_owned(), step, source };
        let named = Interface::open(interface).map_err(at("find the interface"))?;
        let index = named.index();
        // Protocol 0: nothing is received before the socket is bound to its interface.
        let socket =
            sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0).map_err(at("create the socket"))?;
        let fd = socket.as_fd();
        let set = |name, value: i32| sys::set_option(fd, libc::SOL_PACKET, name, &value);
        set(PACKET_VNET_HDR, 1).map_err(at("enable the virtio-net header (PACKET_VNET_HDR)"))?;
        set(PACKET_IGNORE_OUTGOING, 1).map_err(at("ignore outgoing frames (PACKET_IGNORE_OUTGOING)"))?;
        if options.qdisc_bypass {
            set(PACKET_QDISC_BYPASS, 1).map_err(at("bypass the queueing discipline (PACKET_QDISC_BYPASS)"))?;
        }
        for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            sys::set_option(fd, libc::SOL_SOCKET, force, &SOCKET_BUFFER)
                .or_else(|_| sys::set_option(fd, libc::SOL_SOCKET, plain, &SOCKET_BUFFER))
                .map_err(at("size the socket buffers"))?;
        }
        if let Some(kinds) = &options.filter {
            sys::attach_filter(fd, &accept_any(kinds)).map_err(at("attach the receive filter"))?;
        }
        if options.promiscuous {
            let request =
                PacketMreq { ifindex: index as i32, kind: PACKET_MR_PROMISC, address_len: 0, address: [0; 8] };
            sys::set_option(fd, libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request)
                .map_err(at("enter promiscuous mode"))?;
        }
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: `sockaddr_ll` is the address structure of AF_PACKET.
        unsafe { sys::bind(fd, &address) }.map_err(at("bind to the interface"))?;
        let gso = !options.qdisc_bypass;
        let capabilities = Capabilities { mode: "af_packet", max_frame: MAX_FRAME, gso, partial_checksum: true };
        tracing::info!(interface, index, mode = capabilities.mode, gso, "AF_PACKET socket bound");
        Ok(Self {
            id,
            capabilities,
            interface: named,
            receive: ReceiveBatch::new(MAX_FRAME, HEADROOM),
            arena: Vec::with_capacity(ARENA),
            queued: ArrayVec::new(),
            stats: IoStats::default(),
            missed: Cell::new(0),
            socket,
        })
    }

    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// An error of the socket: whether the port goes on.
    fn judge(&mut self, error: io::Error) -> io::Result<usize> {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(0),
            // A frame that the virtio-net header cannot describe; the kernel has dropped it.
            Some(libc::EINVAL) => {
                self.missed.set(self.missed.get() + 1);
                Ok(0)
            }
            // Down, and perhaps up again later; gone is gone.
            Some(libc::ENETDOWN) if self.interface.exists() => Ok(0),
            _ => Err(error),
        }
    }

    fn count(&mut self, sent: Sent) {
        self.stats.transmitted += sent.frames;
        self.stats.transmitted_bytes += sent.bytes;
        self.stats.transmit_failed += sent.failed;
    }
}

impl PacketIo for AfPacket {
    fn id(&self) -> PortId {
        self.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let received = match self.receive.receive(self.socket.as_fd()) {
            Ok(received) => received,
            Err(error) => return self.judge(error),
        };
        let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
        for slot in self.receive.slots(received) {
            let offload = if slot.truncated { None } else { to_offload(slot.header) };
            let Some(offload) = offload else {
                self.missed.set(self.missed.get() + 1);
                continue;
            };
            self.stats.received += 1;
            self.stats.received_bytes += slot.len as u64;
            if let Some(mut packet) = Packet::new(slot.buffer, HEADROOM, slot.len, self.id) {
                packet.offload = offload;
                packets.push(packet);
            }
        }
        if packets.is_empty() {
            return Ok(received);
        }
        handler(&mut packets);
        let own = Verdict::Transmit(self.id);
        let frames: ArrayVec<_, BATCH> = packets
            .iter()
            .filter(|p| p.verdict == own)
            .map(|p| (from_offload(&p.offload, p.len()), p.frame()))
            .collect();
        if !frames.is_empty() {
            let sent = send_batch(self.socket.as_fd(), &frames);
            drop(frames);
            drop(packets);
            self.count(sent);
        }
        Ok(received)
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME {
            return Err(SendError::TooLarge);
        }
        if offload.gso != penstock_model::Gso::None && !self.capabilities.gso {
            return Err(SendError::Offload);
        }
        if self.queued.is_full() || self.arena.len() + frame.len() > ARENA {
            self.flush().map_err(|_| SendError::Refused)?;
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(frame);
        self.queued.push((start, frame.len(), offload));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let frames: ArrayVec<_, BATCH> = self
            .queued
            .iter()
            .filter_map(|(start, len, offload)| {
                Some((from_offload(offload, *len), self.arena.get(*start..*start + *len)?))
            })
            .collect();
        let sent = send_batch(self.socket.as_fd(), &frames);
        drop(frames);
        let error = sent.error;
        self.count(sent);
        self.queued.clear();
        self.arena.clear();
        match error {
            Some(libc::ENXIO | libc::ENODEV) => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            _ => Ok(()),
        }
    }

    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn stats(&self) -> IoStats {
        if let Ok(k) = sys::get_option::<TpacketStats>(self.socket.as_fd(), libc::SOL_PACKET, PACKET_STATISTICS) {
            self.missed.set(self.missed.get() + u64::from(k.drops));
        }
        IoStats { missed: self.missed.get(), ..self.stats }
    }
}
