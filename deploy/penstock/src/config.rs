use penstock_admin_server::{
    ControllerConfig, DEFAULT_GATEWAY_HOLD_OFF, DEFAULT_HOST_HOLD_OFF, DEFAULT_REQUESTS_PER_SECOND, EtcdTable,
    VipLimitTable,
};
use penstock_gateway_server::GatewayConfig;
use penstock_mux_server::MuxConfig;
use penstock_slb_server::HostConfig;
use penstock_southbound::{CertRole, CredentialError, CredentialFiles, Credentials, Identity, NodeRole};
use penstock_telemetry::LogFormat;
use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What `penstock run --config FILE` reads (TOML). The process has the roles whose tables are there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: NodeConfig,
    #[serde(default)]
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) controller: Option<ControllerTable>,
    pub(crate) mux: Option<MuxConfig>,
    pub(crate) host: Option<HostConfig>,
    pub(crate) gateway: Option<GatewayConfig>,
}

/// `[node]`: who the process is and whom it follows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// Must be the name in the certificate; may be left out.
    pub(crate) name: Option<String>,
    /// `host:port` of the controller's southbound interface, or a list of all controllers'. Not needed beside a `[controller]` table
    /// without `[controller.etcd]`: then the process follows its own controller, without a network between.
    pub(crate) controller: Option<Addresses>,
    /// The authority that both sides of every connection must have their certificate from.
    pub(crate) ca: PathBuf,
    #[serde(alias = "cert")]
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Where the last goal state (and a controller's store) is kept.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
}

/// One, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl Addresses {
    pub(crate) fn all(self) -> Vec<String> {
        match self {
            Self::One(address) => vec![address],
            Self::Several(addresses) => addresses,
        }
    }
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/penstock")
}

/// `[controller]`: this process serves operators and nodes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ControllerTable {
    /// Northbound: HTTPS with client certificates of the role `operator`.
    pub(crate) listen: SocketAddr,
    /// Northbound for programs that have a token and no certificate.
    pub(crate) token_listen: Option<SocketAddr>,
    /// Requests of one operator in a second; of one tenant's token a tenth.
    pub(crate) requests_per_second: u32,
    /// Southbound: QUIC, for nodes.
    pub(crate) southbound_listen: SocketAddr,
    /// Seconds after which a host that is not connected has its probed backends counted as failed, if another host is connected.
    pub(crate) host_hold_off: u32,
    /// Seconds after which the connections of a gateway that is not connected go to another one of its pool, if one is connected.
    pub(crate) gateway_hold_off: u32,
    /// Several controllers: the store that they share.
    pub(crate) etcd: Option<EtcdTable>,
    /// What a virtual IP may take of each mux whose frontends say nothing about it.
    pub(crate) vip_limit: VipLimitTable,
}

impl Default for ControllerTable {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Self {
            listen: any(8443),
            token_listen: None,
            requests_per_second: DEFAULT_REQUESTS_PER_SECOND,
            southbound_listen: any(8444),
            host_hold_off: DEFAULT_HOST_HOLD_OFF,
            gateway_hold_off: DEFAULT_GATEWAY_HOLD_OFF,
            etcd: None,
            vip_limit: VipLimitTable::default(),
        }
    }
}

/// `[telemetry]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryConfig {
    /// Where Prometheus reads `/metrics`; none if left out.
    pub(crate) listen: Option<SocketAddr>,
    /// `text` or `json`.
    pub(crate) log_format: LogFormat,
    /// What is logged, as in `RUST_LOG`.
    pub(crate) log: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { listen: None, log_format: LogFormat::default(), log: DEFAULT_LOG.to_owned() }
    }
}

/// The netlink library warns of each attribute that a newer kernel has and it does not know.
const DEFAULT_LOG: &str = "info,netlink_packet_route=error";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {field}: {error}", path.display())]
    Parse { path: PathBuf, field: String, error: Box<toml::de::Error> },
    #[error("{}: no role: add a table [controller], [mux], [host] or [gateway] (see the examples)", .0.display())]
    NoRole(PathBuf),
    #[error("{}: node.controller: needed by [{role}]: the host:port of the controller's southbound interface", path.display())]
    NoController { path: PathBuf, role: NodeRole },
    #[error("{}: node: {error}", path.display())]
    Credentials { path: PathBuf, error: CredentialError },
    #[error("{}: node.name: it is `{name}`, but the certificate is for {identity}", path.display())]
    Name { path: PathBuf, name: String, identity: Identity },
    #[error(
        "{}: [{role}]: the certificate is for {identity}, which does not grant the role: `penstock pki issue --role {role}`",
        path.display()
    )]
    Role { path: PathBuf, role: CertRole, identity: Identity },
}

