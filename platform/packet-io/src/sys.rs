//! The system calls of this crate behind safe signatures.
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Plain kernel data: every bit pattern is a value, no padding that matters.
///
/// # Safety
/// The type must be `repr(C)` (or a primitive) and valid for any bytes.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => { $(
        // SAFETY: integers, or C structures of integers: any bytes are a value.
        unsafe impl Plain for $ty {}
    )* };
}
plain!(
    i32,
    u32,
    u64,
    libc::xdp_umem_reg,
    libc::xdp_mmap_offsets,
    libc::xdp_statistics,
    libc::xdp_options,
    PacketMreq,
    TpacketStats
);

/// `struct packet_mreq` (linux/if_packet.h).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct PacketMreq {
    pub(crate) ifindex: i32,
    pub(crate) kind: u16,
    pub(crate) address_len: u16,
    pub(crate) address: [u8; 8],
}

/// `struct tpacket_stats` (linux/if_packet.h).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct TpacketStats {
    pub(crate) packets: u32,
    pub(crate) drops: u32,
}

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` points to `size_of::<T>()` readable bytes for the length of the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

pub(crate) fn get_option<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes and `len` is a valid pointer.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
    // SAFETY: zeroed above, and `Plain` promises that any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// Binds to a socket address given as its C structure.
///
/// # Safety
/// `A` must be the socket address structure of the socket's family.
pub(crate) unsafe fn bind<A>(fd: BorrowedFd<'_>, address: &A) -> io::Result<()> {
    // SAFETY: `address` is readable for its size; its type is the caller's promise.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), size_of::<A>() as libc::socklen_t) })
        .map(drop)
}

/// Attaches a classic BPF program that selects what the socket receives.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions from `filter`, which outlives the call, and writes nothing.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Memory from `mmap`, given back on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned memory; the pointer is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed private memory, on huge pages where the kernel has them to give: each system call may cost the worker what it
    /// knew of its page tables, and a batch of frames on small pages then costs a walk for each frame.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let span = len.checked_add(HUGE_PAGE).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a fresh anonymous mapping touches no memory in use.
        let whole = Self::from_raw(unsafe { libc::mmap(std::ptr::null_mut(), span, PROT_RW, flags, -1, 0) }, span)?;
        let memory = whole.aligned(len);
        // SAFETY: advice about a range that is ours; where it is not taken, small pages serve.
        unsafe { libc::madvise(memory.start.as_ptr().cast(), memory.len, libc::MADV_HUGEPAGE) };
        Ok(memory)
    }

    /// `len` bytes of it that begin on a huge page; the rest, at least one huge page, is given back.
    fn aligned(self, len: usize) -> Self {
        let before = self.start.as_ptr().align_offset(HUGE_PAGE).min(self.len - len);
        let after = self.len - len - before;
        // SAFETY: `before + len + after` is the length of the mapping.
        let (start, rest) = unsafe { (self.start.add(before), self.start.add(before + len)) };
        let head = self.start;
        std::mem::forget(self);
        for (start, len) in [(head, before), (rest, after)] {
            if len > 0 {
                // SAFETY: a part of the mapping of which nobody holds a reference.
                unsafe { libc::munmap(start.as_ptr().cast(), len) };
            }
        }
        Self { start, len }
    }

    /// `len` bytes of what `fd` offers at `offset`, shared with the kernel.
    pub(crate) fn shared(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        Self::from_raw(unsafe { libc::mmap(std::ptr::null_mut(), len, PROT_RW, flags, fd.as_raw_fd(), offset) }, len)
    }

    fn from_raw(pointer: *mut libc::c_void, len: usize) -> io::Result<Self> {
        if pointer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(pointer.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { start, len })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Of x86-64, and of arm64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;
const PROT_RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `mmap` with this length and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
