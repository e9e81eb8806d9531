//! What stays when a process ends: the link of its program, pinned in a BPF file system.
use crate::BpfError;
use crate::error::Obstacle;
use crate::object::name_of;
use crate::occupant::query;
use libbpf_rs::libbpf_sys;
use std::ffi::CString;
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const FILE_SYSTEM: u32 = 0xcafe_4a11;
const LINK: &str = "link";

/// Where programs' links are pinned, so that they outlive their process: a directory for each interface in `penstock` of a BPF file
/// system. A process locks those of its interfaces while it runs.
///
/// Only links are there. A link is the kernel's and the same for every version; maps are made anew by each process and
/// never read by another.
#[derive(Debug, Clone)]
pub struct Pins {
    bpffs: PathBuf,
    lease: Duration,
}

/// Why there is no pin.
#[derive(Debug)]
pub(crate) enum NoPin {
    /// A process that runs has it.
    Taken(BpfError),
    Failed(Obstacle),
}

/// The place of one interface, which nobody else has.
#[derive(Debug)]
pub(crate) struct Pin {
    directory: PathBuf,
    /// How long its program goes on without being told to.
    pub(crate) lease: Duration,
    _lock: File,
}

impl Pins {
    /// `lease`: how long a program forwards without its process.
    pub fn new(bpffs: impl Into<PathBuf>, lease: Duration) -> Self {
        Self { bpffs: bpffs.into(), lease }
    }

    /// Detaches what a process that is gone has left on an interface. One that runs keeps it.
    pub fn remove(&self, ifindex: u32) {
        let turn = self.turn();
        if turn.is_ok()
            && let Ok(directory) = self.place(ifindex)
            && let Ok(pin) = Pin::lock(directory, self.lease)
        {
            pin.remove();
        }
    }

    /// The place of an interface; those of interfaces that are gone are removed.
    pub(crate) fn hold(&self, ifindex: u32) -> Result<Pin, NoPin> {
        let failed = |error: io::Error| NoPin::Failed(self.obstacle(&error.to_string()));
        if !is_bpf_file_system(&self.bpffs).map_err(failed)? {
            return Err(NoPin::Failed(self.obstacle("it is no BPF file system")));
        }
        private_directory(&self.root()).map_err(failed)?;
        let _turn = self.turn().map_err(failed)?;
        self.sweep();
        let directory = self.place(ifindex).map_err(failed)?;
        private_directory(&directory).map_err(failed)?;
        Pin::lock(directory, self.lease).map_err(|error| match error {
            TryLockError::WouldBlock => NoPin::Taken(taken(ifindex)),
            TryLockError::Error(error) => failed(error),
        })
    }

    /// One process at a time makes places and sweeps: a place that is just made has no link yet, as one that is left over. It is held
    /// for moments; those that run lock their own places alone.
    fn turn(&self) -> io::Result<File> {
        let root = File::open(self.root())?;
        root.lock()?;
        Ok(root)
    }

    fn obstacle(&self, reason: &str) -> Obstacle {
        let at = self.bpffs.display();
        Obstacle::new(
            format!("a program cannot be pinned at {at} ({reason})"),
            format!("mount -t bpf -o mode=700 bpf {at}, owned by the user of the process"),
        )
    }

    fn root(&self) -> PathBuf {
        self.bpffs.join("penstock")
    }

    /// Indices are given anew in each namespace.
    fn place(&self, ifindex: u32) -> io::Result<PathBuf> {
        let namespace = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(self.root().join(format!("{namespace}-{ifindex}")))
    }

    fn sweep(&self) {
        for entry in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            if let Ok(pin) = Pin::lock(entry.path(), self.lease)
                && !pin.link().is_ok_and(|(_, about)| about.ifindex != 0)
            {
                pin.remove();
            }
        }
    }
}

fn taken(ifindex: u32) -> BpfError {
    let reason = format!("{} is served by another Penstock process", name_of(ifindex));
    BpfError::Occupied { program: "mux", obstacle: Obstacle::new(reason, "stop it: one process an interface") }
}

/// What the kernel says of a link.
struct LinkFacts {
    /// 0 if the interface is gone.
    ifindex: u32,
    program: u32,
}

impl Pin {
    fn lock(directory: PathBuf, lease: Duration) -> Result<Self, TryLockError> {
        let lock = File::open(&directory).map_err(TryLockError::Error)?;
        lock.try_lock()?;
        Ok(Self { directory, lease, _lock: lock })
    }

    /// The link that an earlier process has left on this interface. Another one that stands there is removed.
    pub(crate) fn adopt(&self, ifindex: u32) -> Option<OwnedFd> {
        let (link, about) = self.link().ok()?;
        let now = query(ifindex).ok()?;
        let is_here = about.ifindex == ifindex && [now.drv_prog_id, now.skb_prog_id].contains(&about.program);
        if !is_here {
            self.unlink();
        }
        is_here.then_some(link)
    }

    pub(crate) fn put(&self, link: BorrowedFd<'_>) -> Result<(), Obstacle> {
        let path = self.directory.join(LINK);
        let name = c_path(&path).map_err(|e| Obstacle::wanted(e.to_string()))?;
        // SAFETY: `link` is open and `name` a terminated string.
        let result = unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), name.as_ptr()) };
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            return Err(Obstacle::new(
                format!("a program cannot be pinned at {} ({error})", path.display()),
                "see that the user of the process owns the directory",
            ));
        }
        Ok(())
    }

    /// The link ends with the last that holds it.
    pub(crate) fn remove(self) {
        self.unlink();
        if let Err(error) = std::fs::remove_dir(&self.directory) {
            tracing::debug!(%error, "a directory of pins stays");
        }
    }

    fn unlink(&self) {
        if let Err(error) = std::fs::remove_file(self.directory.join(LINK))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, directory = %self.directory.display(), "a pinned program cannot be removed");
        }
    }

    fn link(&self) -> io::Result<(OwnedFd, LinkFacts)> {
        let name = c_path(&self.directory.join(LINK))?;
        // SAFETY: `name` is a terminated string.
        let fd = unsafe { libbpf_sys::bpf_obj_get(name.as_ptr()) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the kernel just made this descriptor for us.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut length = size_of::<libbpf_sys::bpf_link_info>() as u32;
        // SAFETY: `length` is the size of `info`.
        let result = unsafe { libbpf_sys::bpf_link_get_info_by_fd(fd, &raw mut info, &raw mut length) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        if info.type_ != libbpf_sys::BPF_LINK_TYPE_XDP {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: of a link of XDP the kernel writes this member; all zeros are one, too.
        let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Ok((link, LinkFacts { ifindex, program: info.prog_id }))
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn is_bpf_file_system(path: &Path) -> io::Result<bool> {
    let name = c_path(path)?;
    // SAFETY: an all-zero `statfs` is one.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a terminated string, and `about` is as large as the kernel expects.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut about) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(about.f_type as u32 == FILE_SYSTEM)
}

/// A directory that nobody else may look into: who may write there could exchange what forwards.
fn private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let about = std::fs::symlink_metadata(path)?;
    // SAFETY: it cannot fail.
    let own = unsafe { libc::geteuid() };
    if !about.is_dir() || about.uid() != own || about.mode() & 0o077 != 0 {
        let text = format!("{} must be a directory of user {own} with mode 0700", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}
