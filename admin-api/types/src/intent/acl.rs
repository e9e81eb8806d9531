use super::reader::{Node, Reader};
use crate::check::{address_pattern, port_range};
use crate::{ResourcePath, value};
use ipnetwork::IpNetwork;
use penstock_model::Protocol;
use penstock_policy::{Acl, AclAction, AclDirection, AclRule, PortRange};
use std::collections::BTreeMap;

pub(crate) fn read(r: &mut Reader<'_>) -> BTreeMap<ResourcePath, Acl> {
    r.all("accessControlLists")
        .into_iter()
        .map(|node| {
            let mut rules: Vec<AclRule> = node.children("aclRules").iter().map(|rule| acl_rule(r, rule)).collect();
            rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
            for (property, direction) in
                [("inboundDefaultAction", AclDirection::Inbound), ("outboundDefaultAction", AclDirection::Outbound)]
            {
                rules.extend(default_rule(&node, property, direction));
            }
            (node.path.clone(), Acl { name: node.path.id().to_owned(), rules })
        })
        .collect()
}

fn acl_rule(r: &mut Reader<'_>, rule: &Node<'_>) -> AclRule {
    let ports = |name: &str| {
        let text = value::get_text(rule.properties(), name).unwrap_or_else(|| "*".to_owned());
        port_range(&text).map_or(PortRange::ANY, |(first, last)| PortRange { first, last })
    };
    let addresses = |name: &str| -> Vec<IpNetwork> {
        value::get_text(rule.properties(), name).and_then(|s| address_pattern(&s)).unwrap_or_default()
    };
    let (src, dst) = (addresses("sourceAddressPrefix"), addresses("destinationAddressPrefix"));
    if let (Some(a), Some(b)) = (src.first(), dst.first())
        && a.is_ipv4() != b.is_ipv4()
    {
        let message =
            format!("rule '{}' joins {a} and {b}: addresses of two families never meet in a packet", rule.path.id());
        r.problem(rule, rule.at("destinationAddressPrefix"), "AclRuleInvalidDestinationAddressPrefix", message);
    }
    let priority = value::get_int(rule.properties(), "priority").unwrap_or(0);
    AclRule {
        name: rule.path.id().to_owned(),
        priority: u16::try_from(priority).unwrap_or(u16::MAX),
        action: if rule.word("action") == "allow" { AclAction::Allow } else { AclAction::Deny },
        direction: if rule.word("type") == "inbound" { AclDirection::Inbound } else { AclDirection::Outbound },
        protocol: protocol(&rule.word("protocol")),
        src,
        dst,
        src_ports: ports("sourcePortRange"),
        dst_ports: ports("destinationPortRange"),
        log: rule.word("logging") == "enabled",
    }
}

/// Only where the operator names it: without, the policy's own default holds.
fn default_rule(list: &Node<'_>, property: &str, direction: AclDirection) -> Option<AclRule> {
    let action = match list.word(property).as_str() {
        "permit" => AclAction::Allow,
        "deny" => AclAction::Deny,
        _ => return None,
    };
    Some(AclRule {
        name: property.to_owned(),
        priority: u16::MAX,
        action,
        direction,
        protocol: None,
        src: Vec::new(),
        dst: Vec::new(),
        src_ports: PortRange::ANY,
        dst_ports: PortRange::ANY,
        log: false,
    })
}

fn protocol(word: &str) -> Option<Protocol> {
    match word {
        "tcp" | "http" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "icmp" | "icmpv4" => Some(Protocol::ICMP),
        "icmpv6" => Some(Protocol::ICMPV6),
        _ => None,
    }
}
