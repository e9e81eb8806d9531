//! Which CPU a worker runs on.
use crate::sys;
use std::io;

/// Binds the calling thread to one CPU. A worker on AF_XDP must not share its CPU with the interface's receive interrupts
/// or, on veth, with the sender: measured, that leaves it a third of its throughput.
///
/// # Errors
/// There is no such CPU or the process may not use it.
pub fn pin_this_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zero is an empty `cpu_set_t`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is inside the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is readable for its size; 0 is the calling thread.
    sys::check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }).map(drop)
}

/// The CPU that the calling thread runs on now.
#[must_use]
pub fn cpu_of_this_thread() -> Option<usize> {
    // SAFETY: takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_where_it_was_put() {
        std::thread::spawn(|| {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            for cpu in 0..cpus {
                if pin_this_thread(cpu).is_ok() {
                    assert_eq!(cpu_of_this_thread(), Some(cpu));
                }
            }
            assert!(pin_this_thread(1 << 20).is_err());
        })
        .join()
        .unwrap();
    }
}
