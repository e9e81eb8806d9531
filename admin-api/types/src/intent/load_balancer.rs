use super::Intent;
use super::reader::{Node, Reader};
use crate::{ResourcePath, Said, value};
use ipnetwork::IpNetwork;
use penstock_model::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A frontend of a rule: VIP, protocol and port, and the pool behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The rule.
    pub path: ResourcePath,
    pub frontend: ResourcePath,
    pub vip: IpAddr,
    pub protocol: Protocol,
    /// [`ALL_PORTS`]: each that no other rule of the virtual IP is for.
    pub port: u16,
    pub backend_port: u16,
    /// The backends have the virtual IP themselves (`enableFloatingIP`).
    pub floating: bool,
    /// How long an established TCP connection may be silent, if the rule says.
    pub idle_minutes: Option<u16>,
    /// Of an inbound NAT rule: the rule itself, which one ipConfiguration names.
    pub pool: ResourcePath,
    pub distribution: Distribution,
    pub probe: Option<Probe>,
    pub all_down: AllDown,
}

/// What a virtual IP may take of each mux in a second. `None`: what the site says; 0: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimit {
    pub packets: Option<u32>,
    pub new_flows: Option<u32>,
}

impl RateLimit {
    /// What holds where both are said: the lower limit.
    fn and(self, other: Self) -> Self {
        let lower = |a: Option<u32>, b: Option<u32>| match (a, b) {
            (Some(0), said) | (said, Some(0)) => said.or(Some(0)),
            (a, b) => a.into_iter().chain(b).min(),
        };
        Self { packets: lower(self.packets, other.packets), new_flows: lower(self.new_flows, other.new_flows) }
    }
}

/// The port of a rule that is for all ports.
pub const ALL_PORTS: u16 = 0;

/// Members of a pool that reach the outside by virtual IPs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The rule.
    pub path: ResourcePath,
    pub vips: Vec<IpAddr>,
    /// `None`: TCP, UDP and ICMP echo.
    pub protocol: Option<Protocol>,
    pub pool: ResourcePath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    #[default]
    Default,
    SourceIp,
    SourceIpProtocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub path: ResourcePath,
    pub kind: ProbeKind,
    pub port: u16,
    pub interval_seconds: u16,
    pub count: u16,
    /// Successes in a row that bring a backend back.
    pub rise: u16,
    /// How long a backend stays out at least.
    pub hold_down_seconds: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    Tcp,
    Http { path: String },
    Https { path: String },
}

/// What becomes of new connections when all backends are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllDown {
    #[default]
    Drop,
    KeepLast,
    ForwardToAll,
}

type Taken = BTreeMap<(IpAddr, Protocol, u16), ResourcePath>;

pub(crate) fn read(r: &mut Reader<'_>, intent: &mut Intent) {
    one_owner_per_public_address(r);
    let vips = VipPools::read(r);
    let mut taken = Taken::new();
    for balancer in r.all("loadBalancers") {
        let mut frontends = BTreeMap::new();
        for node in balancer.children("frontendIPConfigurations") {
            if let Some(vip) = frontend(r, &node, &vips) {
                not_a_node(r, &node, vip, intent);
                let limit = intent.rate_limits.entry(vip).or_default();
                *limit = limit.and(rate_limit(&node));
                frontends.insert(node.path.clone(), vip);
            }
        }
        for node in balancer.children("backendAddressPools") {
            intent.pools.insert(node.path);
        }
        let probes: BTreeMap<_, _> =
            balancer.children("probes").iter().map(|n| (n.path.clone(), probe(r, n))).collect();
        for rule in balancer.children("loadBalancingRules") {
            services(r, &rule, &frontends, &probes, &mut taken, &mut intent.services);
        }
        for rule in balancer.children("inboundNatRules") {
            if has_frontend(r, &rule) {
                one_target(r, &rule, intent);
                services(r, &rule, &frontends, &probes, &mut taken, &mut intent.services);
            }
        }
        for rule in balancer.children("outboundNatRules") {
            if has_frontend(r, &rule) {
                outbound(r, &rule, &frontends, &mut intent.outbound);
            }
        }
    }
    whole_addresses(r, intent);
    one_network_per_pool(r, intent);
}

