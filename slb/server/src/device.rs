//! What the host agent changes on the containers' devices, and what it asks of the underlay's.

use crate::config::HostConfig;
use penstock_netlink::{Link, UnderlayView};
use penstock_packet_io::Interface;
use penstock_wire::geneve::{GENEVE_HEADER_LEN, MAX_GENEVE_LEN, MAX_NEXT_OWNERS};
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

/// Bytes that an encapsulation is longer by while slots change hands: a Geneve option that names as many owners as it can, by
/// their overlay addresses.
const fn second_chance(overlay_is_v4: bool) -> u32 {
    const LONGEST: usize = MAX_GENEVE_LEN - GENEVE_HEADER_LEN;
    let shorter = if overlay_is_v4 { MAX_NEXT_OWNERS * (16 - 4) } else { 0 };
    (LONGEST - shorter) as u32
}

/// What an underlay's MTU has to be for packets of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// With their encapsulation.
    needed: u32,
    /// And with a second chance, for IPv4 and for IPv6 in the overlay.
    wanted: [u32; 2],
}

impl Room {
    fn of(config: &HostConfig, container: u32) -> Self {
        let needed = container + config.overhead();
        Self { needed, wanted: [true, false].map(|is_v4| needed + second_chance(is_v4)) }
    }

    /// What the longest packets have no room for.
    fn lacks(&self, mtu: u32) -> Option<(u32, &'static str)> {
        let [v4, v6] = self.wanted;
        match mtu {
            m if m < v4 => Some((v6, "the longest packets have no room for a second chance")),
            m if m < v6 => Some((v6, "the longest IPv6 packets have no room for a second chance")),
            _ => None,
        }
    }
}

/// Refuses an underlay that cannot carry a container's packet with its encapsulation.
pub(crate) fn check_mtu(config: &HostConfig, view: &UnderlayView, device: &Link) -> Result<(), String> {
    let Some(underlay) = view.link(&config.underlay_interface) else { return Ok(()) };
    let room = Room::of(config, device.mtu);
    let (name, mtu) = (&underlay.name, underlay.mtu);
    if mtu < room.needed {
        return Err(format!(
            "the MTU of \"{name}\" is {mtu}, but a packet of \"{}\" (MTU {}) with its encapsulation takes {}: \
             raise it (ip link set {name} mtu {}) or lower the container's",
            device.name, device.mtu, room.needed, room.needed
        ));
    }
    if let Some((wanted, what)) = room.lacks(mtu) {
        tracing::warn!(interface = name, mtu, wanted, "{what}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_model::{Addr16, Vni};
    use penstock_wire::geneve::{NextOwners, write_header};
    use std::net::IpAddr;

    #[test]
    fn the_longest_packet_of_each_family_is_warned_of() {
        for (underlay, overhead) in [("10.9.0.1", 50), ("2001:db8::1", 70)] {
            let config = HostConfig {
                underlay_interface: "eth0".to_owned(),
                underlay_address: underlay.parse().unwrap(),
                ports: vec![],
                flow_capacity: 16,
                kernel_replay: true,
            };
            let room = Room::of(&config, 1500);
            assert_eq!((room.needed, room.wanted), (1500 + overhead, [1516, 1552].map(|n| n + overhead)));
            assert!(room.lacks(1515 + overhead).unwrap().1.contains("longest packets"));
            assert!(room.lacks(1551 + overhead).unwrap().1.contains("IPv6"));
            assert_eq!(room.lacks(1552 + overhead), None);
        }
    }

    #[test]
    fn as_much_room_as_a_mux_takes() {
        for (owner, is_v4) in [("10.0.0.2", true), ("fd00::2", false)] {
            let owner = Addr16::from(owner.parse::<IpAddr>().unwrap());
            let next = NextOwners::new([owner; MAX_NEXT_OWNERS]);
            let written = write_header(&mut [0; 256], Vni::new(1).unwrap(), &next).unwrap();
            assert_eq!(written - GENEVE_HEADER_LEN, second_chance(is_v4) as usize);
        }
    }
}
