//! What a tenant may have: so many resources of a kind, or of all kinds together, by the operator's word. Children count, since they
//! cost as much. Operators are not held to it.
use crate::access::{Caller, owner};
use crate::refusal::Refusal;
use crate::state::State;
use crate::tenant::OWN;
use penstock_admin_store::{Operation, Store, StoreError, Txn};
use penstock_admin_types::{KINDS, Kind, value};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PREFIX: &str = "/penstock/quotas/";
/// All kinds together; and of tenants, each that has no quota of its own.
const ALL: &str = "*";
/// Quotas at once.
const MOST: usize = 10_000;
/// More than any site has.
const LARGEST: u64 = 1_000_000;

/// Resources by kind (`virtualNetworks/subnets`), and in all.
type Counts = BTreeMap<String, u64>;

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quota {
    limits: Counts,
}

impl Quota {
    /// With the kinds as they are written.
    fn checked(self) -> Result<Self, Refusal> {
        let mut limits = Counts::new();
        for (name, limit) in self.limits {
            let kind = kind_path(&name).ok_or_else(|| {
                wrong(format!(
                    "limits: '{name}' is no kind that tenants have: {}, their children, or *",
                    OWN.join(", ")
                ))
            })?;
            if limit > LARGEST {
                return Err(wrong(format!("limits/{name}: at most {LARGEST}")));
            }
            if limits.insert(kind, limit).is_some() {
                return Err(wrong(format!("limits: '{name}' is there twice")));
            }
        }
        Ok(Self { limits })
    }
}

fn wrong(message: String) -> Refusal {
    Refusal::BadRequest { code: "BadRequest", message }
}

/// A kind that tenants have, in its own letter case.
fn kind_path(name: &str) -> Option<String> {
    if name == ALL {
        return Some(ALL.to_owned());
    }
    let mut words = name.split('/');
    let first = words.next()?;
    let mut kind = KINDS.iter().find(|k| k.collection.eq_ignore_ascii_case(first))?;
    if !OWN.contains(&kind.collection) {
        return None;
    }
    let mut path = kind.collection.to_owned();
    for word in words {
        kind = kind.child(word)?;
        path = format!("{path}/{}", kind.collection);
    }
    Some(path)
}

/// Of a tenant, or of all that have none of their own (`*`).
pub(crate) async fn put(store: &dyn Store, tenant: &str, wanted: Quota) -> Result<Value, Refusal> {
    if !(1..=64).contains(&tenant.len()) || tenant.contains(|c: char| c.is_control()) {
        return Err(wrong("a tenant has 1 to 64 bytes, none of them a control character".to_owned()));
    }
    let quota = wanted.checked()?;
    if store.range(PREFIX, None).await?.entries.len() >= MOST {
        return Err(wrong(format!("there are {MOST} quotas already: delete some")));
    }
    let bytes = serde_json::to_vec(&quota).map_err(|e| Refusal::Internal(e.to_string()))?;
    store.txn(Txn { then: vec![Operation::put(key(tenant), bytes)], ..Txn::default() }).await?;
    Ok(json!({"tenant": tenant, "limits": quota.limits}))
}

pub(crate) async fn get(store: &dyn Store, tenant: &str) -> Result<Value, Refusal> {
    let quota = read(store, tenant).await?.ok_or_else(|| none(tenant))?;
    Ok(json!({"tenant": tenant, "limits": quota.limits}))
}

pub(crate) async fn delete(store: &dyn Store, tenant: &str) -> Result<(), Refusal> {
    read(store, tenant).await?.ok_or_else(|| none(tenant))?;
    store.txn(Txn { then: vec![Operation::delete(key(tenant))], ..Txn::default() }).await?;
    Ok(())
}

pub(crate) async fn list(store: &dyn Store) -> Result<Value, Refusal> {
    let shown = |(tenant, quota): (String, Quota)| json!({"tenant": tenant, "limits": quota.limits});
    Ok(json!({"value": all(store).await?.into_iter().map(shown).collect::<Vec<_>>(), "nextLink": ""}))
}

