//! The memory of frames that an AF_XDP socket shares with the kernel, in chunks of one page.
use crate::sys::Mapping;
use std::io;

/// Bytes of a chunk: a page, the most that the kernel accepts, so that a 1,600-byte underlay with encapsulation fits.
pub(crate) const CHUNK: usize = 4096;
/// What the kernel leaves free before a received frame (`XDP_PACKET_HEADROOM`); at least [`penstock_model::HEADROOM`].
pub(crate) const KERNEL_HEADROOM: usize = 256;

const _: () = assert!(KERNEL_HEADROOM >= penstock_model::HEADROOM);

#[derive(Debug)]
pub(crate) struct Umem {
    memory: Mapping,
    /// Offsets of the chunks that neither ring nor worker holds.
    free: Vec<u64>,
}

impl Umem {
    pub(crate) fn new(chunks: u32) -> io::Result<Self> {
        let memory = Mapping::anonymous(chunks as usize * CHUNK)?;
        let free = (0..u64::from(chunks)).rev().map(|i| i * CHUNK as u64).collect();
        Ok(Self { memory, free })
    }

    pub(crate) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.start().as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    pub(crate) fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    /// Gives back the chunk that `address` lies in. Never grows: there are as many places as chunks.
    pub(crate) fn give_back(&mut self, address: u64) {
        if self.free.len() < self.free.capacity() {
            self.free.push(chunk_of(address));
        }
    }

    /// Whether `len` bytes at `address` lie in one chunk.
    pub(crate) fn holds(&self, address: u64, len: usize) -> bool {
        let inside = (address % CHUNK as u64) as usize;
        address < self.memory.len() as u64 && inside + len <= CHUNK
    }

    /// Where in this memory a frame lies; `None` if it is somewhere else.
    pub(crate) fn address_of(&self, frame: &[u8]) -> Option<u64> {
        let offset = (frame.as_ptr() as usize).checked_sub(self.memory.start().as_ptr() as usize)? as u64;
        self.holds(offset, frame.len()).then_some(offset)
    }

    /// The bytes of the chunk that `address` lies in.
    ///
    /// # Safety
    /// The chunk must be in no ring, `address` inside the memory, and no other reference to the same chunk alive while
    /// the returned one is.
    pub(crate) unsafe fn chunk<'a>(&self, address: u64) -> &'a mut [u8] {
        let start = chunk_of(address) as usize;
        debug_assert!(start + CHUNK <= self.memory.len());
        // SAFETY: in bounds by the caller's promise, and exclusive by it.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().add(start).as_ptr(), CHUNK) }
    }
}

pub(crate) fn chunk_of(address: u64) -> u64 {
    address & !(CHUNK as u64 - 1)
}
