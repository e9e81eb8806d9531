use crate::BpfError;
use libbpf_rs::libbpf_sys;
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};
use penstock_maps::{ReplayFlow, ReplayFlowKey};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use zerocopy::IntoBytes;

/// The flows that a host's programs replay.
///
/// Order of calls: [`FlowMap::install`] and [`FlowMap::remove`] at any time; [`FlowMap::step`] again and again: each tells of some
/// flows, and all are told of between two ends.
#[derive(Debug)]
pub struct FlowMap {
    map: MapHandle,
    keys: Vec<ReplayFlowKey>,
    values: Vec<ReplayFlow>,
    /// Where the next step begins, as the kernel says it; `None`: at the beginning.
    cursor: Option<u64>,
}

impl FlowMap {
    /// Flows looked at in one step: 60 KiB of them.
    pub const STEP: usize = 256;

    pub(crate) fn new(map: MapHandle) -> Self {
        Self { map, keys: Vec::new(), values: Vec::new(), cursor: None }
    }

    /// Replays `flow` from now on. False: there is no room, or no memory.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    pub fn install(&self, key: &ReplayFlowKey, flow: &ReplayFlow) -> Result<bool, BpfError> {
        let flow = ReplayFlow { seen: kernel_time(), ..*flow };
        match self.map.update(key.as_bytes(), flow.as_bytes(), MapFlags::ANY) {
            Ok(()) => Ok(true),
            Err(e) if is_full(&e) => Ok(false),
            Err(source) => Err(BpfError::Object { program: "host", step: "install a flow", source }),
        }
    }

    /// Leaves the flow to user space. What is not there is not missed.
    pub fn remove(&self, key: &ReplayFlowKey) {
        let _ = self.map.delete(key.as_bytes());
    }

    /// Looks at some flows. `look` is given each with the time since a packet of it was replayed (or since it was installed), and
    /// says whether it stays. Returns whether this was the last of them.
    ///
    /// # Errors
    /// The kernel refuses to read them. The next step begins anew.
    pub fn step(
        &mut self,
        mut look: impl FnMut(&ReplayFlow, &ReplayFlowKey, Duration) -> bool,
    ) -> Result<bool, BpfError> {
        let is_last = self.read().map_err(|source| {
            self.cursor = None;
            BpfError::System { step: "read flows of the host's program", source }
        })?;
        let now = kernel_time();
        for (key, flow) in self.keys.iter().zip(&self.values) {
            if !look(flow, key, Duration::from_nanos(now.saturating_sub(flow.seen))) {
                let _ = self.map.delete(key.as_bytes());
            }
        }
        Ok(is_last)
    }

    /// The next step begins anew.
    pub fn restart(&mut self) {
        self.cursor = None;
    }

    /// Fills `keys` and `values`.
    fn read(&mut self) -> io::Result<bool> {
        self.keys.clear();
        self.values.clear();
        // The kernel wants room for whole buckets, which are short unless the map is much too full.
        let mut room = Self::STEP;
        loop {
            self.keys.reserve(room);
            self.values.reserve(room);
            let mut count = room as u32;
            let mut next = 0u64;
            let from = self.cursor.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
            let options = libbpf_sys::bpf_map_batch_opts {
                sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as libbpf_sys::size_t,
                ..Default::default()
            };
            // SAFETY: keys and values have room for `count` of the map's keys and values; a hash map's cursor has four bytes.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.map.as_fd().as_raw_fd(),
                    from.cast(),
                    (&raw mut next).cast(),
                    self.keys.as_mut_ptr().cast(),
                    self.values.as_mut_ptr().cast(),
                    &raw mut count,
                    &raw const options,
                )
            };
            match -result {
                0 | libc::ENOENT => {
                    let count = (count as usize).min(room);
                    // SAFETY: the kernel has written so many, of plain data for which any bytes are a value.
                    unsafe {
                        self.keys.set_len(count);
                        self.values.set_len(count);
                    }
                    self.cursor = (result == 0).then_some(next);
                    return Ok(result != 0);
                }
                libc::ENOSPC if room < Self::STEP * 64 => room *= 2,
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

fn is_full(error: &libbpf_rs::Error) -> bool {
    matches!(error.kind(), ErrorKind::TooBig | ErrorKind::OutOfMemory)
}

/// `CLOCK_MONOTONIC`, which the programs read too.
pub(crate) fn kernel_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