/// Answers to what leaves by a port of a virtual IP could not be told from what clients send to a rule for all ports.
fn whole_addresses(r: &mut Reader<'_>, intent: &Intent) {
    let whole: BTreeMap<IpAddr, &ResourcePath> =
        intent.services.iter().filter(|s| s.port == ALL_PORTS).map(|s| (s.vip, &s.path)).collect();
    let rules = r.all("loadBalancers").into_iter().flat_map(|b| b.children("outboundNatRules")).collect::<Vec<_>>();
    for rule in rules {
        let vips = intent.outbound.iter().filter(|o| o.path == rule.path).flat_map(|o| &o.vips);
        if let Some((vip, other)) = vips.into_iter().find_map(|vip| whole.get_key_value(vip)) {
            let message = Said::naming(format!("'{other}' has all ports of {vip}"), &[other]);
            r.problem(&rule, rule.at("frontendIPConfigurations"), "OutboundNatRuleConflict", message);
        }
    }
}

/// Addresses that frontends may have; empty: any.
struct VipPools(Vec<(IpAddr, IpAddr)>);

impl VipPools {
    fn read(r: &Reader<'_>) -> Self {
        let pools = r.all("loadBalancerManager").iter().flat_map(|m| m.references("vipIpPools")).collect::<Vec<_>>();
        let bounds = |path: &ResourcePath| {
            let p = value::properties(r.node(path)?);
            let end = |name| value::get_text(p, name)?.parse::<IpAddr>().ok();
            Some((end("startIpAddress")?, end("endIpAddress")?))
        };
        Self(pools.iter().filter_map(bounds).collect())
    }

    fn allow(&self, vip: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|(a, b)| a.is_ipv4() == vip.is_ipv4() && *a <= vip && vip <= *b)
    }
}

fn frontend(r: &mut Reader<'_>, node: &Node<'_>, pools: &VipPools) -> Option<IpAddr> {
    let public = node.reference("publicIPAddress");
    let subnet = node.reference("subnet");
    if public.is_some() && subnet.is_some() {
        let message = format!("'{}' has both a subnet and a publicIPAddress", node.path);
        r.problem(node, node.at("publicIPAddress"), "FrontendIPConfigHasBothSubnetAndPublicIP", message);
    }
    if subnet.as_ref().is_some_and(|s| s.kind_path() == "virtualNetworks/subnets") {
        r.warn(
            &node.path,
            "NotImplemented",
            "frontends inside virtual networks are stored; they have no function in this version",
        );
        return None;
    }
    let allocated = node.allocated();
    let vip = match &public {
        Some(public) => {
            let public = r.node(public)?;
            let said = value::get_text(value::properties(public), "ipAddress").and_then(|s| s.parse().ok());
            said.or_else(|| super::Allocated(public.get(crate::ALLOCATED)?).parsed("address"))
        }
        None => node.address("privateIPAddress").or_else(|| allocated.parsed("address")),
    };
    let Some(vip) = vip else {
        let message = format!(
            "'{}' has no address: a publicIPAddress that has one, or privateIPAddress with its subnet",
            node.path
        );
        r.problem(node, node.at("privateIPAddress"), "FrontendIPConfigHasNoSubnetOrPublicIP", message);
        return None;
    };
    if let Some(prefix) = subnet.and_then(|s| subnet_prefix(r, &s))
        && !prefix.contains(vip)
    {
        r.problem(
            node,
            node.at("privateIPAddress"),
            "PrivateIPAddressNotInSubnet",
            format!("{vip} is not in the subnet's prefix {prefix}"),
        );
    }
    if !pools.allow(vip) {
        r.problem(
            node,
            node.at("privateIPAddress"),
            "FrontEndIpNotInVipPool",
            format!("{vip} is in none of the VIP pools of loadBalancerManager"),
        );
    }
    Some(vip)
}

fn rate_limit(node: &Node<'_>) -> RateLimit {
    let Some(said) = value::get(node.properties(), "rateLimit") else { return RateLimit::default() };
    let rate = |name: &str| value::get_int(said, name).and_then(|n| u32::try_from(n).ok());
    RateLimit { packets: rate("packetsPerSecond"), new_flows: rate("newFlowsPerSecond") }
}

