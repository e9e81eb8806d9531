use crate::classifier::Classifier;
use crate::rule_box::is_mapped;
use crate::{Acl, AclAction, AclDirection, AclJournal, AclNote, AclRule, PolicyError, Problem};
use ipnetwork::IpNetwork;
use penstock_model::FlowKey;
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rules of one list; for what they take see [`CompiledAcl`].
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

/// An [`Acl`] as a classifier whose speed hardly depends on the number of rules: a tree that cuts addresses, ports and
/// protocols into parts until few rules are left.
///
/// What no rule matches: see [`Acl`]. The list decides about the first packet of a flow; the reply of an allowed flow
/// is allowed by the flow table.
///
/// A rule with a range of ports other than "all" (`0-65535` or `1-65535`) matches only protocols that have ports: TCP,
/// UDP, SCTP, DCCP, UDP-Lite.
///
/// Memory: a rule of a prefix a side takes 48 bytes for IPv4 and 176 for IPv6, and up to four times that where rules lie across
/// cuts; 10,000 rules under 2 MiB as firewalls have them. Rules that no cut tells apart (thousands that overlap in every
/// field) are kept as sets of bits: 12 MiB for 10,000.
#[derive(Debug, Clone)]
pub struct CompiledAcl {
    name: Arc<str>,
    /// The network for which it was compiled.
    network: Arc<str>,
    /// As in [`Acl::rules`].
    rules: Vec<Counted>,
    inbound: Classifier,
    outbound: Classifier,
    journal: Option<AclJournal>,
}

/// A rule's name, and what it has decided.
#[derive(Debug, Clone)]
struct Counted {
    name: Arc<str>,
    decisions: Arc<AtomicU64>,
}

impl CompiledAcl {
    /// `network`: the prefixes of the virtual network to which the protected endpoints belong.
    ///
    /// # Errors
    /// Names the rule and field that cannot be compiled.
    pub fn compile(acl: &Acl, network: &[IpNetwork]) -> Result<Self, PolicyError> {
        validate(acl)?;
        Ok(Self {
            name: acl.name.as_str().into(),
            network: "".into(),
            rules: acl
                .rules
                .iter()
                .map(|r| Counted { name: r.name.as_str().into(), decisions: Arc::default() })
                .collect(),
            inbound: Classifier::compile(acl, AclDirection::Inbound, network),
            outbound: Classifier::compile(acl, AclDirection::Outbound, network),
            journal: None,
        })
    }

    /// Says for which network it was compiled, and where rules that are logged write; rules that `previous` has by the same
    /// name go on counting.
    #[must_use]
    pub fn continuing(mut self, network: &str, journal: Option<&AclJournal>, previous: Option<&CompiledAcl>) -> Self {
        self.network = network.into();
        self.journal = journal.cloned();
        let counted: HashMap<&str, &Arc<AtomicU64>> =
            previous.iter().flat_map(|p| &p.rules).map(|rule| (&*rule.name, &rule.decisions)).collect();
        for rule in &mut self.rules {
            if let Some(decisions) = counted.get(&*rule.name) {
                rule.decisions = Arc::clone(decisions);
            }
        }
        self
    }

    /// What applies where no list is attached: everything is allowed.
    #[must_use]
    pub fn none() -> Self {
        let nothing = Acl { name: String::new(), rules: Vec::new() };
        Self {
            name: "".into(),
            network: "".into(),
            rules: Vec::new(),
            journal: None,
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

    /// [`CompiledAcl::evaluate`] for a packet that is there: the rule counts it, and notes it if it is logged.
    #[must_use]
    pub fn decide(&self, direction: AclDirection, key: &FlowKey) -> AclVerdict {
        let verdict = self.evaluate(direction, key);
        if let Some(rule) = self.rule(&verdict) {
            rule.decisions.fetch_add(1, Ordering::Relaxed);
            if let Some(journal) = self.journal.as_ref().filter(|_| verdict.log) {
                journal.write(AclNote {
                    network: Arc::clone(&self.network),
                    list: Arc::clone(&self.name),
                    rule: Arc::clone(&rule.name),
                    direction,
                    action: verdict.action,
                    flow: *key,
                });
            }
        }
        verdict
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The rules that have decided something, and how often.
    pub fn decisions(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.rules.iter().map(|rule| (&*rule.name, rule.decisions.load(Ordering::Relaxed)));
        all.filter(|(_, count)| *count > 0)
    }

    fn rule(&self, verdict: &AclVerdict) -> Option<&Counted> {
        match verdict.because {
            AclMatch::Rule(index) => self.rules.get(index as usize),
            _ => None,
        }
    }

    /// The name of the rule that decided, if one did.
    #[must_use]
    pub fn rule_name(&self, verdict: &AclVerdict) -> Option<&str> {
        self.rule(verdict).map(|rule| &*rule.name)
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
