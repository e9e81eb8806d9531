use crate::BackendIntent;
use penstock_model::Overlay;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Which probe of which container a result is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProbeKey {
    /// `loadBalancers/<lb>/probes/<probe>`.
    pub probe: String,
    pub network_interface: String,
    pub dip: Overlay<IpAddr>,
}

/// The probes' latest results. Dampening (so many failures in a row) is the prober's: a result here is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(ProbeKey, bool)>", into = "Vec<(ProbeKey, bool)>")]
pub struct Health {
    results: BTreeMap<ProbeKey, bool>,
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberHealth {
    /// The rule has no probe.
    NotProbed,
    /// No result yet. Counts as healthy: a new virtual IP serves at once, not after its first round of probes, and a
    /// controller that starts does not empty its tables. A backend that is really down is found by the first probe.
    Unknown,
    Up,
    Down,
}

impl MemberHealth {
    #[must_use]
    pub const fn serves(self) -> bool {
        !matches!(self, Self::Down)
    }
}

impl Health {
    pub fn set(&mut self, key: ProbeKey, healthy: bool) {
        self.results.insert(key, healthy);
    }

    #[must_use]
    pub fn get(&self, key: &ProbeKey) -> Option<bool> {
        self.results.get(key).copied()
    }

    /// What `probe` says about `backend`.
    #[must_use]
    pub fn of(&self, probe: Option<&str>, backend: &BackendIntent) -> MemberHealth {
        let Some(probe) = probe else { return MemberHealth::NotProbed };
        match self.get(&ProbeKey::new(probe, backend)) {
            None => MemberHealth::Unknown,
            Some(true) => MemberHealth::Up,
            Some(false) => MemberHealth::Down,
        }
    }

    /// Takes over what `newer` knows.
    pub(crate) fn merge(&mut self, newer: &Health) {
        self.results.extend(newer.results.iter().map(|(key, healthy)| (key.clone(), *healthy)));
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&ProbeKey) -> bool) {
        self.results.retain(|key, _| keep(key));
    }
}

impl ProbeKey {
    #[must_use]
    pub fn new(probe: &str, backend: &BackendIntent) -> Self {
        Self { probe: probe.to_owned(), network_interface: backend.network_interface.clone(), dip: backend.dip.addr }
    }
}

impl FromIterator<(ProbeKey, bool)> for Health {
    fn from_iter<I: IntoIterator<Item = (ProbeKey, bool)>>(results: I) -> Self {
        Self { results: results.into_iter().collect() }
    }
}

impl From<Vec<(ProbeKey, bool)>> for Health {
    fn from(results: Vec<(ProbeKey, bool)>) -> Self {
        results.into_iter().collect()
    }
}

impl From<Health> for Vec<(ProbeKey, bool)> {
    fn from(health: Health) -> Self {
        health.results.into_iter().collect()
    }
}
