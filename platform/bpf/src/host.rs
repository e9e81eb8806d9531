use crate::BpfError;
use crate::flow_map::FlowMap;
use crate::object::{elf, link, load_open, map, open, open_map, per_cpu_sum, program_fd};
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use penstock_maps::{OwnedAddress, ReplayHost, ReplayTally};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

const HOST: &str = "host";

/// Where a host's program stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPoint {
    /// Where encapsulated packets come in.
    Underlay,
    /// The host's side of a container's link.
    Container,
}

/// The programs of a host, which replay flows on the ingress of interfaces (TCX: Linux 6.6).
///
/// Where one stands, packet sockets have to take marked frames alone (`penstock_maps::MARK`): the others are replayed, or come
/// again with the mark. Nothing is replayed before [`HostReplay::set_generation`] and [`FlowMap::install`] agree.
///
/// **Memory**: about 300 bytes of the kernel's for each flow that is installed; 48 bytes a port for each CPU.
#[derive(Debug)]
pub struct HostReplay {
    /// By interface index. Each ends when it is closed; before the objects that it refers to.
    links: BTreeMap<u32, OwnedFd>,
    generation: MapHandle,
    tallies: MapHandle,
    ports: u32,
    object: Object,
}

impl HostReplay {
    /// Loads the programs of a host with this underlay address, for `flows` flows at most and `ports` ports.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(own: IpAddr, flows: u32, ports: u32) -> Result<Self, BpfError> {
        let config = ReplayHost { own: words(own) };
        let mut object = open(HOST, elf!("host"), Some(config.as_bytes()))?;
        for (name, size) in [("flows", flows), ("tallies", ports)] {
            open_map(&mut object, HOST, name)?.set_max_entries(size.max(1)).map_err(at("size a map"))?;
        }
        let object = load_open(HOST, object)?;
        let handle = |name| MapHandle::try_from(&map(&object, HOST, name)?).map_err(at("hold its maps"));
        let (generation, tallies) = (handle("generation")?, handle("tallies")?);
        Ok(Self { links: BTreeMap::new(), generation, tallies, ports, object })
    }

    /// Attaches to an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, ifindex: u32, point: HostPoint) -> Result<(), BpfError> {
        let link = link(self.program(point)?, ifindex, libbpf_sys::BPF_TCX_INGRESS, 0)
            .map_err(|source| BpfError::System { step: "attach to the ingress of an interface (TCX)", source })?;
        self.links.insert(ifindex, link);
        Ok(())
    }

    pub fn detach(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
    }

    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex)
    }

    /// Only flows that are installed under this generation are replayed from now on.
    ///
    /// # Errors
    /// The kernel refuses: those of the generation before are replayed on.
    pub fn set_generation(&self, generation: u32) -> Result<(), BpfError> {
        self.generation
            .update(&0u32.to_ne_bytes(), &generation.to_ne_bytes(), MapFlags::ANY)
            .map_err(at("set the generation"))
    }

    /// What was replayed, by port.
    ///
    /// # Errors
    /// The kernel refuses to read it.
    pub fn tallies(&self) -> Result<Vec<ReplayTally>, BpfError> {
        let read = |port| {
            let [received, received_bytes, sent, sent_bytes, denied, failed] = per_cpu_sum(&self.tallies, port)?;
            Ok(ReplayTally { received, received_bytes, sent, sent_bytes, denied, failed })
        };
        (0..self.ports).map(read).collect::<Result<_, _>>().map_err(at("read its counters"))
    }

    /// The flows, to be installed by whoever decides them.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn flows(&self) -> Result<FlowMap, BpfError> {
        let flows = MapHandle::try_from(&map(&self.object, HOST, "flows")?).map_err(at("hold its maps"))?;
        Ok(FlowMap::new(flows))
    }

    /// For [`crate::testrun`].
    ///
    /// # Errors
    /// It is missing from the object file.
    pub fn program(&self, point: HostPoint) -> Result<BorrowedFd<'_>, BpfError> {
        let name = match point {
            HostPoint::Underlay => "penstock_underlay",
            HostPoint::Container => "penstock_container",
        };
        program_fd(&self.object, HOST, name)
    }
}

fn at(step: &'static str) -> impl Fn(libbpf_rs::Error) -> BpfError {
    move |source| BpfError::Object { program: HOST, step, source }
}

fn words(address: IpAddr) -> [u64; 2] {
    let OwnedAddress { bytes } = OwnedAddress::new(address);
    let half = |i: usize| u64::from_ne_bytes(std::array::from_fn(|n| bytes.get(i + n).copied().unwrap_or_default()));
    [half(0), half(8)]
}
