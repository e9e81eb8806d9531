use crate::arguments::{Delete, Get};
use crate::error::CliError;
use crate::output::{Output, Style, table};
use penstock_admin_client::Client;
use penstock_admin_types::{KINDS, Kind, ResourcePath, value};
use serde_json::{Value, json};

pub(crate) async fn get(client: &Client, get: &Get, output: &Output) -> Result<(), CliError> {
    let collection = collection(&get.kind)?;
    if let Some(id) = &get.id {
        return output.value(&client.get(&format!("{}/{id}", collection.path)).await?);
    }
    if collection.is_resource {
        return output.value(&client.get(&collection.path).await?);
    }
    let items = client.list(&collection.path).await?;
    if output.is_json() {
        return output.value(&json!({ "value": items }));
    }
    if items.is_empty() {
        return output.text(&format!("no {}", collection.path));
    }
    let rows = items.iter().map(|item| {
        let text = |name| value::get_text(item, name).unwrap_or_default();
        let properties = value::properties(item);
        vec![text("resourceId"), state(output, properties), summary(properties)]
    });
    output.text(&table(output, &["ID", "STATE", "WHAT"], rows))
}

pub(crate) async fn delete(client: &Client, delete: &Delete, output: &Output) -> Result<(), CliError> {
    let collection = collection(&delete.kind)?;
    let mut deleted = Vec::new();
    for id in &delete.ids {
        let path = format!("{}/{id}", collection.path);
        client.delete(&path).await?;
        if !output.is_json() {
            output.text(&format!("{path} deleted"))?;
        }
        deleted.push(format!("/{path}"));
    }
    if output.is_json() { output.value(&json!({ "deleted": deleted })) } else { Ok(()) }
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
fn summary(properties: &Value) -> String {
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
