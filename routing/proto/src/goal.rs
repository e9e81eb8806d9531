use crate::policy::Policy;
use crate::prefix::Family;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Everything that one speaker should be doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RouterGoal {
    pub local_as: u32,
    /// BGP identifier; an IPv4 address of the node if left out.
    #[serde(default)]
    pub id: Option<Ipv4Addr>,
    /// RFC 4456: who reflects says so in the routes; the identifier if left out.
    #[serde(default)]
    pub cluster_id: Option<Ipv4Addr>,
    pub peers: Vec<PeerGoal>,
}

/// A neighbour. Its name is how status, metrics and changes of the goal know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGoal {
    pub name: String,
    pub address: IpAddr,
    pub remote_as: u32,
    /// Where the session comes from; the kernel chooses if left out.
    #[serde(default)]
    pub local_address: Option<IpAddr>,
    /// TCP port of the peer; 179 if left out.
    #[serde(default)]
    pub port: Option<u16>,
    /// Wait for the peer to connect.
    #[serde(default)]
    pub passive: bool,
    /// RFC 2385
    #[serde(default)]
    pub md5_key: Option<SecretText>,
    /// Packets of the session must come from so many hops away at most (RFC 5082); none: not checked.
    #[serde(default)]
    pub hops: Option<u8>,
    /// Seconds without a message after which the peer counts as gone.
    #[serde(default = "default_hold")]
    pub hold_seconds: u16,
    /// Families to exchange; that of the session's addresses if empty.
    #[serde(default)]
    pub families: BTreeSet<Family>,
    /// Next hop for routes of the family that the session's own address is not of.
    #[serde(default)]
    pub other_next_hop: Option<IpAddr>,
    /// Routes kept of the peer at most, those that the import policy refuses among them; more end the session for a while.
    #[serde(default)]
    pub max_prefixes: Option<u32>,
    /// Bytes of attributes that a route of the peer may have; one with more is taken for withdrawn. Together with `max_prefixes` it
    /// bounds the memory that a peer can fill.
    #[serde(default)]
    pub max_attribute_bytes: Option<u32>,
    /// What is taken from the peer. None: of an external peer nothing (RFC 8212), of an internal one everything.
    #[serde(default)]
    pub import: Option<Policy>,
    /// What is told to the peer; as `import`.
    #[serde(default)]
    pub export: Option<Policy>,
    /// RFC 4456: routes of internal peers are passed on to and from it.
    #[serde(default)]
    pub reflector_client: bool,
    /// RFC 7911
    #[serde(default)]
    pub add_path: AddPathGoal,
    /// Seconds that routes of a peer that restarts are kept, and that it is asked to keep ours (RFC 4724); none: not at all.
    #[serde(default)]
    pub restart_seconds: Option<u16>,
    #[serde(default)]
    pub bfd: Option<BfdGoal>,
}

fn default_hold() -> u16 {
    90
}

/// Whether several paths for a prefix are taken from, or sent to, a peer that can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct AddPathGoal {
    #[serde(default)]
    pub receive: bool,
    #[serde(default)]
    pub send: bool,
}

/// Timers of bidirectional forwarding detection (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdGoal {
    pub interval_ms: u32,
    pub multiplier: u8,
}

impl Default for BfdGoal {
    /// Down within 300 ms.
    fn default() -> Self {
        Self { interval_ms: 100, multiplier: 3 }
    }
}

/// Why a goal is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("router.{field}: {reason}")]
pub struct GoalError {
    pub field: String,
    pub reason: String,
}

impl RouterGoal {
    /// # Errors
    /// The first field that cannot be.
    pub fn check(&self) -> Result<(), GoalError> {
        let refuse = |field: String, reason: &str| Err(GoalError { field, reason: reason.to_owned() });
        if self.local_as == 0 && !self.peers.is_empty() {
            return refuse("local_as".to_owned(), "0 is no AS number");
        }
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (i, p) in self.peers.iter().enumerate() {
            let at = |field: &str| format!("peers[{i}].{field}");
            if !names.insert(&p.name) {
                return refuse(at("name"), "another peer has the name");
            }
            if !addresses.insert(p.address) {
                return refuse(at("address"), "another peer has the address");
            }
            if p.address.is_unspecified() || p.address.is_multicast() {
                return refuse(at("address"), "is the address of no neighbour");
            }
            if p.remote_as == 0 {
                return refuse(at("remote_as"), "0 is no AS number");
            }
            if p.local_address.is_some_and(|l| l.is_ipv4() != p.address.is_ipv4()) {
                return refuse(at("local_address"), "is not of the family of the peer's address");
            }
            if matches!(p.hold_seconds, 1 | 2) {
                return refuse(at("hold_seconds"), "must be 0 or at least 3");
            }
            if p.md5_key.as_ref().is_some_and(|k| k.0.is_empty() || k.0.len() > 80) {
                return refuse(at("md5_key"), "must have 1 to 80 bytes");
            }
            if p.bfd.is_some_and(|b| !(10..=10_000).contains(&b.interval_ms)) {
                return refuse(at("bfd.interval_ms"), "must be from 10 to 10000");
            }
            if p.bfd.is_some_and(|b| b.multiplier == 0) {
                return refuse(at("bfd.multiplier"), "must not be 0");
            }
        }
        Ok(())
    }
}

