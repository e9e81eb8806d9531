use crate::prefix::{Family, Prefix};
use crate::wire::attributes::{Attributes, Community};
use serde::{Deserialize, Serialize, Serializer};
use std::net::IpAddr;

/// What is let through between a peer and the table, as data: the first rule that matches decides, no match refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Policy {
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Rule {
    /// All that are given must hold.
    #[serde(default)]
    pub matches: Match,
    pub accept: bool,
    #[serde(default)]
    pub set: Set,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Match {
    #[serde(default)]
    pub family: Option<Family>,
    /// One of them; any prefix if empty.
    #[serde(default)]
    pub prefixes: Vec<PrefixRange>,
    /// One of them; any if empty.
    #[serde(default)]
    pub communities: Vec<CommunityText>,
    /// None of them.
    #[serde(default)]
    pub except: Vec<PrefixRange>,
    /// One of them; any if empty.
    #[serde(default)]
    pub next_hops: Vec<IpAddr>,
    /// The path has this AS in it.
    #[serde(default)]
    pub as_in_path: Option<u32>,
    /// The path has an AS of one of these ranges in it, first and last; any path if empty.
    #[serde(default)]
    pub as_ranges: Vec<(u32, u32)>,
    /// The path has at most so many ASes.
    #[serde(default)]
    pub longest_path: Option<u16>,
}

/// A prefix and those within it whose lengths are in a range; only itself without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixRange {
    pub prefix: Prefix,
    #[serde(default)]
    pub at_least: Option<u8>,
    #[serde(default)]
    pub at_most: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Set {
    #[serde(default)]
    pub local_pref: Option<u32>,
    #[serde(default)]
    pub med: Option<u32>,
    /// Without one, before `med`.
    #[serde(default)]
    pub clear_med: bool,
    /// Own AS in front, so many times more.
    #[serde(default)]
    pub prepend: u8,
    /// These, before others are added.
    #[serde(default)]
    pub remove_communities: Vec<CommunityText>,
    #[serde(default)]
    pub remove_all_communities: bool,
    #[serde(default)]
    pub add_communities: Vec<CommunityText>,
}

/// A community, written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CommunityText(pub Community);

impl TryFrom<String> for CommunityText {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse().map(Self)
    }
}

impl Serialize for CommunityText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl PrefixRange {
    #[must_use]
    pub fn exactly(prefix: Prefix) -> Self {
        Self { prefix, at_least: None, at_most: None }
    }

    /// The prefix and all within.
    #[must_use]
    pub fn within(prefix: Prefix) -> Self {
        Self { prefix, at_least: None, at_most: Some(prefix.family().bits()) }
    }

    fn matches(&self, prefix: Prefix) -> bool {
        let (own, n) = (self.prefix.length(), prefix.length());
        let (least, most) = match (self.at_least, self.at_most) {
            (None, None) => (own, own),
            (least, most) => (least.unwrap_or(own), most.unwrap_or(self.prefix.family().bits())),
        };
        (least..=most).contains(&n) && self.prefix.contains(prefix)
    }
}

impl Match {
    fn holds(&self, prefix: Prefix, a: &Attributes) -> bool {
        self.family.is_none_or(|f| f == prefix.family())
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|p| p.matches(prefix)))
            && !self.except.iter().any(|p| p.matches(prefix))
            && (self.next_hops.is_empty() || self.next_hops.contains(&a.next_hop.global))
            && (self.as_ranges.is_empty() || self.as_ranges.iter().any(|(first, last)| a.as_path.any_in(*first, *last)))
            && (self.communities.is_empty() || self.communities.iter().any(|c| a.has(c.0)))
            && self.as_in_path.is_none_or(|asn| a.as_path.contains(asn))
            && self.longest_path.is_none_or(|most| a.as_path.0.len() <= usize::from(most))
    }
}

impl Set {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn apply(&self, a: &mut Attributes, own_as: u32) {
        a.local_pref = self.local_pref.or(a.local_pref);
        a.med = self.med.or(a.med.filter(|_| !self.clear_med));
        a.as_path.prepend(own_as, usize::from(self.prepend));
        if self.remove_all_communities {
            a.communities.clear();
        }
        a.communities.retain(|c| !self.remove_communities.iter().any(|r| r.0 == *c));
        self.add_communities.iter().for_each(|c| a.add_community(c.0));
    }
}

/// What a policy says of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    Accepted,
    /// With other attributes.
    Changed(Box<Attributes>),
}

impl Policy {
    #[must_use]
    pub fn accept_all() -> Self {
        Self { rules: vec![Rule { accept: true, ..Rule::default() }] }
    }

    /// Whether there is no route that it lets through.
    #[must_use]
    pub fn refuses_all(&self) -> bool {
        self.rules.iter().all(|r| !r.accept)
    }

