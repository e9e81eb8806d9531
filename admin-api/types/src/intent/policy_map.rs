use super::network::masked;
use super::reader::{Node, Reader};
use crate::{ResourcePath, pointer_join, value};
use ipnetwork::IpNetwork;
use serde_json::Value;
use std::net::IpAddr;

/// Which routes pass, and with what attributes: the first entry that matches decides, and what none matches does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyMap {
    pub path: ResourcePath,
    pub entries: Vec<PolicyEntry>,
}

/// All criteria that are given must hold; each by one of its values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyEntry {
    pub permits: bool,
    /// These prefixes and those within them.
    pub prefixes: Vec<IpNetwork>,
    pub except: Vec<IpNetwork>,
    pub next_hops: Vec<IpAddr>,
    /// First and last.
    pub as_ranges: Vec<(u32, u32)>,
    /// Two halves, as `64512:1`.
    pub communities: Vec<String>,
    pub set: PolicySet,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySet {
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    pub clear_med: bool,
    /// Put in front of the path.
    pub prepend: Vec<u32>,
    pub add_communities: Vec<String>,
    pub remove_communities: Vec<String>,
    pub remove_all_communities: bool,
}

impl PolicyMap {
    /// The prefixes that it lets through; everything where an entry names none.
    pub fn permitted(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        let all = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|p| p.parse::<IpNetwork>().ok());
        let of = move |e: &PolicyEntry| match e.prefixes.as_slice() {
            [] => all.clone().collect(),
            named => named.to_vec(),
        };
        self.entries.iter().filter(|e| e.permits).flat_map(of)
    }
}

/// Entries of a map, at most: each route is held against all of them.
const MOST: usize = 100;

pub(super) fn read(r: &mut Reader<'_>, virtual_gateway: &Node<'_>) -> Vec<PolicyMap> {
    let mut out = Vec::new();
    for node in virtual_gateway.children("policyMaps") {
        let at = node.at("policyMapEntryList");
        let list = value::list(node.properties(), "policyMapEntryList");
        if list.len() > MOST {
            r.problem(&node, at.clone(), "InvalidParameterValue", format!("more than {MOST} entries"));
        }
        let entries = list.iter().take(MOST).enumerate();
        let entries = entries.filter_map(|(i, said)| entry(r, &node, said, &pointer_join(&at, i))).collect();
        out.push(PolicyMap { path: node.path.clone(), entries });
    }
    out
}

fn entry(r: &mut Reader<'_>, node: &Node<'_>, said: &Value, at: &str) -> Option<PolicyEntry> {
    let action = value::get_text(said, "action").unwrap_or_default().to_ascii_lowercase();
    let permits = match action.as_str() {
        "permit" | "allow" | "modifyattribute" => true,
        "deny" => false,
        other => {
            let message = format!("'{other}' is neither Permit, Allow, ModifyAttribute nor Deny");
            r.problem(node, format!("{at}/action"), "InvalidParameterValue", message);
            return None;
        }
    };
    let mut out = PolicyEntry { permits, ..PolicyEntry::default() };
    for (i, criterion) in value::list(said, "matchCriteria").iter().enumerate() {
        let at = pointer_join(&format!("{at}/matchCriteria"), i);
        if let Err(message) = out.read_match(&word(criterion), &values(criterion)) {
            r.problem(node, at, "InvalidParameterValue", message);
        }
    }
    for (i, action) in value::list(said, "setActions").iter().enumerate() {
        let at = pointer_join(&format!("{at}/setActions"), i);
        if let Err(message) = out.set.read(&word(action), &values(action)) {
            r.problem(node, at, "InvalidParameterValue", message);
        }
    }
    Some(out)
}

/// The name of a criterion or action, without the marks that spellings differ in.
fn word(v: &Value) -> String {
    let said = value::get_text(v, "property").unwrap_or_default();
    said.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// A list, or a value alone.
fn values(v: &Value) -> Vec<String> {
    match value::get(v, "value") {
        Some(Value::Array(list)) => list.iter().filter_map(value::text).collect(),
        Some(one) => value::text(one).into_iter().collect(),
        None => Vec::new(),
    }
}

fn each<T>(values: &[String], what: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    if values.is_empty() {
        return Err(format!("no value: {what} is needed"));
    }
    values.iter().map(|v| read(v).ok_or_else(|| format!("'{v}' is not {what}"))).collect()
}

fn one<T>(values: &[String], what: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    match values {
        [value] => read(value).ok_or_else(|| format!("'{value}' is not {what}")),
        _ => Err(format!("one value is needed, {what}")),
    }
}

fn prefix(s: &str) -> Option<IpNetwork> {
    s.parse::<IpNetwork>().ok().filter(|p| !is_mapped(p)).map(masked)
}

/// IPv4 mapped into IPv6 is no prefix of a route.
fn is_mapped(prefix: &IpNetwork) -> bool {
    matches!(prefix, IpNetwork::V6(v6) if v6.ip().to_ipv4_mapped().is_some())
}

fn as_range(s: &str) -> Option<(u32, u32)> {
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

fn community(s: &str) -> Option<String> {
    let (high, low) = s.split_once(':')?;
    let halves = (high.parse::<u16>().ok()?, low.parse::<u16>().ok()?);
    Some(format!("{}:{}", halves.0, halves.1))
}

fn number(s: &str) -> Option<u32> {
    s.parse().ok()
}

/// ASes that are put in front, at most.
const MOST_PREPENDED: usize = 16;

impl PolicyEntry {
    fn read_match(&mut self, property: &str, values: &[String]) -> Result<(), String> {
        match property {
            "matchprefix" => self.prefixes = each(values, "an address prefix", prefix)?,
            "ignoreprefix" => self.except = each(values, "an address prefix", prefix)?,
            "nexthop" => self.next_hops = each(values, "an address", |s| s.parse().ok())?,
            "asnrange" => self.as_ranges = each(values, "an AS number, or a range as 64512-64520", as_range)?,
            "community" => self.communities = each(values, "a community as 64512:1", community)?,
            other => {
                return Err(format!(
                    "'{other}' is no criterion: MatchPrefix, IgnorePrefix, NextHop, AsnRange, Community"
                ));
            }
        }
        Ok(())
    }
}

impl PolicySet {
    fn read(&mut self, property: &str, values: &[String]) -> Result<(), String> {
        match property {
            "med" => self.med = Some(one(values, "a number", number)?),
            "clearmed" => self.clear_med = true,
            "localpref" => self.local_pref = Some(one(values, "a number", number)?),
            "aspath" => self.prepend = each(values, "an AS number", number)?,
            "addcommunity" => self.add_communities = each(values, "a community as 64512:1", community)?,
            "removecommunity" => self.remove_communities = each(values, "a community as 64512:1", community)?,
            "removeallcommunity" => self.remove_all_communities = true,
            "weight" | "nexthop" => return Err(format!("{property} cannot be set in this version")),
            other => {
                return Err(format!(
                    "'{other}' is no action: MED, Clear-MED, Local-Pref, As-Path, Add-Community, Remove-Community, Remove-All-Community"
                ));
            }
        }
        if self.prepend.len() > MOST_PREPENDED {
            return Err(format!("at most {MOST_PREPENDED} ASes are put in front"));
        }
        Ok(())
    }
}
