//! The API's own description: OpenAPI 3.1, generated from the table of kinds.
use crate::about::about;
use crate::kind::{Property, Rule, Type};
use crate::{ErrorEnvelope, Function, KINDS, Kind, ResourceChange, VERSIONS};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The document, for a server of this version.
#[must_use]
pub fn openapi(version: &str) -> Value {
    let mut schemas = own_schemas();
    let mut paths = Map::new();
    for kind in KINDS {
        describe(kind, "", "/networking/{version}", &mut schemas, &mut paths);
    }
    for path in OWN {
        path.describe(&mut paths);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "license": {"name": "Apache-2.0"},
            "description": "The northbound interface: the resource model of the Network Controller ([MS-NCNBI]) and Penstock's extensions of it. \
                Numbers and booleans may be sent as text; what comes back is in the types given here.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Refused": {
                "description": "Refused, with everything that is wrong.",
                "content": {"application/json": {"schema": reference("ErrorEnvelope")}},
            }},
            "parameters": {
                "version": {"name": "version", "in": "path", "required": true, "schema": {"enum": VERSIONS}},
                "whatIf": flag("whatIf", "Check everything, say what would differ and what that would do, change nothing."),
                "confirmWithin": {"name": "confirmWithin", "in": "query", "description": "Undo the change unless it is confirmed in so many seconds.",
                    "schema": {"type": "integer", "minimum": 1, "maximum": 86400}},
                "comment": {"name": "comment", "in": "query", "description": "Kept in the history.", "schema": {"type": "string", "maxLength": 500}},
                "watch": flag("watch", "Server-sent events: what is there, then each change. Resumes after `since` or Last-Event-ID."),
                "since": {"name": "since", "in": "query", "description": "The revision to resume a watch after.", "schema": {"type": "integer", "minimum": 0}},
                "instanceId": {"name": "instanceId", "in": "path", "required": true, "schema": {"type": "string"}},
                "tenant": {"name": "tenant", "in": "path", "required": true, "schema": {"type": "string"}},
                "tokenId": {"name": "tokenId", "in": "path", "required": true, "schema": {"type": "string"}},
                "top": {"name": "$top", "in": "query", "description": "Resources of one page at most.", "schema": {"type": "integer", "minimum": 1}},
                "skipToken": {"name": "$skipToken", "in": "query", "description": "Where the page begins: see nextLink.", "schema": {"type": "string"}},
                "ifMatch": {"name": "If-Match", "in": "header", "description": "An etag, or * for any.", "schema": {"type": "string"}},
                "ifNoneMatch": {"name": "If-None-Match", "in": "header", "description": "* : only if it is not there.", "schema": {"type": "string"}},
            },
        },
    })
}

fn flag(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "boolean"}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Types that are Rust types.
fn own_schemas() -> Map<String, Value> {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|s| {
            s.definitions_path = "/components/schemas".into();
            s.meta_schema = None;
        })
        .into_generator();
    generator.subschema_for::<ErrorEnvelope>();
    generator.subschema_for::<ResourceChange>();
    let mut out = generator.take_definitions(true);
    out.insert(
        "Reference".to_owned(),
        json!({"type": "object", "properties": {"resourceRef": {"type": "string"}}, "required": ["resourceRef"]}),
    );
    out
}

/// `loadBalancers/probes` is the schema `loadBalancers.probes`.
fn describe(
    kind: &'static Kind,
    parent: &str,
    base: &str,
    schemas: &mut Map<String, Value>,
    paths: &mut Map<String, Value>,
) {
    let name = if parent.is_empty() { kind.collection.to_owned() } else { format!("{parent}/{}", kind.collection) };
    schemas.insert(name.replace('/', "."), schema(kind, &name));
    let collection = format!("{base}/{}", kind.collection);
    let one = match kind.shape {
        crate::Shape::Singleton("") => collection.clone(),
        crate::Shape::Singleton(id) => format!("{collection}/{id}"),
        crate::Shape::Collection => format!("{collection}/{{{}Id}}", kind.collection),
    };
    let parameters = path_parameters(&one);
    if !kind.is_singleton() {
        paths.insert(collection.clone(), json!({"parameters": path_parameters(&collection), "get": list(&name)}));
    }
    paths.insert(one.clone(), resource(kind, &name, parameters));
    for child in kind.children {
        describe(child, &name, &one, schemas, paths);
    }
}

