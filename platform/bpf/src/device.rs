use crate::occupant::query;
use std::io;

/// How an XDP program sends a frame by the interface that it came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WayOut {
    /// `XDP_TX`.
    Answer,
    /// Redirected to itself. A veth puts answers into its peer's ring but wakes it only if an XDP program runs there;
    /// redirected frames it announces also to a peer that has GRO alone.
    Redirect,
}

/// `NETDEV_XDP_ACT_NDO_XMIT` of `linux/netdev.h`.
const TAKES_FRAMES: u64 = 1 << 2;
/// `ETHTOOL_GDRVINFO` and `ETHTOOL_GFEATURES` of `linux/ethtool.h`.
const GET_DRIVER: u32 = 0x3;
const GET_FEATURES: u32 = 0x3a;
/// `NETIF_F_TSO_BIT` of `linux/netdev_features.h`.
const TSO: u32 = 1 << 16;

/// Asks the kernel. Drivers of hardware and of virtual machines answer; a veth depends on its peer, of which the kernel tells
/// two things on this side: the device takes redirected frames (Linux 6.3) if the peer has GRO or an XDP program, and cannot
/// be asked to segment if it has a program. `None`: nobody takes frames.
pub(crate) fn way_out(ifindex: u32) -> io::Result<Option<WayOut>> {
    if !is_veth(ifindex)? {
        return Ok(Some(WayOut::Answer));
    }
    if query(ifindex)?.feature_flags & TAKES_FRAMES == 0 {
        return Ok(None);
    }
    Ok(Some(if can_be_asked_to_segment(ifindex)? { WayOut::Redirect } else { WayOut::Answer }))
}

fn is_veth(ifindex: u32) -> io::Result<bool> {
    /// As `struct ethtool_drvinfo`.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    // SAFETY: the kernel writes a `struct ethtool_drvinfo`, which has the size of `info`.
    unsafe { ethtool(ifindex, (&raw mut info).cast()) }?;
    Ok(info.driver.starts_with(b"veth\0"))
}

fn can_be_asked_to_segment(ifindex: u32) -> io::Result<bool> {
    /// As `struct ethtool_gfeatures` with two blocks of `struct ethtool_get_features_block`.
    #[repr(C)]
    struct Features {
        command: u32,
        blocks: u32,
        /// Available, requested, active, never changed.
        block: [[u32; 4]; 2],
    }
    let mut features = Features { command: GET_FEATURES, blocks: 2, block: [[0; 4]; 2] };
    // SAFETY: the kernel writes as many blocks as `blocks` says.
    unsafe { ethtool(ifindex, (&raw mut features).cast()) }?;
    Ok(features.block[0][0] & TSO != 0)
}

/// # Safety
/// `request` points to a structure that is as large as its command says.
unsafe fn ethtool(ifindex: u32, request: *mut libc::c_char) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is one.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the name's field has room for any name.
    if unsafe { libc::if_indextoname(ifindex, ifreq.ifr_name.as_mut_ptr()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    ifreq.ifr_ifru.ifru_data = request;
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made for us.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    // SAFETY: `ifreq` and what it points to outlive the call.
    let result =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCETHTOOL as _, &raw mut ifreq) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
