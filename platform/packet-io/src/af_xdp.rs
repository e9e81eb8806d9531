use crate::io::{Capabilities, IoStats, PacketIo, SendError};
use crate::ring::{ConsumerRing, Place, ProducerRing};
use crate::sys;
use crate::umem::{CHUNK, KERNEL_HEADROOM, Umem, chunk_of};
use arrayvec::ArrayVec;
use penstock_model::{BATCH, Gso, HEADROOM, Offload, Packet, PortId, Verdict};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// `XDP_MAX_TX_SKB_BUDGET` (linux/if_xdp.h, 6.17 and later): frames that one `sendto` moves in copy mode.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
const TX_BUDGET: i32 = 512;
/// How often the kernel is asked to go on with the transmit ring while it makes progress.
const KICKS: usize = 128;
/// A socket that has just been closed holds its queue for a moment.
const BUSY_RETRIES: usize = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfXdpOptions {
    /// Frame buffers of 4 KiB, a power of two. Half of them receive, half transmit. The default takes 16 MiB.
    pub chunks: u32,
    /// Refuse zero-copy even where the driver has it.
    pub force_copy: bool,
}

impl Default for AfXdpOptions {
    fn default() -> Self {
        Self { chunks: 4096, force_copy: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AfXdpError {
    #[error("AF_XDP: \"chunks\" must be a power of two of at least 256, not {0}")]
    Chunks(u32),
    #[error("AF_XDP on interface {ifindex} queue {queue}: cannot {step}: {source}")]
    System { ifindex: u32, queue: u32, step: &'static str, source: io::Error },
}

/// One receive and transmit queue of an interface, over AF_XDP.
///
/// Order of calls: attach the steering program to the interface, [`AfXdp::open`], then register [`PacketIo::fd`] with the
/// steering program under the same queue. The kernel takes zero-copy where the driver has it and copies elsewhere; which
/// it did is in [`Capabilities::mode`].
///
/// The kernel does not say whether a received checksum is complete: a frame from a veth of the same machine may hold only
/// the pseudo-header sum. Completing it is for the layers above.
#[derive(Debug)]
pub struct AfXdp {
    id: PortId,
    capabilities: Capabilities,
    umem: Umem,
    fill: ProducerRing<u64>,
    completion: ConsumerRing<u64>,
    rx: ConsumerRing<libc::xdp_desc>,
    tx: ProducerRing<libc::xdp_desc>,
    /// Chunks that the kernel may receive into, and how many it should have.
    posted: u32,
    posted_target: u32,
    stats: IoStats,
    /// The kernel pins the frame memory until this is closed.
    socket: OwnedFd,
}

const ZERO_COPY: &str = "af_xdp zero-copy";

impl AfXdp {
    /// Whether the driver writes frames to this port's memory itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.capabilities.mode == ZERO_COPY
    }

    /// Opens queue `queue` of the interface in the namespace of the calling thread.
    ///
    /// # Errors
    /// Which step the kernel refused.
    pub fn open(ifindex: u32, queue: u32, id: PortId, options: AfXdpOptions) -> Result<Self, AfXdpError> {
        if !options.chunks.is_power_of_two() || options.chunks < 256 {
            return Err(AfXdpError::Chunks(options.chunks));
        }
        let at = |step| move |source| AfXdpError::System { ifindex, queue, step, source };
        let socket = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(at("create the socket"))?;
        let umem = Umem::new(options.chunks).map_err(at("allocate frame memory"))?;
        let fd = socket.as_fd();
        sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration())
            .map_err(at("register frame memory"))?;
        let half = options.chunks / 2;
        for (name, size) in [
            (libc::XDP_UMEM_FILL_RING, half),
            // Every chunk can be waiting for completion at once.
            (libc::XDP_UMEM_COMPLETION_RING, options.chunks),
            (libc::XDP_RX_RING, half),
            (libc::XDP_TX_RING, half),
        ] {
            sys::set_option(fd, libc::SOL_XDP, name, &size).map_err(at("size the rings"))?;
        }
        let offsets: libc::xdp_mmap_offsets =
            sys::get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS).map_err(at("read the ring offsets"))?;
        let place = |offsets, page_offset, size| Place { offsets, page_offset, size };
        let map = at("map the rings");
        let fill =
            ProducerRing::map(fd, place(offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING as i64, half)).map_err(map)?;
        let completion =
            ConsumerRing::map(fd, place(offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64, options.chunks))
                .map_err(map)?;
        let rx = ConsumerRing::map(fd, place(offsets.rx, libc::XDP_PGOFF_RX_RING, half)).map_err(map)?;
        let tx = ProducerRing::map(fd, place(offsets.tx, libc::XDP_PGOFF_TX_RING, half)).map_err(map)?;
        // Older kernels do not know it: then 32 frames a call are moved and `flush` calls more often.
        let _ = sys::set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET);
        bind(fd, ifindex, queue, options.force_copy).map_err(at("bind the socket to the queue"))?;
        let bound: libc::xdp_options =
            sys::get_option(fd, libc::SOL_XDP, libc::XDP_OPTIONS).map_err(at("read the mode"))?;
        let zero_copy = bound.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let mode = if zero_copy { ZERO_COPY } else { "af_xdp copy" };
        tracing::info!(ifindex, queue, mode, chunks = options.chunks, "AF_XDP socket bound");
        let max_frame = CHUNK - KERNEL_HEADROOM;
        let mut port = Self {
            id,
            capabilities: Capabilities { mode, max_frame, gso: false, partial_checksum: false },
            umem,
            fill,
            completion,
            rx,
            tx,
            posted: 0,
            posted_target: half,
            stats: IoStats::default(),
            socket,
        };
        port.refill();
        Ok(port)
    }