fn one_owner_per_public_address(r: &mut Reader<'_>) {
    let mut owners: BTreeMap<IpAddr, ResourcePath> = BTreeMap::new();
    for node in r.all("publicIPAddresses") {
        let Some(address) = node.address("ipAddress").or_else(|| node.allocated().parsed("address")) else { continue };
        if let Some(other) = owners.insert(address, node.path.clone()) {
            r.problem(
                &node,
                node.at("ipAddress"),
                "PublicIPAddressInUse",
                Said::naming(format!("{address} is the address of '{other}' already"), &[&other]),
            );
        }
    }
}

/// A VIP that is also a node's own address would take the node's own traffic.
fn not_a_node(r: &mut Reader<'_>, node: &Node<'_>, vip: IpAddr, intent: &Intent) {
    let nodes = intent.servers.values().chain(intent.muxes.values()).chain(intent.gateways.values());
    if let Some(other) = nodes.into_iter().find(|n| n.address == Some(vip)) {
        let message = Said::naming(format!("{vip} is the underlay address of '{}'", other.path), &[&other.path]);
        r.problem(node, node.at("privateIPAddress"), "PrivateIPAddressInUse", message);
    }
}

fn subnet_prefix(r: &Reader<'_>, path: &ResourcePath) -> Option<IpNetwork> {
    value::get_text(value::properties(r.node(path)?), "addressPrefix")?.parse().ok()
}

fn probe(r: &mut Reader<'_>, node: &Node<'_>) -> Probe {
    let number = |name: &str, default: u16| {
        value::get_int(node.properties(), name).and_then(|n| u16::try_from(n).ok()).unwrap_or(default)
    };
    let path = value::get_text(node.properties(), "requestPath");
    let kind = match (node.word("protocol").as_str(), path) {
        ("http", Some(path)) if path.starts_with('/') => ProbeKind::Http { path },
        ("https", Some(path)) if path.starts_with('/') => ProbeKind::Https { path },
        (word @ ("http" | "https"), path) => {
            let word = word.to_ascii_uppercase();
            let message = format!("an {word} probe has a requestPath that begins with '/': {path:?}");
            r.problem(node, node.at("requestPath"), "ProbeRequestPathIsRequired", message);
            ProbeKind::Tcp
        }
        (_, Some(path)) => {
            r.problem(
                node,
                node.at("requestPath"),
                "ProbeRequestPathIsNotNull",
                format!("a TCP probe has no requestPath: '{path}'"),
            );
            ProbeKind::Tcp
        }
        _ => ProbeKind::Tcp,
    };
    Probe {
        path: node.path.clone(),
        kind,
        port: number("port", 0),
        interval_seconds: number("intervalInSeconds", 5).max(1),
        count: number("numberOfProbes", 2).max(1),
        rise: number("numberOfSuccesses", 1).max(1),
        hold_down_seconds: number("holdDownInSeconds", 0),
    }
}

fn services(
    r: &mut Reader<'_>,
    rule: &Node<'_>,
    frontends: &BTreeMap<ResourcePath, IpAddr>,
    probes: &BTreeMap<ResourcePath, Probe>,
    taken: &mut Taken,
    out: &mut Vec<Service>,
) {
    // Each part is read whether or not another is good: what is wrong is said of all of them.
    let protocols = protocols(r, rule);
    let ports = ports(r, rule, &protocols);
    let is_nat = rule.path.kind_path() == "loadBalancers/inboundNatRules";
    let pool = if is_nat { Some(rule.path.clone()) } else { rule.reference("backendAddressPool") };
    if pool.is_none() {
        r.warn(&rule.path, "BackendPoolReferenceNotProvided", "no backendAddressPool: the rule has no effect");
    }
    if value::get_bool(rule.properties(), "enableTcpReset") == Some(true) {
        r.warn(
            &rule.path,
            "NotImplemented",
            "enableTcpReset: idle connections are forgotten, not reset, in this version",
        );
    }
    let listed = rule_frontends(r, rule, pool.as_ref());
    let Some((pool, (port, backend_port))) = pool.zip(ports) else { return };
    for (frontend, protocol) in listed.iter().flat_map(|f| protocols.iter().map(move |p| (f, *p))) {
        let Some(vip) = frontends.get(frontend).copied() else { continue };
        if let Some(other) = taken.insert((vip, protocol, port), rule.path.clone()) {
            let message = format!("{vip} {protocol} port {port} is served by '{other}' already");
            let message = Said::naming(message, &[&other]);
            r.problem(rule, rule.at("frontendPort"), "RulesUseSameFrontendPort", message);
            continue;
        }
        out.push(Service {
            path: rule.path.clone(),
            frontend: frontend.clone(),
            vip,
            protocol,
            port,
            backend_port,
            floating: is_floating(rule),
            idle_minutes: number(rule, "idleTimeoutInMinutes"),
            pool: pool.clone(),
            distribution: distribution(&rule.word("loadDistribution")),
            probe: rule.reference("probe").and_then(|p| probes.get(&p).cloned()),
            all_down: all_down(&rule.word("allBackendsDown")),
        });
    }
}