fn path_parameters(path: &str) -> Vec<Value> {
    let mut out = vec![json!({"$ref": "#/components/parameters/version"})];
    for part in path.split('/').skip(3) {
        if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            out.push(json!({"name": name, "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": 256}}));
        }
    }
    out
}

fn parameters(names: &[&str]) -> Vec<Value> {
    names.iter().map(|n| json!({"$ref": format!("#/components/parameters/{n}")})).collect()
}

fn content(schema: &Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn operation(id: &str, tag: &str, summary: &str, parameters: Vec<Value>, responses: Value) -> Value {
    let mut responses = responses;
    if let Some(map) = responses.as_object_mut() {
        map.insert("default".to_owned(), json!({"$ref": "#/components/responses/Refused"}));
    }
    json!({"operationId": id, "tags": [tag], "summary": summary, "parameters": parameters, "responses": responses})
}

fn list(name: &str) -> Value {
    let items = reference(&name.replace('/', "."));
    let page = json!({"type": "object", "required": ["value", "nextLink"], "properties": {
        "value": {"type": "array", "items": items}, "nextLink": {"type": "string"}}});
    operation(
        &format!("list.{}", name.replace('/', ".")),
        tag(name),
        "All of them, in pages.",
        parameters(&["top", "skipToken", "watch", "since"]),
        json!({"200": {"description": "A page.", "content": content(&page)}}),
    )
}

fn resource(kind: &Kind, name: &str, path_parameters: Vec<Value>) -> Value {
    let body = reference(&name.replace('/', "."));
    let answer = json!({"description": "As it is kept.", "headers": {"ETag": {"schema": {"type": "string"}}}, "content": content(&body)});
    let id = |verb: &str| format!("{verb}.{}", name.replace('/', "."));
    let get = operation(
        &id("get"),
        tag(name),
        "One of them.",
        parameters(&["watch", "since"]),
        json!({"200": answer.clone()}),
    );
    let mut put = operation(
        &id("put"),
        tag(name),
        "Create or replace.",
        parameters(&["ifMatch", "ifNoneMatch", "whatIf", "confirmWithin", "comment"]),
        json!({"200": answer.clone(), "201": answer}),
    );
    if let Some(map) = put.as_object_mut() {
        map.insert("requestBody".to_owned(), json!({"required": true, "content": content(&body)}));
    }
    let mut out = json!({"parameters": path_parameters, "get": get, "put": put});
    if let (false, Some(map)) = (kind.is_singleton(), out.as_object_mut()) {
        let delete = operation(
            &id("delete"),
            tag(name),
            "Delete; refused with 409 while others refer to it.",
            parameters(&["ifMatch", "whatIf", "confirmWithin", "comment"]),
            json!({"202": {"description": "Deleted."}, "204": {"description": "It was not there."}}),
        );
        map.insert("delete".to_owned(), delete);
    }
    out
}

fn tag(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

fn schema(kind: &'static Kind, name: &str) -> Value {
    let mut members = object_members(kind.properties, name);
    for child in kind.children {
        let schema = format!("{name}/{}", child.collection).replace('/', ".");
        members.insert(child.collection.to_owned(), json!({"type": "array", "items": reference(&schema)}));
    }
    let observed = json!({"readOnly": true});
    members.insert(
        "provisioningState".to_owned(),
        json!({"readOnly": true, "enum": ["Succeeded", "Updating", "Deleting", "Failed"]}),
    );
    members.insert("configurationState".to_owned(), observed);
    let mut properties = json!({"type": "object", "properties": members});
    let required = required(kind.properties);
    if let (false, Some(map)) = (required.is_empty(), properties.as_object_mut()) {
        map.insert("required".to_owned(), json!(required));
    }
    let function = match kind.function {
        Function::Compiled => "",
        Function::Stored => " Kept and returned; it has no function in this version.",
    };
    json!({
        "type": "object",
        "description": format!("{}{function}", about(name).unwrap_or("A resource of the Network Controller's model.")),
        "required": ["properties"],
        "properties": {
            "resourceId": {"type": "string"},
            "resourceRef": {"type": "string"},
            "instanceId": {"type": "string", "readOnly": true},
            "etag": {"type": "string", "readOnly": true},
            "tags": {"type": "object"},
            "resourceMetadata": {"type": "object"},
            "properties": properties,
        },
    })
}

fn required(known: &[Property]) -> Vec<&'static str> {
    known.iter().filter(|p| p.rule == Rule::Required).map(|p| p.name).collect()
}

fn object_members(known: &'static [Property], owner: &str) -> Map<String, Value> {
    known.iter().map(|p| (p.name.to_owned(), member(p, owner))).collect()
}

fn member(p: &'static Property, owner: &str) -> Value {
    let mut out = of_type(&p.of, owner);
    let Some(map) = out.as_object_mut() else { return out };
    if let Some(text) = about(&format!("{owner}.{}", p.name)) {
        map.insert("description".to_owned(), json!(text));
    }
    match p.rule {
        Rule::ReadOnly => drop(map.insert("readOnly".to_owned(), json!(true))),
        Rule::WriteOnly => drop(map.insert("writeOnly".to_owned(), json!(true))),
        Rule::Required | Rule::Optional => {}
    }
    out
}

fn of_type(of: &'static Type, owner: &str) -> Value {
    match of {
        Type::Any => json!({}),
        Type::Bool => json!({"type": "boolean"}),
        Type::BoolText(no, yes) => json!({"enum": [no, yes]}),
        Type::Int(min, max) => number("integer", *min, *max),
        Type::IntText(min, max) if *max == i64::MAX => {
            json!({"type": "string", "description": format!("A whole number of at least {min}.")})
        }
        Type::IntText(min, max) => {
            json!({"type": "string", "description": format!("A whole number from {min} to {max}.")})
        }
        Type::Text => json!({"type": "string"}),
        Type::OneOf(words) => json!({"enum": words}),
        Type::Ip => json!({"type": "string", "description": "An IPv4 or IPv6 address."}),
        Type::Prefix => json!({"type": "string", "description": "An address prefix: 10.0.0.0/24 or 2001:db8::/64."}),
        Type::Mac => json!({"type": "string", "description": "An Ethernet address of 12 hexadecimal digits."}),
        Type::PortRange => json!({"type": "string", "description": "A port, a range such as 80-81, or *."}),
        Type::AddressPattern => {
            json!({"type": "string", "description": "*, an address, a prefix, VirtualNetwork, Internet, LoadBalancer, or several separated by commas."})
        }
        Type::Key => json!({"type": "string", "description": "32 bytes in base64."}),
        Type::Ref(kinds) => to(&kinds.join(" or ")),
        Type::BackRef(kinds) => to(kinds),
        Type::BackRefs(kinds) => json!({"type": "array", "items": to(kinds)}),
        Type::List(item) => json!({"type": "array", "items": of_type(item, owner)}),
        Type::Object(known) => {
            let mut out = json!({"type": "object", "properties": object_members(known, owner)});
            if let (false, Some(map)) = (required(known).is_empty(), out.as_object_mut()) {
                map.insert("required".to_owned(), json!(required(known)));
            }
            out
        }
    }
}

fn number(kind: &str, min: i64, max: i64) -> Value {
    match max {
        i64::MAX => json!({"type": kind, "minimum": min}),
        max => json!({"type": kind, "minimum": min, "maximum": max}),
    }
}

fn to(kinds: &str) -> Value {
    json!({"$ref": "#/components/schemas/Reference", "description": format!("To {}.", kinds.replace('|', " or "))})
}

/// An operation of Penstock's own.
struct Own {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    parameters: &'static [&'static str],
    body: Option<&'static str>,
}