    /// Hands free chunks to the kernel to receive into.
    fn refill(&mut self) {
        let mut pushed = false;
        while self.posted < self.posted_target {
            let Some(chunk) = self.umem.take() else { break };
            if !self.fill.push(chunk) {
                self.umem.give_back(chunk);
                break;
            }
            self.posted += 1;
            pushed = true;
        }
        if pushed {
            self.fill.submit();
        }
        if self.fill.needs_wakeup() {
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd, no waiting.
            unsafe { libc::poll(&raw mut poll, 1, 0) };
        }
    }

    /// Takes back the chunks whose frames have left.
    fn reclaim(&mut self) {
        let mut any = false;
        while let Some(address) = self.completion.take() {
            self.umem.give_back(address);
            any = true;
        }
        if any {
            self.completion.release();
        }
    }

    fn queue(&mut self, address: u64, len: usize) -> bool {
        let desc = libc::xdp_desc { addr: address, len: len as u32, options: 0 };
        if !self.tx.push(desc) {
            let _ = self.flush();
            if !self.tx.push(desc) {
                self.stats.transmit_failed += 1;
                self.umem.give_back(address);
                return false;
            }
        }
        self.stats.transmitted += 1;
        self.stats.transmitted_bytes += len as u64;
        true
    }

    fn receive(&mut self) -> ArrayVec<libc::xdp_desc, BATCH> {
        let mut descs = ArrayVec::new();
        while !descs.is_full() {
            let Some(desc) = self.rx.take() else { break };
            self.posted = self.posted.saturating_sub(1);
            if self.umem.holds(desc.addr, desc.len as usize) {
                descs.push(desc);
            }
        }
        self.rx.release();
        descs
    }
}

