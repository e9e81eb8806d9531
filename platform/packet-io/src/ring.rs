//! The four single-producer single-consumer rings that AF_XDP shares with the kernel (Documentation/networking/af_xdp.rst).
use crate::sys::Mapping;
use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a ring lies: what the kernel said, and the page offset that selects it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offsets: libc::xdp_ring_offset,
    pub(crate) page_offset: i64,
    pub(crate) size: u32,
}

/// The memory of a ring and the two indices as this side last saw them.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    seen_producer: u32,
    seen_consumer: u32,
    /// Keeps the pointers above valid.
    _memory: Mapping,
}

// SAFETY: the pointers lead into `_memory`, which moves with the ring; the other side is the kernel, synchronised by the
// atomics.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(fd: BorrowedFd<'_>, place: Place) -> io::Result<Self> {
        let broken = || io::Error::other("the kernel described an AF_XDP ring that cannot be");
        if !place.size.is_power_of_two() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let desc = usize::try_from(place.offsets.desc).map_err(|_| broken())?;
        let len = desc + place.size as usize * size_of::<T>();
        let memory = Mapping::shared(fd, len, place.page_offset)?;
        let at = |offset: u64, align: usize| -> io::Result<NonNull<u8>> {
            let offset = usize::try_from(offset).map_err(|_| broken())?;
            if offset % align != 0 || offset + align > memory.len() {
                return Err(broken());
            }
            // SAFETY: `offset` was checked to lie inside the mapping.
            Ok(unsafe { memory.start().add(offset) })
        };
        Ok(Self {
            producer: at(place.offsets.producer, 4)?.cast(),
            consumer: at(place.offsets.consumer, 4)?.cast(),
            flags: at(place.offsets.flags, 4)?.cast(),
            entries: at(place.offsets.desc, 8)?.cast(),
            size: place.size,
            seen_producer: 0,
            seen_consumer: 0,
            _memory: memory,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in bounds and aligned (checked in `map`), alive as long as `_memory`.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, and `size` entries follow `entries` inside the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// A ring that we fill and the kernel empties: fill and transmit.
#[derive(Debug)]
pub(crate) struct ProducerRing<T>(Ring<T>);

impl<T: Copy> ProducerRing<T> {
    pub(crate) fn map(fd: BorrowedFd<'_>, place: Place) -> io::Result<Self> {
        Ring::map(fd, place).map(Self)
    }

    /// Entries that can be pushed now.
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let room = |r: &Ring<T>| r.size - r.seen_producer.wrapping_sub(r.seen_consumer);
        if room(&self.0) < wanted {
            self.0.seen_consumer = self.0.consumer().load(Ordering::Acquire);
        }
        room(&self.0)
    }

    /// Writes an entry; the kernel sees it after `submit`. False when the ring is full.
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        let entry = self.0.entry(self.0.seen_producer);
        // SAFETY: the entry is ours until the producer index passes it.
        unsafe { entry.write(value) };
        self.0.seen_producer = self.0.seen_producer.wrapping_add(1);
        true
    }

    pub(crate) fn submit(&self) {
        self.0.producer().store(self.0.seen_producer, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    pub(crate) fn pending(&self) -> u32 {
        self.0.seen_producer.wrapping_sub(self.0.consumer().load(Ordering::Acquire))
    }

    pub(crate) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

/// A ring that the kernel fills and we empty: receive and completion.
#[derive(Debug)]
pub(crate) struct ConsumerRing<T>(Ring<T>);

impl<T: Copy> ConsumerRing<T> {
    pub(crate) fn map(fd: BorrowedFd<'_>, place: Place) -> io::Result<Self> {
        Ring::map(fd, place).map(Self)
    }

    /// Takes the next entry; its place is given back with `release`.
    pub(crate) fn take(&mut self) -> Option<T> {
        if self.0.seen_consumer == self.0.seen_producer {
            self.0.seen_producer = self.0.producer().load(Ordering::Acquire);
            if self.0.seen_consumer == self.0.seen_producer {
                return None;
            }
        }
        let entry = self.0.entry(self.0.seen_consumer);
        // SAFETY: the kernel published the entry (acquire above) and does not touch it until `release`.
        let value = unsafe { entry.read() };
        self.0.seen_consumer = self.0.seen_consumer.wrapping_add(1);
        Some(value)
    }

    pub(crate) fn release(&self) {
        self.0.consumer().store(self.0.seen_consumer, Ordering::Release);
    }
}
