//! Bodies in, documents out: what is kept of a resource, with its children inside.
use crate::check::check;
use crate::kind::{Property, Rule, Type};
use crate::{Kind, Problems, ResourcePath, pointer_join, value};
use serde_json::{Map, Value, json};

/// Where a sealed secret stands in a stored document: `{"$sealed": "..."}`.
pub const SEALED: &str = "$sealed";
/// What the controller allocated to a resource (ids, addresses): kept in its document, never rendered.
pub const ALLOCATED: &str = "$allocated";

/// Members that the server owns in every kind.
const SERVERS_OWN: &[&str] = &["provisioningState", "configurationState", "counters"];

/// A source of fresh GUIDs.
pub type Mint<'a> = &'a mut dyn FnMut() -> String;

/// Reads a body for `path` into the form that is kept: known names in their own letter case, read-only parts and nulls
/// left out, values in the wire types of the table, what the table does not know as sent.
pub fn read(path: &ResourcePath, body: &Value, at: &str, mint: Mint<'_>, problems: &mut Problems) -> Value {
    let node = read_node(path.kind(), body, at, mint, problems);
    // The id of a singleton is constant: clients that make up an id for everything mean that one.
    if let Some(given) = node.get("resourceId").and_then(Value::as_str)
        && given != path.id()
        && !path.kind().is_singleton()
    {
        problems.push(
            pointer_join(at, "resourceId"),
            "InvalidResourceName",
            format!("resourceId '{given}' differs from '{}' in the path", path.id()),
        );
    }
    with_id(node, path.id())
}

fn with_id(mut node: Value, id: &str) -> Value {
    if let Some(map) = node.as_object_mut() {
        map.insert("resourceId".to_owned(), json!(id));
    }
    node
}

fn read_node(kind: &'static Kind, body: &Value, at: &str, mint: Mint<'_>, problems: &mut Problems) -> Value {
    let Some(map) = body.as_object() else {
        problems.push(at, "InvalidRequestFormat", "a resource is a JSON object");
        return json!({});
    };
    let mut out = Map::new();
    if let Some(id) = value::find(map, "resourceId").and_then(value::text) {
        out.insert("resourceId".to_owned(), json!(id));
    }
    for name in ["tags", "resourceMetadata"] {
        match value::find(map, name) {
            Some(v) if v.is_object() => drop(out.insert(name.to_owned(), v.clone())),
            Some(_) => {
                problems.push(pointer_join(at, name), "InvalidRequestFormat", format!("{name} is a JSON object"))
            }
            None => {}
        }
    }
    let at = pointer_join(at, "properties");
    let properties = match value::find(map, "properties") {
        Some(Value::Object(p)) => {
            let mut kept = read_properties(kind.properties, kind.children, p, &at, problems);
            for child in kind.children {
                if let Some(v) = value::find(p, child.collection) {
                    let at = pointer_join(&at, child.collection);
                    kept.insert(child.collection.to_owned(), read_children(child, v, &at, mint, problems));
                }
            }
            kept
        }
        Some(_) => {
            problems.push(at, "InvalidRequestFormat", "properties is a JSON object");
            Map::new()
        }
        // Of a backend address pool nothing has to be said, and clients then send no properties.
        None if !kind.properties.iter().any(|p| p.rule == Rule::Required) => Map::new(),
        None => {
            problems.push(at, "RequiredParamMissing", "properties is missing");
            Map::new()
        }
    };
    out.insert("properties".to_owned(), Value::Object(properties));
    Value::Object(out)
}

