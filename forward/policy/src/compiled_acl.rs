use crate::bitmap::{Bitmaps, BitmapsBuilder};
use crate::dimension::{Dimension, Span, address, is_mapped, ranges};
use crate::{Acl, AclAction, AclDirection, AclRule, PolicyError, PortRange, Problem};
use ipnetwork::IpNetwork;
use penstock_model::{FlowKey, Protocol};
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

/// Rules of one list. 10,000 rules of which each names its own addresses and ports take about 12 MiB; see [`CompiledAcl`].
pub const MAX_RULES: usize = 10_000;

/// What a list says to the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclVerdict {
    pub action: AclAction,
    pub because: AclMatch,
    /// The rule asks for a log entry.
    pub log: bool,
}

impl AclVerdict {
    #[must_use]
    pub const fn allows(&self) -> bool {
        matches!(self.action, AclAction::Allow)
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclMatch {
    /// The rule with this index in [`Acl::rules`].
    Rule(u32),
    /// No rule; the packet comes from inside the virtual network.
    SameNetwork,
    /// No rule: inbound from elsewhere is denied, outbound allowed.
    Default,
    /// There is no list, or it is empty.
    NoList,
}

/// An [`Acl`] as a classifier whose speed hardly depends on the number of rules.
///
/// For each of five fields (source and destination address, source and destination port, protocol) the values are cut
/// into intervals; each interval knows the set of rules that match there. A packet finds one set for each field and the
/// first rule that is in all five.
///
/// What no rule matches: see [`Acl`]. The list decides about the first packet of a flow; the reply of an allowed flow
/// is allowed by the flow table.
///
/// A rule with a range of ports other than "all" (`0-65535` or `1-65535`) matches only protocols that have ports: TCP,
/// UDP, SCTP, DCCP, UDP-Lite.
///
/// Memory: equal sets are stored once, and sets that differ in a rule share all but 512 of their rules. A field has at most two
/// intervals for each prefix or range, and an interval takes 64 bytes and one for each 100 rules: 1 MiB for 1,000 rules that
/// have nothing in common, 12 MiB for 10,000, some KiB for lists as people write them.
#[derive(Debug, Clone)]
pub struct CompiledAcl {
    name: String,
    /// Names of [`Acl::rules`], for `trace`.
    rule_names: Vec<String>,
    inbound: Classifier,
    outbound: Classifier,
}

impl CompiledAcl {
    /// `network`: the prefixes of the virtual network to which the protected endpoints belong.
    ///
    /// # Errors
    /// Names the rule and field that cannot be compiled.
    pub fn compile(acl: &Acl, network: &[IpNetwork]) -> Result<Self, PolicyError> {
        validate(acl)?;
        Ok(Self {
            name: acl.name.clone(),
            rule_names: acl.rules.iter().map(|rule| rule.name.clone()).collect(),
            inbound: Classifier::compile(acl, AclDirection::Inbound, network),
            outbound: Classifier::compile(acl, AclDirection::Outbound, network),
        })
    }

    /// What applies where no list is attached: everything is allowed.
    #[must_use]
    pub fn none() -> Self {
        let nothing = Acl { name: String::new(), rules: Vec::new() };
        Self {
            name: String::new(),
            rule_names: Vec::new(),
            inbound: Classifier::compile(&nothing, AclDirection::Inbound, &[]),
            outbound: Classifier::compile(&nothing, AclDirection::Outbound, &[]),
        }
    }

    /// Decides about the packet with this 5-tuple; its tenant is not looked at. No allocation, no lock.
    #[must_use]
    #[inline]
    pub fn evaluate(&self, direction: AclDirection, key: &FlowKey) -> AclVerdict {
        match direction {
            AclDirection::Inbound => self.inbound.evaluate(key),
            AclDirection::Outbound => self.outbound.evaluate(key),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the rule that decided, if one did.
    #[must_use]
    pub fn rule_name(&self, verdict: &AclVerdict) -> Option<&str> {
        match verdict.because {
            AclMatch::Rule(index) => self.rule_names.get(index as usize).map(String::as_str),
            _ => None,
        }
    }

    /// One sentence for `trace`: `rule "deny-ssh" of list "web" denies`.
    #[must_use]
    pub fn explain(&self, verdict: &AclVerdict) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_why(&mut text, verdict);
        text.push_str(if verdict.allows() { " allows" } else { " denies" });
        text
    }

    fn write_why(&self, f: &mut String, verdict: &AclVerdict) -> fmt::Result {
        match verdict.because {
            AclMatch::Rule(_) => {
                write!(f, "rule \"{}\" of list \"{}\"", self.rule_name(verdict).unwrap_or("?"), self.name)
            }
            AclMatch::SameNetwork => write!(f, "no rule of list \"{}\" matches; the same virtual network", self.name),
            AclMatch::Default => write!(f, "no rule of list \"{}\" matches; the default", self.name),
            AclMatch::NoList => write!(f, "no access control list"),
        }
    }

    /// Bytes that the compiled form takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inbound.bytes() + self.outbound.bytes()
    }
}

/// The rules of one direction. The last entry always matches.
#[derive(Debug, Clone)]
struct Classifier {
    src: Dimension<u128>,
    dst: Dimension<u128>,
    src_port: Dimension<u16>,
    dst_port: Dimension<u16>,
    /// Rules that do not look at the port: what a packet without ports is held against.
    any_src_port: u32,
    any_dst_port: u32,
    protocols: Box<[u32; 256]>,
    bitmaps: Bitmaps,
    verdicts: Vec<AclVerdict>,
}

/// A rule, or what stands in for one behind the last.
struct Entry<'a> {
    src: &'a [IpNetwork],
    dst: &'a [IpNetwork],
    src_ports: PortRange,
    dst_ports: PortRange,
    protocol: Option<Protocol>,
    verdict: AclVerdict,
}

impl Classifier {
    fn compile(acl: &Acl, direction: AclDirection, network: &[IpNetwork]) -> Self {
        let entries = entries(acl, direction, network);
        let count = entries.len();
        let mut bitmaps = BitmapsBuilder::new(count);
        let src = addresses(&entries, |entry| entry.src);
        let dst = addresses(&entries, |entry| entry.dst);
        let src_port = ports(&entries, |entry| entry.src_ports);
        let dst_port = ports(&entries, |entry| entry.dst_ports);
        Self {
            src: Dimension::compile(count, &src, &mut bitmaps),
            dst: Dimension::compile(count, &dst, &mut bitmaps),
            src_port: Dimension::compile(count, &src_port, &mut bitmaps),
            dst_port: Dimension::compile(count, &dst_port, &mut bitmaps),
            any_src_port: any_port(&entries, |entry| entry.src_ports, &mut bitmaps),
            any_dst_port: any_port(&entries, |entry| entry.dst_ports, &mut bitmaps),
            protocols: protocols(&entries, &mut bitmaps),
            bitmaps: bitmaps.finish(),
            verdicts: entries.into_iter().map(|entry| entry.verdict).collect(),
        }
    }

