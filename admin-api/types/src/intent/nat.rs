//! How addresses are translated between a connection's site and its tenant.
use super::network::masked;
use super::reader::{Node, Reader};
use crate::check::port_range;
use crate::value;
use ipnetwork::IpNetwork;
use penstock_model::Protocol;
use penstock_policy::{CompiledNat, NatKind, PolicyError, PortRange, TranslationRule};
use serde_json::Value;

/// Ports that a Dynamic rule gives out without a `portRange`.
const PORTS: PortRange = PortRange { first: 1024, last: u16::MAX };

/// The rules of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionNat {
    /// `IngressSnat`: addresses at the site, and what they are for the tenant.
    pub site: Vec<TranslationRule>,
    /// `EgressSnat`: addresses of the tenant, and what they are for the site.
    pub tenant: Vec<TranslationRule>,
}

/// A problem with a rule: where in the rule, and what.
type Wrong = (String, String);

/// One of `internalMappings` or `externalMappings`.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    prefix: IpNetwork,
    ports: Option<PortRange>,
}

pub(super) fn read(r: &mut Reader<'_>, node: &Node<'_>, routes: &[IpNetwork]) -> ConnectionNat {
    let mut nat = ConnectionNat::default();
    // Places of the rules of both sides among all.
    let (mut of_site, mut of_tenant) = (Vec::new(), Vec::new());
    for (i, said) in value::list(node.properties(), "natRules").iter().enumerate() {
        let is_ingress = value::get_text(said, "mode").is_some_and(|m| m.eq_ignore_ascii_case("IngressSnat"));
        match rule(i, said, is_ingress.then_some(routes)) {
            Ok(rule) if is_ingress => {
                of_site.push(i);
                nat.site.push(rule);
            }
            Ok(rule) => {
                of_tenant.push(i);
                nat.tenant.push(rule);
            }
            Err((at, message)) => {
                r.problem(node, node.at(&format!("natRules/{i}{at}")), "InvalidParameterValue", message);
            }
        }
    }
    for (places, rules) in [(of_site, &nat.site), (of_tenant, &nat.tenant)] {
        if let Err(error) = CompiledNat::compile(rules) {
            let at = node.at(&pointer(&error, &places));
            r.problem(node, at, "InvalidParameterValue", error.problem.to_string());
        }
    }
    nat
}

/// `routes`: what the tenant knows the site by, if the addresses outside are the site's.
fn rule(i: usize, said: &Value, routes: Option<&[IpNetwork]>) -> Result<TranslationRule, Wrong> {
    let (inside, outside) = (mappings(said, "internalMappings")?, mappings(said, "externalMappings")?);
    let is_dynamic = value::get_text(said, "type").is_some_and(|t| t.eq_ignore_ascii_case("Dynamic"));
    let kind = if is_dynamic { pool(said, &inside, &outside)? } else { fixed(said, &inside, &outside)? };
    for (j, mapping) in outside.iter().enumerate() {
        let is_known =
            |route: &IpNetwork| route.contains(mapping.prefix.network()) && route.prefix() <= mapping.prefix.prefix();
        if routes.is_some_and(|routes| !routes.iter().any(is_known)) {
            let at = format!("/externalMappings/{j}/addressSpace");
            return Err((
                at,
                format!("{} is in none of the routes, which say by what the tenant knows the site", mapping.prefix),
            ));
        }
    }
    let name = value::get_text(said, "name").unwrap_or_else(|| format!("natRules/{i}"));
    Ok(TranslationRule { name, kind })
}

fn mappings(said: &Value, list: &str) -> Result<Vec<Mapping>, Wrong> {
    let mut out = Vec::new();
    for (j, mapping) in value::list(said, list).iter().enumerate() {
        let text = value::get_text(mapping, "addressSpace").unwrap_or_default();
        let prefix = text.parse::<IpNetwork>().map(masked);
        let prefix =
            prefix.map_err(|_| (format!("/{list}/{j}/addressSpace"), format!("'{text}' is not an address prefix")))?;
        let ports = match value::get_text(mapping, "portRange") {
            None => None,
            Some(text) => {
                let ports = port_range(&text).map(|(first, last)| PortRange { first, last });
                Some(
                    ports
                        .ok_or_else(|| (format!("/{list}/{j}/portRange"), format!("'{text}' is no range of ports")))?,
                )
            }
        };
        out.push(Mapping { prefix, ports });
    }
    Ok(out)
}

