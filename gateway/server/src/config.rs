use penstock_routing_server::CollectorConfig;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// The `[gateway]` table of a node's TOML.
///
/// ```toml
/// [gateway]
/// interface = "eth0"
/// underlay_address = "192.0.2.21"  # tunnel endpoint of the overlay, and of the tenants' tunnels
/// packet_io = "auto"               # auto | af_xdp | af_packet
/// flow_capacity = 262144           # flow entries
/// tenant_flow_capacity = 65536     # of them, those that one tenant may have; a quarter if not given
///
/// [gateway.bgp]                    # may be left out
/// collectors = [{ address = "192.0.2.80:11019" }]  # BMP; also pre_policy, post_policy = true, statistics_seconds = 60
/// dump_directory = "/run/penstock/routers"          # a socket for each router, for `penstock bgp dump`
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The interface that overlay packets and tunnels come in and leave by.
    pub interface: String,
    /// The gateway's own address on the underlay.
    pub underlay_address: IpAddr,
    #[serde(default)]
    pub packet_io: PacketIoMode,
    /// Directions of flows that are remembered: two a connection. About 130 bytes each, touched only when used.
    #[serde(default = "default_flow_capacity")]
    pub flow_capacity: usize,
    /// Those of one tenant, at most: what one floods is closed to it alone. A quarter of `flow_capacity` if not given.
    #[serde(default)]
    pub tenant_flow_capacity: Option<usize>,
    #[serde(default)]
    pub bgp: BgpConfig,
}

/// `[gateway.bgp]`: what goes for the routers of all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BgpConfig {
    /// Who sees what sites tell (RFC 7854); each router has a connection of its own.
    pub collectors: Vec<CollectorConfig>,
    /// A folder with a socket for each router, `<virtual gateway>.<router>.sock`, that `penstock bgp dump` has its table from, as an MRT
    /// file (RFC 6396).
    pub dump_directory: Option<PathBuf>,
}

impl GatewayConfig {
    pub(crate) fn tenant_flows(&self) -> usize {
        self.tenant_flow_capacity.unwrap_or(self.flow_capacity / 4)
    }
}

/// How packets are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketIoMode {
    /// AF_XDP; AF_PACKET where that does not work, and the log says why.
    #[default]
    Auto,
    AfXdp,
    AfPacket,
}

/// A quarter of a million: 128 thousand connections at once.
fn default_flow_capacity() -> usize {
    1 << 18
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_and_an_address_are_enough_and_unknown_settings_are_refused() {
        let text = "interface = \"eth0\"\nunderlay_address = \"192.0.2.21\"\n";
        let c: GatewayConfig = toml::from_str(text).unwrap();
        assert_eq!((c.interface.as_str(), c.packet_io, c.flow_capacity), ("eth0", PacketIoMode::Auto, 1 << 18));
        assert_eq!(c.tenant_flows(), 1 << 16);
        let c: GatewayConfig = toml::from_str(&format!("{text}tenant_flow_capacity = 9")).unwrap();
        assert_eq!(c.tenant_flows(), 9);
        let c: GatewayConfig = toml::from_str(&format!("{text}packet_io = \"af_packet\"")).unwrap();
        assert_eq!(c.packet_io, PacketIoMode::AfPacket);
        let c: GatewayConfig =
            toml::from_str(&format!("{text}[bgp]\ncollectors = [{{ address = \"192.0.2.80:11019\" }}]")).unwrap();
        assert_eq!(c.bgp.collectors.len(), 1);
        assert!(toml::from_str::<GatewayConfig>(&format!("{text}speed = 1")).is_err());
    }
}