fn none(tenant: &str) -> Refusal {
    Refusal::NotFound(format!("there is no quota for '{tenant}'"))
}

fn key(tenant: &str) -> String {
    format!("{PREFIX}{tenant}")
}

async fn read(store: &dyn Store, tenant: &str) -> Result<Option<Quota>, StoreError> {
    let key = key(tenant);
    store.get(&key, None).await?.map(|entry| parse(&key, &entry.value)).transpose()
}

async fn all(store: &dyn Store) -> Result<BTreeMap<String, Quota>, StoreError> {
    let mut out = BTreeMap::new();
    for entry in store.range(PREFIX, None).await?.entries {
        let tenant = entry.key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        out.insert(tenant, parse(&entry.key, &entry.value)?);
    }
    Ok(out)
}

fn parse(key: &str, bytes: &[u8]) -> Result<Quota, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Damaged(format!("{key}: {e}")))
}

/// What a caller is held to.
pub(crate) async fn of(store: &dyn Store, caller: &Caller) -> Result<Option<Quota>, StoreError> {
    let Some(tenant) = &caller.tenant else { return Ok(None) };
    match read(store, tenant).await? {
        Some(own) => Ok(Some(own)),
        None => read(store, ALL).await,
    }
}

/// # Errors
/// There would be more than the quota allows, and more than there is: what is there already stays, and can be changed and deleted.
pub(crate) fn check(caller: &Caller, quota: Option<&Quota>, before: &State, after: &State) -> Result<(), Refusal> {
    let Some((tenant, quota)) = caller.tenant.as_deref().zip(quota) else { return Ok(()) };
    let (old, new) = (used(before, tenant), used(after, tenant));
    let count = |counts: &Counts, kind: &String| counts.get(kind).copied().unwrap_or(0);
    for (kind, limit) in &quota.limits {
        let (had, has) = (count(&old, kind), count(&new, kind));
        if has > *limit && has > had {
            let what = if kind == ALL { "resources, children counted," } else { kind };
            return Err(Refusal::OverQuota(format!(
                "tenant '{tenant}' may have {limit} {what} and has {had}: with this there would be {has}"
            )));
        }
    }
    Ok(())
}

fn used(state: &State, tenant: &str) -> Counts {
    let mut out = Counts::from([(ALL.to_owned(), 0)]);
    for (path, document) in &state.documents {
        if owner(document).as_deref() == Some(tenant) {
            count(path.kind(), path.kind_path(), document, &mut out);
        }
    }
    out
}

fn count(kind: &'static Kind, kind_path: &str, node: &Value, out: &mut Counts) {
    for name in [kind_path, ALL] {
        *out.entry(name.to_owned()).or_default() += 1;
    }
    for child in kind.children {
        let path = format!("{kind_path}/{}", child.collection);
        for node in value::list(value::properties(node), child.collection) {
            count(child, &path, node, out);
        }
    }
}

/// What tenants have and may have; to a tenant, its own.
pub(crate) async fn usage(store: &dyn Store, state: &State, caller: &Caller) -> Result<Value, Refusal> {
    let quotas = all(store).await?;
    let tenants: BTreeSet<String> = match &caller.tenant {
        Some(own) => BTreeSet::from([own.clone()]),
        None => {
            let named = quotas.keys().filter(|t| *t != ALL).cloned();
            state.documents.values().filter_map(|d| owner(d)).chain(named).collect()
        }
    };
    let one = |tenant: &String| {
        let limits = quotas.get(tenant).or_else(|| quotas.get(ALL)).map(|q| &q.limits);
        json!({"tenant": tenant, "used": used(state, tenant), "limits": limits})
    };
    Ok(json!({"value": tenants.iter().map(one).collect::<Vec<_>>(), "nextLink": ""}))
}
