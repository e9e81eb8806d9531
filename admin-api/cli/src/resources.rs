use crate::arguments::{Delete, Get, One};
use crate::error::CliError;
use crate::files::Declaration;
use crate::output::{Output, Style, table};
use crate::plan;
use penstock_admin_client::{Client, Manner};
use penstock_admin_types::{KINDS, Kind, ResourcePath, value};
use serde_json::{Value, json};

pub(crate) async fn get(client: &Client, get: &Get, output: &Output) -> Result<(), CliError> {
    let collection = collection(&get.kind)?;
    let one = match &get.id {
        Some(id) => Some(format!("{}/{id}", collection.path)),
        None => collection.is_resource.then(|| collection.path.clone()),
    };
    if let Some(path) = one {
        let resource = client.get(&path).await?;
        return match value::reference(&resource) {
            Some(name) if output.is_names() => output.text(name),
            _ => output.value(&resource),
        };
    }
    let items = client.list(&collection.path).await?;
    if output.is_json() {
        return output.value(&json!({ "value": items }));
    }
    if output.is_names() {
        return output.text(&items.iter().filter_map(value::reference).collect::<Vec<_>>().join("\n"));
    }
    if items.is_empty() {
        return output.text(&format!("no {}", collection.path));
    }
    let rows = items.iter().map(|item| {
        let text = |name| value::get_text(item, name).unwrap_or_default();
        let properties = value::properties(item);
        let mut row = vec![text("resourceId"), state(output, properties), summary(properties)];
        if output.is_wide() {
            row.extend([text("instanceId"), reason(properties)]);
        }
        row
    });
    let columns = ["ID", "STATE", "WHAT", "INSTANCE", "DETAIL"];
    output.text(&table(output, columns.get(..if output.is_wide() { 5 } else { 3 }).unwrap_or_default(), rows))
}

/// The first thing that the controller says about its state.
fn reason(properties: &Value) -> String {
    let state = value::get(properties, "configurationState");
    let details = state.map_or(&[][..], |s| value::list(s, "detailedInfo"));
    details.iter().filter_map(|d| value::get_text(d, "message")).find(|m| !m.is_empty()).unwrap_or_default()
}

pub(crate) async fn delete(client: &Client, delete: &Delete, output: &Output) -> Result<(), CliError> {
    let paths: Vec<String> = match &delete.kind {
        Some(kind) => {
            let collection = collection(kind)?;
            delete.ids.iter().map(|id| format!("/{}/{id}", collection.path)).collect()
        }
        None => Declaration::read(&delete.files)?.paths()?,
    };
    let manner = delete.changing.manner();
    // One alone says whether it was there.
    if let ([path], true) = (paths.as_slice(), manner == Manner::default()) {
        client.delete(path).await?;
        if !output.is_json() {
            return output.text(&format!("{} deleted", path.trim_start_matches('/')));
        }
    } else {
        let all: Vec<Value> = paths.iter().map(|p| json!({"resourceRef": p, "method": "DELETE"})).collect();
        let answer = client.batch(&all, &manner).await?;
        match (output.is_json(), manner.what_if) {
            (true, true) => return output.value(&answer),
            (false, true) => return output.text(&plan::render(&answer, output)),
            (true, false) => {}
            (false, false) => {
                let lines: Vec<String> =
                    paths.iter().map(|p| format!("{} deleted", p.trim_start_matches('/'))).collect();
                output.text(&lines.join("\n"))?;
                return plan::remind(&manner, output);
            }
        }
    }
    output.value(&json!({ "deleted": paths }))
}

/// Where a kind, or one of its resources, is.
pub(crate) fn path_of(one: &One) -> Result<String, CliError> {
    let collection = collection(&one.kind)?;
    Ok(match &one.id {
        Some(id) => format!("{}/{id}", collection.path),
        None => collection.path,
    })
}