    #[inline]
    fn evaluate(&self, key: &FlowKey) -> AclVerdict {
        let protocol = key.protocol();
        let (src_port, dst_port) = if has_ports(protocol) {
            (self.src_port.find(key.src_port), self.dst_port.find(key.dst_port))
        } else {
            (self.any_src_port, self.any_dst_port)
        };
        let sets = [
            self.dst.find(address(key.dst)),
            self.src.find(address(key.src)),
            dst_port,
            src_port,
            self.protocols[usize::from(protocol.0)],
        ];
        // The last entry matches everything, so there is always one; if there were not, nothing may pass.
        let refused = AclVerdict { action: AclAction::Deny, because: AclMatch::Default, log: false };
        self.bitmaps.first_common(sets).and_then(|index| self.verdicts.get(index)).copied().unwrap_or(refused)
    }

    fn bytes(&self) -> usize {
        self.src.bytes()
            + self.dst.bytes()
            + self.src_port.bytes()
            + self.dst_port.bytes()
            + self.bitmaps.bytes()
            + size_of_val(&*self.protocols)
            + self.verdicts.len() * size_of::<AclVerdict>()
    }
}

/// Whether the first four bytes behind the IP header are ports.
pub(crate) const fn has_ports(protocol: Protocol) -> bool {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    matches!(protocol.0, 6 | 17 | DCCP | SCTP | UDP_LITE)
}

/// The rules of `direction` by priority (equal priorities in the order of the list), then what holds if none matches.
fn entries<'a>(acl: &'a Acl, direction: AclDirection, network: &'a [IpNetwork]) -> Vec<Entry<'a>> {
    let mut rules: Vec<(u16, u32, &AclRule)> = (0u32..)
        .zip(&acl.rules)
        .filter(|(_, rule)| rule.direction == direction)
        .map(|(index, rule)| (rule.priority, index, rule))
        .collect();
    rules.sort_by_key(|(priority, index, _)| (*priority, *index));
    let mut entries: Vec<Entry<'_>> = rules
        .into_iter()
        .map(|(_, index, rule)| Entry {
            src: &rule.src,
            dst: &rule.dst,
            src_ports: rule.src_ports,
            dst_ports: rule.dst_ports,
            protocol: rule.protocol,
            verdict: AclVerdict { action: rule.action, because: AclMatch::Rule(index), log: rule.log },
        })
        .collect();
    let everything = |action, because| Entry {
        src: &[],
        dst: &[],
        src_ports: PortRange::ANY,
        dst_ports: PortRange::ANY,
        protocol: None,
        verdict: AclVerdict { action, because, log: false },
    };
    match direction {
        _ if acl.rules.is_empty() => entries.push(everything(AclAction::Allow, AclMatch::NoList)),
        AclDirection::Outbound => entries.push(everything(AclAction::Allow, AclMatch::Default)),
        AclDirection::Inbound => {
            if !network.is_empty() {
                entries.push(Entry { src: network, ..everything(AclAction::Allow, AclMatch::SameNetwork) });
            }
            entries.push(everything(AclAction::Deny, AclMatch::Default));
        }
    }
    entries
}

fn addresses<'a>(entries: &[Entry<'a>], of: impl Fn(&Entry<'a>) -> &'a [IpNetwork]) -> Vec<Span<u128>> {
    let mut spans = Vec::new();
    for (rule, entry) in entries.iter().enumerate() {
        let prefixes = of(entry);
        if prefixes.is_empty() {
            spans.push(Span { rule, first: 0, last: u128::MAX });
        }
        for (first, last) in prefixes.iter().flat_map(ranges) {
            spans.push(Span { rule, first, last });
        }
    }
    spans
}

