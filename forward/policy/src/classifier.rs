use crate::cut_tree::CutTree;
use crate::rule_box::{Boxes, NO_PORT, Ranges, RuleBox, Value};
use crate::{Acl, AclAction, AclDirection, AclMatch, AclRule, AclVerdict, PortRange};
use ipnetwork::IpNetwork;
use penstock_model::{FlowKey, Protocol};

/// The rules of one direction of a list, one tree for each family of addresses.
#[derive(Debug, Clone)]
pub(crate) struct Classifier {
    v4: CutTree<u32>,
    v6: CutTree<u128>,
    /// Of each rule, in the order in which they are looked at.
    verdicts: Vec<AclVerdict>,
    otherwise: Otherwise,
}

/// What holds if no rule matches.
#[derive(Debug, Clone)]
struct Otherwise {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// Of sources in these ranges.
    same_network: AclVerdict,
    others: AclVerdict,
}

impl Classifier {
    pub(crate) fn compile(acl: &Acl, direction: AclDirection, network: &[IpNetwork]) -> Self {
        let rules = in_order(acl, direction);
        Self {
            v4: tree(&rules),
            v6: tree(&rules),
            verdicts: rules.into_iter().map(|(index, rule)| verdict_of(index, rule)).collect(),
            otherwise: Otherwise::new(acl, direction, network),
        }
    }

    #[inline]
    pub(crate) fn evaluate(&self, key: &FlowKey) -> AclVerdict {
        let (src_port, dst_port) =
            if has_ports(key.protocol()) { (key.src_port.into(), key.dst_port.into()) } else { (NO_PORT, NO_PORT) };
        let protocol = u32::from(key.protocol().0);
        let (found, same_network) = match (key.src.is_v4(), key.dst.is_v4()) {
            (true, true) => {
                let src = u32::from_be_bytes(key.src.v4_bytes());
                let dst = u32::from_be_bytes(key.dst.v4_bytes());
                (self.v4.find(&[src, dst, src_port, dst_port, protocol]), self.otherwise.v4.contains(src))
            }
            (false, false) => {
                let (src, dst) = (u128::from_be_bytes(key.src.0), u128::from_be_bytes(key.dst.0));
                let key = [src, dst, src_port.into(), dst_port.into(), protocol.into()];
                (self.v6.find(&key), self.otherwise.v6.contains(src))
            }
            // No packet has addresses of two families.
            _ => return DENIED,
        };
        let otherwise = if same_network { self.otherwise.same_network } else { self.otherwise.others };
        match found {
            Some(rule) => self.verdicts.get(rule as usize).copied().unwrap_or(DENIED),
            None => otherwise,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + size_of_val(&*self.verdicts)
    }
}

const DENIED: AclVerdict = AclVerdict { action: AclAction::Deny, because: AclMatch::Default, log: false };

impl Otherwise {
    fn new(acl: &Acl, direction: AclDirection, network: &[IpNetwork]) -> Self {
        let allowed = |because| AclVerdict { action: AclAction::Allow, because, log: false };
        let (v4, v6) = (Ranges::new(network), Ranges::new(network));
        let (same_network, others) = match direction {
            _ if acl.rules.is_empty() => (allowed(AclMatch::NoList), allowed(AclMatch::NoList)),
            AclDirection::Outbound => (allowed(AclMatch::Default), allowed(AclMatch::Default)),
            AclDirection::Inbound => (allowed(AclMatch::SameNetwork), DENIED),
        };
        Self { v4, v6, same_network, others }
    }
}

/// Whether the first four bytes behind the IP header are ports.
pub(crate) const fn has_ports(protocol: Protocol) -> bool {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    matches!(protocol.0, 6 | 17 | DCCP | SCTP | UDP_LITE)
}

/// The rules of `direction` with their places in the list, by priority (equal priorities in the order of the list).
fn in_order(acl: &Acl, direction: AclDirection) -> Vec<(u32, &AclRule)> {
    let mut rules: Vec<(u32, &AclRule)> =
        (0u32..).zip(&acl.rules).filter(|(_, rule)| rule.direction == direction).collect();
    rules.sort_by_key(|(index, rule)| (rule.priority, *index));
    rules
}

fn verdict_of(index: u32, rule: &AclRule) -> AclVerdict {
    AclVerdict { action: rule.action, because: AclMatch::Rule(index), log: rule.log }
}

fn tree<A: Value>(rules: &[(u32, &AclRule)]) -> CutTree<A> {
    let mut boxes = Boxes::<A>::default();
    for (place, (_, rule)) in (0u32..).zip(rules) {
        let mut bounds = RuleBox { rule: place, ..RuleBox::everything() };
        for (field, range) in [(2, rule.src_ports), (3, rule.dst_ports)] {
            let (first, last) = ports(range);
            bounds = bounds.with(field, first.into(), last.into());
        }
        if let Some(protocol) = rule.protocol {
            let number = u32::from(protocol.0).into();
            bounds = bounds.with(4, number, number);
        }
        boxes.push(bounds, &rule.src, &rule.dst);
    }
    CutTree::build(boxes)
}

/// A rule for all ports also matches packets that have none.
fn ports(range: PortRange) -> (u32, u32) {
    (range.first.into(), if range.is_any() { NO_PORT } else { range.last.into() })
}
