use crate::BpfError;
use crate::object::{Attached, XdpMode, attach_xdp, elf, load, map, program_fd};
use crate::testrun::{Flows, run_repeatedly};
use libbpf_rs::{MapCore, MapFlags, Object};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use zerocopy::{Immutable, IntoBytes};

const MEASURE: &str = "measure";
/// Bytes of headers that are written anew for each packet: those of IPv6; IPv4 needs fewer.
const HEADERS: usize = 72;

/// As `struct rotation` in `measure.bpf.c`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    flows: u32,
    stride: u32,
    base_address: u32,
    ports: u32,
    first_port: u32,
    length: u32,
    is_v6: u32,
    pad: u32,
    headers: [u8; HEADERS],
}

/// A program that time is taken of.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// One that answers at once: what a measurement costs itself.
    Empty,
    /// One that only encapsulates.
    Floor,
    Program(BorrowedFd<'a>),
}

/// Takes the time of XDP programs over packets of flow after flow, without sending any.
#[derive(Debug)]
pub struct Stopwatch {
    object: Object,
    frame: Vec<u8>,
}

impl Stopwatch {
    /// `frame`: Ethernet, then IPv4 without options or IPv6 without extensions, TCP or UDP; 60 bytes of IPv4, 74 of IPv6 or more.
    /// Source address (of IPv6 its last four bytes) and port are written over.
    ///
    /// # Errors
    /// The kernel refuses the programs, or the frame is too short.
    pub fn new(flows: Flows, frame: &[u8]) -> Result<Self, BpfError> {
        let is_v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
        let mut headers = [0; HEADERS];
        if frame.len() < if is_v6 { 74 } else { 60 } {
            let source = io::ErrorKind::InvalidInput.into();
            return Err(BpfError::System { step: "measure with frames that are so short", source });
        }
        headers.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
        let config = Config {
            flows: flows.count.max(1),
            stride: flows.stride % flows.count.max(1),
            base_address: flows.base_address.into(),
            ports: u32::from(flows.ports.max(1)),
            first_port: u32::from(flows.first_port),
            length: frame.len() as u32,
            is_v6: u32::from(is_v6),
            pad: 0,
            headers,
        };
        let object = load(MEASURE, elf!("measure"), Some(config.as_bytes()))?;
        Ok(Self { object, frame: frame.to_vec() })
    }

    /// Nanoseconds of one run, the mean of `repeat`, as the kernel took them; and its last answer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn time(&self, target: Target<'_>, repeat: u32) -> Result<(u32, u32), BpfError> {
        let program = match target {
            Target::Empty => program_fd(&self.object, MEASURE, "penstock_empty")?,
            Target::Floor => program_fd(&self.object, MEASURE, "penstock_floor")?,
            Target::Program(program) => program,
        };
        let targets = map(&self.object, MEASURE, "target")?;
        targets
            .update(&0u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(|source| BpfError::Object { program: MEASURE, step: "name the program to be measured", source })?;
        let rotate = program_fd(&self.object, MEASURE, "penstock_rotate")?;
        let run = run_repeatedly(rotate, &self.frame, repeat)
            .map_err(|source| BpfError::System { step: "run a program repeatedly", source })?;
        Ok((run.nanos, run.action))
    }
}

/// The least that a balancer can do, on an interface: encapsulates every frame alike and sends it back. Dropping it detaches.
#[derive(Debug)]
pub struct Floor {
    _link: OwnedFd,
    mode: XdpMode,
    _object: Object,
}

impl Floor {
    /// `headers`: the 64 bytes that every frame gets in place of its Ethernet header: outer Ethernet, IPv4, UDP, VXLAN, inner
    /// Ethernet.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn attach(ifindex: u32, headers: &[u8; 64]) -> Result<Self, BpfError> {
        let mut config = [0; size_of::<Config>()];
        let at = std::mem::offset_of!(Config, headers);
        config[at..at + headers.len()].copy_from_slice(headers);
        let object = load(MEASURE, elf!("measure"), Some(&config))?;
        let Attached { link, mode, .. } =
            attach_xdp(MEASURE, program_fd(&object, MEASURE, "penstock_floor")?, ifindex)?;
        Ok(Self { _link: link, mode, _object: object })
    }

    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }
}