fn number(node: &Node<'_>, name: &str) -> Option<u16> {
    value::get_int(node.properties(), name).and_then(|n| u16::try_from(n).ok())
}

fn is_floating(rule: &Node<'_>) -> bool {
    value::get_bool(rule.properties(), "enableFloatingIP") == Some(true)
}

/// Ports of a rule at its frontend and its backends.
fn ports(r: &mut Reader<'_>, rule: &Node<'_>, protocols: &[Protocol]) -> Option<(u16, u16)> {
    let (front, back) = (number(rule, "frontendPort"), number(rule, "backendPort"));
    let mut refuse = |name: &str, message: String| {
        r.problem(rule, rule.at(name), "PortValueIsOutOfRange", message);
        None
    };
    let front = match front {
        _ if rule.word("protocol") == "all" => {
            let ports = [("frontendPort", front), ("backendPort", back)];
            let wrong = ports.into_iter().find_map(|(name, port)| Some((name, port.filter(|p| *p != ALL_PORTS)?)));
            return match wrong {
                Some((name, port)) => refuse(name, format!("a rule for protocol All has {name} 0, not {port}")),
                None => Some((ALL_PORTS, ALL_PORTS)),
            };
        }
        Some(port) if port != ALL_PORTS => port,
        _ if protocols.is_empty() && !rule.word("protocol").is_empty() => return None,
        _ => return refuse("frontendPort", format!("rule '{}' has no frontendPort from 1 to 65535", rule.path.id())),
    };
    match back.filter(|p| *p != ALL_PORTS).unwrap_or(front) {
        back if back != front && is_floating(rule) => {
            refuse("backendPort", format!("a floating IP translates no port: backendPort is {front}, not {back}"))
        }
        back => Some((front, back)),
    }
}

/// A NAT rule may be there before its frontends are.
fn has_frontend(r: &mut Reader<'_>, rule: &Node<'_>) -> bool {
    let is_there = !value::list(rule.properties(), "frontendIPConfigurations").is_empty();
    if !is_there {
        r.warn(&rule.path, "FrontendIpConfigReferenceNotProvided", "no frontend: the rule has no effect");
    }
    is_there
}

/// An inbound NAT rule leads to one address.
fn one_target(r: &mut Reader<'_>, rule: &Node<'_>, intent: &Intent) {
    let names = |i: &&super::Interface| i.ip_configurations.iter().any(|c| c.pools.contains(&rule.path));
    let configurations = intent.interfaces.values().filter(names).flat_map(|i| &i.ip_configurations);
    let targets: Vec<_> = configurations.filter(|c| c.pools.contains(&rule.path)).collect();
    match targets.as_slice() {
        [] => r.warn(&rule.path, "NoBackend", "no ipConfiguration names the rule: it has no effect"),
        [_] => {}
        [first, second, ..] => {
            let message = format!("'{}' and '{}' both name the rule", first.path, second.path);
            let message = Said::naming(message, &[&first.path, &second.path]);
            r.problem(rule, rule.pointer.clone(), "InboundNatRuleInUse", message);
        }
    }
}

fn outbound(r: &mut Reader<'_>, rule: &Node<'_>, frontends: &BTreeMap<ResourcePath, IpAddr>, out: &mut Vec<Outbound>) {
    let pool = rule.reference("backendAddressPool");
    let listed = rule_frontends(r, rule, pool.as_ref());
    let protocol = match rule.word("protocol").as_str() {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "all" => None,
        other => {
            let message = format!("protocol {other} is stored; All, TCP and UDP have a function in this version");
            r.warn(&rule.path, "NotImplemented", message);
            return;
        }
    };
    let Some(pool) = pool else { return };
    let vips: Vec<IpAddr> = listed.iter().filter_map(|f| frontends.get(f).copied()).collect();
    if let Some(other) =
        out.iter().find(|o| o.pool == pool && (o.protocol == protocol || o.protocol.is_none() || protocol.is_none()))
    {
        let message = format!("'{}' is the outbound rule of '{pool}' already", other.path);
        let message = Said::naming(message, &[&other.path, &pool]);
        r.problem(rule, rule.at("backendAddressPool"), "OutboundNatRuleConflict", message);
    }
    out.push(Outbound { path: rule.path.clone(), vips, protocol, pool });
}

