use crate::{BackendIntent, LbIntent, PoolIntent, ServiceIntent};
use std::collections::{BTreeMap, BTreeSet};

/// Services that ids can name: 24 bits are used ([`penstock_model::ServiceId`]).
const MAX_SERVICES: usize = 1 << 24;

/// Why an intent is refused. The planner is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{list}: the name \"{name}\" stands twice")]
    DuplicateName { list: &'static str, name: String },
    #[error("{list}: the name {name:?} has a line break")]
    LineBreak { list: &'static str, name: String },
    #[error("services \"{first}\" and \"{second}\" have the same address, protocol and port")]
    DuplicateFrontend { first: String, second: String },
    #[error("service \"{service}\" names the pool \"{pool}\", which does not exist")]
    UnknownPool { service: String, pool: String },
    #[error("pool \"{pool}\" names the backend \"{backend}\", which does not exist")]
    UnknownBackend { pool: String, backend: String },
    #[error("pool \"{pool}\" names the backend \"{backend}\" twice")]
    DuplicateMember { pool: String, backend: String },
    #[error("backends \"{first}\" and \"{second}\" have the same address in the same network")]
    DuplicateDip { first: String, second: String },
    #[error("{found} services; at most 16777216 have ids")]
    TooManyServices { found: usize },
}

/// An intent in which every name is known and unique.
pub(crate) struct Checked<'a> {
    pub(crate) services: BTreeMap<&'a str, &'a ServiceIntent>,
    pub(crate) pools: BTreeMap<&'a str, &'a PoolIntent>,
    pub(crate) backends: BTreeMap<&'a str, &'a BackendIntent>,
}

impl<'a> Checked<'a> {
    pub(crate) fn new(intent: &'a LbIntent) -> Result<Self, PlanError> {
        if intent.services.len() > MAX_SERVICES {
            return Err(PlanError::TooManyServices { found: intent.services.len() });
        }
        let checked = Self {
            services: by_name("services", &intent.services, |s| &s.name)?,
            pools: by_name("pools", &intent.pools, |p| &p.name)?,
            backends: by_name("backends", &intent.backends, |b| &b.name)?,
        };
        checked.services()?;
        checked.pools()?;
        checked.dips()?;
        Ok(checked)
    }

    fn services(&self) -> Result<(), PlanError> {
        let mut frontends = BTreeMap::new();
        for service in self.services.values() {
            if let Some(probe) = service.probe.as_ref().filter(|probe| probe.contains('\n')) {
                return Err(PlanError::LineBreak { list: "probes", name: probe.clone() });
            }
            if !self.pools.contains_key(service.pool.as_str()) {
                return Err(PlanError::UnknownPool { service: service.name.clone(), pool: service.pool.clone() });
            }
            let frontend = (service.vip, service.protocol, service.port);
            if let Some(first) = frontends.insert(frontend, &service.name) {
                return Err(PlanError::DuplicateFrontend { first: first.clone(), second: service.name.clone() });
            }
        }
        Ok(())
    }

    fn pools(&self) -> Result<(), PlanError> {
        for pool in self.pools.values() {
            let mut seen = BTreeSet::new();
            for member in &pool.members {
                let name = || (pool.name.clone(), member.backend.clone());
                if !self.backends.contains_key(member.backend.as_str()) {
                    let (pool, backend) = name();
                    return Err(PlanError::UnknownBackend { pool, backend });
                }
                if !seen.insert(member.backend.as_str()) {
                    let (pool, backend) = name();
                    return Err(PlanError::DuplicateMember { pool, backend });
                }
            }
        }
        Ok(())
    }

    fn dips(&self) -> Result<(), PlanError> {
        let mut dips = BTreeMap::new();
        for backend in self.backends.values() {
            if let Some(first) = dips.insert(backend.dip, &backend.name) {
                return Err(PlanError::DuplicateDip { first: first.clone(), second: backend.name.clone() });
            }
        }
        Ok(())
    }
}

fn by_name<'a, T>(
    list: &'static str,
    items: &'a [T],
    name: impl Fn(&'a T) -> &'a String,
) -> Result<BTreeMap<&'a str, &'a T>, PlanError> {
    let mut map = BTreeMap::new();
    for item in items {
        if name(item).contains('\n') {
            return Err(PlanError::LineBreak { list, name: name(item).clone() });
        }
        if map.insert(name(item).as_str(), item).is_some() {
            return Err(PlanError::DuplicateName { list, name: name(item).clone() });
        }
    }
    Ok(map)
}