fn pool(said: &Value, inside: &[Mapping], outside: &[Mapping]) -> Result<NatKind, Wrong> {
    if let Some(j) = inside.iter().position(|m| m.ports.is_some()) {
        return Err((
            format!("/internalMappings/{j}/portRange"),
            "a Dynamic rule is for all ports of its addresses".to_owned(),
        ));
    }
    if value::get(said, "protocol").is_some() {
        return Err(("/protocol".to_owned(), "a Dynamic rule is for TCP, UDP and ping".to_owned()));
    }
    let ports = outside.first().and_then(|m| m.ports);
    if let Some(j) = outside.iter().position(|m| m.ports != ports) {
        return Err((
            format!("/externalMappings/{j}/portRange"),
            "all addresses of a rule have the same ports".to_owned(),
        ));
    }
    let filtering = value::get_text(said, "filtering").unwrap_or_default();
    Ok(NatKind::Pool {
        inside: inside.iter().map(|m| m.prefix).collect(),
        outside: outside.iter().map(|m| m.prefix).collect(),
        ports: ports.unwrap_or(PORTS),
        is_open: filtering.eq_ignore_ascii_case("EndpointIndependent"),
    })
}

/// Prefix to prefix, or with ports a port forward.
fn fixed(said: &Value, inside: &[Mapping], outside: &[Mapping]) -> Result<NatKind, Wrong> {
    if value::get(said, "filtering").is_some() {
        return Err(("/filtering".to_owned(), "only Dynamic rules filter what comes in".to_owned()));
    }
    let one = |list: &str, of: &[Mapping]| match of {
        [one] => Ok(*one),
        _ => Err((format!("/{list}"), format!("a Static rule has one mapping here, not {}", of.len()))),
    };
    let (inside, outside) = (one("internalMappings", inside)?, one("externalMappings", outside)?);
    let protocol = match value::get_text(said, "protocol").unwrap_or_default().to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        _ => None,
    };
    if inside.ports.is_none() && outside.ports.is_none() {
        return match protocol {
            None => Ok(NatKind::Static { inside: inside.prefix, outside: outside.prefix }),
            Some(_) => Err(("/protocol".to_owned(), "only a rule with a portRange has a protocol".to_owned())),
        };
    }
    let Some(protocol) = protocol else {
        return Err((
            "/protocol".to_owned(),
            "a Static rule with a portRange says whose port it is: Tcp or Udp".to_owned(),
        ));
    };
    let end = |list: &str, m: Mapping| {
        let length = if m.prefix.is_ipv4() { 32 } else { 128 };
        match m.ports {
            _ if m.prefix.prefix() != length => {
                Err((format!("/{list}/0/addressSpace"), format!("one address has the port, not {}", m.prefix)))
            }
            Some(PortRange { first, last }) if first == last => Ok((m.prefix.ip(), first)),
            _ => Err((format!("/{list}/0/portRange"), "one port is forwarded by a rule".to_owned())),
        }
    };
    let (inside, inside_port) = end("internalMappings", inside)?;
    let (outside, outside_port) = end("externalMappings", outside)?;
    Ok(NatKind::Forward { protocol, outside, outside_port, inside, inside_port })
}

/// Where in the document the part stands that the compiled rules refuse. `places`: of each rule among all.
fn pointer(error: &PolicyError, places: &[usize]) -> String {
    let mut parts = error.field.split(['[', ']', '.']).filter(|p| !p.is_empty());
    let place = parts.next().and_then(|n| places.get(n.parse::<usize>().ok()?));
    let Some(place) = place else { return "natRules".to_owned() };
    let (part, index) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("0"));
    let (list, field) = match part {
        "inside" => ("internalMappings", "addressSpace"),
        "inside_port" => ("internalMappings", "portRange"),
        "outside" => ("externalMappings", "addressSpace"),
        "outside_port" | "ports" => ("externalMappings", "portRange"),
        other => return format!("natRules/{place}/{other}"),
    };
    format!("natRules/{place}/{list}/{index}/{field}")
}
