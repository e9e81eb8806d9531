//! What the process may still do once it runs.
//!
//! Capabilities belong to threads, and a thread hands its own to those that it starts. So they are limited once, on the first thread,
//! before any other exists: then the data plane's workers and the control plane's threads all have the limit, and none can regain what
//! was given up. `no_new_privs` keeps a program that is started (none is) from gaining any.
//!
//! | kept | by | for |
//! | --- | --- | --- |
//! | `NET_ADMIN` | mux, host, gateway | XDP attachment, neighbours, offload settings; tunnels that are added later |
//! | `NET_RAW` | mux, host, gateway | AF_XDP and AF_PACKET sockets, also after an interface has come back |
//! | `BPF`, `PERFMON` | mux, host, gateway | loading the steering program, updating its maps, taking over a pinned one |
//! | `IPC_LOCK` | mux, host, gateway | packet memory above `RLIMIT_MEMLOCK` |
//! | `NET_BIND_SERVICE` | all | ports below 1024: northbound 443, tunnels |
//!
//! Without `DAC_OVERRIDE`, the user of the process must own its state directory and be able to read its keys, root or not.
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

#[derive(Debug, thiserror::Error)]
#[error("cannot limit the privileges of the process ({step}): {error}")]
pub(crate) struct PrivilegeError {
    step: &'static str,
    error: Errno,
}

const CONTROL: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;
const DATA: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::IPC_LOCK);

/// What a process needs: `forwards` if it has a role with a data plane.
pub(crate) const fn needed(forwards: bool) -> CapabilitySet {
    if forwards { CONTROL.union(DATA) } else { CONTROL }
}

/// Gives up all capabilities but `keep`, on this thread and those that it starts from now on.
pub(crate) fn limit_to(keep: CapabilitySet) -> Result<(), PrivilegeError> {
    let at = |step| move |error| PrivilegeError { step, error };
    set_no_new_privs(true).map_err(at("no_new_privs"))?;
    let now = capabilities(None).map_err(at("reading capabilities"))?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        shrink_bounding_set(keep).map_err(at("bounding set"))?;
    }
    match clear_ambient_capability_set() {
        // Kernels before 4.3 have no ambient set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(at("ambient set")(error)),
    }
    let kept = CapabilitySets {
        effective: now.effective & keep,
        permitted: now.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(at("capabilities"))
}

fn shrink_bounding_set(keep: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // The first number that this kernel does not know ends the list.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: what is given up does not come back.
    fn in_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(f).join().unwrap()
    }

    #[test]
    fn only_what_is_needed_is_left_also_for_threads_started_later() {
        let (before, after, child) = in_thread(|| {
            let before = capabilities(None).unwrap();
            limit_to(needed(true)).unwrap();
            let child = in_thread(|| capabilities(None).unwrap());
            (before, capabilities(None).unwrap(), child)
        });
        assert_eq!(after.effective, before.effective & needed(true));
        assert_eq!(after.permitted, before.permitted & needed(true));
        assert_eq!(after, child);
    }

    #[test]
    fn a_controller_keeps_no_network_rights() {
        let after = in_thread(|| {
            limit_to(needed(false)).unwrap();
            capabilities(None).unwrap()
        });
        assert!(needed(false).contains(after.permitted), "{after:?}");
        assert!(!after.permitted.intersects(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN));
    }

    #[test]
    fn giving_up_twice_is_fine() {
        in_thread(|| {
            limit_to(needed(true)).unwrap();
            limit_to(needed(false)).unwrap();
        });
    }
}
