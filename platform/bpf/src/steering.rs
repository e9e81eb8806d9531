use crate::device::{WayOut, way_out};
use crate::error::{BpfError, Obstacle};
use crate::flow_map::kernel_time;
use crate::object::{Attached, XdpMode, attach_xdp, elf, load, map, per_cpu_sum, program_fd, update_link};
use crate::occupant::occupants;
use crate::pins::{NoPin, Pin, Pins};
use crate::replay::{Replay, ReplayCounts, Replayed};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use penstock_maps::{
    ENDPOINT_CAPACITY, OwnedAddress, OwnedEndpoint, QUEUES, ReplayConfig, ReplayImage, SteerCounter, VIP_CAPACITY,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use zerocopy::{Immutable, IntoBytes};

const STEER: &str = "steer";
const DRIVER: &str = "use an interface whose driver does (of virtio: with a queue for each processor; of any: with an MTU of at most 3,500)";
const IN_FORCE: [u8; 4] = 1u32.to_ne_bytes();

/// The counters of the steering program since it was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteerCounts([u64; SteerCounter::ALL.len()]);

impl SteerCounts {
    #[must_use]
    pub fn get(&self, counter: SteerCounter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SteerCounter, u64)> + '_ {
        SteerCounter::ALL.iter().copied().zip(self.0)
    }
}

/// The steering program on one interface.
///
/// Until a socket is registered for a queue, what arrives there passes to the kernel, so nothing is lost by attaching first.
/// On veth a native program makes the peer segment and keeps frames at one page; the MTU must be at most about 3,500.
#[derive(Debug)]
pub struct Steering {
    mode: XdpMode,
    /// Why it is not attached natively.
    refusal: Option<Obstacle>,
    pin: Option<Pin>,
    unpinned: Option<Obstacle>,
    has_predecessor: bool,
    ifindex: u32,
    vips: KeySet<OwnedAddress>,
    endpoints: KeySet<OwnedEndpoint>,
    /// Detaches when closed; before the objects that it refers to.
    link: OwnedFd,
    /// The program in force, if it is not steering alone.
    replay: Option<Replay>,
    replayed: Replayed,
    object: Object,
}

impl Steering {
    /// Loads the program and attaches it to an interface of the calling thread's namespace: natively, or generically where
    /// the driver cannot (logged as a warning and told by [`Steering::mode`]).
    ///
    /// # Errors
    /// The kernel refuses the program (no privilege, or another XDP program is there).
    pub fn attach(ifindex: u32) -> Result<Self, BpfError> {
        Self::new(ifindex, None)
    }

    /// [`Steering::attach`], and the program stays when the process ends, until [`Steering::detach`]. What a process before has
    /// left on the interface is taken over: its program forwards until another is put in force.
    ///
    /// # Errors
    /// As for `attach`, or a process that runs has the interface. That nothing could be pinned is no error:
    /// [`Steering::unpinned`] tells.
    pub fn attach_pinned(ifindex: u32, pins: &Pins) -> Result<Self, BpfError> {
        match pins.hold(ifindex) {
            Ok(pin) => Self::new(ifindex, Some(pin)),
            Err(NoPin::Taken(error)) => Err(error),
            Err(NoPin::Failed(obstacle)) => {
                tracing::warn!(ifindex, %obstacle, "the kernel does not go on forwarding while this process is away");
                Ok(Self { unpinned: Some(obstacle), ..Self::new(ifindex, None)? })
            }
        }
    }

    fn new(ifindex: u32, pin: Option<Pin>) -> Result<Self, BpfError> {
        let object = load(STEER, elf!("steer"), None)?;
        let adopted = pin.as_ref().and_then(|pin| pin.adopt(ifindex)).zip(mode_of(ifindex));
        let has_predecessor = adopted.is_some();
        let Attached { link, mode, refusal } = match adopted {
            Some((link, mode)) => Attached { link, mode, refusal: None },
            None => attach_xdp(STEER, program_fd(&object, STEER, "penstock_steer")?, ifindex)?,
        };
        let refusal = match (mode, refusal) {
            (XdpMode::Native, _) => None,
            (XdpMode::Generic, Some(error)) => {
                Some(Obstacle::new(format!("the driver runs no XDP program itself ({error})"), DRIVER))
            }
            (XdpMode::Generic, None) => Some(Obstacle::new("the driver runs no XDP program itself", DRIVER)),
        };
        match &refusal {
            None => tracing::info!(ifindex, %mode, has_predecessor, "steering program attached"),
            Some(reason) => {
                tracing::warn!(ifindex, %mode, has_predecessor, %reason, "steering program attached without driver support");
            }
        }
        let unpinned = match &pin {
            Some(pin) if !has_predecessor => pin.put(link.as_fd()).err(),
            _ => None,
        };
        let vips = KeySet::new("virtual IPs", handle(&object, "vips")?, VIP_CAPACITY);
        let endpoints = KeySet::new("tunnel endpoints", handle(&object, "endpoints")?, ENDPOINT_CAPACITY);
        Ok(Self {
            mode,
            refusal,
            pin,
            unpinned,
            has_predecessor,
            ifindex,
            vips,
            endpoints,
            link,
            replay: None,
            replayed: Replayed::default(),
            object,
        })
    }