fn ports(entries: &[Entry<'_>], of: impl Fn(&Entry<'_>) -> PortRange) -> Vec<Span<u16>> {
    let span = |(rule, entry)| {
        let range = of(entry);
        Span { rule, first: range.first, last: range.last }
    };
    entries.iter().enumerate().map(span).collect()
}

fn any_port(entries: &[Entry<'_>], of: impl Fn(&Entry<'_>) -> PortRange, bitmaps: &mut BitmapsBuilder) -> u32 {
    let mut bits = bitmaps.none();
    for (rule, entry) in entries.iter().enumerate() {
        if of(entry).is_any() {
            bits.set(rule);
        }
    }
    bitmaps.intern(&mut bits)
}

fn protocols(entries: &[Entry<'_>], bitmaps: &mut BitmapsBuilder) -> Box<[u32; 256]> {
    let mut by_protocol: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    let mut any = bitmaps.none();
    for (rule, entry) in entries.iter().enumerate() {
        match entry.protocol {
            None => any.set(rule),
            Some(protocol) => by_protocol.entry(protocol.0).or_default().push(rule),
        }
    }
    let mut sets = Box::new([bitmaps.intern(&mut any); 256]);
    for (number, rules) in by_protocol {
        let mut bits = any.clone();
        rules.into_iter().for_each(|rule| bits.set(rule));
        if let Some(set) = sets.get_mut(usize::from(number)) {
            *set = bitmaps.intern(&mut bits);
        }
    }
    sets
}

fn validate(acl: &Acl) -> Result<(), PolicyError> {
    if acl.rules.len() > MAX_RULES {
        let problem = Problem::TooMany { found: acl.rules.len(), max: MAX_RULES };
        return Err(PolicyError::new(format_args!("{}.rules", acl.name), problem));
    }
    for (index, rule) in acl.rules.iter().enumerate() {
        validate_rule(rule).map_err(|e| e.within(&format!("{}.rules[{index}]", acl.name)))?;
    }
    Ok(())
}

fn validate_rule(rule: &AclRule) -> Result<(), PolicyError> {
    for (field, range) in [("src_ports", rule.src_ports), ("dst_ports", rule.dst_ports)] {
        if range.first > range.last {
            return Err(PolicyError::new(field, Problem::EmptyRange { first: range.first, last: range.last }));
        }
    }
    for (field, prefixes) in [("src", &rule.src), ("dst", &rule.dst)] {
        if let Some(index) = prefixes.iter().position(is_mapped) {
            return Err(PolicyError::new(format_args!("{field}[{index}]"), Problem::MappedAddress));
        }
    }
    Ok(())
}
