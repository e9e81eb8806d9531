use super::reader::{Node, Reader};
use crate::check::{Addresses, address_pattern, port_range};
use crate::{ResourcePath, value};
use ipnetwork::{IpNetwork, Ipv4Network};
use penstock_model::Protocol;
use penstock_policy::{Acl, AclAction, AclDirection, AclRule, PortRange};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// An access control list. What its tags mean depends on the network in which an interface has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// With the prefixes that stand in it.
    rule: AclRule,
    src_tags: Vec<Tag>,
    dst_tags: Vec<Tag>,
}

/// A name that stands for addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The address space of the network and the prefixes of the sites that are connected with it.
    VirtualNetwork,
    /// All addresses that are not in [`Tag::VirtualNetwork`].
    Internet,
    /// From where containers are probed.
    LoadBalancer,
    /// The addresses in the network whose `ipConfigurations` name this security tag.
    Named(ResourcePath),
}

/// An address that no packet which gets as far as an access list has: what a tag without addresses stands for, because a rule
/// without prefixes matches all.
const NOBODY: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 32).unwrap());

impl AccessList {
    /// Whether the list means the same in every network.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.rules.iter().all(|rule| rule.src_tags.is_empty() && rule.dst_tags.is_empty())
    }

    /// The list with the prefixes that its tags stand for, as `meaning` has them.
    #[must_use]
    pub fn resolve(&self, meaning: impl Fn(&Tag) -> Vec<IpNetwork>) -> Acl {
        let with = |prefixes: &[IpNetwork], tags: &[Tag]| -> Vec<IpNetwork> {
            let mut all: Vec<IpNetwork> = prefixes.iter().copied().chain(tags.iter().flat_map(&meaning)).collect();
            if all.is_empty() && !tags.is_empty() {
                all.push(NOBODY);
            }
            all
        };
        let rules = self.rules.iter().map(|Rule { rule, src_tags, dst_tags }| AclRule {
            src: with(&rule.src, src_tags),
            dst: with(&rule.dst, dst_tags),
            ..rule.clone()
        });
        Acl { name: self.name.clone(), rules: rules.collect() }
    }
}

pub(crate) fn read(r: &mut Reader<'_>) -> BTreeMap<ResourcePath, AccessList> {
    r.all("accessControlLists")
        .into_iter()
        .map(|node| {
            let mut rules: Vec<Rule> = node.children("aclRules").iter().map(|rule| acl_rule(r, rule)).collect();
            rules.sort_by(|a, b| (a.rule.priority, &a.rule.name).cmp(&(b.rule.priority, &b.rule.name)));
            for (property, direction) in
                [("inboundDefaultAction", AclDirection::Inbound), ("outboundDefaultAction", AclDirection::Outbound)]
            {
                let plain = |rule| Rule { rule, src_tags: Vec::new(), dst_tags: Vec::new() };
                rules.extend(default_rule(&node, property, direction).map(plain));
            }
            (node.path.clone(), AccessList { name: node.path.id().to_owned(), rules })
        })
        .collect()
}

/// Addresses and tags of one side of a rule.
fn side(r: &mut Reader<'_>, rule: &Node<'_>, prefix: &str, tags: &str) -> (Vec<IpNetwork>, Vec<Tag>) {
    let said = value::get_text(rule.properties(), prefix);
    let named = rule.references(tags);
    if said.is_some() && !named.is_empty() {
        let message = format!("rule '{}' has both {prefix} and {tags}", rule.path.id());
        r.problem(rule, rule.at(tags), "AclRuleAddressPrefixAndSecurityTags", message);
    }
    let Addresses { prefixes, mut tags } = said.and_then(|s| address_pattern(&s)).unwrap_or_default();
    tags.extend(named.into_iter().map(Tag::Named));
    (prefixes, tags)
}

fn acl_rule(r: &mut Reader<'_>, rule: &Node<'_>) -> Rule {
    let ports = |name: &str| {
        let text = value::get_text(rule.properties(), name).unwrap_or_else(|| "*".to_owned());
        port_range(&text).map_or(PortRange::ANY, |(first, last)| PortRange { first, last })
    };
    let (src, src_tags) = side(r, rule, "sourceAddressPrefix", "sourceSecurityTags");
    let (dst, dst_tags) = side(r, rule, "destinationAddressPrefix", "destinationSecurityTags");
    if let (Some(a), Some(b)) = (src.first(), dst.first())
        && a.is_ipv4() != b.is_ipv4()
    {
        let message =
            format!("rule '{}' joins {a} and {b}: addresses of two families never meet in a packet", rule.path.id());
        r.problem(rule, rule.at("destinationAddressPrefix"), "AclRuleInvalidDestinationAddressPrefix", message);
    }
    let priority = value::get_int(rule.properties(), "priority").unwrap_or(0);
    let rule = AclRule {
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
    };
    Rule { rule, src_tags, dst_tags }
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