fn read_children(kind: &'static Kind, v: &Value, at: &str, mint: Mint<'_>, problems: &mut Problems) -> Value {
    let Some(items) = v.as_array() else {
        problems.push(at, "InvalidRequestFormat", format!("{} is an array", kind.collection));
        return json!([]);
    };
    let mut seen = std::collections::BTreeSet::new();
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let at = pointer_join(at, i);
        let node = read_node(kind, item, &at, mint, problems);
        let given = node.get("resourceId").and_then(Value::as_str).map(str::to_owned);
        // Whole bodies that come back name a child by its reference at least.
        let id = given
            .or_else(|| value::reference(item).and_then(|r| r.rsplit('/').next()).map(str::to_owned))
            .unwrap_or_else(&mut *mint);
        if let Err(e) = ResourcePath::top(kind, &id) {
            problems.push(pointer_join(&at, "resourceId"), "InvalidResourceName", e.to_string());
        }
        if !seen.insert(id.clone()) {
            problems.push(
                pointer_join(&at, "resourceId"),
                "RuleNameDuplicate",
                format!("resourceId '{id}' stands twice in {}", kind.collection),
            );
        }
        out.push(with_id(node, &id));
    }
    Value::Array(out)
}

/// The properties of a resource, or of an object within one. Children are left out.
pub(crate) fn read_properties(
    known: &'static [Property],
    children: &'static [Kind],
    map: &Map<String, Value>,
    at: &str,
    problems: &mut Problems,
) -> Map<String, Value> {
    let mut out = Map::new();
    let owned = |name: &str| SERVERS_OWN.iter().any(|s| s.eq_ignore_ascii_case(name));
    for (name, v) in map {
        if v.is_null()
            || owned(name)
            || name.starts_with('$')
            || children.iter().any(|c| c.collection.eq_ignore_ascii_case(name))
        {
            continue;
        }
        match known.iter().find(|p| p.name.eq_ignore_ascii_case(name)) {
            Some(p) if p.rule == Rule::ReadOnly => {}
            Some(p) => {
                if let Some(kept) = check(&p.of, v, &pointer_join(at, name), problems) {
                    out.insert(p.name.to_owned(), kept);
                }
            }
            None => drop(out.insert(name.clone(), v.clone())),
        }
    }
    for p in known.iter().filter(|p| p.rule == Rule::Required) {
        if value::find(map, p.name).is_none_or(|v| v.as_str().is_some_and(|s| s.trim().is_empty())) {
            problems.push(pointer_join(at, p.name), "RequiredParamMissing", format!("'{}' is missing", p.name));
        }
    }
    out
}

/// Gives `new` the identities of `old`: instanceId of the same resource, etag where nothing changed, secrets that were
/// not sent again, allocations. Returns whether anything changed.
pub fn adopt(kind: &'static Kind, new: &mut Value, old: Option<&Value>, mint: Mint<'_>) -> bool {
    if let Some(old) = old {
        keep_all_secrets(kind, new, old);
    }
    adopt_identity(kind, new, old, mint)
}

/// The same for a whole document, which has the secrets that it is to have: what it has none of had none.
pub fn adopt_identity(kind: &'static Kind, new: &mut Value, old: Option<&Value>, mint: Mint<'_>) -> bool {
    let mut children_changed = false;
    for child in kind.children {
        let before = old.map_or(&[][..], |o| value::list(value::properties(o), child.collection));
        let Some(now) =
            new.get_mut("properties").and_then(|p| p.get_mut(child.collection)).and_then(Value::as_array_mut)
        else {
            children_changed |= !before.is_empty();
            continue;
        };
        children_changed |= now.len() != before.len();
        for node in now {
            let id = node.get("resourceId").cloned();
            let same = before.iter().find(|b| b.get("resourceId") == id.as_ref());
            children_changed |= adopt_identity(child, node, same, mint);
        }
    }
    let changed = children_changed || old.is_none_or(|o| !same_content(new, o));
    if let Some(map) = new.as_object_mut() {
        let from_old = |name: &str| old.and_then(|o| o.get(name)).cloned();
        map.insert("instanceId".to_owned(), from_old("instanceId").unwrap_or_else(|| json!(mint())));
        let etag = if changed { None } else { from_old("etag") };
        map.insert("etag".to_owned(), etag.unwrap_or_else(|| json!(format!("W/\"{}\"", mint()))));
        if let Some(allocated) = from_old(ALLOCATED) {
            map.entry(ALLOCATED).or_insert(allocated);
        }
    }
    changed
}

