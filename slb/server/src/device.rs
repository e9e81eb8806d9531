//! What the host agent changes on the containers' devices, and what it asks of the underlay's.

use crate::config::HostConfig;
use penstock_netlink::{Link, UnderlayView};
use penstock_packet_io::Interface;
use std::io;

/// Makes `device` deaf towards the kernel's own stack: the host agent alone answers the container. Sets it up.
pub(crate) fn prepare(device: &str) -> io::Result<()> {
    // Before it is up, so that no router solicitation or multicast report of the kernel's leaves it.
    set("ipv6", device, "disable_ipv6", "1")?;
    // 8: no reply for any local address (ip-sysctl, arp_ignore).
    set("ipv4", device, "arp_ignore", "8")?;
    Interface::open(device)?.set_up(true)
}

fn set(family: &str, device: &str, name: &str, value: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/{family}/conf/{device}/{name}"), value) {
        // A kernel without IPv6 has nothing to be silenced.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes that an encapsulation is longer by while slots change hands: a Geneve option that names three IPv4 owners or one IPv6.
const SECOND_CHANCE: u32 = 20;

/// Refuses an underlay that cannot carry a container's packet with its encapsulation.
pub(crate) fn check_mtu(config: &HostConfig, view: &UnderlayView, device: &Link) -> Result<(), String> {
    let Some(underlay) = view.link(&config.underlay_interface) else { return Ok(()) };
    let needed = device.mtu + config.overhead();
    if underlay.mtu >= needed {
        if underlay.mtu < needed + SECOND_CHANCE {
            let wanted = needed + SECOND_CHANCE;
            let (name, mtu) = (&underlay.name, underlay.mtu);
            tracing::warn!(interface = name, mtu, wanted, "the longest packets have no room for a second chance");
        }
        return Ok(());
    }
    Err(format!(
        "the MTU of \"{}\" is {}, but a packet of \"{}\" (MTU {}) with its encapsulation takes {needed}: \
         raise it (ip link set {} mtu {needed}) or lower the container's",
        underlay.name, underlay.mtu, device.name, device.mtu, underlay.name
    ))
}
