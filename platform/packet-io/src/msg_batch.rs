//! Many messages in one system call: `recvmmsg` into large buffers with headroom, `sendmmsg` from frames where they lie.
use crate::vnet_hdr::{VNET_HDR_LEN, VnetHdr};
use arrayvec::ArrayVec;
use penstock_model::{BATCH, HEADROOM};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room behind each frame.
const TAILROOM: usize = 256;

/// Buffers and message headers for one `recvmmsg` or a row of `readv`; the kernel is given pointers into boxes that never move.
#[derive(Debug)]
pub(crate) struct ReceiveBatch {
    headers: Box<[VnetHdr; BATCH]>,
    buffers: Vec<Box<[u8]>>,
    vectors: Box<[[libc::iovec; 2]]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `vectors` and `messages` lead into boxes owned by the same value.
unsafe impl Send for ReceiveBatch {}

/// One received frame.
pub(crate) struct Slot<'a> {
    pub(crate) header: &'a VnetHdr,
    /// The frame begins where `new` said.
    pub(crate) buffer: &'a mut [u8],
    pub(crate) len: usize,
    pub(crate) truncated: bool,
}

impl ReceiveBatch {
    /// The frame's bytes go to `at` in each buffer, at least [`HEADROOM`].
    pub(crate) fn new(max_frame: usize, at: usize) -> Self {
        debug_assert!(at >= HEADROOM);
        let size = at + max_frame + TAILROOM;
        let mut headers = Box::new([[0; VNET_HDR_LEN]; BATCH]);
        let mut buffers: Vec<Box<[u8]>> = (0..BATCH).map(|_| vec![0; size].into_boxed_slice()).collect();
        let mut vectors: Box<[[libc::iovec; 2]]> = headers
            .iter_mut()
            .zip(&mut buffers)
            .map(|(header, buffer)| {
                let frame = buffer.get_mut(at..at + max_frame).unwrap_or_default();
                [
                    libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HDR_LEN },
                    libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() },
                ]
            })
            .collect();
        let messages = vectors.iter_mut().map(|v| message(v.as_mut_ptr(), 2)).collect();
        Self { headers, buffers, vectors, messages }
    }

    /// How many frames were received, at least one; the kernel has them no more.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        debug_assert_eq!(self.vectors.len(), BATCH);
        // SAFETY: every message points to its two vectors and these into boxes owned by `self`, borrowed mutably here;
        // the kernel changes lengths and flags in `messages` and the bytes of the buffers.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// As `receive` for a descriptor that is no socket: one `readv` a frame, until nothing is left or the batch is full.
    pub(crate) fn read(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        for (i, message) in self.messages.iter_mut().enumerate() {
            // SAFETY: as in `receive`: two vectors into boxes owned by `self`.
            let n = unsafe { libc::readv(fd.as_raw_fd(), message.msg_hdr.msg_iov, 2) };
            match u32::try_from(n) {
                Ok(n) => message.msg_len = n,
                Err(_) if i > 0 => return Ok(i),
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(BATCH)
    }

    pub(crate) fn slots(&mut self, received: usize) -> impl Iterator<Item = Slot<'_>> {
        self.messages.iter().zip(self.headers.iter()).zip(&mut self.buffers).take(received).map(
            |((m, header), buffer)| {
                let len = (m.msg_len as usize).saturating_sub(VNET_HDR_LEN);
                Slot { header, buffer, len, truncated: m.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 }
            },
        )
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) failed: u64,
    /// The last reason for a failure.
    pub(crate) error: Option<i32>,
}

/// Sends frames, each behind its virtio-net header. One that is refused does not hold up the others; when the socket's
/// buffer is full the rest is given up, as a full queue of a switch would.
pub(crate) fn send_batch(fd: BorrowedFd<'_>, frames: &[(VnetHdr, &[u8])]) -> Sent {
    let mut vectors: ArrayVec<[libc::iovec; 2], BATCH> = frames
        .iter()
        .take(BATCH)
        .map(|(header, frame)| {
            [
                libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: VNET_HDR_LEN },
                libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
            ]
        })
        .collect();
    let mut messages: ArrayVec<libc::mmsghdr, BATCH> = vectors.iter_mut().map(|v| message(v.as_mut_ptr(), 2)).collect();
    let mut sent = Sent::default();
    let mut at = 0;
    while let Some(rest) = messages.get_mut(at..).filter(|r| !r.is_empty()) {
        // SAFETY: the messages and what they point to outlive the call; the kernel reads the frames and writes only
        // `msg_len`.
        let n = unsafe { libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT) };
        let Ok(n) = usize::try_from(n) else {
            let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            if error == libc::EINTR {
                continue;
            }
            sent.error = Some(error);
            let given_up = if matches!(error, libc::EAGAIN | libc::ENOBUFS) { rest.len() } else { 1 };
            sent.failed += given_up as u64;
            at += given_up;
            continue;
        };
        sent.frames += n as u64;
        sent.bytes += frames.iter().skip(at).take(n).map(|(_, f)| f.len() as u64).sum::<u64>();
        at += n.max(1);
    }
    sent
}

/// Writes one frame behind its virtio-net header to a descriptor that is no socket.
pub(crate) fn write_frame(fd: BorrowedFd<'_>, header: &VnetHdr, frame: &[u8]) -> io::Result<()> {
    let vectors = [
        libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: VNET_HDR_LEN },
        libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
    ];
    // SAFETY: two vectors whose bytes outlive the call; the kernel only reads them.
    let n = unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), 2) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn message(vectors: *mut libc::iovec, count: usize) -> libc::mmsghdr {
    // SAFETY: all zero is a valid `mmsghdr`: no name, no control data.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = vectors;
    message.msg_hdr.msg_iovlen = count;
    message
}
