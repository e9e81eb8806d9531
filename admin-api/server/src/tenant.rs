//! What a tenant may change: resources of its own, that lead nowhere else, and nothing that the site decides.
use crate::access::{Caller, owner};
use crate::draft::{Change, locate};
use crate::refusal::Refusal;
use crate::state::State;
use penstock_admin_types::intent::{Misplaced, dangling};
use penstock_admin_types::{ErrorDetail, Problem, ResourcePath, references, value};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Kinds that a tenant can have.
pub(crate) const OWN: &[&str] = &[
    "accessControlLists",
    "loadBalancers",
    "networkInterfaces",
    "publicIPAddresses",
    "routeTables",
    "securityTags",
    "VirtualGateways",
    "virtualNetworks",
];
/// Kinds of the site that a tenant's resources may refer to.
const SHARED: &[&str] = &["GatewayPools"];
/// Members that the site decides, with their kinds: a tenant leaves them as they are.
const SITES: &[(&str, &str)] = &[
    ("networkInterfaces", "server"),
    ("networkInterfaces", "portSettings"),
    ("virtualNetworks", "encapsulationId"),
    ("virtualNetworks", "logicalNetwork"),
];

/// Members that name what is the site's: a tenant is not shown them. What it does not send of [`SITES`] stays as it is.
const UNSEEN: &[(&str, &str)] = &[("networkInterfaces", "server"), ("virtualNetworks", "logicalNetwork")];

/// A document without what its tenant is not shown.
pub(crate) fn hide(path: &ResourcePath, document: &mut Value) {
    let Some(properties) = document.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let unseen = |name: &str| UNSEEN.iter().any(|u| u.0 == path.kind_path() && u.1.eq_ignore_ascii_case(name));
    properties.retain(|name, _| !unseen(name));
}

/// Gives a document that its tenant sends what the site has decided.
pub(crate) fn keep_the_sites(path: &ResourcePath, document: &mut Value, old: &Value) {
    for (_, name) in SITES.iter().filter(|(kind, _)| *kind == path.kind_path()) {
        let Some(was) = value::get(value::properties(old), name) else { continue };
        if value::get(value::properties(document), name).is_none()
            && let Some(properties) = document.get_mut("properties").and_then(Value::as_object_mut)
        {
            properties.insert((*name).to_owned(), was.clone());
        }
    }
}

/// Says in a body whose resource it is.
pub(crate) fn stamp(caller: &Caller, body: &mut Value) {
    let Some((tenant, map)) = caller.tenant.as_ref().zip(body.as_object_mut()) else { return };
    let name = map.keys().find(|k| k.eq_ignore_ascii_case("resourceMetadata")).cloned();
    let metadata = map.entry(name.unwrap_or_else(|| "resourceMetadata".to_owned())).or_insert_with(|| json!({}));
    if !metadata.is_object() {
        // Refused by the reader, which says why.
        return;
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.retain(|k, _| !k.eq_ignore_ascii_case("tenantId"));
        metadata.insert("tenantId".to_owned(), json!(tenant));
    }
}

/// # Errors
/// A change is of a resource that is not the tenant's: it is not there, as far as this caller is told.
pub(crate) fn own_paths(caller: &Caller, before: &State, changes: &[Change]) -> Result<(), Refusal> {
    let foreign = changes
        .iter()
        .find(|c| before.documents.contains_key(&c.path.document()) && !caller.may_see(&before.documents, &c.path));
    match foreign {
        Some(change) => Err(Refusal::NotFound(format!("'{}' does not exist", change.path))),
        None => Ok(()),
    }
}

/// # Errors
/// Something is changed that is not the tenant's, or leads out of what is.
pub(crate) fn check(caller: &Caller, before: &State, after: &State, changes: &[Change]) -> Result<(), Refusal> {
    if !caller.role.is_tenants() {
        return Ok(());
    }
    let paths = before.documents.keys().chain(after.documents.keys().filter(|p| !before.documents.contains_key(*p)));
    for path in paths {
        let (old, new) = (before.documents.get(path), after.documents.get(path));
        if old == new {
            continue;
        }
        // What is another's is not there, as far as this caller is told.
        if old.is_some_and(|o| !caller.owns(o)) {
            return Err(Refusal::NotFound(format!("'{path}' does not exist")));
        }
        if !OWN.contains(&path.kind_path()) {
            return Err(Refusal::Forbidden(format!("{} are the operator's", path.kind_path())));
        }
        if let Some(new) = new {
            if owner(new) != caller.tenant {
                return Err(Refusal::Forbidden(format!("'{path}' would not be the tenant's any more")));
            }
            leads_nowhere_else(caller, after, path, (old.map(|o| &**o), new), changes)?;
            leaves_the_site_alone(path, old.map(|o| &**o), new)?;
        }
    }
    addresses_are_the_sites(before, after)
}