const fn own(method: &'static str, path: &'static str, summary: &'static str) -> Own {
    Own { path, method, summary, parameters: &[], body: None }
}

const OWN: &[Own] = &[
    Own {
        parameters: &["version", "whatIf", "confirmWithin", "comment"],
        body: Some(
            "{\"resources\": [...]}: each named by resourceRef, or by kind and resourceId; \"method\": \"DELETE\" deletes",
        ),
        ..own("post", "/networking/{version}/$batch", "Several changes, all or none.")
    },
    Own {
        parameters: &["version", "instanceId"],
        ..own(
            "get",
            "/networking/{version}/internalResourceInstances/{instanceId}",
            "Which resource has an instanceId.",
        )
    },
    own("get", "/networking/discovery", "The versions that are served."),
    own("get", "/penstock/v1/status", "Nodes, services, tunnels and networks, with counts and rates."),
    Own {
        body: Some("The packet to explain"),
        ..own("post", "/penstock/v1/trace", "What each node decides for a packet.")
    },
    Own { parameters: &["top"], ..own("get", "/penstock/v1/history", "Changes, the latest first.") },
    Own {
        parameters: &["whatIf", "confirmWithin", "comment"],
        body: Some("{\"revision\": N}"),
        ..own("post", "/penstock/v1/rollback", "Everything as it was after a change.")
    },
    own("get", "/penstock/v1/confirm", "The change that waits to be confirmed."),
    own("post", "/penstock/v1/confirm", "Keeps the change that waits."),
    own("get", "/penstock/v1/export", "All resources, as a batch takes them."),
    own("get", "/penstock/v1/tokens", "Tokens, without their secrets."),
    Own {
        body: Some("{name, role: operator | auditor | tenant-admin | tenant-viewer, tenant, expiresInSeconds}"),
        ..own("post", "/penstock/v1/tokens", "Makes a token; its secret is in the answer alone.")
    },
    Own { parameters: &["tokenId"], ..own("delete", "/penstock/v1/tokens/{tokenId}", "Ends a token.") },
    own("get", "/penstock/v1/quotas", "What tenants may have."),
    Own { parameters: &["tenant"], ..own("get", "/penstock/v1/quotas/{tenant}", "What a tenant may have.") },
    Own {
        parameters: &["tenant"],
        body: Some(
            "{\"limits\": {kind: N}}: by kind (virtualNetworks, virtualNetworks/subnets), * for all together, children counted",
        ),
        ..own(
            "put",
            "/penstock/v1/quotas/{tenant}",
            "Says what a tenant may have, or (*) each that has no quota of its own.",
        )
    },
    Own { parameters: &["tenant"], ..own("delete", "/penstock/v1/quotas/{tenant}", "Ends a quota.") },
    own("get", "/penstock/v1/usage", "What tenants have and may have; to a tenant its own."),
    Own {
        parameters: &["top"],
        ..own("get", "/penstock/v1/audit", "Requests that changed something or were denied, the latest first.")
    },
    own("get", "/penstock/v1/openapi.json", "This document."),
];

impl Own {
    fn describe(&self, paths: &mut Map<String, Value>) {
        let id = format!(
            "{}.{}",
            self.method,
            self.path.rsplit('/').next().unwrap_or_default().trim_matches(['$', '{', '}'])
        );
        let answer = json!({"200": {"description": "Done.", "content": content(&json!({"type": "object"}))}});
        let mut described = operation(&id, "penstock", self.summary, parameters(self.parameters), answer);
        if let (Some(text), Some(map)) = (self.body, described.as_object_mut()) {
            let body = json!({"required": true, "description": text, "content": content(&json!({"type": "object"}))});
            map.insert("requestBody".to_owned(), body);
        }
        let item = paths.entry(self.path.to_owned()).or_insert_with(|| json!({}));
        if let Some(map) = item.as_object_mut() {
            map.insert(self.method.to_owned(), described);
        }
    }
}
