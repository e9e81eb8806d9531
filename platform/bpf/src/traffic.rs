use crate::BpfError;
use crate::replay::hold;
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapHandle};
use penstock_maps::ReplayTraffic;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Counters by id in a per-CPU array of the kernel, and what was counted in the smaller arrays before it.
///
/// **Memory**: 24 bytes a place for each CPU that the machine may have, in the kernel, and as many for each id here.
#[derive(Debug)]
pub(crate) struct Traffic {
    map: MapHandle,
    /// Ids that any program has counted by: no others are read.
    ids: usize,
    before: Vec<ReplayTraffic>,
    values: Vec<u64>,
}

/// Ids that the smallest array has room for.
const LEAST: usize = 64;
/// Ids that are read in one call: 24 bytes each for each CPU.
const BATCH: usize = 256;
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

    /// Goes over to `map`, unless it is the one already; ids below `ids` are counted there.
    pub(crate) fn succeed(present: &mut Option<Self>, map: &MapHandle, ids: usize) -> Result<(), BpfError> {
        match present {
            Some(same) if same.capacity() == map.max_entries() as usize => same.ids = same.ids.max(ids),
            _ => {
                let before = present.as_mut().map_or(Ok(Vec::new()), Self::read)?;
                let ids = ids.max(before.len());
                *present = Some(Self { map: hold(map)?, ids, before, values: Vec::new() });
            }
        }
        Ok(())
    }

    /// The sums over all CPUs, by id.
    pub(crate) fn read(&mut self) -> Result<Vec<ReplayTraffic>, BpfError> {
        let system = |source| BpfError::System { step: "read counters", source };
        let cpus = libbpf_rs::num_possible_cpus().map_err(io::Error::other).map_err(system)?;
        self.values.resize(self.ids.min(BATCH) * cpus * WORDS, 0);
        let mut sums = Vec::with_capacity(self.ids);
        while sums.len() < self.ids {
            let wanted = (self.ids - sums.len()).min(BATCH);
            let count = read_batch(&self.map, sums.len(), wanted, cpus, &mut self.values).map_err(system)?;
            if count == 0 {
                break;
            }
            sums.extend(self.values.chunks_exact(cpus * WORDS).take(count).map(|v| sum(v, WORDS)));
        }
        for (sum, before) in sums.iter_mut().zip(&self.before) {
            *sum = add(*sum, *before);
        }
        Ok(sums)
    }
}

/// Reads the values of at most `wanted` ids from `first` on, for each id one for each CPU, and returns of how many.
fn read_batch(map: &MapHandle, first: usize, wanted: usize, cpus: usize, values: &mut [u64]) -> io::Result<usize> {
    let mut keys = [0u32; BATCH];
    let wanted = wanted.min(BATCH).min(values.len() / (cpus * WORDS).max(1));
    let mut count = wanted as u32;
    // The kernel goes on behind the id that it is given.
    let mut last = (first as u32).wrapping_sub(1);
    let from = if first == 0 { std::ptr::null_mut() } else { (&raw mut last).cast() };
    let mut next = 0u32;
    // SAFETY: keys and values have room for `count` entries, a value of 24 bytes being rounded up to 24 for each CPU.
    let result = unsafe {
        libbpf_sys::bpf_map_lookup_batch(
            map.as_fd().as_raw_fd(),
            from,
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
    Ok((count as usize).min(wanted))
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

    /// `None`, and says so, without the rights to make maps.
    fn array(places: u32) -> Option<MapHandle> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let kind = libbpf_rs::MapType::PercpuArray;
        let map = MapHandle::create(kind, Some("test"), 4, size_of::<ReplayTraffic>() as u32, places, &options);
        map.inspect_err(|error| println!("skipped: {error}")).ok()
    }

    /// Counts `packets` by an id on every CPU.
    fn count(map: &MapHandle, id: u32, packets: u64) {
        let value = [packets, 0, 0].map(u64::to_ne_bytes).concat();
        let values = vec![value; libbpf_rs::num_possible_cpus().unwrap()];
        map.update_percpu(&id.to_ne_bytes(), &values, libbpf_rs::MapFlags::ANY).unwrap();
    }

    #[test]
    fn only_ids_in_use_are_read_in_parts_and_into_the_same_memory() {
        let Some(map) = array(1 << 14) else { return };
        let cpus = libbpf_rs::num_possible_cpus().unwrap();
        for id in [0, 255, 256, 599, 600] {
            count(&map, id, u64::from(id) + 1);
        }
        let mut traffic = None;
        Traffic::succeed(&mut traffic, &map, 600).unwrap();
        let traffic = traffic.as_mut().unwrap();
        let sums = traffic.read().unwrap();
        let counted: Vec<_> = (0..).zip(&sums).filter(|(_, t)| t.packets > 0).map(|(id, t)| (id, t.packets)).collect();
        let all = cpus as u64;
        assert_eq!((sums.len(), counted), (600, vec![(0, all), (255, 256 * all), (256, 257 * all), (599, 600 * all)]));
        let memory = (traffic.values.as_ptr(), traffic.values.capacity());
        assert_eq!((traffic.read().unwrap(), traffic.values.len()), (sums, BATCH * cpus * WORDS));
        assert_eq!((traffic.values.as_ptr(), traffic.values.capacity()), memory);
    }

    #[test]
    fn counts_go_on_in_a_larger_array_and_fewer_ids_hide_none() {
        let (Some(small), Some(large)) = (array(64), array(512)) else { return };
        let cpus = libbpf_rs::num_possible_cpus().unwrap() as u64;
        let mut traffic = None;
        Traffic::succeed(&mut traffic, &small, 40).unwrap();
        count(&small, 39, 5);
        Traffic::succeed(&mut traffic, &large, 300).unwrap();
        count(&large, 39, 2);
        count(&large, 299, 1);
        Traffic::succeed(&mut traffic, &large, 3).unwrap();
        let sums = traffic.as_mut().unwrap().read().unwrap();
        assert_eq!((sums.len(), sums[39].packets, sums[299].packets), (300, 7 * cpus, cpus));
    }

    #[test]
    fn an_array_has_room_to_grow() {
        assert_eq!([0, 64, 65, 1000].map(Traffic::capacity_for), [64, 64, 128, 1024]);
    }
}
