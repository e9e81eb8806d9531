//! An object file in memory, loaded; and links that end with their owner.
use crate::BpfError;
use crate::occupant::occupants;
use libbpf_rs::libbpf_sys;
use libbpf_rs::{Map, MapCore, Object, ObjectBuilder, OpenMapMut, OpenObject};
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the kernel's generic path, after it: works on any device, slower.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The bytes of an object file, aligned as ELF structures want to be.
#[repr(C, align(8))]
pub(crate) struct Elf<B: ?Sized>(pub(crate) B);

macro_rules! elf {
    ($name:literal) => {{
        static ELF: &$crate::object::Elf<[u8]> =
            &$crate::object::Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o")));
        &ELF.0
    }};
}
pub(crate) use elf;

/// Loads an object; `config` is written over its constants (section `.rodata`) first.
pub(crate) fn load(program: &'static str, elf: &[u8], config: Option<&[u8]>) -> Result<Object, BpfError> {
    load_open(program, open(program, elf, config)?)
}

/// Opens an object that is to be changed before [`load_open`] loads it; `config` as for [`load`].
pub(crate) fn open(program: &'static str, elf: &[u8], config: Option<&[u8]>) -> Result<OpenObject, BpfError> {
    let at = |step| move |source| BpfError::Object { program, step, source };
    let mut open = ObjectBuilder::default().open_memory(elf).map_err(at("read the object file"))?;
    if let Some(config) = config {
        let mut constants = open
            .maps_mut()
            .find(|m| m.name().to_string_lossy().ends_with(".rodata"))
            .ok_or(BpfError::Missing { program, what: "the section .rodata" })?;
        constants.set_initial_value(config).map_err(at("set its constants"))?;
    }
    Ok(open)
}

pub(crate) fn load_open(program: &'static str, open: OpenObject) -> Result<Object, BpfError> {
    let step = "load it (the kernel's verifier or CAP_BPF)";
    open.load().map_err(|source| BpfError::Object { program, step, source })
}

/// A map of an object that is not loaded yet.
pub(crate) fn open_map<'o>(
    object: &'o mut OpenObject,
    program: &'static str,
    name: &'static str,
) -> Result<OpenMapMut<'o>, BpfError> {
    object.maps_mut().find(|m| m.name() == name).ok_or(BpfError::Missing { program, what: name })
}

pub(crate) fn map<'o>(object: &'o Object, program: &'static str, name: &'static str) -> Result<Map<'o>, BpfError> {
    object.maps().find(|m| m.name() == name).ok_or(BpfError::Missing { program, what: name })
}

pub(crate) fn program_fd<'o>(
    object: &'o Object,
    program: &'static str,
    name: &'static str,
) -> Result<BorrowedFd<'o>, BpfError> {
    let found = object.progs().find(|p| p.name() == name).ok_or(BpfError::Missing { program, what: name })?;
    let fd = found.as_fd().as_raw_fd();
    // SAFETY: the descriptor belongs to `object`, which the result borrows.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// An XDP program on an interface.
#[derive(Debug)]
pub(crate) struct Attached {
    /// It ends when this is closed, so also when the process dies.
    pub(crate) link: OwnedFd,
    pub(crate) mode: XdpMode,
    /// Why it is not attached natively.
    pub(crate) refusal: Option<io::Error>,
}

/// Attaches an XDP program natively, or generically where the driver cannot; beside another one not at all.
pub(crate) fn attach_xdp(program: &'static str, fd: BorrowedFd<'_>, ifindex: u32) -> Result<Attached, BpfError> {
    let native = match link(fd, ifindex, libbpf_sys::BPF_XDP, XDP_FLAGS_DRV_MODE) {
        Ok(link) => return Ok(Attached { link, mode: XdpMode::Native, refusal: None }),
        Err(error) => error,
    };
    match link(fd, ifindex, libbpf_sys::BPF_XDP, XDP_FLAGS_SKB_MODE) {
        Ok(link) => Ok(Attached { link, mode: XdpMode::Generic, refusal: Some(native) }),
        Err(generic) => Err(match occupants(ifindex).unwrap_or_default().first() {
            Some(occupant) => BpfError::Occupied { program, obstacle: occupant.obstacle(&name_of(ifindex)) },
            None => BpfError::Attach { program, ifindex, native, generic },
        }),
    }
}

/// The name of an interface, or its index if it has gone.
pub(crate) fn name_of(ifindex: u32) -> String {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has room for any name.
    let found = !unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) }.is_null();
    let name = CStr::from_bytes_until_nul(&name).map(|n| n.to_string_lossy().into_owned());
    name.ok().filter(|_| found).unwrap_or_else(|| format!("interface {ifindex}"))
}

/// Attaches a program to an interface for as long as the returned descriptor is open.
pub(crate) fn link(fd: BorrowedFd<'_>, ifindex: u32, kind: u32, flags: u32) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags,
        ..Default::default()
    };
    let target = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: `options` says its own size and holds no pointers.
    let result = unsafe { libbpf_sys::bpf_link_create(fd.as_raw_fd(), target, kind, &raw const options) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Puts another program in the place of the one that a link holds, between two packets.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; no options are given.
    let result = unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// The sum over all CPUs of the first `N` 64-bit counters in an entry of a per-CPU map.
pub(crate) fn per_cpu_sum<const N: usize>(map: &impl MapCore, index: u32) -> Result<[u64; N], libbpf_rs::Error> {
    let values = map.lookup_percpu(&index.to_ne_bytes(), libbpf_rs::MapFlags::ANY)?.unwrap_or_default();
    let mut sum = [0u64; N];
    for value in &values {
        for (total, word) in sum.iter_mut().zip(value.chunks_exact(8)) {
            *total += word.try_into().map_or(0, u64::from_ne_bytes);
        }
    }
    Ok(sum)
}