impl PacketIo for AfXdp {
    fn id(&self) -> PortId {
        self.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll(&mut self, handler: &mut dyn FnMut(&mut [Packet<'_>])) -> io::Result<usize> {
        self.reclaim();
        let descs = self.receive();
        if descs.is_empty() {
            self.refill();
            return Ok(0);
        }
        let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
        for desc in &descs {
            // SAFETY: the kernel gave the chunk back through the receive ring and `receive` checked that it lies in the
            // memory; each chunk is in the ring once, so the references are disjoint; they end with `packets`, before any
            // chunk goes into a ring again.
            let buffer = unsafe { self.umem.chunk(desc.addr) };
            let start = (desc.addr - chunk_of(desc.addr)) as usize;
            self.stats.received += 1;
            self.stats.received_bytes += u64::from(desc.len);
            packets.extend(Packet::new(buffer, start, desc.len as usize, self.id));
        }
        handler(&mut packets);
        let mut leaving = ArrayVec::<(u64, usize), BATCH>::new();
        let own = Verdict::Transmit(self.id);
        for packet in packets.iter().filter(|p| p.verdict == own) {
            // By its memory, not by its place: a handler may have sorted the batch.
            match self.umem.address_of(packet.frame()) {
                Some(address) if !asks_for_offload(&packet.offload) => leaving.push((address, packet.len())),
                _ => self.stats.transmit_failed += 1,
            }
        }
        drop(packets);
        let mut kept = 0u64;
        let mut next = 0;
        for (address, len) in leaving {
            let chunk = chunk_of(address);
            let is_it = |i: &usize| descs.get(*i).is_some_and(|d| chunk_of(d.addr) == chunk) && kept & (1 << i) == 0;
            // In the order in which they came, as a rule.
            if let Some(i) = (next..descs.len()).chain(0..next).find(is_it) {
                kept |= 1 << i;
                next = i + 1;
                self.queue(address, len);
            }
        }
        for (i, desc) in descs.iter().enumerate() {
            if kept & (1 << i) == 0 {
                self.umem.give_back(desc.addr);
            }
        }
        self.refill();
        Ok(descs.len())
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), SendError> {
        if asks_for_offload(&offload) {
            return Err(SendError::Offload);
        }
        if frame.len() > CHUNK - HEADROOM {
            return Err(SendError::TooLarge);
        }
        let chunk = match self.umem.take() {
            Some(chunk) => chunk,
            None => {
                let _ = self.flush();
                self.umem.take().ok_or(SendError::NoBuffer)?
            }
        };
        // SAFETY: the chunk came from the free list, so it is in no ring and nobody else refers to it.
        let buffer = unsafe { self.umem.chunk(chunk) };
        if let Some(place) = buffer.get_mut(HEADROOM..HEADROOM + frame.len()) {
            place.copy_from_slice(frame);
        }
        if self.queue(chunk + HEADROOM as u64, frame.len()) { Ok(()) } else { Err(SendError::NoBuffer) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tx.submit();
        let mut pending = self.tx.pending();
        for _ in 0..KICKS {
            if pending == 0 || !self.tx.needs_wakeup() {
                break;
            }
            let result = kick(self.socket.as_fd());
            self.reclaim();
            let left = self.tx.pending();
            if let Err(error) = result {
                match error.raw_os_error() {
                    Some(libc::ENXIO | libc::EBADF | libc::ENODEV) => return Err(error),
                    // Its budget is used up, the device is full or down: what is left stays for the next round.
                    _ if left == pending => break,
                    _ => {}
                }
            }
            pending = left;
        }
        self.reclaim();
        Ok(())
    }

    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn stats(&self) -> IoStats {
        let kernel: Option<libc::xdp_statistics> =
            sys::get_option(self.socket.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS).ok();
        let missed = kernel.map_or(0, |k| k.rx_dropped + k.rx_ring_full + k.rx_fill_ring_empty_descs);
        let refused = kernel.map_or(0, |k| k.tx_invalid_descs);
        IoStats { missed, transmit_failed: self.stats.transmit_failed + refused, ..self.stats }
    }
}

fn asks_for_offload(offload: &Offload) -> bool {
    offload.partial_checksum || offload.gso != Gso::None
}

fn kick(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer is passed; the kernel takes frames from the transmit ring.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: BorrowedFd<'_>, ifindex: u32, queue: u32, force_copy: bool) -> io::Result<()> {
    // Neither XDP_COPY nor XDP_ZEROCOPY: the kernel tries zero-copy and falls back, and XDP_OPTIONS tells which.
    let copy = if force_copy { libc::XDP_COPY } else { 0 };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: copy | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    for _ in 0..BUSY_RETRIES {
        // SAFETY: `sockaddr_xdp` is the address structure of AF_XDP.
        match unsafe { sys::bind(fd, &address) } {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}
