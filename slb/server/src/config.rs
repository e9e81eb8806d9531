use penstock_model::PortId;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The table `[host]` of a node's configuration.
///
/// ```toml
/// [host]
/// underlay_interface = "eth0"
/// underlay_address = "10.9.0.1"
/// ports = [{ network_interface = "web-1", device = "veth-web-1" }]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// The interface of the provider network. Its MTU must leave room for the encapsulation.
    pub underlay_interface: String,
    /// This host's address on it: the outer address of overlay packets.
    pub underlay_address: IpAddr,
    /// The containers' devices. They need not be there yet: a device is taken when it appears.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
    /// Flows that are remembered, both directions counted; 262 bytes each with what new flows take. One port has an eighth of
    /// them at most (its equal part of fewer than eight ports), and at least 16 KiB for new flows. Default 131072: 34 MB.
    #[serde(default = "flow_capacity")]
    pub flow_capacity: usize,
    /// The kernel forwards packets of established flows by itself (Linux 6.6; what it refuses goes by AF_PACKET as without).
    #[serde(default = "kernel_replay")]
    pub kernel_replay: bool,
}

/// Which local device belongs to which network interface of the goal state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// `resourceId` of the network interface.
    pub network_interface: String,
    /// The host's side of the container's link.
    pub device: String,
}

fn flow_capacity() -> usize {
    131_072
}

fn kernel_replay() -> bool {
    true
}

/// The provider network's port. Containers' ports follow in the order of the configuration.
pub(crate) const UNDERLAY: PortId = PortId(0);

impl HostConfig {
    /// # Errors
    /// The field that cannot be.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let mut devices = BTreeSet::from([self.underlay_interface.as_str()]);
        let mut names = BTreeSet::new();
        if self.ports.len() >= usize::from(u16::MAX) {
            return Err("host.ports: more than 65534".to_owned());
        }
        for (i, port) in self.ports.iter().enumerate() {
            if !devices.insert(&port.device) {
                return Err(format!("host.ports[{i}].device: \"{}\" is used twice", port.device));
            }
            if !names.insert(&port.network_interface) {
                return Err(format!(
                    "host.ports[{i}].network_interface: \"{}\" is there twice",
                    port.network_interface
                ));
            }
        }
        if self.underlay_address.is_unspecified() || self.underlay_address.is_multicast() {
            return Err(format!("host.underlay_address: {} is no host's address", self.underlay_address));
        }
        Ok(())
    }

    /// The containers' ports with their ids.
    pub(crate) fn port_ids(&self) -> impl Iterator<Item = (PortId, &PortConfig)> {
        (1u16..).map(PortId).zip(&self.ports)
    }

    /// Bytes that the encapsulation adds to a container's packet (RFC 7348 section 5): inner Ethernet, VXLAN, UDP, IP.
    pub(crate) fn overhead(&self) -> u32 {
        14 + 8 + 8 + if self.underlay_address.is_ipv4() { 20 } else { 40 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ports: &[(&str, &str)]) -> HostConfig {
        HostConfig {
            underlay_interface: "eth0".to_owned(),
            underlay_address: "10.9.0.1".parse().unwrap(),
            ports: ports
                .iter()
                .map(|(n, d)| PortConfig { network_interface: (*n).to_owned(), device: (*d).to_owned() })
                .collect(),
            flow_capacity: 16,
            kernel_replay: true,
        }
    }

    #[test]
    fn a_device_or_interface_that_is_named_twice_is_refused() {
        assert!(config(&[("a", "v1"), ("b", "v2")]).validate().is_ok());
        let twice = config(&[("a", "v1"), ("b", "v1")]).validate().unwrap_err();
        assert!(twice.starts_with("host.ports[1].device"), "{twice}");
        let twice = config(&[("a", "v1"), ("a", "v2")]).validate().unwrap_err();
        assert!(twice.starts_with("host.ports[1].network_interface"), "{twice}");
        assert!(config(&[("a", "eth0")]).validate().is_err());
    }

    #[test]
    fn vxlan_adds_fifty_bytes_over_ipv4_and_seventy_over_ipv6() {
        let mut c = config(&[]);
        assert_eq!(c.overhead(), 50);
        c.underlay_address = "2001:db8::1".parse().unwrap();
        assert_eq!(c.overhead(), 70);
    }
}