    /// Takes the program off the interface for good.
    pub fn detach(self) {
        if let Some(pin) = self.pin {
            pin.remove();
        }
    }

    /// Why the program ends with its process, though it should not.
    #[must_use]
    pub fn unpinned(&self) -> Option<&Obstacle> {
        self.unpinned.as_ref()
    }

    /// Whether a program of the process before is in force still.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    /// Puts off the time from which nothing is replayed without this process. To be called more often than the pins' lease.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn renew(&self) -> Result<(), BpfError> {
        self.replayed.set_lease(self.lease_end())
    }

    /// A program that is not pinned ends with its process.
    fn lease_end(&self) -> u64 {
        let lease = self.pin.as_ref().map(|pin| u64::try_from(pin.lease.as_nanos()).unwrap_or(u64::MAX));
        lease.map_or(u64::MAX, |lease| kernel_time().saturating_add(lease))
    }

    /// [`Steering::attach`] by the interface's name.
    ///
    /// # Errors
    /// There is no such interface, or as for `attach`.
    pub fn attach_to(interface: &str) -> Result<Self, BpfError> {
        let system = |source| BpfError::System { step: "find the interface", source };
        let name = std::ffi::CString::new(interface).map_err(|e| system(e.into()))?;
        // SAFETY: `name` is a terminated string.
        match unsafe { libc::if_nametoindex(name.as_ptr()) } {
            0 => Err(system(std::io::Error::last_os_error())),
            index => Self::attach(index),
        }
    }

    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why the program is attached generically, which is slower.
    #[must_use]
    pub fn refusal(&self) -> Option<&Obstacle> {
        self.refusal.as_ref()
    }

    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Sends what the node owns and arrives on `queue` to this AF_XDP socket. The kernel forgets it when the socket closes.
    ///
    /// # Errors
    /// The queue is out of range or the descriptor is no AF_XDP socket bound to this interface and queue.
    pub fn register_socket(&self, queue: u32, socket: RawFd) -> Result<(), BpfError> {
        if queue >= QUEUES {
            return Err(BpfError::Queue(queue));
        }
        let sockets = map(&self.object, STEER, "sockets")?;
        sockets.update(&queue.to_ne_bytes(), &socket.to_ne_bytes(), MapFlags::ANY).map_err(|source| BpfError::Object {
            program: STEER,
            step: "register the socket of a queue",
            source,
        })
    }

    /// Owns exactly these virtual IPs. Those that stay are not touched, so their traffic has no gap.
    ///
    /// # Errors
    /// More than the map holds (nothing is changed), or the kernel refuses.
    pub fn set_vips(&mut self, vips: impl IntoIterator<Item = IpAddr>) -> Result<(), BpfError> {
        self.vips.set(vips.into_iter().map(OwnedAddress::new).collect())
    }

    /// Owns exactly these tunnel endpoints on the node's own addresses.
    ///
    /// # Errors
    /// As for [`Steering::set_vips`].
    pub fn set_endpoints(&mut self, endpoints: impl IntoIterator<Item = OwnedEndpoint>) -> Result<(), BpfError> {
        self.endpoints.set(endpoints.into_iter().collect())
    }

    /// How packets that are replayed would leave the interface now. On a veth that follows what its peer does.
    ///
    /// # Errors
    /// Why none can be replayed.
    pub fn way_out(&self) -> Result<WayOut, Obstacle> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        way_out(self.ifindex)
            .map_err(|error| {
                Obstacle::new(
                    format!("the kernel does not say what the device can ({error})"),
                    "use Linux 6.3 or later",
                )
            })?
            .ok_or_else(|| {
                Obstacle::new("the veth's peer takes no frames of XDP programs", "give it GRO: ethtool -K PEER gro on")
            })
    }

    /// [`Steering::replay_by`] the way that frames leave the interface by now; `XDP_TX` if nobody takes them.
    ///
    /// # Errors
    /// As for `replay_by`.
    pub fn replay(&mut self, image: &ReplayImage) -> Result<(), BpfError> {
        let system = |source| BpfError::System { step: "ask how frames leave the interface", source };
        let way = way_out(self.ifindex).map_err(system)?.unwrap_or(WayOut::Answer);
        self.replay_by(image, way)
    }

    /// Replays this policy in the kernel from now on; what the program does not know is steered as before. Between two
    /// packets: none sees a part of it.
    ///
    /// # Errors
    /// The kernel refuses the program or the maps: what was in force stays. Or it does not tell what was counted before: the
    /// policy is in force then.
    pub fn replay_by(&mut self, image: &ReplayImage, way: WayOut) -> Result<(), BpfError> {
        let out = match way {
            WayOut::Answer => 0,
            WayOut::Redirect => self.ifindex,
        };
        let config = ReplayConfig { out, ..image.config };
        let next = Replay::load(image, &config, &self.object, &self.replayed, self.lease_end())?;
        put_in_force(&self.link, next.program()?)?;
        self.has_predecessor = false;
        self.replay.insert(next).take_over(&mut self.replayed)
    }

    /// Only steers from now on.
    ///
    /// # Errors
    /// The kernel refuses; what was in force stays.
    pub fn stop_replay(&mut self) -> Result<(), BpfError> {
        if self.replay.is_some() || self.has_predecessor {
            put_in_force(&self.link, program_fd(&self.object, STEER, "penstock_steer")?)?;
            self.has_predecessor = false;
            self.replay = None;
        }
        Ok(())
    }

    /// What has been replayed since the program was attached.
    ///
    /// # Errors
    /// The kernel refuses to read it.
    pub fn replayed(&mut self) -> Result<ReplayCounts, BpfError> {
        self.replayed.read()
    }

    /// The program in force, for [`crate::testrun`].
    ///
    /// # Errors
    /// It is missing from the object file.
    pub fn program(&self) -> Result<BorrowedFd<'_>, BpfError> {
        match &self.replay {
            Some(replay) => replay.program(),
            None => program_fd(&self.object, STEER, "penstock_steer"),
        }
    }

    /// # Errors
    /// The kernel refuses to read them.
    pub fn counts(&self) -> Result<SteerCounts, BpfError> {
        let counters = map(&self.object, STEER, "counters")?;
        let mut counts = SteerCounts::default();
        for (counter, total) in SteerCounter::ALL.iter().zip(&mut counts.0) {
            let [sum] = per_cpu_sum::<1>(&counters, *counter as u32).map_err(|source| BpfError::Object {
                program: STEER,
                step: "read its counters",
                source,
            })?;
            *total = sum;
        }
        Ok(counts)
    }
}