fn keep_all_secrets(kind: &'static Kind, new: &mut Value, old: &Value) {
    let Some(properties) = new.get_mut("properties") else { return };
    keep_secrets(kind.properties, properties, value::properties(old));
    for child in kind.children {
        let before = value::list(value::properties(old), child.collection);
        for node in properties.get_mut(child.collection).and_then(Value::as_array_mut).into_iter().flatten() {
            let id = node.get("resourceId");
            if let Some(old) = before.iter().find(|b| b.get("resourceId") == id) {
                keep_all_secrets(child, node, old);
            }
        }
    }
}

fn keep_secrets(known: &'static [Property], new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    for p in known {
        let before = value::get(old, p.name);
        match (&p.of, p.rule) {
            (_, Rule::WriteOnly) => {
                if let (false, Some(sealed)) = (map.contains_key(p.name), before) {
                    map.insert(p.name.to_owned(), sealed.clone());
                }
            }
            (Type::Object(inner), _) => {
                if let (Some(now), Some(before)) = (map.get_mut(p.name), before) {
                    keep_secrets(inner, now, before);
                }
            }
            _ => {}
        }
    }
}

/// Equality of what operators said, whatever the identities and allocations. An empty list says nothing.
#[must_use]
pub fn same_content(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let said = |(k, v): &(&String, &Value)| {
                !matches!(k.as_str(), "etag" | "instanceId" | ALLOCATED) && v.as_array().is_none_or(|a| !a.is_empty())
            };
            x.iter().filter(said).count() == y.iter().filter(said).count()
                && x.iter().filter(said).all(|(k, v)| y.get(k).is_some_and(|w| same_content(v, w)))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same_content(v, w)),
        (a, b) => a == b,
    }
}

/// Calls `f` with each secret property of a document (children included): the place, and its value to seal or open.
pub fn each_secret<E>(
    kind: &'static Kind,
    node: &mut Value,
    f: &mut dyn FnMut(&mut Value) -> Result<(), E>,
) -> Result<(), E> {
    let Some(properties) = node.get_mut("properties") else { return Ok(()) };
    secrets_in(kind.properties, properties, f)?;
    for child in kind.children {
        if let Some(items) = properties.get_mut(child.collection).and_then(Value::as_array_mut) {
            items.iter_mut().try_for_each(|item| each_secret(child, item, f))?;
        }
    }
    Ok(())
}

fn secrets_in<E>(
    known: &'static [Property],
    v: &mut Value,
    f: &mut dyn FnMut(&mut Value) -> Result<(), E>,
) -> Result<(), E> {
    let Some(map) = v.as_object_mut() else { return Ok(()) };
    for p in known {
        match (map.get_mut(p.name), &p.of) {
            (Some(found), _) if p.rule == Rule::WriteOnly => f(found)?,
            (Some(found), Type::Object(inner)) => secrets_in(inner, found, f)?,
            _ => {}
        }
    }
    Ok(())
}

/// Takes from what a client is shown everything that is not the operator's to say: identities, reports, allocations. The rest
/// may be put back as it is; whoever wants the name of the resource itself in it says it again.
pub fn bare(kind: &'static Kind, node: &mut Value) {
    let Some(map) = node.as_object_mut() else { return };
    map.retain(|name, _| !matches!(name.as_str(), "etag" | "instanceId" | "resourceRef" | ALLOCATED));
    let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let owned = |name: &str| {
        SERVERS_OWN.contains(&name) || kind.properties.iter().any(|p| p.rule == Rule::ReadOnly && p.name == name)
    };
    properties.retain(|name, _| !owned(name));
    for child in kind.children {
        let items = properties.get_mut(child.collection).and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(|item| bare(child, item));
    }
}