impl PeerGoal {
    #[must_use]
    pub fn new(name: impl Into<String>, address: IpAddr, remote_as: u32) -> Self {
        Self {
            name: name.into(),
            address,
            remote_as,
            local_address: None,
            port: None,
            passive: false,
            md5_key: None,
            hops: None,
            hold_seconds: default_hold(),
            families: BTreeSet::new(),
            other_next_hop: None,
            max_prefixes: None,
            max_attribute_bytes: None,
            import: None,
            export: None,
            reflector_client: false,
            add_path: AddPathGoal::default(),
            restart_seconds: None,
            bfd: None,
        }
    }

    /// The families that are offered.
    #[must_use]
    pub fn families(&self) -> BTreeSet<Family> {
        if self.families.is_empty() { [Family::of(self.address)].into() } else { self.families.clone() }
    }

    /// Whether no route of the peer can be taken, whatever it tells.
    #[must_use]
    pub fn takes_nothing(&self, local_as: u32) -> bool {
        match &self.import {
            Some(policy) => policy.refuses_all(),
            None => self.remote_as != local_as,
        }
    }

    /// Whether the change from `earlier` can be made without a new session.
    #[must_use]
    pub fn keeps_session(&self, earlier: &Self) -> bool {
        let soft = Self {
            max_prefixes: earlier.max_prefixes,
            max_attribute_bytes: earlier.max_attribute_bytes,
            import: earlier.import.clone(),
            export: earlier.export.clone(),
            reflector_client: earlier.reflector_client,
            other_next_hop: earlier.other_next_hop,
            bfd: earlier.bfd,
            ..self.clone()
        };
        soft == *earlier
    }
}

/// A key that no log shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal() -> RouterGoal {
        let peer = PeerGoal::new("tor", "192.0.2.1".parse().unwrap(), 65001);
        RouterGoal { local_as: 64512, peers: vec![peer], ..RouterGoal::default() }
    }

    #[test]
    fn each_field_that_cannot_be_is_named() {
        let refused = |change: fn(&mut RouterGoal)| {
            let mut g = goal();
            change(&mut g);
            g.check().unwrap_err().field
        };
        assert_eq!(goal().check(), Ok(()));
        assert_eq!(refused(|g| g.local_as = 0), "local_as");
        assert_eq!(refused(|g| g.peers.push(g.peers[0].clone())), "peers[1].name");
        assert_eq!(refused(|g| g.peers[0].remote_as = 0), "peers[0].remote_as");
        assert_eq!(refused(|g| g.peers[0].hold_seconds = 2), "peers[0].hold_seconds");
        assert_eq!(refused(|g| g.peers[0].local_address = Some("::1".parse().unwrap())), "peers[0].local_address");
        assert_eq!(
            refused(|g| g.peers[0].bfd = Some(BfdGoal { interval_ms: 1, multiplier: 3 })),
            "peers[0].bfd.interval_ms"
        );
        assert_eq!(refused(|g| g.peers[0].md5_key = Some(SecretText(String::new()))), "peers[0].md5_key");
    }

    #[test]
    fn a_key_is_not_shown() {
        let mut g = goal();
        g.peers[0].md5_key = Some(SecretText("hush".to_owned()));
        assert!(!format!("{g:?}").contains("hush"));
    }

    #[test]
    fn a_new_policy_keeps_the_session_and_a_new_key_does_not() {
        let old = goal().peers.remove(0);
        let soft = PeerGoal { export: Some(Policy::accept_all()), max_prefixes: Some(5), ..old.clone() };
        assert!(soft.keeps_session(&old));
        let hard = PeerGoal { md5_key: Some(SecretText("k".to_owned())), ..old.clone() };
        assert!(!hard.keeps_session(&old));
    }
}