impl Config {
    /// Reads and checks the file and what it names.
    pub(crate) fn load(path: &Path) -> Result<(Self, Credentials), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let config = Self::parse(path, &text)?;
        let credentials = config
            .credential_files()
            .load()
            .map_err(|error| ConfigError::Credentials { path: path.to_owned(), error })?;
        config.check_identity(path, credentials.identity())?;
        Ok((config, credentials))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let fail = |field: String, error| ConfigError::Parse { path: path.to_owned(), field, error: Box::new(error) };
        let document = toml::Deserializer::parse(text).map_err(|error| fail("not TOML".to_owned(), error))?;
        let config: Self = serde_path_to_error::deserialize(document)
            .map_err(|error| fail(error.path().to_string(), error.into_inner()))?;
        if config.roles().is_empty() {
            return Err(ConfigError::NoRole(path.to_owned()));
        }
        // One of several controllers may be another's follower: its nodes look for the leader like all others.
        let beside = config.controller.as_ref().is_some_and(|c| c.etcd.is_none());
        if config.node.controller.clone().is_none_or(|c| c.all().is_empty())
            && !beside
            && let Some(role) = config.node_roles().first()
        {
            return Err(ConfigError::NoController { path: path.to_owned(), role: *role });
        }
        Ok(config)
    }

    fn check_identity(&self, path: &Path, identity: &Identity) -> Result<(), ConfigError> {
        if let Some(name) = self.node.name.as_ref().filter(|n| **n != identity.name) {
            let (name, identity) = (name.clone(), identity.clone());
            return Err(ConfigError::Name { path: path.to_owned(), name, identity });
        }
        match self.roles().into_iter().find(|role| !identity.may_be(*role)) {
            Some(role) => Err(ConfigError::Role { path: path.to_owned(), role, identity: identity.clone() }),
            None => Ok(()),
        }
    }

    fn credential_files(&self) -> CredentialFiles {
        let node = &self.node;
        CredentialFiles { ca: node.ca.clone(), cert: node.certificate.clone(), key: node.key.clone() }
    }

    /// What the controller needs, from its table and `[node]`.
    pub(crate) fn controller_config(&self) -> Option<ControllerConfig> {
        let (table, node) = (self.controller.as_ref()?, &self.node);
        Some(ControllerConfig {
            listen: table.listen,
            token_listen: table.token_listen,
            requests_per_second: table.requests_per_second,
            southbound_listen: table.southbound_listen,
            state_dir: node.state_dir.clone(),
            ca: node.ca.clone(),
            cert: node.certificate.clone(),
            key: node.key.clone(),
            host_hold_off: table.host_hold_off,
            gateway_hold_off: table.gateway_hold_off,
            etcd: table.etcd.clone(),
            vip_limit: table.vip_limit,
        })
    }

    /// The controller that the nodes of this process follow over the network; none: the one beside them.
    pub(crate) fn controller_addresses(&self) -> Option<Vec<String>> {
        self.node.controller.clone().filter(|_| !self.node_roles().is_empty()).map(Addresses::all)
    }

    pub(crate) fn roles(&self) -> Vec<CertRole> {
        let controller = self.controller.as_ref().map(|_| CertRole::Controller);
        controller.into_iter().chain(self.node_roles().into_iter().map(CertRole::Node)).collect()
    }

    pub(crate) fn role_names(&self) -> String {
        let names: Vec<&str> = self.roles().iter().map(|r| r.name()).collect();
        names.join(", ")
    }

    /// The roles that forward packets.
    pub(crate) fn node_roles(&self) -> Vec<NodeRole> {
        let present = [
            self.mux.as_ref().map(|_| NodeRole::Mux),
            self.host.as_ref().map(|_| NodeRole::Host),
            self.gateway.as_ref().map(|_| NodeRole::Gateway),
        ];
        present.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "[node]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"\n";

    fn refused(text: &str) -> String {
        let error = Config::parse(Path::new("p.toml"), text).unwrap_err();
        error.to_string()
    }

    #[test]
    fn every_example_is_understood() {
        let examples = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
        let mut roles = Vec::new();
        for path in examples.map(|e| e.unwrap().path()) {
            let text = std::fs::read_to_string(&path).unwrap();
            roles.push(Config::parse(&path, &text).unwrap_or_else(|e| panic!("{e}")).role_names());
        }
        roles.sort();
        assert_eq!(roles, ["controller", "controller, mux, gateway", "gateway", "host", "mux"]);
    }

    #[test]
    fn nodes_beside_a_controller_follow_it_unless_another_is_named() {
        let mux = "[mux]\ninterface = \"eth0\"\nunderlay_address = \"10.0.0.1\"\n";
        let address = |node: &str| {
            let text = format!("{NODE}{node}[controller]\n{mux}");
            Config::parse(Path::new("p.toml"), &text).unwrap().controller_addresses()
        };
        assert_eq!(address(""), None);
        assert_eq!(address("controller = \"10.1.1.2:9\"\n"), Some(vec!["10.1.1.2:9".to_owned()]));
        let several = address("controller = [\"a:9\", \"b:9\"]\n");
        assert_eq!(several, Some(vec!["a:9".to_owned(), "b:9".to_owned()]));
    }

    #[test]
    fn an_unknown_field_is_named_with_its_table_and_line() {
        let error = refused(&format!("{NODE}colour = \"red\"\n"));
        assert!(error.starts_with("p.toml: node") && error.contains("colour") && error.contains("line 5"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let error = refused(&format!("{NODE}[telemetry]\nlisten = \"everywhere\"\n"));
        assert!(error.starts_with("p.toml: telemetry.listen:"), "{error}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = refused("[node]\nca = \"a\"\nkey = \"c\"\n");
        assert!(error.starts_with("p.toml: node:") && error.contains("certificate"), "{error}");
    }

    #[test]
    fn a_process_without_a_role_is_refused() {
        assert!(refused(NODE).contains("[controller], [mux], [host] or [gateway]"));
    }

    #[test]
    fn a_node_without_a_controller_is_refused_and_one_beside_it_is_not() {
        let mux = "[mux]\ninterface = \"eth0\"\nunderlay_address = \"10.0.0.1\"\n";
        let error = refused(&format!("{NODE}{mux}"));
        assert!(error.contains("node.controller: needed by [mux]"), "{error}");
        let controller = "[controller]\nlisten = \"127.0.0.1:443\"\nsouthbound_listen = \"127.0.0.1:8443\"\n";
        let config = Config::parse(Path::new("p.toml"), &format!("{NODE}{mux}{controller}")).unwrap();
        assert_eq!(config.role_names(), "controller, mux");
    }

    #[test]
    fn a_node_beside_one_of_several_controllers_says_where_all_of_them_are() {
        let etcd = "[controller.etcd]\nendpoints = [\"http://10.0.0.9:2379\"]\nadvertise = \"https://10.0.0.1\"\n";
        let mux = "[mux]\ninterface = \"eth0\"\nunderlay_address = \"10.0.0.1\"\n";
        assert!(refused(&format!("{NODE}{mux}{etcd}")).contains("node.controller: needed by [mux]"));
        let config = Config::parse(Path::new("p.toml"), &format!("{NODE}controller = [\"a:9\"]\n{mux}{etcd}")).unwrap();
        let table = config.controller_config().unwrap().etcd.unwrap();
        assert_eq!((table.max_operations, table.prefix.as_str()), (128, "/penstock-site"));
    }

    #[test]
    fn the_certificate_decides_who_the_node_is() {
        let text =
            format!("{NODE}name = \"ctl\"\n[controller]\nlisten = \"[::1]:443\"\nsouthbound_listen = \"[::1]:8443\"\n");
        let config = Config::parse(Path::new("p.toml"), &text).unwrap();
        let check = |name: &str, roles| {
            let identity = Identity::new(name.to_owned(), roles).unwrap();
            config.check_identity(Path::new("p.toml"), &identity).map_err(|e| e.to_string())
        };
        assert_eq!(check("ctl", "controller"), Ok(()));
        assert!(check("other", "controller").unwrap_err().contains("node.name: it is `ctl`"));
        assert!(check("ctl", "mux").unwrap_err().contains("--role controller"));
    }
}
