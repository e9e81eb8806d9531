//! Who has an interface.
use crate::error::Obstacle;
use crate::object::XdpMode;
use libbpf_rs::libbpf_sys;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An XDP program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    pub id: u32,
    /// The kernel tells it to a process with `CAP_SYS_ADMIN` alone.
    pub name: Option<String>,
    pub mode: XdpMode,
}

/// Programs that are attached natively, generically and in the device itself.
///
/// # Errors
/// There is no such interface.
pub fn occupants(ifindex: u32) -> io::Result<Vec<Occupant>> {
    let found = query(ifindex)?;
    let all = [
        (found.drv_prog_id, XdpMode::Native),
        (found.hw_prog_id, XdpMode::Native),
        (found.skb_prog_id, XdpMode::Generic),
    ];
    let present = all.into_iter().filter(|(id, _)| *id != 0);
    Ok(present.map(|(id, mode)| Occupant { id, name: name_of(id).ok(), mode }).collect())
}

/// What the kernel says of an interface and XDP.
pub(crate) fn query(ifindex: u32) -> io::Result<libbpf_sys::bpf_xdp_query_opts> {
    let mut options = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let target = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: `options` says its own size.
    let result = unsafe { libbpf_sys::bpf_xdp_query(target, 0, &raw mut options) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(options) }
}

fn name_of(id: u32) -> io::Result<String> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `length` is the size of `info`, which asks for nothing to be written elsewhere.
    let result = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut length) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    let bytes = info.name.map(|c| c as u8);
    let name = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

impl Occupant {
    /// One of Penstock's, by its name.
    #[must_use]
    pub fn is_penstocks(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name.starts_with("penstock_"))
    }

    /// Why Penstock's own program cannot be attached beside it, and what to do.
    #[must_use]
    pub fn obstacle(&self, interface: &str) -> Obstacle {
        let Self { id, mode, .. } = self;
        let (name, fix) = match self.name.as_deref() {
            None => (
                "of an unknown name".to_owned(),
                format!(
                    "\"penstock doctor\" as root tells its name: take it off, or give Penstock another interface than {interface}"
                ),
            ),
            Some(name) if self.is_penstocks() => (
                format!("\"{name}\" of Penstock"),
                "stop the other Penstock process that serves the interface; of one that is gone remove the pin (rm -r /sys/fs/bpf/penstock)".to_owned(),
            ),
            Some(name) if name.starts_with("xdp_dispatcher") => (
                format!("\"{name}\" of libxdp"),
                format!(
                    "unload what libxdp has loaded (xdp-loader unload {interface} --all), or give Penstock another interface"
                ),
            ),
            Some(name) => {
                let off = match mode {
                    XdpMode::Native => "xdpdrv",
                    XdpMode::Generic => "xdpgeneric",
                };
                (
                    format!("\"{name}\""),
                    format!(
                        "end what has attached it, or take it off (ip link set dev {interface} {off} off), or give Penstock another interface"
                    ),
                )
            }
        };
        Obstacle::new(
            format!(
                "{interface} has the XDP program {name} already (id {id}, {mode}), which Penstock does not replace"
            ),
            fix,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupant(name: Option<&str>) -> Occupant {
        Occupant { id: 12, name: name.map(str::to_owned), mode: XdpMode::Native }
    }

    #[test]
    fn who_has_the_interface_is_named_with_its_id_and_what_to_do() {
        for (name, said, to_do) in [
            (Some("firewall"), "\"firewall\"", "ip link set dev eth0 xdpdrv off"),
            (Some("xdp_dispatcher"), "\"xdp_dispatcher\" of libxdp", "xdp-loader unload eth0 --all"),
            (Some("penstock_steer"), "\"penstock_steer\" of Penstock", "stop the other Penstock process"),
            (None, "of an unknown name", "penstock doctor"),
        ] {
            let obstacle = occupant(name).obstacle("eth0");
            assert!(obstacle.reason.starts_with(&format!("eth0 has the XDP program {said}")), "{obstacle}");
            assert!(obstacle.reason.contains("(id 12, native)"), "{obstacle}");
            assert!(obstacle.fix.as_deref().is_some_and(|fix| fix.contains(to_do)), "{obstacle}");
        }
    }
}