/// The node of `path` within its document.
#[must_use]
pub fn node_at<'a>(document: &'a Value, path: &ResourcePath) -> Option<&'a Value> {
    path.below_top().into_iter().try_fold(document, |node, (collection, id)| {
        value::list(value::properties(node), collection)
            .iter()
            .find(|n| n.get("resourceId").and_then(Value::as_str) == Some(id))
    })
}

pub fn node_at_mut<'a>(document: &'a mut Value, path: &ResourcePath) -> Option<&'a mut Value> {
    path.below_top().into_iter().try_fold(document, |node, (collection, id)| {
        node.get_mut("properties")?
            .get_mut(collection)?
            .as_array_mut()?
            .iter_mut()
            .find(|n| n.get("resourceId").and_then(Value::as_str) == Some(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(path: &str, body: Value) -> (Value, Problems) {
        let mut problems = Problems::default();
        let mut n = 0;
        let mut mint = || {
            n += 1;
            format!("guid-{n}")
        };
        let path = ResourcePath::parse(path).unwrap();
        let mut doc = read(&path, &body, "", &mut mint, &mut problems);
        adopt(path.kind(), &mut doc, None, &mut mint);
        (doc, problems)
    }

    #[test]
    fn names_and_values_are_read_in_every_form_and_kept_in_their_wire_type() {
        let (doc, problems) = read_all(
            "/loadBalancers/lb",
            json!({"PROPERTIES": {"Probes": [{"resourceID": "p", "properties": {"PROTOCOL": "tcp", "Port": "80", "other": 1}}]}}),
        );
        assert!(problems.is_empty(), "{problems:?}");
        let probe = &doc["properties"]["probes"][0];
        assert_eq!(probe["resourceId"], "p");
        assert_eq!(probe["properties"], json!({"protocol": "Tcp", "port": 80, "other": 1}));
    }

    #[test]
    fn wire_types_are_those_of_the_published_examples() {
        let kept = |path: &str, properties: Value| {
            let (doc, problems) = read_all(path, json!({"properties": properties}));
            assert!(problems.is_empty(), "{problems:?}");
            doc["properties"].clone()
        };
        let rule = kept(
            "/accessControlLists/a/aclRules/r",
            json!({"protocol": "TCP", "priority": 200, "action": "ALLOW", "type": "inbound",
                   "sourcePortRange": 80, "destinationPortRange": "80-81"}),
        );
        assert_eq!(
            rule,
            json!({"protocol": "TCP", "priority": "200", "action": "Allow", "type": "Inbound",
                   "sourcePortRange": "80", "destinationPortRange": "80-81"})
        );
        let rule = kept(
            "/loadBalancers/l/inboundNatRules/r",
            json!({"frontendIPConfigurations": [], "protocol": "uDp", "frontendPort": " 80 ", "backendPort": 81.0,
                   "enableFloatingIP": "True", "enableTcpReset": ""}),
        );
        assert_eq!(
            rule,
            json!({"frontendIPConfigurations": [], "protocol": "Udp", "frontendPort": 80, "backendPort": 81,
                   "enableFloatingIP": true})
        );
        let network = kept("/logicalNetworks/n", json!({"networkVirtualizationEnabled": true}));
        assert_eq!(network, json!({"networkVirtualizationEnabled": "True"}));
        let subnet = kept("/logicalNetworks/n/subnets/s", json!({"vlanId": 7, "isPublic": "false"}));
        assert_eq!(subnet, json!({"vlanId": "7", "isPublic": false}));
        let interface = kept("/servers/s/networkInterfaces/i", json!({"interfaceIndex": 0, "isBMC": "FALSE"}));
        assert_eq!(interface, json!({"interfaceIndex": "0", "isBMC": "false"}));
    }

    #[test]
    fn a_wrong_item_does_not_move_the_others() {
        let (doc, problems) = read_all(
            "/virtualNetworks/n",
            json!({"properties": {"addressSpace": {"addressPrefixes": ["junk", "10.0.0.0/8"]}}}),
        );
        assert_eq!(problems.0[0].pointer, "/properties/addressSpace/addressPrefixes/0");
        assert_eq!(doc["properties"]["addressSpace"]["addressPrefixes"], json!([null, "10.0.0.0/8"]));
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_pointers() {
        let (_, problems) = read_all(
            "/loadBalancers/lb",
            json!({"properties": {"probes": [
                {"resourceId": "a", "properties": {"protocol": "smtp", "port": 0}},
                {"resourceId": "a", "properties": {"protocol": "Tcp"}}
            ]}}),
        );
        let pointers: Vec<&str> = problems.0.iter().map(|p| p.pointer.as_str()).collect();
        for expected in [
            "/properties/probes/0/properties/protocol",
            "/properties/probes/0/properties/port",
            "/properties/probes/1/properties/port",
            "/properties/probes/1/resourceId",
        ] {
            assert!(pointers.contains(&expected), "{expected} in {pointers:?}");
        }
        assert_eq!(pointers.len(), 4);
    }

    #[test]
    fn an_unchanged_child_keeps_its_etag_and_a_changed_one_renews_the_parents() {
        let path = ResourcePath::parse("/loadBalancers/lb").unwrap();
        let body = |port: u16| {
            json!({"properties": {"probes": [
                {"resourceId": "a", "properties": {"protocol": "Tcp", "port": 1}},
                {"resourceId": "b", "properties": {"protocol": "Tcp", "port": port}}
            ]}})
        };
        let (old, _) = read_all("/loadBalancers/lb", body(2));
        let mut mint = || "fresh".to_owned();
        let mut again = read(&path, &body(2), "", &mut mint, &mut Problems::default());
        assert!(!adopt(path.kind(), &mut again, Some(&old), &mut mint));
        assert_eq!(again, old);
        let mut changed = read(&path, &body(3), "", &mut mint, &mut Problems::default());
        assert!(adopt(path.kind(), &mut changed, Some(&old), &mut mint));
        let probes = |d: &Value| d["properties"]["probes"].clone();
        assert_ne!(changed["etag"], old["etag"]);
        assert_eq!(changed["instanceId"], old["instanceId"]);
        assert_eq!(probes(&changed)[0]["etag"], probes(&old)[0]["etag"]);
        assert_ne!(probes(&changed)[1]["etag"], probes(&old)[1]["etag"]);
    }

    #[test]
    fn a_document_that_is_restored_takes_no_secret_from_the_one_in_its_place() {
        let path = ResourcePath::parse("/credentials/c").unwrap();
        let (old, _) = read_all("/credentials/c", json!({"properties": {"type": "usernamePassword", "value": "pw"}}));
        let (mut new, _) = read_all("/credentials/c", json!({"properties": {"type": "usernamePassword"}}));
        assert!(adopt_identity(path.kind(), &mut new, Some(&old), &mut || "fresh".to_owned()));
        assert_eq!((new["properties"].get("value"), &new["instanceId"]), (None, &old["instanceId"]));
    }

    #[test]
    fn a_secret_that_is_not_sent_again_stays() {
        let path = ResourcePath::parse("/credentials/c").unwrap();
        let (old, _) = read_all("/credentials/c", json!({"properties": {"type": "usernamePassword", "value": "pw"}}));
        let mut mint = || "fresh".to_owned();
        let body = json!({"properties": {"type": "usernamePassword"}});
        let mut new = read(&path, &body, "", &mut mint, &mut Problems::default());
        assert!(!adopt(path.kind(), &mut new, Some(&old), &mut mint));
        assert_eq!(new["properties"]["value"], "pw");
    }
}
