//! Threads in other network namespaces. A socket belongs to the namespace of the thread that made it.
use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Moves the calling thread, and only it, into a named namespace (`ip netns`).
///
/// # Errors
/// There is no such namespace or this process may not.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(Path::new("/run/netns").join(name))?;
    // SAFETY: takes a descriptor and a flag.
    sys::check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Runs `work` on a thread of its own in a named namespace and waits for it.
///
/// # Errors
/// As [`enter`]; or the work panicked.
pub fn run_in<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(name)?;
                Ok(work())
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other(format!("a thread in namespace {name} panicked"))))
    })
}
