use crate::BpfError;
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapHandle};
use penstock_maps::ReplayTraffic;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Counters by id in a per-CPU array of the kernel, and what was counted in the smaller arrays before it.
#[derive(Debug)]
pub(crate) struct Traffic {
    map: MapHandle,
    before: Vec<ReplayTraffic>,
}

/// Ids that the smallest array has room for.
const LEAST: usize = 64;
const NOTHING: ReplayTraffic = ReplayTraffic { packets: 0, bytes: 0, sent: 0 };
const WORDS: usize = size_of::<ReplayTraffic>() / 8;

impl Traffic {
    /// The size of an array for so many ids, with room to grow.
    pub(crate) fn capacity_for(ids: usize) -> u32 {
        u32::try_from(ids.max(LEAST).next_power_of_two()).unwrap_or(u32::MAX)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.map.max_entries() as usize
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Goes over to `map`, unless it is the one already.
    pub(crate) fn succeed(present: &mut Option<Self>, map: &MapHandle) -> Result<(), BpfError> {
        if present.as_ref().is_some_and(|t| t.capacity() == map.max_entries() as usize) {
            return Ok(());
        }
        let before = present.as_ref().map_or(Ok(Vec::new()), Self::read)?;
        let map = MapHandle::try_from(map).map_err(|source| BpfError::Object {
            program: "mux",
            step: "hold its maps",
            source,
        })?;
        *present = Some(Self { map, before });
        Ok(())
    }

    /// The sums over all CPUs, by id.
    pub(crate) fn read(&self) -> Result<Vec<ReplayTraffic>, BpfError> {
        let (cpus, values) = self.read_all().map_err(|source| BpfError::System { step: "read counters", source })?;
        let mut sums: Vec<ReplayTraffic> = values.chunks_exact(cpus * WORDS).map(|v| sum(v, WORDS)).collect();
        for (sum, before) in sums.iter_mut().zip(&self.before) {
            *sum = add(*sum, *before);
        }
        Ok(sums)
    }

    /// All values in one call: for each id one for each CPU.
    fn read_all(&self) -> io::Result<(usize, Vec<u64>)> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
        let mut count = self.map.max_entries();
        let mut keys = vec![0u32; count as usize];
        let mut values = vec![0u64; count as usize * cpus * WORDS];
        let mut next = 0u32;
        // SAFETY: keys and values have room for `count` entries, a value of 24 bytes being rounded up to 24 for each CPU.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                self.map.as_fd().as_raw_fd(),
                std::ptr::null_mut(),
                (&raw mut next).cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                std::ptr::null(),
            )
        };
        // ENOENT: the end of the map was reached.
        if result < 0 && result != -libc::ENOENT {
            return Err(io::Error::from_raw_os_error(-result));
        }
        values.truncate(count as usize * cpus * WORDS);
        Ok((cpus, values))
    }
}

fn sum(words: &[u64], size: usize) -> ReplayTraffic {
    let each = words.chunks_exact(size).filter_map(|w| w.first_chunk::<3>());
    each.fold(NOTHING, |sum, [packets, bytes, sent]| {
        add(sum, ReplayTraffic { packets: *packets, bytes: *bytes, sent: *sent })
    })
}

fn add(a: ReplayTraffic, b: ReplayTraffic) -> ReplayTraffic {
    ReplayTraffic { packets: a.packets + b.packets, bytes: a.bytes + b.bytes, sent: a.sent + b.sent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_cpus_add_up() {
        assert_eq!(sum(&[1, 100, 150, 2, 200, 300], 3), ReplayTraffic { packets: 3, bytes: 300, sent: 450 });
    }

    #[test]
    fn an_array_has_room_to_grow() {
        assert_eq!([0, 64, 65, 1000].map(Traffic::capacity_for), [64, 64, 128, 1024]);
    }
}