    #[must_use]
    pub fn evaluate(&self, prefix: Prefix, attributes: &Attributes, own_as: u32) -> Outcome {
        match self.rules.iter().find(|r| r.matches.holds(prefix, attributes)) {
            Some(rule) if rule.accept && rule.set.is_empty() => Outcome::Accepted,
            Some(rule) if rule.accept => {
                let mut changed = attributes.clone();
                rule.set.apply(&mut changed, own_as);
                Outcome::Changed(Box::new(changed))
            }
            _ => Outcome::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    fn route() -> Attributes {
        let mut a = Attributes::local("192.0.2.1".parse().unwrap());
        a.as_path.0 = vec![65001, 65002];
        a.communities = vec!["65001:7".parse().unwrap()];
        a
    }

    fn accepting(matches: Match, set: Set) -> Policy {
        Policy { rules: vec![Rule { matches, accept: true, set }] }
    }

    #[test]
    fn what_no_rule_names_is_refused() {
        assert_eq!(Policy::default().evaluate(p("10.0.0.0/8"), &route(), 1), Outcome::Refused);
        assert_eq!(Policy::accept_all().evaluate(p("10.0.0.0/8"), &route(), 1), Outcome::Accepted);
        let refusing = Policy { rules: vec![Rule::default()] };
        assert!(Policy::default().refuses_all() && refusing.refuses_all() && !Policy::accept_all().refuses_all());
    }

    #[test]
    fn ranges_bound_the_length() {
        let range = |prefix, at_least, at_most| {
            let r = PrefixRange { prefix: p(prefix), at_least, at_most };
            move |s: &str| r.matches(p(s))
        };
        assert!(range("10.0.0.0/8", None, None)("10.0.0.0/8") && !range("10.0.0.0/8", None, None)("10.1.0.0/16"));
        let r = range("10.0.0.0/8", Some(16), Some(24));
        assert!(r("10.1.0.0/16") && r("10.1.1.0/24") && !r("10.0.0.0/8") && !r("10.1.1.1/32") && !r("11.0.0.0/16"));
    }

    #[test]
    fn every_given_condition_must_hold() {
        let m = |f: fn(&mut Match)| {
            let mut m = Match::default();
            f(&mut m);
            accepting(m, Set::default()).evaluate(p("10.0.0.0/8"), &route(), 1) == Outcome::Accepted
        };
        assert!(m(|m| m.as_in_path = Some(65002)) && !m(|m| m.as_in_path = Some(65003)));
        assert!(m(|m| m.as_ranges = vec![(1, 2), (65002, 65009)]) && !m(|m| m.as_ranges = vec![(65003, 65009)]));
        assert!(m(|m| m.next_hops = vec!["192.0.2.1".parse().unwrap()]));
        assert!(!m(|m| m.next_hops = vec!["192.0.2.2".parse().unwrap()]));
        assert!(!m(|m| m.except = vec![PrefixRange::within(p("10.0.0.0/8"))]));
        assert!(m(|m| m.except = vec![PrefixRange::within(p("10.0.0.0/9"))]));
        assert!(m(|m| m.longest_path = Some(2)) && !m(|m| m.longest_path = Some(1)));
        assert!(m(|m| m.family = Some(Family::Ipv4)) && !m(|m| m.family = Some(Family::Ipv6)));
        assert!(m(|m| m.communities = vec![CommunityText(Community(65001 << 16 | 7))]));
        assert!(!m(|m| m.communities = vec![CommunityText(Community::NO_EXPORT)]));
    }

    #[test]
    fn what_is_set_is_set() {
        let set = Set {
            local_pref: Some(50),
            med: Some(3),
            prepend: 2,
            add_communities: vec![CommunityText(Community(9))],
            ..Set::default()
        };
        let Outcome::Changed(a) = accepting(Match::default(), set).evaluate(p("10.0.0.0/8"), &route(), 64512) else {
            panic!("not changed")
        };
        assert_eq!((a.local_pref, a.med, a.communities.len()), (Some(50), Some(3), 2));
        assert_eq!(a.as_path.0, [64512, 64512, 65001, 65002]);
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let set = Set {
            clear_med: true,
            remove_communities: vec![CommunityText(Community(65001 << 16 | 7))],
            ..Set::default()
        };
        let with_med = Attributes { med: Some(4), ..route() };
        let policy = accepting(Match::default(), set);
        let Outcome::Changed(a) = policy.evaluate(p("10.0.0.0/8"), &with_med, 1) else { panic!("not changed") };
        assert_eq!((a.med, a.communities.len()), (None, 0));
    }

    #[test]
    fn a_policy_is_written_in_json() {
        let text = r#"{"rules": [{"matches": {"prefixes": [{"prefix": "10.0.0.0/8", "at_most": 24}]}, "accept": true,
            "set": {"add_communities": ["65001:1", "no-export"]}}]}"#;
        let policy: Policy = serde_json::from_str(text).unwrap();
        let back = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&back).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(&text.replace("65001:1", "x")).is_err());
    }
}
