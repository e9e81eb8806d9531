//! A network interface and those of its settings that Penstock reads or changes.
use crate::sys;
use penstock_model::Mac;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const ETHTOOL_NAMES: [(OffloadSetting, u32, u32, &str); 5] = [
    (OffloadSetting::RxChecksum, 0x14, 0x15, "rx-checksumming"),
    (OffloadSetting::TxChecksum, 0x16, 0x17, "tx-checksumming"),
    (OffloadSetting::TcpSegmentation, 0x1e, 0x1f, "tcp-segmentation-offload"),
    (OffloadSetting::GenericSegmentation, 0x23, 0x24, "generic-segmentation-offload"),
    (OffloadSetting::GenericReceive, 0x2b, 0x2c, "generic-receive-offload"),
];

/// An offload of a device, under the name that `ethtool -k` shows (linux/ethtool.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadSetting {
    RxChecksum,
    TxChecksum,
    TcpSegmentation,
    GenericSegmentation,
    GenericReceive,
}

impl OffloadSetting {
    pub const ALL: [OffloadSetting; 5] = [
        OffloadSetting::RxChecksum,
        OffloadSetting::TxChecksum,
        OffloadSetting::TcpSegmentation,
        OffloadSetting::GenericSegmentation,
        OffloadSetting::GenericReceive,
    ];

    fn entry(self) -> (u32, u32, &'static str) {
        let [rx, tx, tso, gso, gro] = ETHTOOL_NAMES;
        let (_, get, set, name) = match self {
            Self::RxChecksum => rx,
            Self::TxChecksum => tx,
            Self::TcpSegmentation => tso,
            Self::GenericSegmentation => gso,
            Self::GenericReceive => gro,
        };
        (get, set, name)
    }

    /// The name that `ethtool -k` shows and `ethtool -K` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().2
    }
}

