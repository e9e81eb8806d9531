use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::msg_batch::{ReceiveBatch, write_frame};
use crate::sys;
use crate::vnet_hdr::{from_offload, to_offload};
use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM, Offload, Packet, PortId, Verdict};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

const ETHERNET: usize = 14;
const MAX_FRAME: usize = 65_536 + 18;
const IFF_TUN: i16 = 0x0001;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
/// Checksums, TCP and (6.2 and later) UDP segmentation may be left undone towards us (linux/if_tun.h).
const OFFLOADS: [libc::c_ulong; 2] = [0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x01 | 0x02 | 0x04];
/// Written before IP packets of a [`Layer::Ip`] device: locally administered, the same in both directions of travel.
const MAC_OF_KERNEL: [u8; 6] = [0x02, 0x50, 0x53, 0x54, 0x00, 0x10];
const MAC_OF_PORT: [u8; 6] = [0x02, 0x50, 0x53, 0x54, 0x00, 0x11];

/// What the kernel side of the device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet frames (a TAP device).
    Ethernet,
    /// IP packets (a TUN device). The port adds an Ethernet header to what it receives and takes it off what it sends, so
    /// that all ports carry frames.
    Ip,
}

#[derive(Debug, thiserror::Error)]
#[error("TUN device {name}: cannot {step}: {source}")]
pub struct TunError {
    pub name: String,
    pub step: &'static str,
    pub source: io::Error,
}

/// A TUN or TAP device with virtio-net header: the kernel's own stack is the neighbour. The device goes when it is dropped.
#[derive(Debug)]
pub struct Tun {
    id: PortId,
    layer: Layer,
    capabilities: Capabilities,
    receive: ReceiveBatch,
    stats: IoStats,
    file: File,
}

impl Tun {
    /// Makes the device in the namespace of the calling thread. It is down and has no address.
    ///
    /// # Errors
    /// Which step the kernel refused.
    pub fn open(name: &str, layer: Layer, id: PortId) -> Result<Self, TunError> {
        let at = |step| move |source| TunError { name: name.to_owned(), step, source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(at("open /dev/net/tun"))?;
        // SAFETY: all zero is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(at("take the name")(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let kind = if layer == Layer::Ip { IFF_TUN } else { IFF_TAP };
        request.ifr_ifru.ifru_flags = kind | IFF_NO_PI | IFF_VNET_HDR;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`.
        sys::check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) })
            .map_err(at("make the device"))?;
        let offloads = OFFLOADS.iter().find_map(|flags| {
            // SAFETY: TUNSETOFFLOAD takes its argument by value.
            sys::check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, *flags) }).ok()
        });
        offloads.ok_or_else(|| at("offer checksum and segmentation offload")(io::Error::last_os_error()))?;
        // Room for the Ethernet header that is put before an IP packet.
        let lead = if layer == Layer::Ip { HEADROOM + ETHERNET } else { HEADROOM };
        Ok(Self {
            id,
            layer,
            capabilities: Capabilities { mode: "tun", max_frame: MAX_FRAME, gso: true, partial_checksum: true },
            receive: ReceiveBatch::new(MAX_FRAME - ETHERNET, lead),
            stats: IoStats::default(),
            file,
        })
    }
}

/// The frame as the device wants it.
fn write(file: &File, layer: Layer, frame: &[u8], mut offload: Offload, stats: &mut IoStats) -> Result<(), SendError> {
    let mut bytes = frame;
    if layer == Layer::Ip {
        bytes = frame.get(ETHERNET..).ok_or(SendError::Refused)?;
        if offload.partial_checksum {
            offload.checksum_start = offload.checksum_start.checked_sub(ETHERNET as u16).ok_or(SendError::Offload)?;
        }
        offload.header_len = offload.header_len.saturating_sub(ETHERNET as u16);
    }
    match write_frame(file.as_fd(), &from_offload(&offload, bytes.len()), bytes) {
        Ok(()) => {
            stats.transmitted += 1;
            stats.transmitted_bytes += frame.len() as u64;
            Ok(())
        }
        Err(error) => {
            stats.transmit_failed += 1;
            Err(if error.kind() == io::ErrorKind::WouldBlock { SendError::NoBuffer } else { SendError::Refused })
        }
    }
}

/// Puts an Ethernet header before an IP packet. False if it is not one.
fn dress(packet: &mut Packet<'_>) -> bool {
    let ether_type = match packet.frame().first().map(|b| b >> 4) {
        Some(4) => [0x08, 0x00],
        Some(6) => [0x86, 0xdd],
        _ => return false,
    };
    let Some(header) = packet.push_front(ETHERNET).and_then(|f| f.first_chunk_mut::<ETHERNET>()) else { return false };
    let [d0, d1, d2, d3, d4, d5] = MAC_OF_PORT;
    let [s0, s1, s2, s3, s4, s5] = MAC_OF_KERNEL;
    let [t0, t1] = ether_type;
    *header = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
    let offload = &mut packet.offload;
    if offload.partial_checksum {
        offload.checksum_start = offload.checksum_start.saturating_add(ETHERNET as u16);
    }
    if offload.header_len > 0 {
        offload.header_len = offload.header_len.saturating_add(ETHERNET as u16);
    }
    true
}

impl PacketIo for Tun {
    fn id(&self) -> PortId {
        self.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        let received = match self.receive.read(self.file.as_fd()) {
            Ok(received) => received,
            // EIO: the device is down.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::EIO)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let lead = if self.layer == Layer::Ip { HEADROOM + ETHERNET } else { HEADROOM };
        let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
        for slot in self.receive.slots(received) {
            let made = to_offload(slot.header).and_then(|offload| {
                let mut packet = Packet::new(slot.buffer, lead, slot.len, self.id)?;
                packet.offload = offload;
                (self.layer == Layer::Ethernet || dress(&mut packet)).then_some(packet)
            });
            let Some(packet) = made else {
                self.stats.missed += 1;
                continue;
            };
            self.stats.received += 1;
            self.stats.received_bytes += packet.len() as u64;
            packets.push(packet);
        }
        if !packets.is_empty() {
            handler(&mut packets);
        }
        for packet in packets.iter().filter(|p| p.verdict == Verdict::Transmit(self.id)) {
            // Counted where it fails.
            let _ = write(&self.file, self.layer, packet.frame(), packet.offload, &mut self.stats);
        }
        Ok(received)
    }

    /// Leaves at once: a TUN device takes one frame a call.
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME {
            return Err(SendError::TooLarge);
        }
        write(&self.file, self.layer, frame, offload, &mut self.stats)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}