/// The same, which must be one resource.
pub(crate) fn one_path(one: &One) -> Result<String, CliError> {
    let path = path_of(one)?;
    match ResourcePath::parse(&path) {
        Ok(path) => Ok(path.name().to_owned()),
        Err(_) => Err(CliError::UnknownName { name: path, hint: "give its resourceId, too".to_owned() }),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Collection {
    /// In the letter case of the API.
    path: String,
    /// It names one resource already: a singleton, or a path that ends with an id.
    is_resource: bool,
}

/// `virtualnetworks`, `virtualNetworks/blue/subnets`: kinds in any letter case, checked here so that a slip gets an answer that helps.
fn collection(text: &str) -> Result<Collection, CliError> {
    if let Ok(path) = ResourcePath::parse(text) {
        return Ok(Collection { path: path.name().to_owned(), is_resource: true });
    }
    let (parent, last) = text.rsplit_once('/').map_or((None, text), |(parent, last)| (Some(parent), last));
    let unknown = |known: &[Kind]| CliError::UnknownKind { kind: text.to_owned(), hint: hint(last, known) };
    let Some(parent) = parent else {
        let kind = KINDS.iter().find(|k| k.collection.eq_ignore_ascii_case(last)).ok_or_else(|| unknown(KINDS))?;
        return Ok(Collection { path: kind.collection.to_owned(), is_resource: false });
    };
    let parent = ResourcePath::parse(parent).map_err(|_| unknown(KINDS))?;
    let kind = parent.kind().child(last).ok_or_else(|| unknown(parent.kind().children))?;
    Ok(Collection { path: format!("{}/{}", parent.name(), kind.collection), is_resource: false })
}

/// The kinds that share a beginning with what was typed, else all.
fn hint(typed: &str, known: &[Kind]) -> String {
    let names = known.iter().map(|k| k.collection);
    let start: String = typed.chars().take(4).collect::<String>().to_ascii_lowercase();
    let near: Vec<&str> = names.clone().filter(|n| n.to_ascii_lowercase().starts_with(&start)).collect();
    match near.is_empty() {
        false => format!("did you mean {}?", near.join(" or ")),
        true => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// `configurationState` if the controller has looked, else `provisioningState`.
fn state(output: &Output, properties: &Value) -> String {
    let configuration = value::get(properties, "configurationState").and_then(|s| value::get_text(s, "status"));
    let state = configuration.or_else(|| value::get_text(properties, "provisioningState")).unwrap_or_default();
    match state.as_str() {
        "Success" | "Succeeded" => output.paint(Style::Good, &state),
        "Failure" | "Failed" => output.paint(Style::Bad, &state),
        _ => state,
    }
}

/// The addresses and references of a resource in one line: what tells two of a kind apart.
pub(crate) fn summary(properties: &Value) -> String {
    let mut words = Vec::new();
    collect(properties, &mut words, 0);
    let mut once = std::collections::BTreeSet::new();
    words.retain(|word| once.insert(word.clone()));
    let line = words.join(" ");
    let line = line.trim_end_matches(',');
    match line.char_indices().nth(100) {
        Some((cut, _)) => format!("{}...", line.get(..cut).unwrap_or_default()),
        None => line.to_owned(),
    }
}

const TELLING: &[&str] = &[
    "ipAddress",
    "privateIPAddress",
    "privateMacAddress",
    "addressPrefix",
    "addressPrefixes",
    "managementAddresses",
    "underlayAddress",
    "server",
    "virtualNetwork",
    "publicIPAddress",
    "destinationPrefix",
    "gatewayType",
    "connectionType",
];

fn collect(node: &Value, words: &mut Vec<String>, depth: usize) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| collect(item, words, depth)),
        Value::Object(map) if depth < 6 => {
            words.extend(rule(node));
            for (name, inner) in map {
                if TELLING.contains(&name.as_str()) {
                    leaves(inner, words);
                } else if inner.is_object() || inner.is_array() {
                    collect(inner, words, depth + 1);
                }
            }
        }
        _ => {}
    }
}

/// A rule of a load balancer or of an access list in short: `80/tcp`, `allow tcp 80`.
fn rule(node: &Value) -> Option<String> {
    let member = |name| value::get_text(node, name);
    let protocol = member("protocol")?.to_ascii_lowercase();
    if let Some(action) = member("action") {
        let ports = member("destinationPortRange").filter(|p| p != "*").map(|p| format!(" {p}")).unwrap_or_default();
        return Some(format!("{} {protocol}{ports},", action.to_ascii_lowercase()));
    }
    Some(format!("{}/{protocol}", member("frontendPort")?))
}

fn leaves(node: &Value, words: &mut Vec<String>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| leaves(item, words)),
        Value::Object(_) => words.extend(value::reference(node).and_then(|r| r.rsplit('/').next()).map(str::to_owned)),
        _ => words.extend(value::text(node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_in_any_letter_case_and_below_resources() {
        let is = |text: &str, path: &str, is_resource| {
            assert_eq!(collection(text).unwrap(), Collection { path: path.to_owned(), is_resource });
        };
        is("loadbalancers", "loadBalancers", false);
        is("virtualnetworks/blue/Subnets", "virtualNetworks/blue/subnets", false);
        is("virtualNetworks/blue", "virtualNetworks/blue", true);
        is("loadBalancerManager", "loadBalancerManager/config", true);
    }

    #[test]
    fn a_slip_gets_a_suggestion() {
        let error = collection("loadBalancer").unwrap_err().to_string();
        assert!(error.contains("did you mean") && error.contains("loadBalancers"), "{error}");
        let error = collection("virtualNetworks/blue/sub").unwrap_err().to_string();
        assert!(error.contains("subnets"), "{error}");
        assert!(collection("teapots").unwrap_err().to_string().contains("VirtualGateways"));
    }

    #[test]
    fn a_summary_names_addresses_and_references() {
        let nic = json!({"privateMacAddress": "020000000001", "server": {"resourceRef": "/servers/host1"},
            "ipConfigurations": [{"properties": {"privateIPAddress": "10.0.0.4"}}]});
        assert_eq!(summary(&nic), "10.0.0.4 020000000001 host1");
        let balancer = json!({
            "frontendIPConfigurations": [{"properties": {"publicIPAddress": {"resourceRef": "/publicIPAddresses/vip"}}}],
            "loadBalancingRules": [{"properties": {"protocol": "Tcp", "frontendPort": 80}},
                                   {"properties": {"protocol": "Udp", "frontendPort": 53}}],
            "probes": [{"properties": {"protocol": "Http", "port": 80}}]});
        assert_eq!(summary(&balancer), "vip 80/tcp 53/udp");
        let list = json!({"aclRules": [
            {"properties": {"action": "Allow", "protocol": "TCP", "destinationPortRange": "80"}},
            {"properties": {"action": "Deny", "protocol": "All", "destinationPortRange": "*"}}]});
        assert_eq!(summary(&list), "allow tcp 80, deny all");
    }
}