fn put_in_force(link: &OwnedFd, program: BorrowedFd<'_>) -> Result<(), BpfError> {
    update_link(link.as_fd(), program)
        .map_err(|source| BpfError::System { step: "put another program in force", source })
}

/// How the program that is on an interface is attached.
fn mode_of(ifindex: u32) -> Option<XdpMode> {
    occupants(ifindex).ok()?.first().map(|occupant| occupant.mode)
}

fn handle(object: &Object, name: &'static str) -> Result<MapHandle, BpfError> {
    MapHandle::try_from(&map(object, STEER, name)?).map_err(|source| BpfError::Object {
        program: STEER,
        step: "hold its maps",
        source,
    })
}

/// A hash map of the kernel used as a set, and what we know to be in it.
#[derive(Debug)]
struct KeySet<K> {
    what: &'static str,
    map: MapHandle,
    limit: u32,
    present: BTreeSet<K>,
}

impl<K: Ord + Copy + IntoBytes + Immutable> KeySet<K> {
    fn new(what: &'static str, map: MapHandle, limit: u32) -> Self {
        Self { what, map, limit, present: BTreeSet::new() }
    }

    /// Removes first, so that a full map can be exchanged; keys in both sets stay throughout.
    fn set(&mut self, wanted: BTreeSet<K>) -> Result<(), BpfError> {
        if wanted.len() > self.limit as usize {
            return Err(BpfError::TooMany { what: self.what, count: wanted.len(), limit: self.limit });
        }
        let at = |step| move |source| BpfError::Object { program: STEER, step, source };
        let stale: Vec<K> = self.present.difference(&wanted).copied().collect();
        for key in stale {
            self.map.delete(key.as_bytes()).map_err(at("remove an address"))?;
            self.present.remove(&key);
        }
        for key in wanted {
            if !self.present.contains(&key) {
                self.map.update(key.as_bytes(), &IN_FORCE, MapFlags::ANY).map_err(at("add an address"))?;
                self.present.insert(key);
            }
        }
        Ok(())
    }
}