/// None: not said, wrong, or without a function.
fn protocols(r: &mut Reader<'_>, rule: &Node<'_>) -> Vec<Protocol> {
    match rule.word("protocol").as_str() {
        "" => vec![],
        "tcp" => vec![Protocol::TCP],
        "udp" => vec![Protocol::UDP],
        "all" => vec![Protocol::TCP, Protocol::UDP],
        other => {
            let message = format!("protocol {other} is stored; All, TCP and UDP have a function in this version");
            r.warn(&rule.path, "NotImplemented", message);
            vec![]
        }
    }
}

/// The frontends that a rule names, those of other load balancers left out.
fn rule_frontends(r: &mut Reader<'_>, rule: &Node<'_>, pool: Option<&ResourcePath>) -> Vec<ResourcePath> {
    let own = |path: &ResourcePath| path.document() == rule.path.document();
    let message = || "frontend and pool of a rule are of its own load balancer".to_owned();
    if pool.is_some_and(|p| !own(p)) {
        r.problem(rule, rule.at("backendAddressPool/resourceRef"), "InvalidResourceReference", message());
    }
    let items = value::list(rule.properties(), "frontendIPConfigurations");
    if items.is_empty() {
        let message = format!("rule '{}' names no frontend", rule.path.id());
        r.problem(rule, rule.at("frontendIPConfigurations"), "FrontendIpConfigReferenceNotProvided", message);
    }
    let mut out = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match super::reader::target(item) {
            Some(frontend) if own(&frontend) => out.push(frontend),
            Some(_) => {
                let at = rule.at(&format!("frontendIPConfigurations/{i}/resourceRef"));
                r.problem(rule, at, "InvalidResourceReference", message());
            }
            None => {}
        }
    }
    out
}

fn all_down(word: &str) -> AllDown {
    match word {
        "keeplast" => AllDown::KeepLast,
        "forwardtoall" => AllDown::ForwardToAll,
        _ => AllDown::Drop,
    }
}

fn distribution(word: &str) -> Distribution {
    match word {
        "sourceip" => Distribution::SourceIp,
        "sourceipprotocol" => Distribution::SourceIpProtocol,
        _ => Distribution::Default,
    }
}

fn one_network_per_pool(r: &mut Reader<'_>, intent: &Intent) {
    for pool in &intent.pools {
        let mut network: Option<ResourcePath> = None;
        for member in r.referring(pool, "networkInterfaces/ipConfigurations") {
            let Some(interface) = member.parent().and_then(|p| intent.interfaces.get(&p)) else { continue };
            if network.get_or_insert_with(|| interface.network.clone()) != &interface.network {
                let document = interface.path.clone();
                let i = interface.ip_configurations.iter().position(|c| c.path == member).unwrap_or(0);
                let node = Node { path: document, value: &serde_json::Value::Null, pointer: String::new() };
                let at = format!("/properties/ipConfigurations/{i}/properties/loadBalancerBackendAddressPools");
                let message = format!("'{pool}' has members in another virtual network already");
                let message = Said::naming(message, &[pool]);
                r.problem(&node, at, "BackendIPConfigurationsDontUseSameVnet", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RateLimit;

    #[test]
    fn of_two_frontends_with_one_address_the_lower_limit_holds_and_no_limit_is_said_as_0() {
        let and = |a, b| RateLimit { packets: a, new_flows: None }.and(RateLimit { packets: b, new_flows: Some(1) });
        let cases = [
            (None, None, None),
            (Some(5), None, Some(5)),
            (Some(5), Some(3), Some(3)),
            (Some(0), Some(3), Some(3)),
            (Some(3), Some(0), Some(3)),
            (Some(0), None, Some(0)),
            (None, Some(0), Some(0)),
        ];
        for (a, b, both) in cases {
            assert_eq!(and(a, b), RateLimit { packets: both, new_flows: Some(1) }, "{a:?} and {b:?}");
        }
    }
}
