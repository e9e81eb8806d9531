use penstock_bpf::Pins;
use penstock_routing_server::CollectorConfig;
use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The `[mux]` table of a node's TOML.
///
/// ```toml
/// [mux]
/// interface = "eth0"               # or a list
/// underlay_address = "192.0.2.11"  # source of the encapsulation
/// packet_io = "auto"               # auto | af_xdp | af_packet
/// workers = 2                      # default: one for each receive queue
/// flow_capacity = 1048576          # flow entries, all workers together
/// kernel_replay = true             # forward packets of settled flows in the kernel, where AF_XDP copies them
/// bpffs = "/sys/fs/bpf"            # where the kernel's program stays while the process restarts; "" for nowhere
///
/// [mux.bgp]                        # all of it may be left out: peers come with the goal
/// listen = ["192.0.2.11:179"]      # where routers may connect; default: the underlay address; [] for nowhere
/// drain_seconds = 2                # when it stops: time for routers to prefer other muxes
/// collectors = [{ address = "192.0.2.80:11019" }]  # BMP; also pre_policy, post_policy = true, statistics_seconds = 60
/// dump_socket = "/run/penstock/bgp.sock"            # for `penstock bgp dump`; its folder must be there
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuxConfig {
    /// Interfaces that packets for virtual IPs come in by and encapsulated ones leave by.
    #[serde(alias = "interface", deserialize_with = "one_or_many")]
    pub interfaces: Vec<String>,
    /// The mux's own address on the underlay.
    pub underlay_address: IpAddr,
    #[serde(default)]
    pub packet_io: PacketIoMode,
    /// Worker threads; worker n serves queue n of each interface.
    #[serde(default, alias = "queues")]
    pub workers: Option<u32>,
    /// Flow entries of all workers together; 62 bytes each, touched only when used.
    #[serde(default = "default_flow_capacity")]
    pub flow_capacity: usize,
    /// Whether the kernel forwards packets that need no flow table, where the interface can.
    #[serde(default = "default_kernel_replay")]
    pub kernel_replay: bool,
    /// A BPF file system: the kernel's program is pinned there and forwards on while the process restarts. Empty: it is not.
    #[serde(default = "default_bpffs")]
    pub bpffs: PathBuf,
    #[serde(default)]
    pub bgp: BgpConfig,
}

/// `[mux.bgp]`: what a router that speaks with this one cannot be told by the controller.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BgpConfig {
    /// Where routers may connect; the underlay address, port 179, if left out.
    pub listen: Option<Vec<SocketAddr>>,
    /// How long routers are given to prefer other muxes before this one withdraws its routes. At most 5.
    #[serde(deserialize_with = "few_seconds")]
    pub drain_seconds: f32,
    /// Who sees what routers tell (RFC 7854).
    pub collectors: Vec<CollectorConfig>,
    /// A socket in the file system that `penstock bgp dump` has the table from, as an MRT file (RFC 6396).
    pub dump_socket: Option<PathBuf>,
}

impl Default for BgpConfig {
    fn default() -> Self {
        Self { listen: None, drain_seconds: 2.0, collectors: Vec::new(), dump_socket: None }
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

/// A million: only flows of slots that changed hands are remembered.
fn default_flow_capacity() -> usize {
    1 << 20
}

/// How long the kernel forwards without its process: longer than an upgrade takes, shorter than a failed backend would be
/// tolerated.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

impl MuxConfig {
    /// Where programs stay when the process ends.
    pub(crate) fn pins(&self) -> Option<Pins> {
        (!self.bpffs.as_os_str().is_empty()).then(|| Pins::new(&self.bpffs, LEASE))
    }
}

fn default_bpffs() -> PathBuf {
    PathBuf::from("/sys/fs/bpf")
}

fn default_kernel_replay() -> bool {
    true
}

/// The process is cut off ten seconds after it was told to stop.
fn few_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    let seconds = f32::deserialize(deserializer)?;
    if (0.0..=5.0).contains(&seconds) { Ok(seconds) } else { Err(serde::de::Error::custom("must be from 0 to 5")) }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let list = match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    };
    if list.is_empty() || list.iter().any(String::is_empty) {
        return Err(serde::de::Error::custom("at least one interface must be named"));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interface_and_an_address_are_enough() {
        let c: MuxConfig = toml::from_str("interface = \"eth0\"\nunderlay_address = \"192.0.2.11\"").unwrap();
        assert_eq!((c.interfaces, c.packet_io, c.workers), (vec!["eth0".to_owned()], PacketIoMode::Auto, None));
        assert_eq!((c.flow_capacity, c.kernel_replay), (1 << 20, true));
        assert_eq!(c.bpffs, PathBuf::from("/sys/fs/bpf"));
    }

    #[test]
    fn several_interfaces_and_all_settings_are_read() {
        let text = "interfaces = [\"a\", \"b\"]\nunderlay_address = \"2001:db8::1\"\npacket_io = \"af_packet\"\nworkers = 2\nflow_capacity = 10\nkernel_replay = false\nbpffs = \"\"";
        let c: MuxConfig = toml::from_str(text).unwrap();
        assert_eq!((c.interfaces.len(), c.packet_io, c.workers), (2, PacketIoMode::AfPacket, Some(2)));
        assert!(!c.kernel_replay && c.pins().is_none());
    }

    #[test]
    fn bgp_may_be_left_out_and_drains_for_a_bounded_time() {
        let base = "interface = \"e\"\nunderlay_address = \"192.0.2.11\"\n";
        let c: MuxConfig = toml::from_str(base).unwrap();
        assert_eq!(c.bgp, BgpConfig::default());
        let c: MuxConfig =
            toml::from_str(&format!("{base}[bgp]\nlisten = [\"[::]:1179\"]\ndrain_seconds = 0\ncollectors = [{{ address = \"192.0.2.80:11019\" }}]")).unwrap();
        assert_eq!((c.bgp.listen, c.bgp.drain_seconds), (Some(vec!["[::]:1179".parse().unwrap()]), 0.0));
        let collector = &c.bgp.collectors[0];
        assert_eq!((collector.address.port(), collector.pre_policy, collector.statistics_seconds), (11019, true, 60));
        let long = toml::from_str::<MuxConfig>(&format!("{base}[bgp]\ndrain_seconds = 60")).unwrap_err();
        assert!(long.to_string().contains("from 0 to 5"), "{long}");
    }

    #[test]
    fn an_unknown_setting_and_an_empty_list_are_refused() {
        let base = "underlay_address = \"192.0.2.11\"\n";
        assert!(toml::from_str::<MuxConfig>(&format!("{base}interface = \"e\"\nspeed = 1")).is_err());
        let empty = toml::from_str::<MuxConfig>(&format!("{base}interfaces = []")).unwrap_err();
        assert!(empty.to_string().contains("at least one interface"), "{empty}");
    }
}
