use crate::BpfError;
use crate::object::{elf, load_open, map, open, open_map, per_cpu_sum, program_fd};
use crate::traffic::Traffic;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use penstock_maps::{ReplayConfig, ReplayImage, ReplayTraffic};
use std::os::fd::{AsFd, BorrowedFd};
use zerocopy::{Immutable, IntoBytes};

const MUX: &str = "mux";
/// Maps that it has in common with the steering program.
const SHARED: [&str; 4] = ["vips", "endpoints", "sockets", "counters"];

/// What was replayed on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayCounts {
    /// By service id.
    pub services: Vec<ReplayTraffic>,
    /// By backend id.
    pub backends: Vec<ReplayTraffic>,
    /// Frames that were lost on the way; in none of the others.
    pub aborted: u64,
}

/// What programs on one interface have replayed, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    services: Option<Traffic>,
    backends: Option<Traffic>,
    aborted: Option<MapHandle>,
    lease: Option<MapHandle>,
}

impl Replayed {
    /// Until when the program in force replays.
    pub(crate) fn set_lease(&self, until: u64) -> Result<(), BpfError> {
        self.lease.as_ref().map_or(Ok(()), |map| write_lease(map, until))
    }

    pub(crate) fn read(&mut self) -> Result<ReplayCounts, BpfError> {
        let read = |t: &mut Option<Traffic>| t.as_mut().map_or(Ok(Vec::new()), Traffic::read);
        let aborted = self.aborted.as_ref().map_or(Ok([0]), |map| per_cpu_sum::<1>(map, 0));
        let [aborted] = aborted.map_err(at("read its counters"))?;
        Ok(ReplayCounts { services: read(&mut self.services)?, backends: read(&mut self.backends)?, aborted })
    }
}

fn at(step: &'static str) -> impl Fn(libbpf_rs::Error) -> BpfError {
    move |source| BpfError::Object { program: MUX, step, source }
}

/// The mux's program, loaded for one policy.
#[derive(Debug)]
pub(crate) struct Replay {
    object: Object,
    services: Counters,
    backends: Counters,
    aborted: MapHandle,
    lease: MapHandle,
}

/// A map of counters and how many of them the program may write.
type Counters = (MapHandle, usize);

impl Replay {
    /// Loads the program and fills its maps; it is not attached yet. Steering's maps are used as they are, and the counts of
    /// the programs before are continued. It replays until `until`.
    pub(crate) fn load(
        image: &ReplayImage,
        config: &ReplayConfig,
        steering: &Object,
        replayed: &Replayed,
        until: u64,
    ) -> Result<Self, BpfError> {
        let mut object = open(MUX, elf!("mux"), Some(config.as_bytes()))?;
        for name in SHARED {
            let shared = map(steering, MUX, name)?;
            open_map(&mut object, MUX, name)?.reuse_fd(shared.as_fd()).map_err(at("share a map"))?;
        }
        for (name, shared) in [("aborted", &replayed.aborted), ("lease", &replayed.lease)] {
            if let Some(shared) = shared {
                open_map(&mut object, MUX, name)?.reuse_fd(shared.as_fd()).map_err(at("share a map"))?;
            }
        }
        let ids = (image.service_ids as usize, image.backends.len());
        for (name, traffic, ids) in
            [("service_traffic", &replayed.services, ids.0), ("backend_traffic", &replayed.backends, ids.1)]
        {
            let mut open = open_map(&mut object, MUX, name)?;
            match traffic.as_ref().filter(|t| t.capacity() >= ids) {
                Some(traffic) => open.reuse_fd(traffic.fd()).map_err(at("share a map"))?,
                None => open.set_max_entries(Traffic::capacity_for(ids)).map_err(at("size a map"))?,
            }
        }
        for (name, count) in
            [("services", image.services.len()), ("pools", image.pools.len()), ("backends", image.backends.len())]
        {
            let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
            open_map(&mut object, MUX, name)?.set_max_entries(count).map_err(at("size a map"))?;
        }
        let object = load_open(MUX, object)?;
        fill(&object, "services", &image.services)?;
        fill(&object, "pools", &image.pools)?;
        fill(&object, "backends", &image.backends)?;
        let handle = |name| MapHandle::try_from(&map(&object, MUX, name)?).map_err(at("hold its maps"));
        let (services, backends) = ((handle("service_traffic")?, ids.0), (handle("backend_traffic")?, ids.1));
        let (aborted, lease) = (handle("aborted")?, handle("lease")?);
        write_lease(&lease, until)?;
        Ok(Self { object, services, backends, aborted, lease })
    }

    pub(crate) fn program(&self) -> Result<BorrowedFd<'_>, BpfError> {
        program_fd(&self.object, MUX, "penstock_mux")
    }

    /// Where its counts are, and what was counted before. To be called once it is in force. A packet that another CPU has
    /// begun by the program before may be missing then, if its counts were elsewhere.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn take_over(&self, replayed: &mut Replayed) -> Result<(), BpfError> {
        Traffic::succeed(&mut replayed.services, &self.services.0, self.services.1)?;
        Traffic::succeed(&mut replayed.backends, &self.backends.0, self.backends.1)?;
        for (of_all, own) in [(&mut replayed.aborted, &self.aborted), (&mut replayed.lease, &self.lease)] {
            if of_all.is_none() {
                *of_all = Some(hold(own)?);
            }
        }
        Ok(())
    }
}

fn write_lease(map: &MapHandle, until: u64) -> Result<(), BpfError> {
    map.update(&0u32.to_ne_bytes(), &until.to_ne_bytes(), MapFlags::ANY).map_err(at("put off the end of its lease"))
}

/// A handle of one's own to the same map.
pub(crate) fn hold(map: &MapHandle) -> Result<MapHandle, BpfError> {
    MapHandle::try_from(map).map_err(at("hold its maps"))
}

/// Writes a whole array.
fn fill<T: IntoBytes + Immutable>(object: &Object, name: &'static str, values: &[T]) -> Result<(), BpfError> {
    if values.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = (0..).take(values.len()).collect();
    let source = map(object, MUX, name)?;
    source
        .update_batch(keys.as_bytes(), values.as_bytes(), keys.len() as u32, MapFlags::ANY, MapFlags::ANY)
        .map_err(at("fill its maps"))
}