/// References that stood there already are the operator's, who may place a tenant's interface on a server.
fn leads_nowhere_else(
    caller: &Caller,
    after: &State,
    path: &ResourcePath,
    (old, new): (Option<&Value>, &Value),
    changes: &[Change],
) -> Result<(), Refusal> {
    let stood: BTreeSet<(ResourcePath, String, ResourcePath)> = old
        .map(|o| references(path, o))
        .unwrap_or_default()
        .into_iter()
        .map(|r| (r.owner, r.property, r.target))
        .collect();
    let foreign = |target: &ResourcePath| {
        let document = target.document();
        !SHARED.contains(&document.kind_path()) && !after.documents.get(&document).is_some_and(|d| caller.owns(d))
    };
    let details: Vec<ErrorDetail> = references(path, new)
        .into_iter()
        .filter(|r| foreign(&r.target))
        .filter(|r| !stood.contains(&(r.owner.clone(), r.property.clone(), r.target.clone())))
        .map(|r| {
            // As it is said of what is not there for anybody.
            let message = dangling(&r.owner, &r.target);
            let problem = Problem { pointer: r.pointer, code: "InvalidResourceReference", message };
            locate(Misplaced { document: path.clone(), problem }, &after.documents, changes)
        })
        .collect();
    if details.is_empty() { Ok(()) } else { Err(Refusal::Invalid(details)) }
}

fn leaves_the_site_alone(path: &ResourcePath, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let said = |v: Option<&Value>, name: &str| v.and_then(|v| value::get(value::properties(v), name)).cloned();
    for (_, name) in SITES.iter().filter(|(kind, _)| *kind == path.kind_path()) {
        if said(old, name) != said(Some(new), name) {
            return Err(Refusal::Forbidden(format!("{name} of '{path}' is the operator's to say")));
        }
    }
    Ok(())
}

/// Without VIP pools any address would do: also one that others have in the world.
fn addresses_are_the_sites(before: &State, after: &State) -> Result<(), Refusal> {
    let count = |s: &State| {
        let kinds = ["publicIPAddresses", "loadBalancers"];
        s.documents.iter().filter(|(p, _)| kinds.contains(&p.kind_path())).map(|(_, d)| d.clone()).collect::<Vec<_>>()
    };
    let pools = |s: &State| {
        let managers = s.documents.iter().filter(|(p, _)| p.kind_path() == "loadBalancerManager");
        managers.map(|(_, d)| value::list(value::properties(d), "vipIpPools").len()).sum::<usize>()
    };
    if pools(after) == 0 && count(before) != count(after) {
        return Err(Refusal::Forbidden(
            "the operator has set no vipIpPools (loadBalancerManager): tenants may hold no addresses".to_owned(),
        ));
    }
    Ok(())
}

/// A refusal without the names of what is not the tenant's.
pub(crate) fn discreet(caller: &Caller, state: &State, refusal: Refusal) -> Refusal {
    if !caller.role.is_tenants() {
        return refusal;
    }
    match refusal {
        Refusal::Invalid(details) => {
            Refusal::Invalid(details.into_iter().map(|d| discreet_detail(caller, state, d)).collect())
        }
        Refusal::InUse { path, referrers, unseen } => {
            let all = referrers.len();
            let seen: Vec<_> = referrers.into_iter().filter(|r| !is_foreign(caller, state, r)).collect();
            Refusal::InUse { path, unseen: unseen + all - seen.len(), referrers: seen }
        }
        Refusal::ConfirmationPending { deadline, .. } => {
            Refusal::ConfirmationPending { author: "the operator".to_owned(), deadline }
        }
        other => other,
    }
}

fn discreet_detail(caller: &Caller, state: &State, detail: ErrorDetail) -> ErrorDetail {
    let elsewhere = detail.elsewhere.as_ref().is_some_and(|document| is_foreign(caller, state, document));
    if !elsewhere && !detail.names.iter().any(|name| is_foreign(caller, state, name)) {
        return detail;
    }
    let target = if elsewhere { String::new() } else { detail.target };
    ErrorDetail::new(&detail.code, "it contradicts a resource that is not the tenant's", target)
}

/// What is not there can be named: the caller named it first.
fn is_foreign(caller: &Caller, state: &State, path: &ResourcePath) -> bool {
    state.documents.get(&path.document()).is_some_and(|d| !caller.owns(d))
}