impl fmt::Display for OffloadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("interface {interface}: {setting} cannot be turned {}: {reason} (try: ethtool -K {interface} {setting} {})", on_off(*.wanted), on_off(*.wanted))]
pub struct OffloadError {
    pub interface: String,
    pub setting: OffloadSetting,
    pub wanted: bool,
    pub reason: String,
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels` (linux/ethtool.h).
#[derive(Default)]
#[repr(C)]
struct EthtoolChannels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// An interface of the namespace in which it was opened; asks the kernel each time.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    control: OwnedFd,
}

/// The index of an interface in the namespace of the calling thread.
///
/// # Errors
/// There is none of that name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    Interface::open(name).map(|i| i.index)
}

impl Interface {
    /// # Errors
    /// There is none of that name in the namespace of the calling thread.
    pub fn open(name: &str) -> io::Result<Self> {
        let control = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut interface = Self { name: name.to_owned(), index: 0, control };
        let request = interface.ask(libc::SIOCGIFINDEX, |_| {})?;
        // SAFETY: the kernel answered SIOCGIFINDEX, so this member of the union holds.
        interface.index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        Ok(interface)
    }

    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether an interface of this index is there still.
    #[must_use]
    pub fn exists(&self) -> bool {
        // SAFETY: all zero is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.index as i32;
        // SAFETY: SIOCGIFNAME reads and writes one `ifreq`.
        unsafe { libc::ioctl(self.control.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut request) == 0 }
    }

    /// # Errors
    /// The interface is gone.
    pub fn mac(&self) -> io::Result<Mac> {
        let request = self.ask(libc::SIOCGIFHWADDR, |_| {})?;
        // SAFETY: the kernel answered SIOCGIFHWADDR.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        let [a, b, c, d, e, f, ..] = data.map(|byte| byte as u8);
        Ok(Mac([a, b, c, d, e, f]))
    }

    /// # Errors
    /// The interface is gone.
    pub fn mtu(&self) -> io::Result<u32> {
        let request = self.ask(libc::SIOCGIFMTU, |_| {})?;
        // SAFETY: the kernel answered SIOCGIFMTU.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
    }

    /// # Errors
    /// The interface is gone or does not take that MTU.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        self.ask(libc::SIOCSIFMTU, |r| r.ifr_ifru.ifru_mtu = mtu as i32).map(drop)
    }

    /// # Errors
    /// The interface is gone or this process may not.
    pub fn set_up(&self, up: bool) -> io::Result<()> {
        self.set_flag(libc::IFF_UP, up)
    }

    /// # Errors
    /// The interface is gone or this process may not.
    pub fn set_promiscuous(&self, on: bool) -> io::Result<()> {
        self.set_flag(libc::IFF_PROMISC, on)
    }

    fn set_flag(&self, flag: i32, on: bool) -> io::Result<()> {
        let request = self.ask(libc::SIOCGIFFLAGS, |_| {})?;
        // SAFETY: the kernel answered SIOCGIFFLAGS.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let flags = if on { flags | flag } else { flags & !flag };
        self.ask(libc::SIOCSIFFLAGS, |r| r.ifr_ifru.ifru_flags = flags as libc::c_short).map(drop)
    }

    /// Whether an offload is on.
    ///
    /// # Errors
    /// The device does not know the setting.
    pub fn offload(&self, setting: OffloadSetting) -> io::Result<bool> {
        self.ethtool(setting.entry().0, 0).map(|on| on != 0)
    }

    /// Turns an offload on or off and makes sure that it is.
    ///
    /// # Errors
    /// The device refuses; the error names the setting and the command that would change it.
    pub fn set_offload(&self, setting: OffloadSetting, on: bool) -> Result<(), OffloadError> {
        let refused = |reason: String| OffloadError { interface: self.name.clone(), setting, wanted: on, reason };
        let now = self.offload(setting).map_err(|e| refused(e.to_string()))?;
        if now == on {
            return Ok(());
        }
        self.ethtool(setting.entry().1, u32::from(on)).map_err(|e| refused(e.to_string()))?;
        match self.offload(setting) {
            Ok(after) if after == on => Ok(()),
            Ok(_) => Err(refused("the device accepted the change and did not make it".to_owned())),
            Err(e) => Err(refused(e.to_string())),
        }
    }

    /// Receive queues: as many AF_XDP sockets see all that arrives. One where the driver does not say.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn receive_queues(&self) -> io::Result<u32> {
        let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
        match self.ask(libc::SIOCETHTOOL, |r| r.ifr_ifru.ifru_data = (&raw mut channels).cast()) {
            Ok(_) => Ok((channels.rx + channels.combined).max(1)),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
            Err(error) => Err(error),
        }
    }

    fn ethtool(&self, command: u32, data: u32) -> io::Result<u32> {
        let mut value = EthtoolValue { command, data };
        self.ask(libc::SIOCETHTOOL, |r| r.ifr_ifru.ifru_data = (&raw mut value).cast())?;
        Ok(value.data)
    }

    fn ask(&self, request: libc::c_ulong, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<libc::ifreq> {
        // SAFETY: all zero is a valid `ifreq`.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        let name = self.name.as_bytes();
        if name.len() >= ifreq.ifr_name.len() || name.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in ifreq.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        fill(&mut ifreq);
        // SAFETY: each request used here reads and writes one `ifreq`; SIOCETHTOOL also the value that `fill` pointed to,
        // which lives in the caller.
        sys::check(unsafe { libc::ioctl(self.control.as_raw_fd(), request as _, &raw mut ifreq) })?;
        Ok(ifreq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_and_a_stranger_is_named_in_no_list() {
        let lo = Interface::open("lo").unwrap();
        assert_eq!(lo.index(), 1);
        assert!(lo.exists());
        assert!(lo.mtu().unwrap() >= 1500);
        assert_eq!(lo.mac().unwrap(), Mac::ZERO);
        assert!(Interface::open("pst-none").is_err());
        assert!(Interface::open("a-name-that-is-much-too-long").is_err());
    }

    #[test]
    fn a_setting_that_the_device_refuses_is_named_with_the_command() {
        let error = OffloadError {
            interface: "eth0".into(),
            setting: OffloadSetting::GenericReceive,
            wanted: false,
            reason: "Operation not supported".into(),
        };
        assert_eq!(
            error.to_string(),
            "interface eth0: generic-receive-offload cannot be turned off: Operation not supported \
             (try: ethtool -K eth0 generic-receive-offload off)"
        );
    }

    #[test]
    fn each_setting_finds_its_own_row() {
        for (setting, get, set, name) in ETHTOOL_NAMES {
            assert_eq!(setting.entry(), (get, set, name));
        }
    }
}
